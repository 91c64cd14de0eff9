"""Hash files in parallel, and compare the hashes.

Threads share the files: reading and hashing both release the interpreter's lock. The largest are
begun first, so that the last thread is not long alone. After an error or Ctrl-C each thread stops
at its next part of a megabyte.

sha256 is the hash because the fingerprint of a dataset is made of it. A core with SHA instructions
hashes 1.6 GB/s, so two cores keep up with most disks (benchmarks/verify_throughput.py).
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed

from mobilellama.config import DataError, one_line
from mobilellama.progress import Progress
from mobilellama.shards.source_file import FileState
from mobilellama.shards.sources.located import sha256_of_source, state_of
from mobilellama.shards.sources.remote import RemotePath
from mobilellama.shards.verification.checked_files import CheckedFile, Fault, fault_of_size
from mobilellama.shards.verification.journal import Journal


class _Reading:
    """Counts what all threads read, and ends them."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self.is_over = False

    def count(self, num_bytes: int) -> None:
        """Add to the progress, or end this thread's work."""
        if self.is_over:
            raise CancelledError
        if self._progress:
            with self._lock:
                self._progress.advance(num_bytes / 1e6)


def fault_of_hash(file: CheckedFile, on_read: Callable[[int], object] | None = None) -> str | None:
    """Read a file, and return what is wrong with it. None: nothing."""
    try:
        if isinstance(file.path, RemotePath) and (fault := fault_of_size(file)):
            return fault
        found = sha256_of_source(file.path, file.start, file.end, on_read=on_read)
    except DataError as error:  # of a server; it names the file again
        return one_line(error).removeprefix(f"{file.path}: ")
    except OSError as error:  # a bad block of the disk is what this command is for
        return f"cannot be read ({error.strerror})"
    if found == file.sha256:
        return None
    return f"sha256 {found[:12]}..., expected {file.sha256[:12]}..."


def hash_all(
    files: Sequence[CheckedFile],
    workers: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> list[Fault]:
    """Return the bad files, in the order of the files.

    Args:
        files: to read.
        workers: files to read at the same time.
        progress: counts megabytes.
        journal: to note good files in.
    """
    faults: dict[int, str] = {}
    reading = _Reading(progress)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        running: dict[Future[tuple[str | None, FileState | None]], int] = {}
        try:
            for i in sorted(range(len(files)), key=lambda i: -files[i].num_bytes):
                running[pool.submit(_look, files[i], reading)] = i
            for future in as_completed(running):
                i = running[future]
                fault, state = future.result()
                if fault:
                    faults[i] = fault
                elif journal and state:
                    journal.note(files[i], state)
        except BaseException:
            reading.is_over = True
            pool.shutdown(cancel_futures=True)
            raise
    return [(files[i], faults[i]) for i in sorted(faults)]


def _look(file: CheckedFile, reading: _Reading) -> tuple[str | None, FileState | None]:
    """Return what is wrong with a file, and its state. None: it changed while it was read."""
    before = state_of(file.path)
    fault = fault_of_hash(file, reading.count)
    return fault, before if before == state_of(file.path) else None
