"""Worker processes that write buckets, one slice at a time.

A slice that fails, or whose worker is killed, costs that slice alone; the others go on.
"""

import logging
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from mobilellama.config import DataError, UserError
from mobilellama.files.temporary import remove_of_processes
from mobilellama.pool import Lost, Tell, Workers
from mobilellama.progress import Progress
from mobilellama.shards.dataset import Identity, Slice, tokenizer_file
from mobilellama.tokenize.bucket import Work, write_bucket
from mobilellama.tokenize.bucket_files import RefusedWriteError, is_finished
from mobilellama.tokenize.encoding.hf_encoder import AnyEncoder, make_encoder
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.opening import open_known_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class _Advanced:
    """A worker's news: this much more was read and encoded."""

    source_read: int = 0
    tokens: int = 0
    documents: int = 0


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """Why a slice has no bucket."""

    message: str
    write_refused: bool = False


def write_buckets(
    work: Work, slices: Sequence[Slice], workers: int, progress: Progress, *, unit: float = 1.0
) -> list[str]:
    """Write the slices' buckets with so many processes.

    Args:
        work: what the slices have in common.
        slices: those without a bucket.
        workers: processes.
        progress: shown to the user.
        unit: source bytes (or rows) in one unit of `progress`.

    Returns:
        One message a slice that failed.
    """
    # The largest first: none is left to run alone at the end.
    waiting = deque(sorted(slices, key=lambda slice_: slice_.start - slice_.end))
    failures: list[str] = []

    def show(news: _Advanced) -> None:
        progress.advance(news.source_read / unit, tokens=news.tokens, documents=news.documents)

    pool = Workers(workers, doing="tokenising")
    try:
        with pool:
            for slice_, end in pool.each(partial(_write, work), _taken(waiting), on_news=show):
                failure = _of_lost(work, slice_, end) if isinstance(end, Lost) else end
                if failure is None:
                    continue
                failures.append(failure.message)
                log.error("%s", failure.message)
                if failure.write_refused:
                    waiting.clear()
    finally:
        remove_of_processes(work.folder.glob("*/*"), pool.pids)
    return failures


def _taken(waiting: deque[Slice]) -> Iterator[Slice]:
    while waiting:
        yield waiting.popleft()


def _of_lost(work: Work, slice_: Slice, lost: Lost) -> _Failure | None:
    """Remove what a killed worker left; return why there is no bucket, or None if there is one."""
    remove_of_processes(work.folder.glob("*/*"), {lost.pid})
    if lost.signal_name is None:
        raise RuntimeError(
            f"a worker left with exit code {lost.exit_code} while making {slice_.name}"
        )
    if is_finished(work.folder, slice_, work.identity):
        return None  # killed between the receipt and its news
    hint = ""
    if lost.signal_name == signal.SIGKILL.name:
        hint = (
            ". The kernel does this where memory is short: 'dmesg' says so. Run the same command "
            "again, with fewer --workers"
        )
    return _Failure(message=f"{slice_.name}: its worker was killed by {lost.signal_name}{hint}")


def _write(work: Work, slice_: Slice, tell: Tell) -> _Failure | None:
    """Write a slice's bucket, in a worker."""
    reporter = _Reporter(tell)
    try:
        encoder = _make_encoder(work.folder, work.identity, work.plain)
        write_bucket(work, slice_, encoder, reporter.advance)
        reporter.send()
    except (UserError, OSError) as error:
        write_refused = isinstance(error, RefusedWriteError)
        return _Failure(message=f"{slice_.name}: {error}", write_refused=write_refused)
    except Exception:
        return _Failure(message=f"{slice_.name}: {traceback.format_exc()}")


@lru_cache(maxsize=1)
def _make_encoder(folder: Path, identity: Identity, plain: bool) -> AnyEncoder:
    path, owner = tokenizer_file(folder), f"the plan in {folder}"
    tokenizer = open_known_tokenizer(path, identity.tokenizer_sha256, owner=owner)
    assert isinstance(tokenizer, Tokenizer | HfTokenizer)
    if isinstance(tokenizer, HfTokenizer) and tokenizer.eos_id != identity.eos_id:
        # The files beside tokenizer.json name it.
        raise DataError(
            f"{path.parent}: names {tokenizer.eos_token} as eos_token, but documents end with the "
            f"id {identity.eos_id} in {owner}. Remove this folder, and run the same command again"
        )
    return make_encoder(tokenizer, plain=plain)


class _Reporter:
    """Sums what was done and tells the parent a few times a second."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._done = [0, 0, 0]
        self._sent_s = time.monotonic()

    def advance(self, source_read: int, tokens: int, documents: int) -> None:
        """Add a batch."""
        news = (source_read, tokens, documents)
        self._done = [a + b for a, b in zip(self._done, news, strict=True)]
        if time.monotonic() - self._sent_s >= _REPORT_EVERY_S:
            self.send()

    def send(self) -> None:
        """Tell the parent what it has not been told yet."""
        source_read, tokens, documents = self._done
        self._tell(_Advanced(source_read=source_read, tokens=tokens, documents=documents))
        self._done, self._sent_s = [0, 0, 0], time.monotonic()
