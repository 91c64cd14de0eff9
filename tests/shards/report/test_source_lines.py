import gzip
import shutil
from pathlib import Path

import pytest
import zstandard

from mobilellama.config import ConfigError
from mobilellama.shards.dataset import Receipt
from mobilellama.shards.report import source_lines
from mobilellama.shards.report.source_lines import SourceLines
from tests.shards.conftest import receipt

LINES = [b'{"text": "one"}', b"", "{ größe".encode(), b"x" * 500, b"\xff\xfe bad", b"last"]
DATA = b"\n".join(LINES)
FRAMES = zstandard.compress(DATA[:20]) + zstandard.compress(DATA[20:])
PACKED = {"a.jsonl": DATA, "a.jsonl.zst": FRAMES, "a.jsonl.gz": gzip.compress(DATA, mtime=0)}


def of(source: str, **changed: object) -> Receipt:
    made = receipt("s", 0, [5])
    values = vars(made) | {"source": source} | changed
    return Receipt(**values)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", PACKED)
def test_each_line_is_found_by_its_first_byte(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PACKED[name])
    lines, place = SourceLines(str(tmp_path)), 0
    for number, line in enumerate(LINES, 1):
        shown = line.decode("utf-8", "replace")[:80]
        assert lines.read(of(name), place) == (number, shown)
        place += len(line) + 1


def test_a_file_may_be_given_itself(tmp_path: Path) -> None:
    path = tmp_path / "other name.jsonl"
    path.write_bytes(DATA)
    with pytest.raises(ConfigError, match=r"sources = .*gone: is neither a folder nor a file"):
        SourceLines(str(tmp_path / "gone"))
    renamed = shutil.copy(path, tmp_path / "a.jsonl")
    assert SourceLines(str(renamed)).read(of("a.jsonl"), 0) == (1, '{"text": "one"}')


def test_far_places_are_read_without_a_line_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_lines, "_REACH_BYTES", 10)
    for name, data in PACKED.items():
        (tmp_path / name).write_bytes(data)
    lines, place = SourceLines(str(tmp_path)), len(LINES[0]) + 2
    assert lines.read(of("a.jsonl"), place) == (None, "{ größe")
    far = (None, "[too far from the beginning of a compressed file]")
    assert lines.read(of("a.jsonl.zst"), place) == lines.read(of("a.jsonl.gz"), place) == far


def test_what_hinders_the_reading_is_said(tmp_path: Path) -> None:
    lines = SourceLines(str(tmp_path))
    assert lines.read(of("a.jsonl"), 0) == (None, f"[{tmp_path / 'a.jsonl'} is not there]")
    faults = {
        "a.jsonl.zst": (PACKED["a.jsonl.zst"][:-30], "ends before this place"),
        "b.jsonl.zst": (bytes(50), "cannot be read"),
        "a.jsonl.gz": (PACKED["a.jsonl.gz"][:20], "cannot be read"),
        "b.jsonl": (DATA[:100], "ends before this place"),
    }
    for name, (data, fault) in faults.items():
        (tmp_path / name).write_bytes(data)
        assert lines.read(of(name), 200) == (None, f"[{tmp_path / name} {fault}]")
    state = {"size": 9, "mtime_ns": 1, "ctime_ns": 1, "inode": 1, "start": 0, "end": 9,
             "sha256": "0" * 64}  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(DATA)
    changed = of("a.jsonl", source_file=state)
    assert lines.read(changed, 0)[1].endswith("has another size than when it was read]")
    assert lines.read(of("a.jsonl", source_file=state | {"size": len(DATA)}), 0)[0] == 1


def test_places_are_lines_or_records_in_words() -> None:
    assert SourceLines.where(of("a.jsonl"), 1200, 7) == "a.jsonl, line 7, byte 1,200"
    assert SourceLines.where(of("a.jsonl.zst"), 1200, None) == "a.jsonl.zst, byte 1,200"
    assert SourceLines.where(of("a.jsonl#body"), 12, None) == "a.jsonl#body, byte 12"
    assert SourceLines.where(of("a.parquet"), 1200, None) == "a.parquet, record 1,200"
    assert SourceLines.where(of("name:train", unit="rows"), 3, None) == "name:train, record 3"
    assert SourceLines(".").read(of("a.parquet"), 3) == (None, "")
