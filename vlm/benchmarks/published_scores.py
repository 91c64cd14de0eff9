"""The published scores of MobileVLM on the six benchmarks, to print beside ours.

The repository's README, but for the LoRA models: MobileVLM, arXiv 2312.16886, table 4. That
table has 54.7 and 61.0 for ScienceQA of the two first models, where the README and the paper of
version 2 (arXiv 2402.03766) have 57.3 and 61.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MME_DIVISOR = 20
"""Brings MME's 2000 points to 100 in the average."""
AVERAGED = ("gqa", "scienceqa", "textvqa", "pope", "mme", "mmbench")
"""The six of the README's average, in the order of its table. Others do not change it."""


@dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """One row of the table."""

    scores: Mapping[str, float]
    """By benchmark, those that were published: percentages, but for MME's points."""
    average: float | None = None
    """As printed; None where the source prints none."""


def _row(*six: float, average: float | None = None) -> PublishedScores:
    return PublishedScores(scores=dict(zip(AVERAGED, six, strict=True)), average=average)


PUBLISHED: dict[str, PublishedScores] = {
    "MobileVLM 1.7B": _row(56.1, 57.3, 41.5, 84.5, 1196.2, 53.2, average=58.7),
    "MobileVLM 1.7B LoRA": _row(57.0, 53.1, 42.3, 86.0, 1143.7, 50.4),
    "MobileVLM 3B": _row(59.0, 61.2, 47.5, 84.9, 1288.9, 59.6, average=62.8),
    "MobileVLM 3B LoRA": _row(58.4, 59.0, 46.7, 84.6, 1296.4, 57.0),
    "MobileVLM V2 1.7B": _row(59.3, 66.7, 52.1, 84.3, 1302.8, 57.7, average=64.2),
    "MobileVLM V2 3B": _row(61.1, 70.0, 57.5, 84.7, 1440.5, 63.2, average=68.1),
    "MobileVLM V2 7B": _row(62.6, 74.8, 62.3, 85.3, 1560.7, 69.2, average=72.1),
    "LLaVA-1.5 7B": _row(62.0, 66.8, 58.2, 85.9, 1510.7, 64.3),
}


def average(scores: Mapping[str, float | None]) -> float | None:
    """Return the README's average of the six; None where one is missing.

    (GQA + SQA-I + VQA-T + POPE + MME-P / 20 + MMB-dev) / 6.
    """
    six = {name: score for name in AVERAGED if (score := scores.get(name)) is not None}
    if len(six) < len(AVERAGED):
        return None
    points = six.pop("mme")
    return (sum(six.values()) + points / MME_DIVISOR) / len(AVERAGED)
