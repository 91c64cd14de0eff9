"""What a run shows of itself: console, metrics.jsonl and TensorBoard, an interval at a time."""

import json
import logging
import math
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mobilellama.config import ConfigError, require_at_least
from mobilellama.distributed import World
from mobilellama.files.atomic import whole_file
from mobilellama.log import message_width
from mobilellama.pretrain.engines.engine import StepReport
from mobilellama.pretrain.monitoring.loss_watch import LossWatch
from mobilellama.pretrain.monitoring.tally import Losses
from mobilellama.pretrain.monitoring.throughput import dense_peak_tflops, mfu
from mobilellama.progress import format_duration
from mobilellama.run_folder import RunFolder
from mobilellama.terminal import fitted

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """How often, and against what."""

    every_steps: int = 10
    """Steps of one interval: one line on the console and one in metrics.jsonl."""
    peak_tflops: float | None = None
    """Dense bf16 peak of one GPU for MFU; None looks it up by the GPU's name."""

    def __post_init__(self) -> None:
        require_at_least("metrics.every_steps", self.every_steps, 1)
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            remedy = "Give the GPU's dense bf16 peak, or null"
            raise ConfigError("metrics.peak_tflops", self.peak_tflops, "must be above 0", remedy)


class Metrics:
    """Adds steps up to intervals and, on rank 0, writes them."""

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
        attempt: int,
    ) -> None:
        """Cut metrics.jsonl back to the step resumed from, and open the writers.

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
            attempt: this attempt; once a newer one owns the run, writing raises FencedError.
        """
        self._config, self._run, self._world = config, run, world
        self._attempt = attempt
        self._group_names, self._peak_lrs = group_names, peak_lrs
        self._seq_len, self._max_steps, self._flops = seq_len, max_steps, flops_per_token
        self._peak_tflops = config.peak_tflops or _peak_of(world.device)
        self._tensorboard: Any = None
        if world.is_main:
            cut_back(run, resumed_step)
            from lightning.fabric.loggers import TensorBoardLogger  # pyright: ignore[reportPrivateImportUsage]

            self._tensorboard = TensorBoardLogger(
                run.path, name=run.tensorboard.name, version="", purge_step=resumed_step + 1
            )
        self._reset()

    def _reset(self) -> None:
        groups = len(self._group_names)
        self._steps = self._positions = self._samples = 0
        self._loss_sums, self._tokens = [0.0] * groups, [0.0] * groups
        self._step_s = self._data_wait_s = 0.0

    def record(
        self,
        *,
        step: int,
        consumed: int,
        samples: int,
        tokens: int,
        losses: Losses,
        report: StepReport,
        lr_factor: float,
        step_s: float,
        data_wait_s: float,
        watch: LossWatch,
        final: bool,
    ) -> None:
        """Take note of a step; at the interval's end, or a final step, write."""
        self._steps += 1
        self._samples += samples
        self._positions += tokens
        for i in range(len(self._group_names)):
            self._loss_sums[i] += losses.loss_sums[i]
            self._tokens[i] += losses.tokens[i]
        self._step_s += step_s
        self._data_wait_s += data_wait_s
        if step % self._config.every_steps and not final:
            return
        supervised = sum(self._tokens)
        per_gpu = self._positions / self._step_s / self._world.size
        record = {
            "step": step,
            "consumed": consumed,
            **({"tokens": consumed * self._seq_len} if self._seq_len else {}),
            "loss": sum(self._loss_sums) / max(supervised, 1.0),
            "grad_norm": report.grad_norm,
            **{name: peak * lr_factor for name, peak in self._peak_lrs.items()},
            "samples_per_s": self._samples / self._step_s,
            "tokens_per_s_per_gpu": per_gpu,
            "supervised_share": supervised / max(self._positions, 1),
            "mfu": self._mfu(per_gpu),
            "step_s": self._step_s / self._steps,
            "data_wait_s": self._data_wait_s / self._steps,
            "memory_gib": _memory_gib(self._world.device),
            "skipped_steps": watch.skipped_steps,
            "spikes": watch.spikes,
            "left_s": (self._max_steps - step) * self._step_s / self._steps,
        }
        for name, loss_sum, count in zip(
            self._group_names, self._loss_sums, self._tokens, strict=True
        ):
            if count:
                record[f"loss/{name}"] = loss_sum / count
        self._reset()
        if self._world.is_main:
            line = console_line(
                record, self._max_steps, per=_per(self._world), width=message_width()
            )
            log.info("%s", line)
            self._write(record)

    def _mfu(self, tokens_per_s_per_gpu: float) -> float | None:
        if self._flops is None or self._peak_tflops is None:
            return None
        return mfu(tokens_per_s_per_gpu, self._flops, self._peak_tflops)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Write validation losses, where there are any."""
        if losses and self._world.is_main:
            shown = [
                (rank, f"{name} {value:.4f}")
                for rank, (name, value) in enumerate(losses.items(), 1)
            ]
            log.info("%s", fitted([(0, f"step {step}"), *shown], message_width()))
            self._write({"step": step, **losses})

    def _write(self, record: dict[str, Any]) -> None:
        # Ranks of an attempt that lost its node's daemon live on beside the rerun.
        self._run.require_newest(self._attempt)
        # NaN is no JSON.
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        with open(self._run.metrics, "a") as file:
            file.write(json.dumps(finite) + "\n")
        values = {name: value for name, value in finite.items() if value is not None}
        del values["step"]
        self._tensorboard.log_metrics(values, step=record["step"])

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.finalize("success")


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


def _per(world: World) -> str:
    """Return what tokens a second are counted by: every rank has one GPU or a share of the CPU."""
    if world.device.type == "cuda":
        return "/GPU"
    return "/rank" if world.size > 1 else ""


def cut_back(run: RunFolder, step: int) -> None:
    """Drop the records of metrics.jsonl after a step, and a torn last line."""
    if run.metrics.exists():
        kept = [record for record in run.read_metrics() if record["step"] <= step]
        with whole_file(run.metrics) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())


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
