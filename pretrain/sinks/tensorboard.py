"""TensorBoard: RUN/tensorboard/events.out.tfevents.*, a scalar a value, an event a record.

TensorBoard's own SummaryWriter writes from a thread, minutes later: a full disk is then a
traceback of that thread's, and the loop learns of it by chance. This writes at once, in its turn.
"""

import os
import socket
import time
from typing import Any, BinaryIO

from mobilellama.pretrain.sinks.sink import MetricsRecord, SinkContext


def open_sink(context: SinkContext) -> "TensorBoard":
    """Open the sink; no file is made before the first record."""
    return TensorBoard(context)


class TensorBoard:
    """Writes an event file; a resumed run hides what the former one has of later steps."""

    def __init__(self, context: SinkContext) -> None:
        self._folder, self._purge_step = context.run.tensorboard, context.resumed_step + 1
        self._file: BinaryIO | None = None

    def write(self, record: MetricsRecord) -> None:
        """Add what is finite; TensorBoard draws nothing else.

        Raises:
            OSError: it cannot be written.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        if self._file is None:
            self._begin()
        values = [
            Summary.Value(tag=name, simple_value=value) for name, value in record.finite().items()
        ]
        self._add(step=record.step, summary=Summary(value=values))

    def _begin(self) -> None:
        """Make the file, and have readers drop what earlier files have from the first step on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        self._folder.mkdir(parents=True, exist_ok=True)
        # Readers sort by name, which begins with the time, and follow the last.
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010}.{socket.gethostname()}"
        self._file = open(self._folder / f"{name}.{os.getpid()}.{time.time_ns()}", "xb")
        self._add(file_version="brain.Event:2")
        start = SessionLog(status=SessionLog.SessionStatus.START)
        self._add(step=self._purge_step, session_log=start)

    def _add(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._file is not None
        event = Event(wall_time=time.time(), **fields)
        RecordWriter(self._file).write(event.SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
