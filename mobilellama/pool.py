"""Work shared out among processes, its results in the order of the work.

    with Workers(4, doing="tokenising") as workers:
        for item, result in workers.map(function, items):
            ...

What comes out does not depend on the number of processes, and little is held in memory. A
process whose parent is gone ends by itself; one that is killed ends the work with a message.
Ctrl-C is the parent's: it ends its workers, which print nothing.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TypeVar

from mobilellama.config import UserError
from mobilellama.signals import ctrl_c_held_back

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # items for each process: it never waits


class Workers:
    """Processes that are started with the first work. Use as a context manager.

    Args:
        count: processes; 1 (or 0) works in this one.
        doing: for the message that one was killed, such as "encoding".
        remedy: what else that message says.
    """

    def __init__(
        self,
        count: int,
        *,
        doing: str,
        remedy: str = "Run the same command again, with fewer workers",
    ) -> None:
        self._count, self._doing, self._remedy = count, doing, remedy
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self._count > 1:
            context = multiprocessing.get_context("spawn")
            theirs, self._lifeline = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                self._count, mp_context=context, initializer=_live_by, initargs=(theirs,)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool:
            if kind:  # what is under way is wanted no more, and may take long
                self._lifeline.close()
            self._pool.shutdown(cancel_futures=True)
            self._lifeline.close()

    def map(
        self,
        work: Callable[[T], R],
        items: Iterable[T],
        *,
        near: Callable[[T], str] | None = None,
    ) -> Iterator[tuple[T, R]]:
        """Yield each item with what `work` makes of it, in the items' order.

        Args:
            work: a function of a module, or a partial of one; it, the items and its results are
                sent between processes. It may be ended in its middle: it should write nothing.
            items: read a few ahead of what is yielded.
            near: what the message says of the item at which a process was killed, or of one
                just before it.

        Raises:
            UserError: a process was killed. What `work` and `items` raise comes through.
        """
        if self._pool is None:
            yield from ((item, work(item)) for item in items)
            return
        running: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                with ctrl_c_held_back():  # any submission may start a process
                    running.append((item, self._pool.submit(work, item)))
                if len(running) > _AHEAD * self._count:
                    yield _finish_oldest(running)
            while running:
                yield _finish_oldest(running)
        except BrokenProcessPool:
            place = f", near {near(running[0][0])}" if near and running else ""
            raise UserError(
                f"a worker process was killed while {self._doing}{place}; was memory short? "
                f"{self._remedy}"
            ) from None
        finally:
            for _, future in running:
                future.cancel()


def _finish_oldest(running: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    """Wait for the first item's result and take it off; it stays where there is none."""
    item, future = running[0]
    result = future.result()
    running.popleft()
    return item, result


def _live_by(lifeline: Connection) -> None:
    """End this process when the parent's end is closed, by itself or because it is gone."""

    def wait() -> None:
        lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
