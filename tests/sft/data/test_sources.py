import gzip
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mobilellama.config import ConfigError, DataError
from mobilellama.files.json_lines import parse_document
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.reasons import Drop, DropError
from mobilellama.sft.data.records import parse_line, read_turns
from mobilellama.sft.data.sources import (
    ConversationsConfig,
    find_slices,
    read_records,
    source_sha256,
)
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.sources import json_list
from tests.sft.helpers.conversations import make_conversations, write_lines, write_sharegpt

RECORDS = make_conversations(7, scale=0.02)
TURNS = [read_turns(record) for record in RECORDS]


def values(data: ConversationsConfig) -> list[Any]:
    """Return the parsed records of all slices."""
    return [
        record.parsed() for slice_ in find_slices(data) for record in read_records(slice_, data)
    ]


def turns_of(path: Path) -> list[list[Turn]]:
    return [read_turns(value) for value in values(ConversationsConfig(path=str(path)))]


def places(path: Path) -> list[str]:
    data = ConversationsConfig(path=str(path))
    return [record.place for slice_ in find_slices(data) for record in read_records(slice_, data)]


def packed(path: Path, records: list[Any]) -> Path:
    """Write JSON lines in two compressed frames, as `cat a b` of two files makes them."""
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    pack = zstandard.compress if path.suffix == ".zst" else gzip.compress
    path.write_bytes(pack(b"".join(lines[:3])) + pack(b"".join(lines[3:])))
    return path


def test_every_kind_of_file_gives_the_same_records(tmp_path: Path) -> None:
    write_sharegpt(tmp_path / "list.json", RECORDS)
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": RECORDS}))
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(RECORDS).encode())
    write_lines(tmp_path / "lines.jsonl", RECORDS)
    write_lines(tmp_path / "lines_all_the_same.json", RECORDS)
    packed(tmp_path / "lines.jsonl.zst", RECORDS)
    packed(tmp_path / "lines.jsonl.gz", RECORDS)
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "rows.parquet")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for path in files:
        assert turns_of(path) == TURNS, path


def test_a_file_may_hold_one_record(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(RECORDS[0], indent=2))
    assert turns_of(tmp_path / "one.json") == TURNS[:1]


def test_a_folder_gives_a_slice_for_each_file_in_order_of_path(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.json", "B.json", "a/b/c.jsonl"):
        write_lines(tmp_path / name, RECORDS[:2])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".hidden.json").write_text("{")
    slices = find_slices(ConversationsConfig(path=str(tmp_path)))
    assert [slice_.source for slice_ in slices] == ["B.json", "a/b/c.jsonl", "a/z.json", "b.jsonl"]
    assert [slice_.name for slice_ in slices] == [f"conversations/0000{i}" for i in range(4)]
    assert turns_of(tmp_path) == TURNS[:2] * 4


def test_places_are_lines_from_1_and_indices_from_0(tmp_path: Path) -> None:
    write_sharegpt(tmp_path / "list.json", RECORDS[:2])
    lines = [json.dumps(record) for record in RECORDS[:2]]
    (tmp_path / "lines.jsonl").write_text("\n".join([lines[0], "", "  ", lines[1]]))
    pq.write_table(pa.Table.from_pylist(RECORDS[:2]), tmp_path / "rows.parquet")
    assert places(tmp_path) == [
        "lines.jsonl:1", "lines.jsonl:4", "list.json[0]", "list.json[1]",
        "rows.parquet[0]", "rows.parquet[1]",
    ]  # fmt: skip


def test_reading_ends_with_the_whole_source_read(tmp_path: Path) -> None:
    write_sharegpt(tmp_path / "list.json", RECORDS)
    write_lines(tmp_path / "lines.jsonl", RECORDS)
    packed(tmp_path / "lines.jsonl.gz", RECORDS)
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "rows.parquet")
    data = ConversationsConfig(path=str(tmp_path))
    for slice_ in find_slices(data):
        read = [record.source_read for record in read_records(slice_, data)]
        assert read == sorted(read)
        assert read[-1] == slice_.size


