"""The audit's plain reading of sources finds the texts that 'tokenize run' finds, and no others."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mobilellama.config import ConfigError, DataError
from mobilellama.files import json_lines
from mobilellama.shards.audit import records
from mobilellama.shards.audit.records import AuditedRecord, read_records
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.sources import documents, lines
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from tests.helpers.text_tables import TEXTS, write_json_lines, write_parquet

HOSTILE = [
    b'\xef\xbb\xbf{"text": "after a mark"}',
    b'{"text": "one"}\r',
    b"",
    b'{"text": "cut',
    b'{"text": "\xff"}',
    b'{"text": 7}',
    b'{"text": null}',
    b'{"meta": {}}',
    b'["text"]',
    b'{"text": ""}',
    rb'{"text": "half \ud83d of a pair"}',
    rb'{"text": "whole \ud83d\ude00"}',
    b'{"text": "a", "text": "the last counts", "n": NaN}',
    '{"text": "\u2028 and \x85 end no line, </s>"}'.encode(),
    b"\x00\x00",
    b'{"text": "' + b"long " * 3_000 + b'"}',
    b'{"text": "without a newline"}',
]


def require_both_read_the_same(sources: SourcesConfig, slice_bytes: int = 1 << 30) -> list[Slice]:
    """Compare texts and counts of every slice with those of the reader of 'tokenize run'."""
    given = sources.root or sources.dataset or ""
    slices = list(find_slices(sources, slice_bytes))
    for slice_ in slices:
        counts = Counts()
        expected = [text for batch in read_documents(slice_, sources, counts) for text in batch]
        records = list(read_records(slice_, given))
        assert [record.text for record in records if not record.skipped] == expected
        skipped = [record.skipped for record in records if record.skipped]
        blank = skipped.count("not JSON") if sources.dataset else 0  # no records in a table's file
        assert len(skipped) - blank <= counts.bad_records + counts.empty_texts <= len(skipped)
        assert skipped.count("empty text") == counts.empty_texts
    return slices


@pytest.mark.parametrize("slice_bytes", [1, 7, 40, 1_000, 16_000, 1 << 30])
def test_a_range_has_the_lines_whose_first_byte_lies_in_it(
    tmp_path: Path, slice_bytes: int
) -> None:
    (tmp_path / "c4").mkdir()
    lines = HOSTILE if slice_bytes > 7 else [line for line in HOSTILE if len(line) < 100]
    (tmp_path / "c4/a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "c4/b.jsonl").write_bytes(b"")
    require_both_read_the_same(SourcesConfig(root=str(tmp_path)), slice_bytes)


@pytest.mark.parametrize("slice_bytes", [300, 2_000, 1 << 30])
def test_a_line_that_is_too_long_is_not_held_and_its_neighbours_are_read(
    tmp_path: Path, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end may lie in the slice after it, and right where a part of it ends."""
    for module in (json_lines, records, lines, documents):
        monkeypatch.setattr(module, "LONGEST_LINE_BYTES", 1_000)
    monkeypatch.setattr(records, "_HELD_BYTES", 1_008)
    good = b'{"text": "good"}'
    long = [b"a" * length for length in (1_000, 1_001, 1_007, 1_008, 1_009, 2_016, 2_017, 9_000)]
    data = b"\n".join([good, *(part for line in long for part in (line, good))])
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4/a.jsonl").write_bytes(data)
    slices = require_both_read_the_same(SourcesConfig(root=str(tmp_path)), slice_bytes)
    found = [record for one in slices for record in read_records(one, str(tmp_path))]
    assert [r.skipped for r in found if r.skipped] == ["not JSON", *["too long"] * 7]
    assert [data[r.place :].split(b"\n")[0] for r in found] == data.split(b"\n")


def test_a_compressed_file_is_read_over_all_its_frames(tmp_path: Path) -> None:
    (tmp_path / "cc/x").mkdir(parents=True)
    data = b"\n".join(HOSTILE)
    frames = zstandard.compress(data[:20_000]) + zstandard.compress(data[20_000:])
    (tmp_path / "cc/x/a.jsonl.zst").write_bytes(frames)
    [slice_] = require_both_read_the_same(SourcesConfig(root=str(tmp_path)))
    records = list(read_records(slice_, str(tmp_path)))
    assert [data[r.place :].split(b"\n")[0] for r in records] == [*HOSTILE]
    assert records[-1].read == len(frames)


