"""What to do when a server fails: ask again, or say what stands in the way.

1. An error that may pass is followed by another attempt, after a wait that doubles each time.
2. A busy server may say how long to wait (Retry-After). Then this is the wait, up to a limit.
3. An error that stays ends at once: no such file, no permission, no credentials.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from mobilellama.config import DataError, one_line

T = TypeVar("T")
log = logging.getLogger(__name__)

_ATTEMPTS = 5
_FIRST_WAIT_S = 0.2  # before the second attempt; each wait is twice the one before
_LONGEST_WAIT_S = 300  # that a server may ask for
# Of botocore (s3://), google.auth (gs://) and azure (az://). Their packages may not be installed.
_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
    "TokenRetrievalError", "DefaultCredentialsError", "RefreshError", "ClientAuthenticationError",
)  # fmt: skip
_LOGINS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials. For a "
    'public bucket, write {"s3": {"anon": true}} into ~/.config/fsspec/s3.json',
    "gs": "Run 'gcloud auth application-default login', or set GOOGLE_APPLICATION_CREDENTIALS. "
    'For a public bucket, write {"gs": {"token": "anon"}} into ~/.config/fsspec/gs.json',
    "hf": "Log in with 'hf auth login' or set HF_TOKEN, as a user who may read it",
}
_OTHER_LOGIN = "Give this machine credentials that may read it (docs/corpus.md), or download it"


class NoRangesError(Exception):
    """A server sends more than the range that it was asked for."""


def ask(url: str, action: Callable[[], T]) -> T:
    """Do something over the network, a few times if need be.

    Args:
        url: what is read, for messages.
        action: it may be done again after it failed.

    Raises:
        DataError: it failed each time, or in a way that does not pass.
        NoRangesError: by the action.
    """
    wait_s = _FIRST_WAIT_S
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return action()
        except NoRangesError:
            raise
        except Exception as error:  # each file system's library has errors of its own
            shown = one_line(error.__cause__ or error) or type(error).__name__
            if needs_login(error):
                remedy = _LOGINS.get(url.partition("://")[0], _OTHER_LOGIN)
                raise DataError(f"{url}: cannot be read ({shown}). {remedy}") from None
            if _stays(error):
                raise DataError(f"{url}: cannot be read ({shown}). Restore it") from None
            if attempt == _ATTEMPTS:
                raise DataError(
                    f"{url}: cannot be read, after {_ATTEMPTS} attempts ({shown}). "
                    "Run the same command again when the server answers"
                ) from None
            pause_s = max(wait_s, min(_asked_wait_s(error), _LONGEST_WAIT_S))
            log.warning(
                "%s: %s; attempt %d of %d follows in %.1f s",
                url, shown, attempt + 1, _ATTEMPTS, pause_s,
            )  # fmt: skip
        time.sleep(pause_s)
        wait_s *= 2
    raise AssertionError("the last attempt returns or raises")


def needs_login(error: BaseException) -> bool:
    """Return whether a server wants to know who asks, or does not let this user read."""
    return any(
        type(one).__name__ in _NO_CREDENTIALS
        or isinstance(one, PermissionError)
        or _status(one) in (401, 403)
        for one in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__


def _stays(error: BaseException) -> bool:
    """Return whether an error will be the same at the next attempt."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return _stays(error.__cause__)  # fsspec says so of whatever fails while it looks
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status not in (408, 429)  # a server that is busy
    return isinstance(error, FileNotFoundError | NotImplementedError)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error tells; None where it tells none."""
    response = getattr(error, "response", None)  # of the Hub's library
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _asked_wait_s(error: BaseException) -> float:
    """Return the seconds that a server asks to wait, by Retry-After; 0 where it does not ask.

    The header holds seconds or a date (RFC 9110, section 10.2.3).
    """
    for one in _chain(error):
        headers = getattr(one, "headers", None) or getattr(
            getattr(one, "response", None), "headers", None
        )
        if not isinstance(headers, Mapping) or not (value := headers.get("Retry-After")):
            continue
        if value.isdecimal():
            return float(value)
        try:
            return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0)
        except (ValueError, TypeError):  # no date, or one without a time zone
            return 0
    return 0
