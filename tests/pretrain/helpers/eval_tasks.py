"""A handful of rows for each of the ten published tasks, as local files."""

import json
from pathlib import Path
from typing import Any

WORDS = ["file", "list", "number", "string", "object", "class", "name", "value", "loop", "test"]


def _arc(i: int) -> dict[str, Any]:
    # The hub's rows have labels of both kinds, and not always four choices.
    labels = list("ABCD")[: 3 + i % 2] if i % 3 else list("1234")
    texts = [f"a {WORDS[(i + k) % 10]} of the {WORDS[k]}" for k in range(len(labels))]
    return {
        "id": f"q{i}",
        "question": f"Which of these is a {WORDS[i % 10]}?",
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[i % len(labels)],
    }


def _truthful(i: int) -> dict[str, Any]:
    answers = [f"It is the {WORDS[(i + k) % 10]}." for k in range(4)]
    return {
        "question": f"What is a {WORDS[i % 10]}?",
        "mc1_targets": {"choices": answers, "labels": [1, 0, 0, 0]},
        "mc2_targets": {"choices": [*answers, "Nobody knows."], "labels": [1, 0, 1, 0, 0]},
    }


def _mmlu(i: int, subject: str) -> dict[str, Any]:
    return {
        "question": f"Which {WORDS[i % 10]} is right in {subject}?",
        "subject": subject,
        "choices": [WORDS[(i + k) % 10] for k in range(4)],
        "answer": i % 4,
    }


SUBJECTS = {"anatomy": 6, "world_religions": 9}  # questions; each has 5 examples

FILES: dict[str, list[dict[str, Any]]] = {
    "arc_easy/test.jsonl": [_arc(i) for i in range(9)],
    "arc_challenge/test.jsonl": [_arc(i) for i in range(3, 10)],
    "boolq/validation.jsonl": [
        {"passage": f"The {word} is new.", "question": f"is the {word} new", "label": i % 2}
        for i, word in enumerate(WORDS)
    ],
    "rte/validation.jsonl": [
        {"sentence1": f"A {w} was found.", "sentence2": f"There is a {w}.", "label": i % 2}
        for i, w in enumerate(WORDS)
    ],
    "winogrande/validation.jsonl": [
        {
            "sentence": f"The {word} did not fit the {WORDS[i - 1]} because _ was too big.",
            "option1": f"the {word}",
            "option2": f"the {WORDS[i - 1]}",
            "answer": str(1 + i % 2),
        }
        for i, word in enumerate(WORDS)
    ],
    "truthfulqa/validation.jsonl": [_truthful(i) for i in range(6)],
    "hellaswag/validation.jsonl": [
        {
            "activity_label": "Writing code",
            "ctx_a": f"A man opens the {word} [header] in the editor.",
            "ctx_b": "then he",
            "endings": [f"reads the {WORDS[i - k]}. [step] Then sleeps." for k in range(4)],
            "label": str(i % 4),
        }
        for i, word in enumerate(WORDS)
    ],
    "piqa/validation.jsonl": [
        {"goal": f"Open a {w}", "sol1": f"Call open on the {w}", "sol2": "Wait", "label": i % 2}
        for i, w in enumerate(WORDS)
    ],
    "mmlu/dev.jsonl": [_mmlu(i, subject) for subject in SUBJECTS for i in range(5)],
    "mmlu/test.jsonl": [_mmlu(i + 5, subject) for subject, n in SUBJECTS.items() for i in range(n)],
}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write one JSON object a line, and the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_tasks(folder: Path) -> Path:
    """Write every task's file."""
    for name, rows in FILES.items():
        write_jsonl(folder / name, rows)
    return folder
