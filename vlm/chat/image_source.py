"""An image that a person names: a file, an address on the web, or one that is there already.

Only what a person gives is looked for on the web; the paths in files of records never are.
"""

import re
import time
from pathlib import Path

from PIL import Image

from mobilellama.config import DataError, one_line
from mobilellama.vlm.data.images import read_image, require_whole, show_name

ImageSource = Image.Image | Path | str | bytes
"""A decoded image, a file's path, an http(s) address, or an encoded image's bytes."""

_MOST_BYTES = 64 << 20
_WITHIN_S = 30.0
_MOST_REDIRECTS = 5
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def open_image(source: ImageSource) -> Image.Image:
    """Decode an image wholly.

    Raises:
        ImageError: there is none, or none that is whole.
        DataError: an address gives nothing, too much, or is too slow.
    """
    if isinstance(source, Image.Image):
        return require_whole(source)
    scheme = _SCHEME.match(source) if isinstance(source, str) else None
    if scheme is None or isinstance(source, bytes | Path):
        return read_image(source)
    if scheme[1].lower() not in ("http", "https"):
        raise DataError(
            f"{show_name(source)}: is not an http or https address. Give one, or a file"
        )
    return read_image(download(source), name=source)


def download(url: str, *, most_bytes: int = _MOST_BYTES, within_s: float = _WITHIN_S) -> bytes:
    """Return what an http(s) address gives.

    Args:
        url: the address.
        most_bytes: of the answer.
        within_s: from the first byte sent to the last one received.

    Raises:
        DataError: the server refuses or cannot be reached, or the answer is too large or late.
    """
    import httpx2

    shown = show_name(url)
    started_s, content = time.monotonic(), bytearray()
    try:
        with (
            httpx2.Client(
                follow_redirects=True,
                max_redirects=_MOST_REDIRECTS,
                timeout=within_s,
                # Some servers refuse to serve nobody.
                headers={"User-Agent": "mobilellama", "Accept-Encoding": "identity"},
            ) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                said = f"{answer.status_code} {answer.reason_phrase}".strip()
                raise DataError(f"{shown}: the server answers {said}. Check the address")
            if (packed := answer.headers.get("Content-Encoding", "identity")) != "identity":
                what = f"the server compresses it ({packed}), though asked not to"
                raise DataError(f"{shown}: {what}. Download it, and give the file")
            # As they come: chunks of a set size, or unpacked ones, wait for a slow server's bytes.
            for chunk in answer.iter_raw():
                content += chunk
                if len(content) > most_bytes:
                    most = f"{most_bytes / 1e6:,.0f} MB"
                    raise DataError(f"{shown}: is larger than {most}. Give a smaller image")
                if time.monotonic() - started_s > within_s:
                    raise DataError(f"{shown}: takes longer than {within_s:g} s. Try again")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        why = one_line(error).rstrip(".") or type(error).__name__
        raise DataError(f"{shown}: cannot be fetched ({why}). Check the address") from None
    return bytes(content)
