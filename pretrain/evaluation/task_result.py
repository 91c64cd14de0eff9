"""The types of a task's result, as the results file of 'pretrain evaluate' holds it."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

Metrics = Mapping[str, float | None]
"""By the harness's name; ``NAME_stderr`` is a standard error. None: withheld."""


class Withheld(TypedDict):
    """What a result does not show, since too many answers are incomplete."""

    reason: str
    metrics: Metrics
    leaves: Mapping[str, Metrics]


class TaskResult(TypedDict):
    """The result of one task. The fields that may be missing are those that older files lack."""

    version: str
    """The packaged task's."""
    shots: int
    """Examples in the prompt."""
    samples: int
    """Questions that were scored."""
    metrics: Metrics
    leaves: Mapping[str, Metrics]
    """The metrics of each task of a group. Empty for a single task."""
    settings: Mapping[str, object]
    """What decides the result beside the model."""
    truncated_prompts: int
    date: str
    answers: NotRequired[Mapping[str, int | None]]
    """How many requests the model had, and how many of its answers are incomplete, by kind."""
    withheld: NotRequired[Withheld | None]
    device: NotRequired[str]
    torch: NotRequired[str]
    transformers: NotRequired[str]
    duration_s: NotRequired[float]


class Mean(TypedDict):
    """The mean accuracy over the tasks that compare with the published ones."""

    tasks: list[str]
    score: float
    mobilellama_1_4b: float
    mobilellama_2_7b: float
