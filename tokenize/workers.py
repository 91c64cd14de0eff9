"""Worker processes that write buckets, one slice at a time.

A slice that fails, or whose worker is killed, costs that slice alone; the others go on. A
worker whose parent is gone stops at its next batch.
"""

import contextlib
import logging
import multiprocessing
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from mobilellama.config import UserError
from mobilellama.progress import Progress
from mobilellama.shards.dataset import TOKENIZER, Slice
from mobilellama.signals import ctrl_c_held_back
from mobilellama.tokenize.bucket import Work, write_bucket
from mobilellama.tokenize.bucket_files import DiskFullError, is_finished
from mobilellama.tokenize.encoder import Encoder
from mobilellama.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 0.2

_Pipe = connection.Connection


@dataclass(frozen=True, kw_only=True)
class _Advanced:
    """A worker's news: this much more was read and encoded."""

    source_read: int = 0
    tokens: int = 0
    documents: int = 0


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """A worker's news: it is done with its slice."""

    failure: str | None = None
    """Why there is no bucket; None where there is one."""
    disk_full: bool = False


@dataclass(kw_only=True)
class _BucketWorker:
    process: BaseProcess
    piece: Slice


def write_buckets(
    work: Work, pieces: Sequence[Slice], workers: int, progress: Progress, *, unit: float = 1.0
) -> list[str]:
    """Write the slices' buckets with so many processes.

    Args:
        work: what the slices have in common.
        pieces: slices without a bucket.
        workers: processes.
        progress: shown to the user.
        unit: source bytes (or rows) in one unit of `progress`.

    Returns:
        One message a slice that failed.
    """
    # The largest first: none is left to run alone at the end.
    waiting = deque(sorted(pieces, key=lambda piece: piece.start - piece.end))
    busy: dict[_Pipe, _BucketWorker] = {}
    failures: list[str] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                _start(work, waiting.popleft(), busy)
            for pipe in connection.wait(list(busy)):
                assert isinstance(pipe, _Pipe)
                news = _receive(pipe, busy[pipe], work)
                if isinstance(news, _Advanced):
                    progress.advance(
                        news.source_read / unit, tokens=news.tokens, documents=news.documents
                    )
                    continue
                if news.failure:
                    failures.append(news.failure)
                    log.error("%s", news.failure)
                if news.disk_full:
                    waiting.clear()
                if waiting and busy[pipe].process.is_alive():
                    busy[pipe].piece = waiting.popleft()
                    _send(pipe, busy[pipe].piece)
                else:
                    _dismiss(pipe, busy.pop(pipe))
    finally:
        for worker in busy.values():
            worker.process.terminate()
        for worker in busy.values():
            worker.process.join()
            _remove_temporaries(work.folder, worker.process)
    return failures


def _start(work: Work, piece: Slice, busy: dict[_Pipe, _BucketWorker]) -> None:
    context = multiprocessing.get_context("spawn")
    pipe, its_end = context.Pipe()
    process = context.Process(target=_serve, args=(its_end, work), daemon=True)
    with ctrl_c_held_back():
        process.start()
        busy[pipe] = _BucketWorker(process=process, piece=piece)
    its_end.close()
    _send(pipe, piece)


def _receive(pipe: _Pipe, worker: _BucketWorker, work: Work) -> _Advanced | _Ended:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
    _remove_temporaries(work.folder, worker.process)
    code = worker.process.exitcode or 0
    if code >= 0:
        raise RuntimeError(f"a worker left with exit code {code} while making {worker.piece.name}")
    if is_finished(work.folder, worker.piece, work.identity):
        return _Ended()  # killed between the receipt and its news
    name = signal.Signals(-code).name
    hint = "; was memory short?" if -code == signal.SIGKILL else ""
    return _Ended(failure=f"{worker.piece.name}: its worker was killed by {name}{hint}")


def _dismiss(pipe: _Pipe, worker: _BucketWorker) -> None:
    _send(pipe, None)
    worker.process.join()
    pipe.close()


def _send(pipe: _Pipe, piece: Slice | None) -> None:
    # A worker killed just now is noticed by _receive, at the end of its pipe.
    with contextlib.suppress(ConnectionError):
        pipe.send(piece)


def _remove_temporaries(folder: Path, process: BaseProcess) -> None:
    for path in folder.glob(f"*/*.tmp.{socket.gethostname()}.{process.pid}.*"):
        path.unlink(missing_ok=True)


def _serve(pipe: _Pipe, work: Work) -> None:
    """Write the buckets of the slices that come through the pipe, until None or its end."""
    try:
        encoder = None
        while (piece := pipe.recv()) is not None:
            try:
                encoder = encoder or _make_encoder(work)
                reporter = _Reporter(pipe)
                write_bucket(work, piece, encoder, reporter.advance)
                reporter.send()
                news = _Ended()
            except (UserError, OSError) as error:
                disk_full = isinstance(error, DiskFullError)
                news = _Ended(failure=f"{piece.name}: {error}", disk_full=disk_full)
            except Exception:
                news = _Ended(failure=f"{piece.name}: {traceback.format_exc()}")
            pipe.send(news)
    except (EOFError, ConnectionError):
        return  # the parent is gone; everything finished is on the disk


def _make_encoder(work: Work) -> Encoder:
    tokenizer = Tokenizer(work.folder / TOKENIZER)
    tokenizer.require_sha256(
        work.identity.tokenizer_sha256, field="tokenizer", owner=f"the plan in {work.folder}"
    )
    return Encoder(tokenizer)


class _Reporter:
    """Sums what was done and tells the parent a few times a second."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._done = [0, 0, 0]
        self._sent_s = time.monotonic()

    def advance(self, source_read: int, tokens: int, documents: int) -> None:
        """Add a batch."""
        news = (source_read, tokens, documents)
        self._done = [a + b for a, b in zip(self._done, news, strict=True)]
        if time.monotonic() - self._sent_s >= _REPORT_EVERY_S:
            self.send()

    def send(self) -> None:
        """Tell the parent what it has not been told yet."""
        source_read, tokens, documents = self._done
        self._pipe.send(_Advanced(source_read=source_read, tokens=tokens, documents=documents))
        self._done, self._sent_s = [0, 0, 0], time.monotonic()
