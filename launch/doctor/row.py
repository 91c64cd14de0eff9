"""One thing that the doctor looked at, and the verdict on it."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "skipped", "warning", "bad"]


@dataclass(frozen=True)
class Row:
    """One thing that was looked at."""

    verdict: Verdict
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.verdict:<8} {self.name:<18} {self.found}"
        if not self.remedy:
            return line
        return f"{line}\n{'':<27} {self.remedy}" + ("" if self.remedy[-1] in ".?" else ".")
