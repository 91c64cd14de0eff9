"""The console: a line an interval, as wide as the terminal."""

import logging
from collections.abc import Mapping
from typing import Any

from mobilellama.log import message_width
from mobilellama.pretrain.sinks.sink import MetricsRecord, SinkContext
from mobilellama.progress import format_duration
from mobilellama.terminal import fitted

log = logging.getLogger(__name__)


def open_sink(context: SinkContext) -> "Console":
    """Open the sink."""
    return Console(context)


class Console:
    """Logs a line a record."""

    def __init__(self, context: SinkContext) -> None:
        self._max_steps, self._per = context.max_steps, context.per

    def write(self, record: MetricsRecord) -> None:
        """Log the record."""
        width = message_width()
        if record.kind == "validation":
            shown = enumerate(record.values.items(), 1)
            parts = [(rank, f"{name} {value:.4f}") for rank, (name, value) in shown]
            log.info("%s", fitted([(0, f"step {record.step}"), *parts], width))
            return
        values = {"step": record.step, **record.values}
        log.info("%s", console_line(values, self._max_steps, per=self._per, width=width))

    def close(self) -> None:
        """Nothing is held back."""


def console_line(
    record: Mapping[str, Any], max_steps: int, *, per: str = "/GPU", width: int | None = None
) -> str:
    """Return an interval as one line, in a fixed order, with units.

    Args:
        record: as metrics.jsonl has it.
        max_steps: of the whole run.
        per: what the tokens a second are counted by, such as "/GPU"; "" where there is one.
        width: what does not fit into it is left out: the losses by subset first, then what is
            least needed. None shows all.
    """
    supervised = record["supervised_share"]
    supervised = f" ({100 * supervised:.0f} % supervised)" if supervised < 1 else ""
    is_text = "tokens" in record
    done = f"{record['tokens']:,} tokens" if is_text else f"{record['consumed']:,} samples"
    subsets = (
        f"{name.removeprefix('loss/')} {value:.3f}"
        for name, value in record.items()
        if name.startswith("loss/")
    )
    parts = [
        (0, f"step {record['step']}/{max_steps}"),
        (7, done),
        (0, f"loss {record['loss']:.4f}"),
        (5, f"grad norm {record['grad_norm']:.3f}"),
        (2, f"lr {record['learning_rate']:.2e}"),
        (9, "" if is_text else f"{record['samples_per_s']:,.1f} samples/s"),
        (1, f"{record['tokens_per_s_per_gpu']:,.0f} tokens/s{per}{supervised}"),
        (6, f"MFU {100 * record['mfu']:.1f} %" if record["mfu"] is not None else ""),
        (4, f"{record['step_s']:.3f} s/step ({record['data_wait_s']:.3f} data)"),
        (8, f"{record['memory_gib']:.1f} GiB"),
        (3 if record["skipped_steps"] else 8, f"skipped {record['skipped_steps']}"),
        (0, f"{format_duration(record['left_s'])} left"),
        (10, "  ".join(subsets)),
    ]
    return fitted(parts, width)