def test_a_table_of_mixed_shapes_is_read_although_its_other_columns_are_null(
    tmp_path: Path,
) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}], "instruction": None, "output": None},
        {"messages": None, "instruction": "Hi", "output": "Hello!"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert turns_of(tmp_path / "rows.parquet") == [
        [Turn("user", "Hi")],
        [Turn("user", "Hi"), Turn("assistant", "Hello!")],
    ]


def test_a_table_keeps_the_columns_by_which_its_records_are_judged(tmp_path: Path) -> None:
    """Of bytes that are not read, a row has only whether they are there."""
    import datasets

    rows = [
        {"image": {"bytes": b"x" * 100, "path": "x.png"}, "mood": "merry", "answer": "Hello!"},
        {"image": None, "mood": None, "answer": "Hi!"},
    ]
    expected = [
        {"image": True, "mood": "merry", "answer": "Hello!"},
        {"image": None, "mood": None, "answer": "Hi!"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert values(ConversationsConfig(path=str(tmp_path / "rows.parquet"))) == expected
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))  # no such picture can be decoded
    assert values(ConversationsConfig(path=str(tmp_path / "saved"))) == expected


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"system": "Be kind."}, "has system beside its list of records"),
        ({"tools": {"name": "x"}}, 'has tools: {"name": "x"} beside its list of records'),
    ],
)
def test_a_field_beside_a_list_of_records_that_matters_is_refused(
    tmp_path: Path, beside: dict[str, Any], message: str
) -> None:
    path = tmp_path / "wrapped.json"
    path.write_text(json.dumps({"version": 1, **beside, "data": RECORDS}))
    with pytest.raises(DataError, match="Put it into each record") as error:
        values(ConversationsConfig(path=str(path)))
    assert message in str(error.value)


def test_folders_of_save_to_disk_are_read_by_split(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list(RECORDS)
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train_sft": table, "test": table.select([2])}).save_to_disk(
        str(tmp_path / "splits")
    )
    assert turns_of(tmp_path / "one") == TURNS
    (slice_,) = find_slices(ConversationsConfig(path=str(tmp_path / "splits"), split="test"))
    assert (slice_.source, slice_.unit, slice_.size) == ("splits:test", "rows", 1)
    assert values(ConversationsConfig(path=str(tmp_path / "splits"), split="train_sft")) == [
        {"id": record["id"], "conversations": record["conversations"]} for record in RECORDS
    ]
    with pytest.raises(ConfigError) as error:
        find_slices(ConversationsConfig(path=str(tmp_path / "splits"), split="trian"))
    assert str(error.value) == (
        f"data.split = trian: {tmp_path / 'splits'} has no such split (it has train_sft, test). "
        "Name one of them."
    )


def test_half_a_surrogate_pair_and_nan_are_read_as_python_reads_them(tmp_path: Path) -> None:
    text = '[{"question": "a\\ud83d", "answer": "b", "score": NaN}]'
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "b.jsonl").write_text(text[1:-1] + "\n")
    expected = [Turn("user", "a\ud83d"), Turn("assistant", "b")]
    assert turns_of(tmp_path) == [expected, expected]


def test_text_of_a_table_may_be_of_bytes_and_what_is_not_utf8_drops_its_record_alone(
    tmp_path: Path,
) -> None:
    """Spark and DuckDB write text as bytes; other writers do not check that it is UTF-8."""
    turns = [{"role": b"user", "content": b"Hi"}, {"role": b"assistant", "content": b"Hello!"}]
    unchecked = pa.array([b"H\xff", b"Hi"]).view(pa.string())
    times = pa.array([None, 2**62], pa.timestamp("us"))  # beyond Python's years
    tables = {
        "bytes": pa.table({"prompt": pa.array([b"Hi"]), "answer": pa.array([b"Hello!"])}),
        "turns": pa.table({"messages": [turns]}),
        "unchecked": pa.table({"prompt": unchecked, "answer": ["Hello!"] * 2}),
        "beside": pa.table({"prompt": ["Hi"] * 2, "answer": ["Hello!"] * 2, "note": unchecked,
                            "timestamp": times}),
    }  # fmt: skip
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    hello = [Turn("user", "Hi"), Turn("assistant", "Hello!")]
    for name in ("bytes", "turns", "beside"):
        assert all(turns == hello for turns in turns_of(tmp_path / f"{name}.parquet"))
    broken, good = values(ConversationsConfig(path=str(tmp_path / "unchecked.parquet")))
    assert read_turns(good) == hello
    with pytest.raises(DropError, match="dropped_not_text"):
        read_turns(broken)


def test_an_empty_list_of_pictures_in_a_table_is_none(tmp_path: Path) -> None:
    pictures = pa.array([[{"bytes": b"x", "path": None}], [], None])
    table = pa.table({"prompt": ["Hi"] * 3, "answer": ["Hello!"] * 3, "images": pictures})
    pq.write_table(table, tmp_path / "a.parquet")
    found = values(ConversationsConfig(path=str(tmp_path / "a.parquet")))
    assert [row["images"] for row in found] == [True, None, None]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b'{"a": ', "Expecting value at character 6 of it"),
        (b'{"a": "\xff"}', "invalid start byte at byte 7 of it"),
        (b"[" * 100_000, ""),
        (b"1" * 5_000, "Exceeds the limit"),
    ],
)
def test_a_line_that_is_not_json_is_dropped(line: bytes, detail: str) -> None:
    with pytest.raises(DropError) as dropped:
        parse_line(line)
    assert dropped.value.reason is Drop.NOT_JSON
    assert detail in dropped.value.detail


