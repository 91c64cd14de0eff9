"""Records with something wrong in them: what a hostile or careless author might write."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = (
    "instruction prompt question query input context output response completion answer system "
    "system_prompt history messages conversations conversation chosen rejected label weight loss "
    "train mask cut finish finish_reason reasoning_content tools functions tool_calls image images "
    "video audio file text options problem mood role from content value id Question toolCalls"
).split()
_TEXTS = ("", " ", "Hi", "<image>", "<image>\nWhat?", "human", "gpt", "user", "assistant", "false",
          "length", "a.png", "/a.png", "../a.png", "\ud83d", "x\0y", "0.5", "</s>")  # fmt: skip
_ODD = (None, True, False, 0, 1, -1, 0.5, 2**70, float("nan"), float("inf"), [], {}, [[]], [None],
        {"a": None}, ["Hi"], [["Hi", "Yes."]], [["Hi"]], {"text": "Hi"}, "Hi" * 400)  # fmt: skip


def mutated_records(count: int, seed: int) -> Iterator[Any]:
    """Yield records of every shape, each changed in one to three places."""
    rng = random.Random(seed)
    for number in range(count):
        record = rng.choice(_sound(number))
        for _ in range(rng.randint(1, 3)):
            record = _mutated(record, rng)
        yield record


def _sound(number: int) -> list[Any]:
    turns = [
        {"role": "user", "content": f"What is {number}?"},
        {"role": "assistant", "content": [{"type": "text", "text": "One."}], "weight": 0},
        {"role": "user", "content": "Look again."},
        {"role": "assistant", "content": "A number.", "finish": "stop"},
    ]
    shared = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A bus."}]
    pair = {"instruction": "And?", "input": "1", "output": "2", "history": [["Hi", "Hello!"]]}
    return [
        {"messages": turns, "id": number},
        {"conversations": shared, "image": "a.png", "id": str(number)},
        {"conversations": shared[:1] + shared[1:] * 2, "images": ["a.png"]},
        {**pair, "system": "Be kind."},
        {"question": "Who?", "answer": "Ann", "context": "Ann sat."},
        {"prompt": "x", "chosen": "y", "rejected": "z"},
        turns,
        {"data": pair},
    ]


def _mutated(value: Any, rng: random.Random) -> Any:
    """Return a value in which one place, some levels down, is another."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice([*value, *rng.sample(_NAMES, 2)])
        if key in value and rng.random() < 0.2:
            return {name: item for name, item in value.items() if name != key}
        return value | {key: _mutated(value.get(key, _odd(rng)), rng)}
    if isinstance(value, list) and value and rng.random() < 0.95:
        at = rng.randrange(len(value))
        parts = [[_mutated(value[at], rng)], [], [value[at], _odd(rng)], [value[at]] * 2]
        return value[:at] + rng.choice(parts) + value[at + 1 :]
    return _odd(rng)


def _odd(rng: random.Random) -> Any:
    made = rng.choice((rng.choice(_ODD), rng.choice(_TEXTS)))
    if rng.random() < 0.8:
        return made
    for _ in range(rng.choice((1, 3, 400, 1010))):
        made = rng.choice(([made], {rng.choice(_NAMES): made}))
    return made


def write_mutated(path: Path, count: int, seed: int) -> Path:
    """Write mutated records as JSON lines, of which some are damaged too; return the path."""
    rng = random.Random(seed)
    lines: list[str] = []
    for record in mutated_records(count, seed):
        try:
            line = json.dumps(record, ensure_ascii=rng.random() < 0.9)
        except RecursionError:
            line = "[" * 1_100
        if rng.random() < 0.05:
            at = rng.randrange(len(line))
            line = line[:at] + rng.choice(("", "\\", '"', "{", "é")) + line[at + 1 :]
        lines.append((line.strip() or "{}") + "\n")
    path.write_text("".join(lines), encoding="utf-8", errors="replace")
    return path
