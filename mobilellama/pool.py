"""Work shared out among processes, its results in the order of the work.

What comes out does not depend on the number of processes, and little is held in memory. A
process whose parent is gone ends by itself; one that is killed ends the work with a message.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from mobilellama.config import UserError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # items for each process: it never waits


def ordered_map(
    work: Callable[[T], R], items: Iterable[T], *, workers: int, doing: str
) -> Iterator[tuple[T, R]]:
    """Yield each item with what `work` makes of it, in the items' order.

    Args:
        work: a function of a module; it, items and results are sent between processes.
        items: read a few ahead of what is yielded.
        workers: processes; 1 works in this one.
        doing: for the message, such as "encoding".

    Raises:
        UserError: a process was killed. What `work` raises comes through.
    """
    if workers == 1:
        yield from ((item, work(item)) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_with_parent)
    running: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            running.append((item, pool.submit(work, item)))
            if len(running) > _AHEAD * workers:
                done, future = running.popleft()
                yield done, future.result()
        while running:
            done, future = running.popleft()
            yield done, future.result()
    except BrokenProcessPool:
        raise UserError(
            f"a worker process was killed while {doing}; was memory short? Run the same command "
            "again, with fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_with_parent() -> None:
    """End this process when its parent does: a pool's workers would wait for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
