"""The section ``optimizer`` of a run's config; it is read without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mobilellama.config import ConfigError, did_you_mean, require_at_least, require_share
from mobilellama.pretrain.optimizers.table import OPTIMIZERS

# A type checker takes no Literal of values that are computed; the command line's parser does.
if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its constants. The defaults are the paper's, for AdamW."""

    kind: OptimizerName = "adamw"
    """adamw: AdamW. lion: Lion, which keeps one average instead of two moments, and so saves 4
    bytes a parameter. Its authors give it a learning rate 3 to 10 times lower than AdamW's, a
    weight decay higher by as much, and betas of 0.9 and 0.99. A resumed run keeps its kind."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of AdamW's first moment. For lion, the weight of its average in an update."""
    beta2: float = 0.95
    """Decay of AdamW's second moment, or of Lion's average."""
    eps: float = 1e-8
    """For adamw: added to the root of the second moment. lion does not use it."""
    weight_decay: float = 0.1
    """Decoupled decay of the matrices; norms have none."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        if self.kind not in OPTIMIZERS:
            rule = f"must be one of {', '.join(OPTIMIZERS)}"
            remedy = f"Choose one of them{did_you_mean(self.kind, OPTIMIZERS)}"
            raise ConfigError("optimizer.kind", self.kind, rule, remedy)
        for name, example in (("learning_rate", 3e-4), ("eps", 1e-8), ("max_grad_norm", 1.0)):
            if not (value := getattr(self, name)) > 0:  # "not >" also catches NaN
                rule = "must be above 0"
                raise ConfigError(f"optimizer.{name}", value, rule, f"Give e.g. {example}")
        require_share("optimizer.beta1", self.beta1)
        require_share("optimizer.beta2", self.beta2)
        require_at_least("optimizer.weight_decay", self.weight_decay, 0)
