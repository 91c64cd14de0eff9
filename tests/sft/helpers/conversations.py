"""Conversations like ShareGPT's, made from a seed: lengths lognormal, most of several turns.

The shape is that of the released ShareGPT files, roughly: a median question of 20 words, a
median answer of 110 with a long tail, and two exchanges at the median with a long tail too.
Most words are common English ones, and some are made up, so that a word is about 1.7 tokens of
LLaMA's.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_COMMON = (
    "the of and to in is you that it he was for on are as with his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do "
    "how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number no way could people my than first water been "
    "call who oil its now find long down day did get come made may part function value list code"
).split()


def make_conversations(count: int, seed: int = 0, *, scale: float = 1.0) -> list[dict[str, Any]]:
    """Return records in ShareGPT's shape.

    Args:
        count: how many.
        seed: the same seed makes the same records.
        scale: multiplies the lengths of questions and answers; 0.1 makes small ones for tests.
    """
    return list(_conversations(count, random.Random(seed), scale))


def _conversations(count: int, rng: random.Random, scale: float) -> Iterator[dict[str, Any]]:
    made_up = ["".join(rng.choices(_LETTERS, k=rng.randint(2, 8))) for _ in range(1_000)]
    words = _COMMON * 30 + made_up

    def text(median: float, sigma: float) -> str:
        length = max(1, round(scale * rng.lognormvariate(0, sigma) * median))
        return " ".join(rng.choices(words, k=length))

    for number in range(count):
        exchanges = min(60, max(1, round(rng.lognormvariate(0.8, 0.9))))
        turns = []
        for _ in range(exchanges):
            turns.append({"from": "human", "value": text(20, 1.1) + "?"})
            turns.append({"from": "gpt", "value": text(110, 0.9) + "."})
        yield {"id": f"made_{number}", "conversations": turns}


def make_lengths(count: int, seed: int = 0, *, seq_len: int, scale: float = 1.0) -> list[int]:
    """Return lengths in tokens as splitting such conversations at `seq_len` gives.

    A word is taken for 1.7 tokens, a turn's frame for 5 and the system text for 35. Parts are
    filled with exchanges as they come, as sft/data/split.py does.
    """
    rng = random.Random(seed)
    lengths: list[int] = []
    for _ in range(count):
        part = 0
        for _ in range(min(60, max(1, round(rng.lognormvariate(0.8, 0.9))))):
            words = 20 * rng.lognormvariate(0, 1.1) + 110 * rng.lognormvariate(0, 0.9)
            exchange = 10 + round(1.7 * scale * words)
            if part and part + exchange > seq_len:
                lengths.append(part)
                part = 0
            part = min((part or 35) + exchange, seq_len)
        lengths.append(part)
    return lengths


def write_sharegpt(path: Path, records: list[Any]) -> Path:
    """Write records as one JSON list, as ShareGPT files are; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, records: list[Any]) -> Path:
    """Write records as JSON lines; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
    return path
