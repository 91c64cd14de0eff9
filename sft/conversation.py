"""What every part of the stage calls a conversation."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order; once cleaned: perhaps a system turn, then user and assistant in turn."""

    turns: tuple[Turn, ...]
    place: str
    """Where it comes from: the file and the record's number, for messages."""
