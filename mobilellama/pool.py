"""Distribute work among processes.

    with Workers(4, doing="tokenising") as workers:
        for item, result in workers.map(function, items):  # in the order of the items
            ...
        for item, result in workers.each(function, items, on_news=show):  # in the order of the ends
            ...

1. The results do not depend on the number of processes, and few items are in memory.
2. A process ends by itself when its parent has ended.
3. If a process is killed, ``map`` ends with a message. ``each`` loses one item, and starts another
   process.
4. The parent handles Ctrl-C: it ends its workers, and they print nothing.
5. A process works on many items. Work that needs a tokenizer or the like keeps it in a cache of its
   module.

Each process has its own pipe, and a thread waits at the other end. So the parent notices at once
that a process has died. With ``ProcessPoolExecutor`` it may not: its processes share a queue, and
if one is killed while it writes a result, the reader waits for the rest for ever. loky notices, but
then fails every item, and an item cannot send news.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal, TypeVar

from mobilellama.config import UserError
from mobilellama.signals import ctrl_c_held_back

T = TypeVar("T")
R = TypeVar("R")

Tell = Callable[[Any], None]
"""Send news of an item, during its work, to the caller that waits for the item."""

_AHEAD = 4  # items queued for each process, so that it never waits


class _EndedError(Exception):
    """A process has ended. The argument is the process."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The result of an item whose process ended during the work."""

    pid: int
    exit_code: int
    """Of the process. -N: signal N killed it."""

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that killed the process; None if it exited by itself."""
        return signal.Signals(-self.exit_code).name if self.exit_code < 0 else None


class _Worker:
    """A process and the parent's end of its pipe."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a process, or replace one that has ended."""
        context = multiprocessing.get_context("spawn")
        self.pipe, its_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(its_end,), daemon=True)
        with ctrl_c_held_back():
            self.process.start()
        its_end.close()  # else the pipe stays open when the process dies, and nobody notices
        self.is_gone = False

    def do(self, work: Callable[..., R], item: object, on_news: Tell | None) -> R:
        """Let the process work on an item, and return its result or raise its error."""
        process = self.process
        try:
            self.pipe.send((work, item, on_news is not None))
            kind, value = self.pipe.recv()
            while kind == "news":
                assert on_news is not None
                on_news(value)
                kind, value = self.pipe.recv()
        except (EOFError, OSError):  # OSError: it died while it was sending
            self.is_gone = True
            raise _EndedError(process) from None
        if kind == "error":
            raise value
        return value


@dataclass(frozen=True)
class _Event:
    """An event of an item: news, or the end of its work."""

    item: Any
    news: Any = None
    future: Future[Any] | None = None


class Workers:
    """Processes that start with the first item. Use it as a context manager.

    Args:
        count: number of processes. With 1 or 0, ``map`` works in this process.
        doing: the work, such as "encoding", for the message that a process was killed.
        remedy: the rest of that message.
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
        """The ids of all processes that were started."""

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind:  # after an error nobody needs the running items, and they may take long
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
        """Yield each item with the result of `work`, in the order of the items.

        Args:
            work: a function of a module, or a partial of one. Function, items and results are sent
                between processes. It can be killed at any point, so it should write nothing.
            items: are read a few ahead.
            near: returns the name of an item, for the message that a process was killed.

        Raises:
            UserError: a process was killed. Errors of `work` and `items` are raised unchanged.
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
            raise UserError(self._text_of(_lost(ended), place)) from None
        finally:
            for _, future in running:
                future.cancel()

    def _text_of(self, lost: Lost, place: str) -> str:
        """Return the message that a process ended during ``map``."""
        if lost.signal_name == signal.SIGKILL.name:  # the kernel sends it where memory is short
            text = f"a worker process was killed while {self._doing}{place}; was memory short?"
            return f"{text} {self._remedy}"
        by = lost.signal_name
        end = f"was killed by {by}" if by else f"left with code {lost.exit_code}"
        return f"a worker process {end} while {self._doing}{place}. Run the same command again"

    def each(
        self, work: Callable[[T, Tell], R], items: Iterable[T], *, on_news: Tell
    ) -> Iterator[tuple[T, R | Lost]]:
        """Yield each item with the result of `work`, as soon as it is done.

        It always uses other processes, even if `count` is 1, so a killed process costs only its
        item.

        Args:
            work: as for ``map``, with a second argument: a function that sends news. It may write
                files. The caller removes the files of a process that has ended.
            items: the next item is taken when a process is free and the last result was yielded.
            on_news: is called in this thread with the news.

        Raises:
            Exception: any error of `work` and `items`.
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
        """Give an item to a process. Start processes that are missing or have ended."""
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
    """Wait for the first item's result, and remove the item. After an error it stays."""
    item, future = running[0]
    result = future.result()
    running.popleft()
    return item, result


def _put_end(heard: "SimpleQueue[_Event]", item: object, future: Future[Any]) -> None:
    heard.put(_Event(item, future=future))


def _lost(ended: _EndedError) -> Lost:
    """Return how a process ended. Call it in the thread that starts and reaps the processes."""
    (process,) = ended.args
    assert isinstance(process, BaseProcess)
    process.join()
    code = process.exitcode
    return Lost(pid=process.pid or 0, exit_code=-signal.SIGKILL if code is None else code)


_Answer = tuple[Literal["news", "result", "error"], Any]


def _serve(pipe: Connection) -> None:
    """Work on the items that come through the pipe, until it is closed."""
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
            answer = "error", _as_sent(error, traceback.format_exc())
        try:
            pipe.send(answer)
        except ConnectionError:
            return
        except Exception as error:  # the result cannot be pickled
            refusal = TypeError(f"the result of {work} cannot be sent back: {error}")
            pipe.send(("error", refusal))


def _as_sent(error: BaseException, stack: str) -> BaseException:
    """Return an error as the pipe can send it, with its stack as a note.

    An error of a library may hold what cannot be pickled, or take other arguments than it keeps.
    """
    try:
        ForkingPickler.dumps(error)  # what the pipe does
        copy(error)  # makes it anew from what it keeps, as the reader does
    except Exception:
        return RuntimeError(f"{type(error).__name__}, which cannot be sent back:\n{stack}")
    error.add_note(stack)  # the pipe does not send an error's stack
    return error


def _leave_with_parent() -> None:
    """End this process when its parent ends, even during its work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
