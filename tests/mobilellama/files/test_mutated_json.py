"""A drill: 10,000 mutated JSON lines through every reader; no traceback, each line counted."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.files.json_lines import NotJsonError, parse_exactly, read_json_lines
from mobilellama.sft.chat.answers import Answers
from mobilellama.sft.data.reasons import DropError
from mobilellama.sft.data.records import parse_line
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices

NUM_LINES = 10_000
PIECES = [
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\\ud800", b"\\udc00\\ud800",
    b'"', b"\\", b"{", b"}", b"[" * 300, b"]" * 300, b'{"a":' * 1100, b"[" * 2000 + b"]" * 2000,
    b"NaN", b"-Infinity", b"1e999", b"9" * 30, b"9" * 5000, b"null", b"true", b",", b":", b"\x1f",
    b'"text": "again", ', b"\xe2\x80\xa8", b"\xc2\x85", b"//", b"\xfe\xff", b" " * 100,
]  # fmt: skip


def mutate(line: bytes, rng: random.Random) -> bytes:
    """Cut, flip, insert or repeat, once or a few times; a line stays one line."""
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(line) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            line = line[:at] + rng.choice(PIECES) + line[at:]
        elif kind == 1:
            line = line[:at]
        elif kind == 2 and at < len(line):
            line = line[:at] + bytes([line[at] ^ 1 << rng.randrange(8)]) + line[at + 1 :]
        elif kind == 3:
            end = min(at + rng.randrange(9), len(line))
            line = line[:at] + rng.choice(PIECES) + line[end:]
        else:
            line = line[:at] + line[at:] * 2
    return line.replace(b"\n", b" ")


def mutated_lines() -> list[bytes]:
    rng = random.Random(11)
    value = {"text": "Grüße \U0001f600 and 2024-01-01", "n": [1, 2.5, None, {"a": True}]}
    plain = json.dumps(value, ensure_ascii=False).encode()
    escaped = json.dumps(value).encode()
    return [mutate(rng.choice([plain, escaped]), rng) for _ in range(NUM_LINES)]


def test_every_mutated_line_is_read_or_counted_with_its_place(tmp_path: Path) -> None:
    lines = mutated_lines()
    content = b"{}\n" + b"\n".join(lines) + b"\n"
    (tmp_path / "root/c4").mkdir(parents=True)
    (tmp_path / "root/c4/a.jsonl").write_bytes(content)
    found = {}
    for sources in (
        SourcesConfig(root=str(tmp_path / "root")),
        SourcesConfig(dataset=str(tmp_path / "root/c4")),
    ):
        counts = Counts()
        (piece,) = find_slices(sources, 1 << 30)
        texts = [text for batch in read_documents(piece, sources, counts) for text in batch]
        assert counts.records == counts.bad_records + counts.empty_texts + len(texts)
        assert len(counts.bad_places) == min(counts.bad_records, 10_000) > 1_000
        starts = {0, *(i + 1 for i in range(len(content)) if content[i : i + 1] == b"\n")}
        assert all(place in starts and reason for place, reason in counts.bad_places)
        assert "\n".join(texts).encode()
        found[sources.root is None] = (texts, counts.records)
    blank = sum(not line or line.isspace() for line in lines)
    assert found[False][1] == NUM_LINES + 1 and found[True][1] == NUM_LINES + 1 - blank
    assert found[False][0] == found[True][0] and len(found[False][0]) > 500


def test_every_mutated_line_is_read_or_refused_by_its_place(tmp_path: Path) -> None:
    """As prompts, answers and labels are read: what is taken can be written again."""
    outcomes: Counter[str] = Counter()
    good: list[bytes] = []
    for line in mutated_lines():
        try:
            value = parse_exactly(line, Counter())
        except NotJsonError as error:
            assert str(error)
            outcomes["refused"] += 1
            continue
        json.loads(json.dumps(value, ensure_ascii=False).encode())
        if isinstance(value, dict):
            good.append(line)
        outcomes["read"] += 1
    assert outcomes.total() == NUM_LINES and min(outcomes.values()) > 500
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\n".join(good) + b"\n{\n")
    rows = []
    with pytest.raises(DataError) as error:
        rows.extend(row for _, row in read_json_lines(path))
    assert str(error.value).startswith(f"{path}:{len(good) + 1}: is not JSON (")
    path.write_bytes(b"\n".join(good))
    rows = [row for _, row in read_json_lines(path)]
    assert len(rows) == len(good)
    with Answers(tmp_path / "answers.jsonl", {}, overwrite=True) as answers:
        answers.write(rows)
    with Answers(tmp_path / "answers.jsonl", {}, overwrite=False) as answers:
        assert answers.keep(rows, added=()) == rows


def test_conversations_drop_what_is_no_json_for_one_reason() -> None:
    reasons = Counter[str]()
    for line in mutated_lines():
        try:
            parse_line(line)
            reasons["read"] += 1
        except DropError as error:
            assert error.detail
            reasons[error.reason] += 1
    assert reasons.total() == NUM_LINES and len(reasons) == 2