def test_reasons_do_not_name_places_so_that_they_can_be_counted(tmp_path: Path) -> None:
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4/a.jsonl").write_bytes(b"\n".join(HOSTILE))
    [slice_] = find_slices(SourcesConfig(root=str(tmp_path)), 1 << 30)
    assert [r.skipped for r in read_records(slice_, str(tmp_path)) if r.skipped] == [
        "not JSON", "not JSON", "invalid UTF-8", "no text", "no text", "no text",
        "not an object", "empty text", "not JSON",
    ]  # fmt: skip


def test_files_of_a_table_are_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [*TEXTS, None, "", "x"])
    column = pa.array(["a", "b", "a", None]).dictionary_encode()
    pq.write_table(pa.table({"text": column}), tmp_path / "b.parquet")
    bad = pa.array([b"\xff", b"good"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": bad}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"text": [b"bytes", b"\xff"]}), tmp_path / "d.parquet")
    (tmp_path / "e.json").write_text(json.dumps([{"text": "a"}, "b", {"n": 1}, 7, {"text": ""}]))
    (tmp_path / "f.json").write_text(json.dumps({"text": {"0": "a", "1": "b"}}))
    (tmp_path / "g.json").write_text(json.dumps({"text": ["a", "b"]}))
    (tmp_path / "h.json").write_text(json.dumps({"text": "only one"}, indent=1))
    (tmp_path / "i.json").write_bytes(b"\n".join(HOSTILE))
    (tmp_path / "j.jsonl").write_bytes(b"\n".join(HOSTILE))
    assert len(require_both_read_the_same(SourcesConfig(dataset=str(tmp_path)))) == 10


def test_rows_of_a_saved_dataset_and_another_column_are_found_by_the_plan(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"body": [*TEXTS, None, ""]})
    datasets.DatasetDict({"validation": table}).save_to_disk(str(tmp_path / "saved"))
    sources = SourcesConfig(
        dataset=str(tmp_path / "saved"), split="validation", text_column="body", rows_per_slice=300
    )
    slices = require_both_read_the_same(sources)
    assert {slice_.source for slice_ in slices} == {"saved:validation#body"}
    (tmp_path / "saved").rename(tmp_path / "moved")
    [*_, last] = read_records(slices[1], str(tmp_path / "moved"))
    assert last == AuditedRecord("row 599 é", "", place=599, read=300)
    write_parquet(tmp_path / "files/a.parquet", ["x", "y"], column="body")
    require_both_read_the_same(SourcesConfig(dataset=str(tmp_path / "files"), text_column="body"))


def test_a_source_that_is_gone_changed_or_damaged_is_named(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "c4/a.jsonl", ["one"])
    [slice_] = find_slices(SourcesConfig(root=str(tmp_path)), 1 << 30)
    with open(tmp_path / "c4/a.jsonl", "ab") as file:
        file.write(b"\n")
    with pytest.raises(DataError, match=r"a\.jsonl: 25 bytes, but it had 24 when bucket c4/00000"):
        next(read_records(slice_, str(tmp_path)))
    with pytest.raises(ConfigError, match=r"sources = .*c4: holds no .*c4/c4/a\.jsonl, of which"):
        next(read_records(slice_, str(tmp_path / "c4")))
    packed = zstandard.compress(b"x" * 1_000)
    (tmp_path / "c4/a.jsonl").rename(tmp_path / "c4/a")
    (tmp_path / "c4/b.jsonl.zst").write_bytes(packed[:-4] + b"\xff" * 4)
    slice_ = Slice(
        subset="c4", bucket=0, source="c4/b.jsonl.zst", size=len(packed), start=0, end=len(packed)
    )
    with pytest.raises(DataError, match=r"b\.jsonl\.zst: corrupt .* Fetch the file again"):
        list(read_records(slice_, str(tmp_path)))


def test_a_saved_dataset_that_is_gone_is_named(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"text": ["a", "b"]})
    table.save_to_disk(str(tmp_path / "saved"))
    [slice_] = find_slices(SourcesConfig(dataset=str(tmp_path / "saved")), 1)
    table.rename_column("text", "other").save_to_disk(str(tmp_path / "renamed"))
    with pytest.raises(ConfigError, match=r"has no column 'text' \(it has other\)"):
        next(read_records(slice_, str(tmp_path / "renamed")))
    table.select([0]).save_to_disk(str(tmp_path / "short"))
    with pytest.raises(DataError, match=r"short: 1 rows, but it had 2 when bucket saved/00000"):
        next(read_records(slice_, str(tmp_path / "short")))
