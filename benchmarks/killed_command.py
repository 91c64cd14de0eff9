"""A command of 'mobilellama tokenize' that a benchmark starts, kills, and looks after."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

_POLL_S = 0.005
_LIMIT_S = 300.0
_ORPHANS_END_S = 15.0


class KillableCommand:
    """A process, the leader of a session, and its workers.

    Args:
        words: after ``mobilellama tokenize``.
        environment: None: this process's.
    """

    def __init__(self, *words: object, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "mobilellama", "tokenize", *map(str, words)]
        # Files, not pipes: a worker that lives on would keep a pipe open, and the reader waiting.
        self._error = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=self._error,
        )  # fmt: skip
        self._started_s = time.monotonic()

    def wait(self) -> int:
        """Wait for the command, not for its workers. Return its exit code."""
        return self.process.wait(_LIMIT_S)

    def seconds(self) -> float:
        """Wait for the command, which must succeed. Return how long it took."""
        code = self.wait()
        if code:
            sys.exit(f"exit code {code}:\n{self.error()}")
        return time.monotonic() - self._started_s

    def error(self) -> str:
        """Return what it and its workers have written to standard error."""
        self._error.seek(0)
        return self._error.read()

    def kill_after(self, seconds: float, victim: str, rng: random.Random) -> bool:
        """Kill `victim` so long after the start. Return whether it was still there.

        Args:
            seconds: from the start. A command that ends before is left alone.
            victim: ``worker`` (one at random), ``parent`` or ``group``.
            rng: chooses the worker.
        """
        while time.monotonic() - self._started_s < seconds:
            if self.process.poll() is not None:
                return False
            time.sleep(_POLL_S)
        if victim == "worker":
            return self._kill_a_worker(rng)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if victim == "group" else os.kill)(self.process.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def _kill_a_worker(self, rng: random.Random) -> bool:
        while not (workers := self._workers()):
            if self.process.poll() is not None:
                return False
            time.sleep(_POLL_S)
        try:
            os.kill(rng.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _workers(self) -> list[int]:
        found = []
        for pid in self.living():
            with contextlib.suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return sorted(found)

    def living(self) -> list[int]:
        """Return the processes of the session, without those that wait to be reaped."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                state, _, _, session = fields[:4]
                if int(session) == self.process.pid and state not in "ZX":
                    found.append(int(folder.name))
        return found

    def wait_for_workers(self) -> bool:
        """Wait until no process of the session lives. Return False if one lives on."""
        end_s = time.monotonic() + _ORPHANS_END_S
        while left := self.living():
            if time.monotonic() > end_s:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return False
            time.sleep(_POLL_S)
        return True
