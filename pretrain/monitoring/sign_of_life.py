"""What ranks that wait know of rank 0: a file that changes while it works alone.

A thread of its own reads and writes it: a file system that does not answer would hold whoever asks
it, and the watchdog must not be held.
"""

import threading
from contextlib import suppress
from pathlib import Path

from mobilellama.distributed import World


class SignOfLife:
    """Rank 0 ``show``s that it works; of ranks that wait for it, ``seen`` changes then."""

    def __init__(self, path: Path, world: World, *, every_s: float) -> None:
        """Begin with ``start``.

        Args:
            path: the file; its folder is there or not.
            world: this process among the ranks.
            every_s: between two looks.
        """
        self._path, self._world, self._every_s = path, world, every_s
        self.seen = ""
        """What rank 0 has shown, as far as this rank waited for it."""
        self._shown = self._written = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sign of life", daemon=True)

    def start(self) -> None:
        """Begin to write or to look, where there are ranks that may wait."""
        if self._world.size > 1:
            self._thread.start()

    def show(self, text: str) -> None:
        """Have the waiting ranks see a text, if this is rank 0."""
        self._shown = text

    def end(self, *, wait_s: float) -> None:
        """Remove the file; wait no longer than `wait_s` for a file system that does not answer."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _work(self) -> None:
        while not self._closed.wait(self._every_s):
            with suppress(OSError):
                if self._world.waits_for_main:
                    self.seen = self._path.read_text()
                elif self._world.is_main and self._shown != self._written:
                    self._path.write_text(self._shown)
                    self._written = self._shown
        if self._world.is_main:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
