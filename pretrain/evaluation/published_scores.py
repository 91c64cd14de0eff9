"""The published scores of MobileLLaMA on language benchmarks, to print beside ours.

MobileVLM, arXiv 2312.16886, table 3: measured with lm-evaluation-harness, plain accuracy (not
normalised by length), no examples in the prompt but for MMLU, which has five. The averages are
the plain means of the ten columns.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """One column of the table, as shares of right answers."""

    questions: int
    """Of the split that the harness asks."""
    shots: int
    """Examples in the prompt."""
    mobilellama_1_4b: float
    mobilellama_2_7b: float


def _score(questions: int, small: float, large: float, *, shots: int = 0) -> PublishedScore:
    return PublishedScore(
        questions=questions, shots=shots, mobilellama_1_4b=small, mobilellama_2_7b=large
    )


# By the harness's name of the task, in the order in which the command runs them.
PUBLISHED: dict[str, PublishedScore] = {
    "arc_easy": _score(2376, 0.61, 0.68),
    "arc_challenge": _score(1172, 0.26, 0.32),
    "boolq": _score(3270, 0.53, 0.61),
    "rte": _score(277, 0.53, 0.59),
    "winogrande": _score(1267, 0.59, 0.63),
    "truthfulqa_mc1": _score(817, 0.21, 0.23),
    "truthfulqa_mc2": _score(817, 0.35, 0.36),
    "hellaswag": _score(10_042, 0.43, 0.48),
    "piqa": _score(1838, 0.73, 0.75),
    "mmlu": _score(14_042, 0.2497, 0.2730, shots=5),
}
MMLU_SUBJECTS = 57

# The authors' report of the chat models has one task of these, and says nothing of its shots:
# (base, chat) of each size.
PUBLISHED_CHAT_HELLASWAG = {"1.4B": (0.430, 0.450), "2.7B": (0.480, 0.500)}