WHOLE = json.dumps(RECORDS).encode()


LIST: list[Any] = [
    {"id": 1, "conversations": [{"from": "human", "value": '} , { " ] \\'}]},
    [[], {}, [{"a": [1, 2]}]],
    -12.5e3,
    12,
    "é 😀 \u2028 ]",
    None,
    {"": {"b": [True, False]}},
    2**70,
]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_is_read_a_block_at_a_time_as_it_would_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, indent: int, encoding: str
) -> None:
    monkeypatch.setattr(json_list, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.json"
    text = json.dumps(LIST, indent=indent, ensure_ascii=indent is None)
    path.write_text(f" \n{text}\r\n ", encoding=encoding)
    data = ConversationsConfig(path=str(path))
    [slice_] = find_slices(data)
    found = list(read_records(slice_, data))
    assert [record.value for record in found] == LIST
    assert [record.place for record in found] == [f"a.json[{i}]" for i in range(len(LIST))]
    read = [record.source_read for record in found]
    assert read == sorted(set(read)) and read[-1] == path.stat().st_size


@pytest.mark.parametrize(
    "fault", [b"", b",]", b"]]", b"] x", b" {}]", b",,1]", b", {]", b', "\xff"]', b'\0"]', b', "']
)
def test_a_fault_in_a_list_is_told_as_of_the_whole_file_after_what_was_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: bytes
) -> None:
    monkeypatch.setattr(json_list, "_BLOCK_BYTES", 5)
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": 1},\n[2], {"b": 3}' + fault)
    data = ConversationsConfig(path=str(path))
    [slice_] = find_slices(data)
    with pytest.raises(DataError) as whole:
        parse_document(path.read_bytes(), path)
    found = []
    with pytest.raises(DataError) as caught:
        found.extend(record.value for record in read_records(slice_, data))
    assert str(caught.value) == str(whole.value)
    assert found == [{"a": 1}, [2], {"b": 3}][: len(found)]


