"""What a run measures of itself, added up an interval at a time; sinks show it."""

import logging
import resource
from collections.abc import Mapping

import torch

from mobilellama.distributed import World
from mobilellama.pretrain.monitoring.config import MetricsConfig
from mobilellama.pretrain.monitoring.interval import Interval, IntervalState, StepResult
from mobilellama.pretrain.monitoring.loss_watch import LossWatch
from mobilellama.pretrain.monitoring.throughput import dense_peak_tflops, mfu
from mobilellama.pretrain.sinks.json_lines import JsonLines
from mobilellama.pretrain.sinks.sink import (
    MetricsRecord,
    Secondary,
    SinkContext,
    open_sinks,
)
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)


class Metrics:
    """Adds steps up to intervals (``interval.py``) and, on rank 0, writes them."""

    def __init__(
        self,
        config: MetricsConfig,
        *,
        run: RunFolder,
        world: World,
        group_names: tuple[str, ...],
        peak_lrs: Mapping[str, float],
        seq_len: int | None,
        max_steps: int,
        flops_per_token: float | None,
        resumed_step: int,
        resumed_interval: IntervalState | None,
        attempt: int,
        run_config: Mapping[str, object],
    ) -> None:
        """Cut metrics.jsonl back to the step resumed from, and open the sinks; all ranks call it.

        Args:
            config: how often.
            run: where to.
            world: rank 0 writes.
            group_names: of the losses.
            peak_lrs: peak learning rates by the name they are written under.
            seq_len: tokens of every sample; None where samples differ.
            max_steps: of the whole run.
            flops_per_token: for MFU; None shows none.
            resumed_step: what was written of later steps is dropped.
            resumed_interval: what the checkpoint holds of the interval that it interrupted. None
                where the run begins, and from a checkpoint of an older version.
            attempt: this attempt; once a newer one owns the run, writing raises FencedError.
            run_config: the resolved config, for sinks that show it.
        """
        self._config, self._run, self._world = config, run, world
        self._attempt = attempt
        self._group_names, self._peak_lrs = group_names, peak_lrs
        self._interval = Interval(group_names, resumed_interval)
        self._seq_len, self._max_steps, self._flops = seq_len, max_steps, flops_per_token
        self._peak_tflops = config.peak_tflops or _peak_of(world.device)
        self._lines: JsonLines | None = None
        self._others = Secondary()
        context = SinkContext(
            run=run,
            resumed_step=resumed_step,
            max_steps=max_steps,
            per=_per(world),
            config=run_config,
        )
        world.run_on_main(lambda: self._open(context))

    def _open(self, context: SinkContext) -> None:
        self._lines = JsonLines(
            context.run,
            resumed_step=context.resumed_step,
            interrupted=self._interval.num_steps > 0,
        )
        self._others = open_sinks(self._config.sinks, context)

    def state(self) -> IntervalState:
        """Return the sums of the interval that has not ended, for a checkpoint."""
        return self._interval.state()

    def record(
        self, result: StepResult, *, step: int, consumed: int, watch: LossWatch, final: bool
    ) -> None:
        """Take note of a step; at the interval's end, or a final step, write.

        Args:
            result: the step.
            step: the number of this step, from 1.
            consumed: samples of the run so far, this step's included.
            watch: its counts are written.
            final: whether this attempt takes no more steps.
        """
        interval = self._interval
        interval.add(result)
        ends = step % self._config.every_steps == 0
        if not ends and not final:
            return
        means = interval.values(self._world.size)
        record: dict[str, float | None] = {
            "consumed": consumed,
            **({"tokens": consumed * self._seq_len} if self._seq_len else {}),
            **means,
            "grad_norm": result.report.grad_norm,
            **{name: peak * result.lr_factor for name, peak in self._peak_lrs.items()},
            "mfu": self._mfu(means["tokens_per_s_per_gpu"]),
            "memory_gib": _memory_gib(self._world.device),
            "skipped_steps": watch.skipped_steps,
            "spikes": watch.spikes,
            "left_s": (self._max_steps - step) * means["step_s"],
        }
        if ends:  # an interval that a stop cut short goes on in the next attempt
            self._interval = Interval(self._group_names)
        if self._world.is_main:
            self._write(MetricsRecord(kind="interval", step=step, values=record))

    def _mfu(self, tokens_per_s_per_gpu: float) -> float | None:
        if self._flops is None or self._peak_tflops is None:
            return None
        return mfu(tokens_per_s_per_gpu, self._flops, self._peak_tflops)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Write validation losses, where there are any."""
        if losses and self._world.is_main:
            self._write(MetricsRecord(kind="validation", step=step, values=losses))

    def _write(self, record: MetricsRecord) -> None:
        # Ranks of an attempt that lost its node's daemon live on beside the rerun.
        self._run.require_newest(self._attempt)
        assert self._lines is not None  # of rank 0
        self._lines.write(record)
        self._others.write(record)

    def close(self) -> None:
        """Write what sinks hold back."""
        self._others.close()


def _per(world: World) -> str:
    """Return what tokens a second are counted by: every rank has one GPU or a share of the CPU."""
    if world.device.type == "cuda":
        return "/GPU"
    return "/rank" if world.size > 1 else ""


def _memory_gib(device: torch.device) -> float:
    """Return the peak memory so far: the GPU's, or on a CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _peak_of(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peak = dense_peak_tflops(name)
    if peak is None:
        log.warning("no dense peak is known for %s; set metrics.peak_tflops to see MFU", name)
    return peak
