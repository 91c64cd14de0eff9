"""The next block of a file behind a URL, fetched while the one before it is used.

At most one block is under way, so a file takes the memory of two blocks.
"""

import threading
from collections.abc import Callable


class ReadAhead:
    """Fetches one block at a time in a thread.

    The thread is a daemon: a process that ends does not wait for a server.

    Args:
        read: returns the bytes from a start to before an end; it may raise.
    """

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._span = (0, 0)
        self._thread: threading.Thread | None = None
        self._block = b""
        self._error: Exception | None = None

    def begin(self, start: int, end: int) -> None:
        """Begin to fetch the bytes from `start` to before `end`."""
        assert self._thread is None, "a block is taken before the next one begins"
        self._span = (start, end)
        self._thread = threading.Thread(target=self._fetch, daemon=True)
        self._thread.start()

    def take(self, start: int) -> bytes:
        """Return the block that begins at `start`; b"" if another one or none was fetched.

        A block that nobody takes is awaited and dropped, so that there is never a second thread.

        Raises:
            Exception: what `read` raised for this block.
        """
        if self._thread is None:
            return b""
        self._thread.join()
        self._thread = None
        block, error = self._block, self._error
        self._block, self._error = b"", None
        if self._span[0] != start:
            return b""
        if error is not None:
            raise error
        return block

    def _fetch(self) -> None:
        try:
            self._block = self._read(*self._span)
        except Exception as error:  # raised again where the block is wanted
            self._error = error