def test_of_a_long_list_little_is_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record = {"id": "x", "conversations": [{"from": "human", "value": "a" * 1_000}] * 4}
    path.write_text(json.dumps([record] * 10_000))
    data = ConversationsConfig(path=str(path))
    [slice_] = find_slices(data)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(slice_, data)) == 10_000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 40e6 and peak_bytes < 25e6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", WHOLE[:-1], "truncated ("),
        ("a.json", WHOLE[: len(WHOLE) // 2], "truncated ("),
        ("a.json", b"", "is empty. Fetch it again, or move it away"),
        ("a.json", b"\xef\xbb\xbf \n", "is empty. Fetch it again, or move it away"),
        ("a.json", b"[1,\n2,, 3]", "not JSON (Expecting value at line 2, column 3). Fix it"),
        ("a.json", WHOLE.decode().encode("utf-16"), "not UTF-8 text (it begins with b'\\xff"),
        ("a.json", '[{"q": "ä"}]'.encode("latin-1"), "not UTF-8 (invalid continuation byte at by"),
        ("a.json", b'"text"', "must hold a list of records, or one object with one list of th"),
        ("a.json", b'{"a": [], "b": []}', "but holds an object of a, b. Give the file of the"),
        ("a.json", b"{}", "but holds an empty object. Give the file of the conversations"),
        ("a.json", b'{"a": 1}', "but holds an object of a. Give the file of the conversations"),
        ("a.jsonl", "\n".join(["{}"] * 3).encode("utf-16"), "not UTF-8 text (it begins with"),
        ("a.jsonl", gzip.compress(WHOLE, mtime=0), "not UTF-8 text (it begins with b'\\x1f\\x8b"),
        ("a.jsonl.gz", gzip.compress(WHOLE, mtime=0)[:-9], "truncated: its"),
        ("a.jsonl.gz", b"", "is empty, which no .gz file is. Fetch the file again"),
        ("a.jsonl.gz", WHOLE, "is not a .gz file (it begins with"),
        ("a.jsonl.zst", zstandard.compress(WHOLE)[:-9], "truncated: its"),
        ("a.jsonl.zst", WHOLE, "is not a .zst file (it begins with"),
        ("a.parquet", WHOLE, "cannot be read as parquet, after row 0 ("),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    data = ConversationsConfig(path=str(tmp_path / name))
    (slice_,) = find_slices(data)
    with pytest.raises(DataError) as error:
        list(read_records(slice_, data))
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert message in str(error.value)


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", RECORDS)
    data = ConversationsConfig(path=str(tmp_path))
    (slice_,) = find_slices(data)
    write_lines(tmp_path / "a.jsonl", RECORDS[:2])
    with pytest.raises(DataError, match="bytes before reading, but it had"):
        list(read_records(slice_, data))


def test_a_sources_hash_tells_one_letter_and_not_who_wrote_it_or_when(tmp_path: Path) -> None:
    import datasets

    def hashed(path: Path) -> str:
        data = ConversationsConfig(path=str(path))
        (slice_,) = find_slices(data)
        return source_sha256(slice_, data)

    for records in (RECORDS, json.loads(json.dumps(RECORDS).replace("e", "E", 1))):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_lines(folder / "a.jsonl", records)
        for name in ("table", "again"):
            datasets.Dataset.from_list(RECORDS).save_to_disk(str(folder / name))
    first, second = tmp_path / "0", tmp_path / "1"
    assert hashed(first / "a.jsonl") != hashed(second / "a.jsonl")
    assert (first / "a.jsonl").stat().st_size == (second / "a.jsonl").stat().st_size
    write_lines(first / "b.jsonl", RECORDS)
    assert hashed(first / "a.jsonl") == hashed(first / "b.jsonl")
    tables = [first / "table", first / "again", second / "table"]
    assert len({hashed(path) for path in tables}) == 1
    (arrow,) = (first / "table").glob("*.arrow")
    content = arrow.read_bytes()
    start = content.index(TURNS[0][0].content[:8].encode())
    arrow.write_bytes(
        content[:start] + content[start : start + 1].swapcase() + content[start + 1 :]
    )
    assert hashed(first / "table") != hashed(first / "again")


def test_data_that_cannot_be_read_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/a.csv").write_text("a,b")
    (tmp_path / "a.txt").write_text("x")
    endings = ".json, .jsonl, .jsonl.zst, .jsonl.gz, .parquet"
    for path, rule in {
        tmp_path / "empty": f"holds no file that ends in {endings}",
        tmp_path / "csv": f"holds a.csv, which does not end in one of {endings}",
        tmp_path / "a.txt": f"must end in one of {endings}",
        tmp_path / "missing": "is neither a file nor a folder",
        Path("missing.json"): "is neither a file nor a folder",
        Path("some/where/else"): "is neither a file nor a folder",
    }.items():
        with pytest.raises(ConfigError) as error:
            find_slices(ConversationsConfig(path=str(path)))
        assert str(error.value).startswith(f"data.path = {path}: {rule}. ")


@pytest.mark.slow
def test_a_name_that_is_not_on_the_hub_is_refused_in_one_message(tmp_path: Path) -> None:
    code = (
        "from mobilellama.sft.data.sources import ConversationsConfig, find_slices\n"
        "find_slices(ConversationsConfig(path='someone/nothing'))"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert (
        "data.path = someone/nothing: is not a file or folder, and datasets cannot open it" in last
    )


def test_a_slice_of_a_single_file_knows_no_folder(tmp_path: Path) -> None:
    """So that the same file elsewhere gives the same plan."""
    path = write_lines(tmp_path / "deep/a.jsonl", RECORDS)
    (slice_,) = find_slices(ConversationsConfig(path=str(path)))
    size = path.stat().st_size
    assert slice_ == Slice(
        subset="conversations", bucket=0, source="a.jsonl", size=size, start=0, end=size
    )


def test_output_within_the_data_is_refused(tmp_path: Path) -> None:
    data = ConversationsConfig(path=str(tmp_path))
    data.require_outside(str(tmp_path.parent / "out"))
    with pytest.raises(ConfigError, match="lies within"):
        data.require_outside(str(tmp_path / "out"))


def test_a_link_that_loops_is_named_under_our_own_field(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("a.jsonl")
    with pytest.raises(
        ConfigError, match=r"^data\.path = .*: holds the link a\.jsonl, whose target"
    ):
        find_slices(ConversationsConfig(path=str(tmp_path)))


def test_conversations_in_a_folder_with_two_names_are_read_under_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lines(tmp_path / "data/one/a.jsonl", RECORDS)
    (tmp_path / "data/two").symlink_to("one")
    (tmp_path / "data/one/up").symlink_to("..")
    data = ConversationsConfig(path=str(tmp_path / "data"))
    assert [slice_.source for slice_ in find_slices(data)] == ["one/a.jsonl", "two/a.jsonl"]
    assert "left out: the link one/up in" in caplog.text
