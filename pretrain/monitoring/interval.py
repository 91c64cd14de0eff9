"""What the steps of an interval add up to. A checkpoint stores it.

So a line of metrics.jsonl averages the same steps, whether a run was interrupted among them or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from mobilellama.pretrain.engines.engine import StepReport
from mobilellama.pretrain.monitoring.tally import Losses


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did, on all ranks together."""

    num_samples: int
    """Over all ranks."""
    tokens: int
    """Over all ranks, those included that the loss does not count."""
    losses: Losses
    report: StepReport
    lr_factor: float
    """Each group had this times its peak learning rate."""
    step_s: float
    """From the fetch of the data to the losses."""
    data_wait_s: float
    """The part of it in which the data were not ready."""
    stop_requested: bool
    """Whether a rank was asked to stop: the same on all ranks."""


class IntervalState(TypedDict):
    """The sums as a checkpoint's counters hold them."""

    num_steps: int
    num_samples: int
    num_tokens: int
    loss_sums: dict[str, float]
    supervised_tokens: dict[str, float]
    step_s: float
    data_wait_s: float


class Interval:
    """Adds up steps."""

    def __init__(self, group_names: Sequence[str], state: IntervalState | None = None) -> None:
        """Begin without a step, or go on from a checkpoint's `state`.

        Args:
            group_names: of the losses.
            state: of the same run, which has the same groups. None: the run begins, or an older
                version wrote its checkpoint.
        """
        self.num_steps = self.num_samples = self.num_tokens = 0
        self.step_s = self.data_wait_s = 0.0
        self.loss_sums = dict.fromkeys(group_names, 0.0)
        self.supervised_tokens = dict.fromkeys(group_names, 0.0)
        if state:
            self.num_steps, self.num_samples = state["num_steps"], state["num_samples"]
            self.num_tokens = state["num_tokens"]
            self.step_s, self.data_wait_s = state["step_s"], state["data_wait_s"]
            self.loss_sums |= state["loss_sums"]
            self.supervised_tokens |= state["supervised_tokens"]

    def state(self) -> IntervalState:
        """Return what the constructor takes back."""
        return {
            "num_steps": self.num_steps,
            "num_samples": self.num_samples,
            "num_tokens": self.num_tokens,
            "loss_sums": self.loss_sums,
            "supervised_tokens": self.supervised_tokens,
            "step_s": self.step_s,
            "data_wait_s": self.data_wait_s,
        }

    def add(self, result: StepResult) -> None:
        """Add a step."""
        self.num_steps += 1
        self.num_samples += result.num_samples
        self.num_tokens += result.tokens
        self.step_s += result.step_s
        self.data_wait_s += result.data_wait_s
        losses = result.losses
        for name, loss_sum, tokens in zip(
            self.loss_sums, losses.loss_sums, losses.tokens, strict=True
        ):
            self.loss_sums[name] += loss_sum
            self.supervised_tokens[name] += tokens

    def values(self, world_size: int) -> dict[str, float]:
        """Return the means by their names in metrics.jsonl. There must be a step.

        Args:
            world_size: ranks. Each has one GPU, or a share of the CPU.
        """
        supervised = sum(self.supervised_tokens.values())
        means = {
            f"loss/{name}": loss_sum / self.supervised_tokens[name]
            for name, loss_sum in self.loss_sums.items()
            if self.supervised_tokens[name]
        }
        return {
            "loss": sum(self.loss_sums.values()) / max(supervised, 1.0),
            "samples_per_s": self.num_samples / self.step_s,
            "tokens_per_s_per_gpu": self.num_tokens / self.step_s / world_size,
            "supervised_share": supervised / max(self.num_tokens, 1),
            "step_s": self.step_s / self.num_steps,
            "data_wait_s": self.data_wait_s / self.num_steps,
            **means,
        }
