"""Work shared out among processes.

    with Workers(4, doing="tokenising") as workers:
        for item, result in workers.map(function, items):  # in the order of the items
            ...
        for item, result in workers.each(function, items, on_news=show):  # in the order of the ends
            ...

What comes out does not depend on the number of processes, and little is held in memory. A
process whose parent is gone ends by itself. One that is killed ends the work of ``map`` with a
message; of ``each`` it costs one item, and another process takes its place. Ctrl-C is the
parent's: it ends its workers, which print nothing. What an item's work needs again for the next
one (a tokenizer) it keeps in a cache of its module: a process serves many items.

Each process has a pipe of its own, at whose other end a thread waits. So the death of one is
seen at once, whatever it was doing: the queue that a ``ProcessPoolExecutor``'s processes share
waits for ever for the rest of a result in whose middle its writer was killed. loky would not do:
one killed process breaks its whole pool and fails every item, and an item cannot send news.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal, TypeVar

from mobilellama.config import UserError
from mobilellama.signals import ctrl_c_held_back

T = TypeVar("T")
R = TypeVar("R")

Tell = Callable[[Any], None]
"""Sends news of an item, in the midst of its work, to who waits for the item."""

_AHEAD = 4  # items for each process: it never waits


class _EndedError(Exception):
    """A process is gone; its argument."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What became of an item whose process ended in its middle."""

    pid: int
    exit_code: int
    """Of the process; -N where signal N killed it."""

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that killed the process; None where it left by itself."""
        return signal.Signals(-self.exit_code).name if self.exit_code < 0 else None


class _Worker:
    """A process and the parent's end of its pipe."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a process, in the place of one that is gone."""
        context = multiprocessing.get_context("spawn")
        self.pipe, its_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(its_end,), daemon=True)
        with ctrl_c_held_back():
            self.process.start()
        its_end.close()  # or its death would not be seen
        self.is_gone = False

    def do(self, work: Callable[..., R], item: object, on_news: Tell | None) -> R:
        """Have the process work on an item; raise what that raises."""
        process = self.process
        try:
            self.pipe.send((work, item, on_news is not None))
            kind, value = self.pipe.recv()
            while kind == "news":
                assert on_news is not None
                on_news(value)
                kind, value = self.pipe.recv()
        except (EOFError, OSError):  # OSError: in the middle of what it sent
            self.is_gone = True
            raise _EndedError(process) from None
        if kind == "error":
            raise value
        return value


@dataclass(frozen=True)
class _Event:
    """What is heard of an item: news, or that its work has ended."""

    item: Any
    news: Any = None
    future: Future[Any] | None = None


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
        self.pids: set[int] = set()
        """Of every process that was started."""

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
                f"a worker process {_end(_lost(ended))} while {self._doing}{place}; was memory "
                f"short? {self._remedy}"
            ) from None
        finally:
            for _, future in running:
                future.cancel()

    def each(
        self, work: Callable[[T, Tell], R], items: Iterable[T], *, on_news: Tell
    ) -> Iterator[tuple[T, R | Lost]]:
        """Yield each item with what `work` makes of it, as soon as it ends.

        Always works in other processes, also where `count` is 1: the death of one costs its item.

        Args:
            work: as for ``map``, and given a function that sends news. It may write files, of
                which those of an ended process are the caller's to remove.
            items: the next is taken when a process is free, after the last end was yielded.
            on_news: told, in this thread, what `work` sent.

        Raises:
            what `work` and `items` raise.
        """
        heard: SimpleQueue[_Event] = SimpleQueue()
        waiting = iter(items)
        running = 0
        while True:
            for item in waiting:
                future = self._begin(work, item, lambda news: heard.put(_Event(None, news)))
                future.add_done_callback(partial(_put_end, heard, item))
                running += 1
                if running >= self._count:
                    break
            if not running:
                return
            while (event := heard.get()).future is None:
                on_news(event.news)
            running -= 1
            try:
                result = event.future.result()
            except _EndedError as ended:
                result = _lost(ended)
            yield event.item, result

    def _begin(
        self, work: Callable[..., R], item: object, on_news: Tell | None = None
    ) -> Future[R]:
        """Have a process work on an item; start those that are wanted or gone."""
        for worker in self._all:
            if worker.is_gone:
                worker.start()
                self.pids.add(worker.process.pid or 0)
        if len(self._all) < max(self._count, 1):
            worker = _Worker()
            self.pids.add(worker.process.pid or 0)
            self._all.append(worker)
            self._idle.put(worker)
        return self._threads.submit(self._do, work, item, on_news)

    def _do(self, work: Callable[..., R], item: object, on_news: Tell | None) -> R:
        worker = self._idle.get()
        try:
            return worker.do(work, item, on_news)
        finally:
            self._idle.put(worker)


def _finish_oldest(running: deque[tuple[T, Future[R]]]) -> tuple[T, R]:
    """Wait for the first item's result and take it off; it stays where there is none."""
    item, future = running[0]
    result = future.result()
    running.popleft()
    return item, result


def _put_end(heard: "SimpleQueue[_Event]", item: object, future: Future[Any]) -> None:
    heard.put(_Event(item, future=future))


def _lost(ended: _EndedError) -> Lost:
    """Tell how a process ended; called in the thread that starts processes, which reaps them."""
    (process,) = ended.args
    assert isinstance(process, BaseProcess)
    process.join()
    code = process.exitcode
    return Lost(pid=process.pid or 0, exit_code=-signal.SIGKILL if code is None else code)


def _end(lost: Lost) -> str:
    return "was killed" if lost.signal_name else f"left with code {lost.exit_code}"


_Answer = tuple[Literal["news", "result", "error"], Any]


def _serve(pipe: Connection) -> None:
    """Work on what comes through the pipe until its end."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def tell(news: Any) -> None:
        pipe.send(("news", news))

    while True:
        try:
            work, item, has_news = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer: _Answer = "result", work(item, tell) if has_news else work(item)
        except BaseException as error:
            error.add_note(traceback.format_exc())  # its own stack is not sent
            answer = "error", error
        try:
            pipe.send(answer)
        except ConnectionError:
            return
        except Exception as error:  # what cannot be sent
            refusal = TypeError(f"{work} gave what cannot be sent back: {error}")
            pipe.send(("error", refusal))


def _leave_with_parent() -> None:
    """End this process when its parent does, though it is in the middle of its work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
