"""What every part of the stage calls a conversation."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: Role
    content: str
    cut: bool = False
    """Whether it is an answer that stops before its end, and so must not be learnt."""
    learnt: bool = True
    """Whether the model is to learn it, if it is an answer; else it is context."""
