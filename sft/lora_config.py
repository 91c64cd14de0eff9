"""The section ``lora`` of a run's config; it is read without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobilellama.config import ConfigError, as_given, require_at_least, require_share

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder layer of Llama's shape."""


_DEFAULTS: dict[str, Any] = {"alpha": 256, "dropout": 0.05, "targets": None}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which weights train. The defaults but the rank's are MobileVLM's (its scripts: rank 128)."""

    rank: int | None = None
    """Rank of the updates; None trains every weight of the model (full finetuning)."""
    alpha: int = _DEFAULTS["alpha"]
    """The updates are scaled by alpha / rank."""
    dropout: float = _DEFAULTS["dropout"]
    """Share of an update's inputs that are zeroed in training."""
    targets: list[str] | None = None
    """Linear layers that get an update, by the last part of their names. None: all linear layers of
    the language model but its head."""

    @property
    def target_names(self) -> str:
        """The targets, for a reader."""
        return "all linear layers" if self.targets is None else ", ".join(self.targets)

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
                if given != value and not (name == "targets" and given == list(LINEARS)):
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
        "cannot be adapted: the loss reads the head's weight and the embedding is a look-up, "
        "neither a call of a linear layer",
        "Leave it out, or finetune all weights with lora.rank null",
    )


def stored_lora(config: Mapping[str, Any]) -> LoraConfig:
    """Return the section of a run's stored config.

    Where it names no targets, the seven layers are meant that were the default of its time.
    """
    stored = config.get("lora") or {"rank": None}
    return LoraConfig(**{"targets": list(LINEARS), **stored})
