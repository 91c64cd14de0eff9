"""Sections of a run's config whose readers import torch; here they are read without it.

The rooms' own are in engines/config.py, monitoring/config.py, optimizers/config.py and
state/config.py.
"""

from dataclasses import dataclass
from typing import Literal

from mobilellama.config import ConfigError, require_at_least
from mobilellama.shards.order import DEFAULT_SEED


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture. Every field is part of a run's identity."""

    vocab_size: int = 32_000
    """Rows of the embedding and the head; at least the tokenizer's vocabulary."""
    d_model: int = 2048
    """Width of the residual stream."""
    n_layers: int = 24
    """Decoder layers."""
    n_heads: int = 16
    """Query heads; head_dim is d_model / n_heads."""
    n_kv_heads: int | None = None
    """Key and value heads; None means n_heads (no grouping), as in the paper."""
    d_ff: int = 5632
    """Width of the SwiGLU's hidden layer."""
    max_seq_len: int = 2048
    """Longest sequence that is trained and exported, in tokens."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    attention: Literal["causal", "per_document"] = "causal"
    """causal: over the whole sample, as in the paper; per_document: never across an EOS."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "d_ff", "max_seq_len"):
            require_at_least(f"model.{name}", getattr(self, name), 1)
        require_at_least("model.n_kv_heads", self.kv_heads, 1)
        require_at_least("model.rope_theta", self.rope_theta, 1)
        require_at_least("model.norm_eps", self.norm_eps, 0)
        if self.d_model % self.n_heads or self.head_dim % 2:
            rule = f"must split model.d_model = {self.d_model} into heads of even width"
            raise ConfigError("model.n_heads", self.n_heads, rule, "Choose an even divisor")
        if self.n_heads % self.kv_heads:
            rule = f"must divide model.n_heads = {self.n_heads}"
            raise ConfigError("model.n_kv_heads", self.n_kv_heads, rule, "Choose a divisor")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads, with the default resolved."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which samples, in which order."""

    path: str
    """Dataset folder: the --output of 'tokenize run', or of 'sft prepare' for finetuning."""
    seed: int = DEFAULT_SEED
    """Seed of the order of samples. The dataset's own seed is another one."""
    verify: bool = False
    """Check every bucket's sha256 before training."""
    workers: int = 1
    """Threads that read batches ahead. 0: read each batch when needed. It changes no sample."""

    def __post_init__(self) -> None:
        require_at_least("data.workers", self.workers, 0)


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(DataConfig):
    """Which samples, in which order, of several subsets."""

    mixture: str | None = None
    """Mixture preset, such as redpajama, or YAML file of 'subset: weight' lines, or of 'epochs:'
    and 'subset: epochs' lines below it. null: the corpus as it is."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The batch and its memory. Each stage adds the length of its run."""

    global_batch_size: int = 2560
    """Samples per optimizer step over all ranks."""
    micro_batch_size: int = 4
    """Samples per rank per forward."""
    seed: int = 1337
    """Seed of the weights that are initialised."""
    loss_chunk_tokens: int = 1024
    """Tokens per chunk of the loss. Logits of only one chunk are in memory at a time."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer, and compute the layer again in the backward pass. This
    needs less memory and about a third more time. It changes no number."""

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "micro_batch_size", "loss_chunk_tokens"):
            require_at_least(f"train.{name}", getattr(self, name), 1)

    def grad_accum_steps(self, world_size: int) -> int:
        """Return the number of micro-batches that each rank computes in a step.

        Raises:
            ConfigError: the global batch is not a whole number of micro-batches on all ranks.
        """
        per_step = self.micro_batch_size * world_size
        if self.global_batch_size % per_step:
            rule = (
                f"must be a multiple of train.micro_batch_size * processes = "
                f"{self.micro_batch_size} * {world_size} = {per_step}"
            )
            sizes = [n for n in range(1, self.global_batch_size + 1)
                     if self.global_batch_size % (n * self.micro_batch_size) == 0]  # fmt: skip
            remedy = (
                f"With this micro-batch it divides over {_some(sizes)} processes"
                if sizes
                else "Lower train.micro_batch_size"
            )
            raise ConfigError("train.global_batch_size", self.global_batch_size, rule, remedy)
        return self.global_batch_size // per_step


@dataclass(frozen=True, kw_only=True)
class TrainConfig(BatchConfig):
    """Batch, sequence length and number of steps."""

    seq_len: int = 2048
    """Tokens per sample that the model predicts."""
    max_steps: int = 247_955
    """Optimizer steps of the whole run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seq_len", "max_steps"):
            require_at_least(f"train.{name}", getattr(self, name), 1)

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted by one optimizer step."""
        return self.global_batch_size * self.seq_len


def _some(numbers: list[int]) -> str:
    shown = [str(number) for number in numbers[:8]]
    return ", ".join(shown) + (", ..." if len(numbers) > 8 else "")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """When, and on how much."""

    every_steps: int | None = 1000
    """Steps from one validation to the next. The last step also validates. null: no validation."""
    at_start: bool = False
    """Also validate before the first step."""
    samples_per_subset: int = 64
    """The most held-out samples of each subset to use. They are evenly spread over the subset."""

    def __post_init__(self) -> None:
        if self.every_steps is not None:
            require_at_least("validation.every_steps", self.every_steps, 1)
        require_at_least("validation.samples_per_subset", self.samples_per_subset, 1)
