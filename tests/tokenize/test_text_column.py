"""A wrong text column is refused while planning, from the beginnings of a few files."""

import json
from pathlib import Path

import pytest
import zstandard

from mobilellama.config import ConfigError
from mobilellama.tokenize.counts import LEAST_BAD_RECORDS
from mobilellama.tokenize.slices import find_slices
from mobilellama.tokenize.sources import SourcesConfig

MANY = LEAST_BAD_RECORDS + 1


def write(path: Path, records: list[object]) -> Path:
    """Write a record a line, packed where the name says so; return the root of the tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{json.dumps(record)}\n" for record in records).encode()
    packed = path.suffix == ".zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(content) if packed else content)
    return path.parent.parent


def refused(root: Path, column: str = "text") -> str | None:
    """Return what is said to a tree with this column; None where it is taken."""
    try:
        find_slices(SourcesConfig(root=str(root), text_column=column), 1 << 30)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_the_first_file_of_each_subset_is_looked_at(tmp_path: Path, name: str) -> None:
    write(tmp_path / "arxiv" / name, [{"text": "x"}] * MANY)
    root = write(tmp_path / "book" / name, [{"content": "x", "n": 1}] * MANY)
    told = refused(root)
    assert told == (
        f"sources.text_column = text: {tmp_path / 'book' / name} has no such column "
        "(it has content, n). Name one of them."
    )
    assert "arxiv" in str(refused(root, "content"))


def test_few_records_without_a_text_are_bad_records_and_nothing_more(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "book" / "a.jsonl", [{"n": 1}] * LEAST_BAD_RECORDS)) is None


def test_one_record_that_has_it_is_enough(tmp_path: Path) -> None:
    records = [{"n": 1}] * MANY + [{"text": "x"}]
    assert refused(write(tmp_path / "book" / "a.jsonl", records)) is None


def test_only_the_beginning_is_read(tmp_path: Path) -> None:
    """A worker that reads the rest counts what is bad there."""
    many = [{"n": "x" * 1000}] * 1100
    assert refused(write(tmp_path / "book" / "a.jsonl", [*many, {"text": "x"}])) is not None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"no json\n" * 50),
        ("a.jsonl", b"\xff\xfe\x00" * 50),
        ("a.jsonl.zst", b"no frame"),
        ("a.jsonl", b"[1]\n" * 50),
    ],
)
def test_what_cannot_be_read_is_left_to_the_workers(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / name).write_bytes(content)
    assert refused(tmp_path) is None


def test_of_many_columns_the_first_are_named(tmp_path: Path) -> None:
    record = {f"c{i}": 1 for i in range(30)}
    told = str(refused(write(tmp_path / "book" / "a.jsonl", [record] * MANY)))
    assert "c19, ...)" in told and "c20" not in told
