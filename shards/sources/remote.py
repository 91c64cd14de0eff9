"""Files behind a URL (s3://, https://, memory://, ...), read through ``fsspec`` by byte ranges.

1. A file's size, and its time or ETag where there is one, come from its file system.
2. A range that fails or comes short is asked for again from where it broke off, a few times. Then
   the reading ends with an error that names the URL: a short answer is no end of a file.
3. Relative paths, and so plans and datasets, are those of the same files in a local folder.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote, unquote

from mobilellama.config import ConfigError, DataError, one_line
from mobilellama.shards.source_file import FileState
from mobilellama.shards.sources.attempts import NoRangesError, ask
from mobilellama.shards.sources.read_ahead import ReadAhead

if TYPE_CHECKING:
    import fsspec

_SILENCE_S = 60  # of a server, after which a connection counts as broken
_LEAST_BYTES, _MOST_BYTES = 1 << 20, 1 << 24  # of a request: more while a file is read in order
_LISTING_THREADS = 16
_COMMIT = re.compile(r"hf://[^@]+@[0-9a-f]{40}(?:/|$)")
_DEEPEST = 30  # folders: links may lead in a circle
_TIMES = ("LastModified", "Last-Modified", "last_modified", "mtime", "updated", "created")
_MARKS = ("ETag", "etag", "md5Hash", "Content-MD5", "checksum", "blob_id")


def is_url(place: str) -> bool:
    """Return whether a source is a URL, and not a path or a name on the Hub."""
    return "://" in place


class RemoteFolder:
    """A folder behind a URL.

    Args:
        url: of the folder.

    Raises:
        ConfigError: no package reads such URLs.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._system, base = _file_system(self.url)
        self._base = base.rstrip("/")
        self._is_http = self.url.startswith(("http://", "https://"))
        self._is_fixed = bool(_COMMIT.match(self.url))
        # The Hub's files read 5 MiB ahead of each range, which would come again with the next.
        self._options = {"cache_type": "none"} if self.url.startswith("hf://") else {}

    def files(self) -> dict[str, int]:
        """Return the size of every file below the folder but hidden ones, by relative path.

        Raises:
            DataError: the folder or a file cannot be looked at.
        """
        sizes = dict(self._walk())
        told = self.sizes(path for path, size in sizes.items() if size is None)
        return {path: told[path] if size is None else size for path, size in sizes.items()}

    def sizes(self, paths: Iterable[str]) -> dict[str, int]:
        """Return the sizes of files, by path.

        Raises:
            DataError: a file cannot be looked at.
        """
        wanted = [*paths]
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            return dict(zip(wanted, pool.map(self.size, wanted), strict=True))

    def _walk(self) -> Iterator[tuple[str, int | None]]:
        """Yield (relative path, size if the listing has it) of every file.

        fsspec's own walk leaves out, without a word, a folder that cannot be listed.
        """
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            if folder.count("/") > _DEEPEST:
                raise DataError(
                    f"{self.url}/{folder}: is more than {_DEEPEST} folders deep. Remove the link "
                    "by which a folder leads to itself"
                )
            for name, kind, size in self._listed(folder):
                if any(part.startswith(".") for part in name.split("/")):
                    continue
                if kind == "directory":
                    waiting.append(f"{name}/")
                else:
                    yield name, size

    def _listed(self, folder: str) -> Iterator[tuple[str, str, int | None]]:
        """Yield (relative path, type, size) of what lies in a folder, "" or one that ends in /."""
        place = self._name(folder)
        listed = ask(f"{self.url}/{folder}", lambda: self._system.ls(place, detail=True))
        for info in cast(list[dict[str, Any]], listed):
            path = str(info["name"])[len(self._base) :].strip("/")
            # A listing over HTTP has links that sort it, and links to other pages.
            if not str(info["name"]).startswith(self._base) or (self._is_http and "?" in path):
                continue
            path = unquote(path) if self._is_http else path
            if path.startswith(folder) and path != folder.rstrip("/"):
                yield path, str(info.get("type")), info.get("size")

    def size(self, path: str) -> int:
        """Return the size of a file.

        Raises:
            DataError: it cannot be looked at, or its size is not told.
        """
        return self._state(path).size

    def state(self, path: str) -> FileState:
        """Return what the file system says of a file now.

        Some file systems keep what a listing said. It is forgotten first, but of a commit on the
        Hub, whose files never change.

        Raises:
            DataError: it cannot be looked at, or its size is not told.
        """
        if not self._is_fixed:
            self._system.invalidate_cache(self._name(path))
        return self._state(path)

    def _state(self, path: str) -> FileState:
        info = ask(f"{self.url}/{path}", lambda: self._system.info(self._name(path)))
        if info.get("size") is None:
            raise DataError(f"{self.url}/{path}: its server does not tell its size. Download it")
        mark = next((str(info[name]) for name in _MARKS if info.get(name)), "")
        digest = hashlib.sha256(mark.encode()).digest()
        return FileState(
            size=int(info["size"]),
            mtime_ns=max((_nanoseconds(info.get(name)) for name in _TIMES), default=0),
            ctime_ns=0,
            inode=int.from_bytes(digest[:7], "big") if mark else 0,
        )

    def read(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of a file from `start` to before `end`, all of them.

        Raises:
            DataError: they do not come, after several attempts.
        """
        parts: list[bytes] = []
        at, name = start, self._name(path)

        def read_on() -> None:
            nonlocal at
            while at < end:
                got = self._system.cat_file(name, start=at, end=end, **self._options)
                part = cast(bytes, got)
                if len(part) > end - at:
                    raise NoRangesError
                if not part:
                    raise EOFError(f"no bytes came from byte {at:,}")
                parts.append(part)
                at += len(part)

        try:
            ask(f"{self.url}/{path}", read_on)
        except NoRangesError:
            raise DataError(
                f"{self.url}/{path}: its server sends all of the file in place of a range of "
                "bytes. Download the files, or use a server that answers Range requests"
            ) from None
        return b"".join(parts)

    def _name(self, path: str) -> str:
        return f"{self._base}/{quote(path) if self._is_http else path}"


class RemotePath:
    """A file behind a URL. It stands where a ``Path`` does for local files."""

    def __init__(self, folder: RemoteFolder, path: str) -> None:
        self.folder, self._path = folder, path
        self.name, self.suffix = PurePosixPath(path).name, PurePosixPath(path).suffix

    def __str__(self) -> str:
        """Return the URL."""
        return f"{self.folder.url}/{self._path}"

    def state(self) -> FileState:
        """Return what the file system says of the file now."""
        return self.folder.state(self._path)

    def open(self) -> "RemoteFile":
        """Return the file, open for reading."""
        return RemoteFile(self, self.state())

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`, all of them."""
        return self.folder.read(self._path, start, end)


SourcePath = Path | RemotePath
"""A source file, on this machine or behind a URL."""


class RemoteFile(io.RawIOBase):
    """A file behind a URL, open for reading."""

    def __init__(self, path: RemotePath, state: FileState) -> None:
        super().__init__()
        self.path, self.state = path, state
        self._at = self._start = 0
        self._block = b""
        self._step = _LEAST_BYTES
        # Of a table, the next block is often of a column that nobody reads.
        self._reads_ahead = path.suffix != ".parquet"
        self._ahead = ReadAhead(path.read)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Read on from another place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.state.size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer, /) -> int:  # pyright: ignore[reportMissingParameterType]
        """Fill a buffer as far as the bytes at hand go."""
        view = memoryview(buffer).cast("B")
        data = self._some(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes: as many as were asked for, unless the file ends."""
        left = self.state.size - self._at
        size = left if size is None or size < 0 else min(size, left)
        parts = []
        while size > 0:
            parts.append(part := bytes(self._some(size)))
            size -= len(part)
        return b"".join(parts)

    def _some(self, size: int) -> memoryview:
        """Return some of the next bytes, at least one unless the file ends."""
        if self._at >= self.state.size or not size:
            return memoryview(b"")
        if not self._start <= self._at < self._start + len(self._block):
            in_order = bool(self._block) and self._at == self._start + len(self._block)
            self._fill(in_order=in_order)
        start = self._at - self._start
        part = memoryview(self._block)[start : start + size]
        self._at += len(part)
        return part

    def _fill(self, *, in_order: bool) -> None:
        """Fetch the block at the current place, and begin with the next one if read in order."""
        self._step = min(2 * self._step, _MOST_BYTES) if in_order else _LEAST_BYTES
        end = min(self._at + self._step, self.state.size)
        self._block = b""  # so that there are never three
        self._block = self._ahead.take(self._at) or self.path.read(self._at, end)
        self._start, end = self._at, self._at + len(self._block)
        if in_order and self._reads_ahead and end < self.state.size:
            step = min(2 * self._step, _MOST_BYTES)
            self._ahead.begin(end, min(end + step, self.state.size))


@contextmanager
def open_planned_remote(path: RemotePath, size: int) -> Iterator[BinaryIO]:
    """Open a remote file, which must have the plan's size, and stay the same while it is read.

    Raises:
        DataError: it cannot be read, has another size, or was changed meanwhile.
    """
    with path.open() as file:
        if file.state.size != size:
            raise DataError(
                f"{path}: {file.state.size:,} bytes, but it had {size:,} when the plan was made. "
                "Restore it, or tokenise into another output folder"
            )
        yield cast(BinaryIO, file)
        if path.state() != file.state:
            raise DataError(
                f"{path}: was changed while it was read. "
                "Run the same command again when no process writes to it"
            )


@lru_cache(maxsize=8)
def _file_system(url: str) -> "tuple[fsspec.AbstractFileSystem, str]":
    """Return the file system of a URL, and what it calls the place."""
    import fsspec

    options: dict[str, object] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        # Its own limit is five minutes for a whole request, and none for silence.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
        options = {"client_kwargs": {"timeout": timeout}}
    try:
        return fsspec.url_to_fs(url, **options)
    except ImportError as error:
        rule = f"needs a package that is not installed ({one_line(error)})"
        remedy = "Install it: s3fs for s3://, gcsfs for gs://, adlfs for az://"
        raise ConfigError("sources", url, rule, remedy) from None
    except ValueError as error:
        remedy = "Give a local folder, or a URL such as s3://BUCKET/FOLDER"
        raise ConfigError("sources", url, f"cannot be opened ({one_line(error)})", remedy) from None


def _nanoseconds(value: object) -> int:
    """Return a time in nanoseconds; 0 where there is none."""
    if isinstance(value, str):
        try:
            value = parsedate_to_datetime(value)
        except ValueError:
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                return 0
    if isinstance(value, datetime):
        value = value.timestamp()
    return round(value * 1e9) if isinstance(value, int | float) else 0
