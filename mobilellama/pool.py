"""Work shared out among processes, its results in the order of the work.

    with Workers(4, doing="tokenising") as workers:
        for item, result in workers.map(function, items):
            ...

What comes out does not depend on the number of processes, and little is held in memory. A
process whose parent is gone ends by itself; one that is killed ends the work with a message.
Ctrl-C is the parent's: it ends its workers, which print nothing.

Each process has a pipe of its own, at whose other end a thread waits. So the death of one is
seen at once, whatever it was doing: the queue that a ``ProcessPoolExecutor``'s processes share
waits for ever for the rest of a result in whose middle its writer was killed.
"""

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from mobilellama.config import UserError
from mobilellama.signals import ctrl_c_held_back

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # items for each process: it never waits


class _EndedError(Exception):
    """A process is gone, by this exit code."""


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    pipe: Connection

    def do(self, work: Callable[[T], R], item: T) -> R:
        """Have the process work on an item; raise what that raises."""
        try:
            self.pipe.send((work, item))
            succeeded, result = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise _EndedError(self.process.exitcode) from None
        if not succeeded:
            raise result
        return result


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
        self._threads = ThreadPoolExecutor(max(count, 1))
        self._all: list[_Worker] = []
        self._idle: SimpleQueue[_Worker] = SimpleQueue()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind:  # what is under way is wanted no more, and may take long
            for worker in self._all:
                worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.pipe.close()
        for worker in self._all:
            worker.process.join()

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
            near: what the message says of the item at which a process was killed.

        Raises:
            UserError: a process was killed. What `work` and `items` raise comes through.
        """
        if self._count <= 1:
            yield from ((item, work(item)) for item in items)
            return
        running: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                running.append((item, self._begin(work, item)))
                if len(running) > _AHEAD * self._count:
                    yield _finish_oldest(running)
            while running:
                yield _finish_oldest(running)
        except _EndedError as ended:
            place = f", near {near(running[0][0])}" if near else ""
            raise UserError(
                f"a worker process {_end(*ended.args)} while {self._doing}{place}; was memory "
                f"short? {self._remedy}"
            ) from None
        finally:
            for _, future in running:
                future.cancel()

    def _begin(self, work: Callable[[T], R], item: T) -> Future[R]:
        if len(self._all) < self._count:
            worker = _start()
            self._all.append(worker)
            self._idle.put(worker)
        return self._threads.submit(self._do, work, item)

    def _do(self, work: Callable[[T], R], item: T) -> R:
        worker = self._idle.get()
        try:
            return worker.do(work, item)
        finally:
            self._idle.put(worker)


def _finish_oldest(running: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    """Wait for the first item's result and take it off; it stays where there is none."""
    item, future = running[0]
    result = future.result()
    running.popleft()
    return item, result


def _end(exit_code: int | None) -> str:
    return "was killed" if exit_code is None or exit_code < 0 else f"left with code {exit_code}"


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")
    pipe, its_end = context.Pipe()
    process = context.Process(target=_serve, args=(its_end,), daemon=True)
    with ctrl_c_held_back():
        process.start()
    its_end.close()  # or its death would not be seen
    return _Worker(process, pipe)


def _serve(pipe: Connection) -> None:
    """Work on what comes through the pipe until its end."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            work, item = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer: tuple[bool, Any] = True, work(item)
        except BaseException as error:
            error.add_note(traceback.format_exc())  # its own stack is not sent
            answer = False, error
        try:
            pipe.send(answer)
        except ConnectionError:
            return
        except Exception as error:  # what cannot be sent
            pipe.send((False, TypeError(f"{work} gave what cannot be sent back: {error}")))


def _leave_with_parent() -> None:
    """End this process when its parent does, though it is in the middle of its work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
