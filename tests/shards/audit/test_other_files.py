"""The audit reads .csv files, texts and packed lines as 'tokenize run' does."""

import gzip
from pathlib import Path

import pytest
import zstandard

from mobilellama.config import DataError
from mobilellama.shards.audit.records import read_records
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.slices import find_slices
from tests.shards.audit.test_records import require_both_read_the_same

_CSV = (
    b'\xef\xbb\xbfid,text\n1,good\n2,a,b\n3\n\n4,"closed"later\n5,\xff\n'
    b'6,"two\r\nlines, ""quoted"""\n7,\n8,\xe2\x80\xa8\n'
)
_PACKS = {".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst"])
def test_rows_of_a_csv_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(_PACKS.get(Path(name).suffix, bytes)(_CSV))
    (slice_,) = require_both_read_the_same(SourcesConfig(dataset=str(tmp_path)))
    records = list(read_records(slice_, str(tmp_path)))
    texts = [record.text for record in records if not record.skipped]
    assert texts == ["good", 'two\r\nlines, "quoted"', "\u2028"]
    assert [record.skipped for record in records if record.skipped] == [
        "no text", "no text", "no text", "invalid UTF-8", "empty text",
    ]  # fmt: skip


def test_files_of_a_folder_of_texts(tmp_path: Path) -> None:
    for number in range(40):
        file = tmp_path / f"{number % 3}/{number}.{'md' if number % 2 else 'txt'}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"\xff" if number == 5 else b"\xef\xbb\xbftext %d" % number * (number % 7))
    (tmp_path / "0/.hidden.txt").write_text("hidden")
    slices = require_both_read_the_same(SourcesConfig(dataset=str(tmp_path)), 90)
    assert len(slices) > 3
    (tmp_path / "0/new.txt").write_text("new")
    with pytest.raises(DataError, match="41 text files, but it had 40 when bucket"):
        list(read_records(slices[0], str(tmp_path)))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.json.zst"])
def test_packed_lines(tmp_path: Path, name: str) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % i for i in range(300)) + b"broken\n"
    pack = _PACKS[Path(name).suffix]
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4" / name).write_bytes(pack(lines[:99]) + pack(lines[99:]))
    require_both_read_the_same(SourcesConfig(root=str(tmp_path)))


def test_a_truncated_gz_file_is_an_error_and_no_end(tmp_path: Path) -> None:
    (tmp_path / "c4").mkdir()
    packed = gzip.compress(b'{"text": "one"}\n' * 99)
    (tmp_path / "c4/a.jsonl.gz").write_bytes(packed[:-4])
    (slice_,) = find_slices(SourcesConfig(root=str(tmp_path)), 10)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: corrupt"):
        list(read_records(slice_, str(tmp_path)))
