"""Hash files in parallel, and compare the hashes."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from mobilellama.files.atomic import sha256_of_file
from mobilellama.progress import Progress
from mobilellama.shards.verification.checked_files import CheckedFile, Fault


def fault_of_hash(file: CheckedFile) -> str | None:
    """Read a file, and return what is wrong with it. None: nothing."""
    try:
        found = sha256_of_file(file.path)
    except OSError as error:  # a bad block of the disk is what this command is for
        return f"cannot be read ({error.strerror})"
    if found == file.sha256:
        return None
    return f"sha256 {found[:12]}..., expected {file.sha256[:12]}..."


def megabytes(file: CheckedFile) -> float:
    """Return the size of a file; 0 if it is gone."""
    with contextlib.suppress(OSError):  # of a file that is gone, the hash tells
        return file.path.stat().st_size / 1e6
    return 0.0


def hash_all(files: list[CheckedFile], workers: int, progress: Progress) -> list[Fault]:
    """Hash the files in threads (hashing and reading both release the interpreter's lock)."""
    faults: dict[int, str] = {}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        running: dict[Future[str | None], int] = {
            pool.submit(fault_of_hash, file): i for i, file in enumerate(files)
        }
        try:
            for future in as_completed(running):
                i = running[future]
                if fault := future.result():
                    faults[i] = fault
                progress.advance(megabytes(files[i]))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for a terabyte
            raise
    return [(files[i], faults[i]) for i in sorted(faults)]
