"""How the next token is chosen; what does it is in decode.py."""

from dataclasses import dataclass

from mobilellama.config import ConfigError, require_at_least


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the fields are applied from the last to the first."""

    temperature: float = 0.0
    """0: take the most likely token. 1: draw from the model's own distribution."""
    top_p: float = 1.0
    """Draw only from the most likely tokens whose probabilities add up to this."""
    top_k: int | None = None
    """Draw only from so many of the most likely tokens. None: no limit."""
    repetition_penalty: float = 1.0
    """Above 1: make tokens of prompt and answer less likely (CTRL, arXiv:1909.05858, 4.1)."""

    def __post_init__(self) -> None:
        require_at_least("temperature", self.temperature, 0)
        if not 0 < self.top_p <= 1:
            rule = "must be above 0 and at most 1"
            raise ConfigError("top_p", self.top_p, rule, "Give 1 to leave no token out")
        if self.top_k is not None:
            require_at_least("top_k", self.top_k, 1)
        if not self.repetition_penalty > 0:
            rule = "must be above 0"
            raise ConfigError(
                "repetition_penalty", self.repetition_penalty, rule, "Give 1 for no penalty"
            )
