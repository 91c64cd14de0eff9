"""How many answers behind a score are incomplete, and what that makes of the score.

A model that answers nothing may score like a good one: where every answer of POPE is empty, each
counts as yes, and its F1 is 66.67. So empty, cut and missing answers are counted beside each score.

    over 1 %     the score is marked, and a line below the table says why
    over 10 %    the score is withheld, unless --show_withheld asks for it
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

MARKED_ABOVE = 0.01
WITHHELD_ABOVE = 0.10
MARK = "*"
WITHHELD = "withheld"
"""Stands in a table where the score would."""
ASKED = "asked"
END_TOKEN = "</s>"
"""As models and scripts spell it out at an answer's end."""


def says_nothing(text: str) -> bool:
    """Whether an answer has no character that can be seen but a spelt-out end token."""
    seen = "".join(sign for sign in text if unicodedata.category(sign)[0] not in "CZ")
    return seen in ("", END_TOKEN)


@dataclass(frozen=True, kw_only=True)
class AnswerCounts:
    """How much was asked of a model, and how many of its answers are incomplete, by kind."""

    asked: int
    bad: Mapping[str, int | None]
    """By kind, as ``empty``; an answer is of one kind at most. None where nothing tells."""

    @property
    def total(self) -> int:
        """The bad answers of all kinds."""
        return sum(count or 0 for count in self.bad.values())

    @property
    def share(self) -> float:
        """The bad answers among all, from 0 to 1."""
        return self.total / self.asked if self.asked else 0.0

    @property
    def marked(self) -> bool:
        """Whether a score of these answers needs a mark."""
        return self.share > MARKED_ABOVE

    @property
    def withheld(self) -> bool:
        """Whether a score of these answers is withheld unless it is asked for."""
        return self.share > WITHHELD_ABOVE

    def __str__(self) -> str:
        kinds = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in self.bad.items() if count]
        said = f" ({', '.join(kinds)})" if kinds else ""
        share = f"{100 * self.share:.2f} %"
        return f"{self.total:,} of {self.asked:,} answers are incomplete, {share}{said}"

    def to_json(self) -> dict[str, int | None]:
        """Return what is kept beside a score."""
        return {ASKED: self.asked, **self.bad}

    @classmethod
    def of_json(cls, stored: Mapping[str, int | None] | None) -> "AnswerCounts | None":
        """Return what stands beside a score; None where a former version has kept nothing."""
        if not stored:
            return None
        bad = {kind: count for kind, count in stored.items() if kind != ASKED}
        return cls(asked=stored[ASKED] or 0, bad=bad)
