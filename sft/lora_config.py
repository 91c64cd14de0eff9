"""The section ``lora`` of a run's config. It is read without torch."""

from dataclasses import dataclass

from mobilellama.config import ConfigError, as_given, require_at_least, require_share
from mobilellama.run_record import LLAMA_LINEARS, Adapters, RunRecord

_DEFAULT_ALPHA = 256
_DEFAULT_DROPOUT = 0.05
_DEFAULTS = {"alpha": _DEFAULT_ALPHA, "dropout": _DEFAULT_DROPOUT, "targets": None}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which weights train. All defaults except rank are MobileVLM's. Its scripts use rank 128."""

    rank: int | None = None
    """Rank of the updates. None: train all weights of the model."""
    alpha: int = _DEFAULT_ALPHA
    """The updates are scaled by alpha / rank."""
    dropout: float = _DEFAULT_DROPOUT
    """Share of an update's inputs that is set to zero in training."""
    targets: list[str] | None = None
    """Linear layers that get an update, by the last part of their names. None: all linear layers of
    the language model except its head."""

    @property
    def target_names(self) -> str:
        """The targets as text for logs and cards."""
        return "all linear layers" if self.targets is None else ", ".join(self.targets)

    @property
    def adapters(self) -> Adapters | None:
        """What a run's record says of it."""
        if self.rank is None:
            return None
        return Adapters(
            rank=self.rank, alpha=self.alpha, dropout=self.dropout, targets=self.targets
        )

    def __post_init__(self) -> None:
        if self.rank is not None:
            require_at_least("lora.rank", self.rank, 1)
        require_at_least("lora.alpha", self.alpha, 1)
        require_share("lora.dropout", self.dropout)
        targets = self.targets
        if targets is not None and (not targets or len({*targets}) < len(targets)):
            rule = "must name linear layers, each once"
            raise ConfigError("lora.targets", targets, rule, "Name at least one, none twice")
        for target in targets or []:
            if target in ("lm_head", "embed_tokens"):
                raise not_adaptable(target)
        if self.rank is None:
            for name, value in _DEFAULTS.items():
                given = getattr(self, name)
                if given != value and not (name == "targets" and given == list(LLAMA_LINEARS)):
                    rule = (
                        f"has no effect while lora.rank is null (the default is {as_given(value)})"
                    )
                    remedy = "Give lora.rank too, or leave it out"
                    raise ConfigError(f"lora.{name}", given, rule, remedy)


def not_adaptable(target: str) -> ConfigError:
    """Return the error for a layer that no update can be put beside."""
    return ConfigError(
        "lora.targets",
        target,
        "cannot be adapted: LoRA adapts calls of linear layers, but the loss reads the head's "
        "weight, and the embedding is a look-up",
        "Leave it out, or finetune all weights with lora.rank null",
    )


def lora_of(record: RunRecord) -> LoraConfig:
    """Return what a run adapts, as the section of a config."""
    return LoraConfig(**vars(record.lora)) if record.lora else LoraConfig()
