"""The text column of local files: parquet, JSON lines, JSON of every shape; what is refused."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from tests.helpers.text_tables import TEXTS, read, write_json_lines, write_parquet


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, damage: str) -> None:
    write_parquet(tmp_path / "a.parquet", [*TEXTS])
    whole = (tmp_path / "a.parquet").read_bytes()
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(1)
    start = column.dictionary_page_offset + 40
    overwritten = whole[:start] + b"\xff" * 400 + whole[start + 400 :]
    data = whole[:-100] if damage == "cut" else overwritten
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"a.parquet: cannot be read as parquet, after row "):
        read(SourcesConfig(dataset=str(tmp_path)))


def lines_of(*values: bytes) -> bytes:
    return b"\n".join(values) + b"\n"


def read_one(folder: Path, name: str, content: bytes, **fields: str) -> tuple[list[str], Counts]:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    (texts,), (counts,) = read(SourcesConfig(dataset=str(folder), **fields))  # pyright: ignore
    return texts, counts


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_bad_line_is_skipped_and_counted_with_its_place(tmp_path: Path, name: str) -> None:
    good = b'{"text": "one"}'
    bad = [b'{"text": "cut', b'{"text": 7}', b'{"n": 1}', b"[]", b'{"text": "\xff"}', b"\0\0"]
    content = lines_of(good, *bad, rb'{"text": "x\ud800"}', b'{"text": "a", "text": "two"}', b"")
    texts, counts = read_one(tmp_path / "d", name, content)
    assert texts == ["one", "x\ufffd", "two"]
    assert (counts.records, counts.bad_records, counts.replaced_surrogates) == (9, 6, 1)
    offsets = [content.index(line) for line in bad]
    assert [place for place, _ in counts.bad_places] == offsets
    assert str(counts.bad_places[0][1]).startswith("not JSON (Unterminated string")
    assert [reason for _, reason in counts.bad_places[1:4]] == [
        "'text' is not a string but a number",
        "no 'text'",
        "not an object but an array",
    ]


def test_a_bad_first_line_of_a_json_file_of_lines_is_one_bad_line(tmp_path: Path) -> None:
    content = lines_of(b"torn", b'{"text": "a"}', b'{"text": "b"}')
    texts, counts = read_one(tmp_path / "d", "a.json", content)
    assert (texts, counts.bad_places) == (
        ["a", "b"],
        [[0, "not JSON (Expecting value at character 0 of it)"]],
    )


def test_more_bad_lines_than_allowed_fail_the_file_with_their_places(tmp_path: Path) -> None:
    content = lines_of(b'{"text": "a"}', *[b"torn"] * 11)
    _, counts = read_one(tmp_path / "d", "a.jsonl", content)
    with pytest.raises(DataError, match=r"11 of 12 records are bad.*\(at 14: not JSON"):
        counts.require_few_bad("a.jsonl", 0.001)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_texts_stay_texts_whatever_they_look_like(tmp_path: Path, name: str) -> None:
    texts = ["2024-01-01", "2024-01-01T10:00:00Z", "12", "true", "null", "NaN", "", "1e5", "[1]"]
    lines = lines_of(*(json.dumps({"text": text}).encode() for text in texts))
    found, counts = read_one(tmp_path / "d", name, b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n"))
    assert found == [text for text in texts if text]
    assert (counts.bad_records, counts.empty_texts) == (0, 1)


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a é"}, {"text": "2024-01-01", "n": NaN}, {"text": null}]',
        '[\n"a é",\n"2024-01-01",\nnull]',
        '{"text": ["a é", "2024-01-01", null], "n": [1, 2, 3]}',
        '{"text": {"0": "a é", "1": "2024-01-01", "2": null}, "n": {"0": 1}}',
        '{"text": "a é"}\n\n{"text": "2024-01-01"}\n{"text": null}',
    ],
)
def test_every_shape_of_a_json_file_gives_its_texts(tmp_path: Path, content: str) -> None:
    texts, counts = read_one(tmp_path / "d", "a.json", b"\xef\xbb\xbf" + content.encode())
    assert texts == ["a é", "2024-01-01"]
    assert counts.records == 3 and counts.bad_records == 1
    assert counts.source_read == (tmp_path / "d/a.json").stat().st_size


def test_a_json_file_of_one_object_on_several_lines_is_one_document(tmp_path: Path) -> None:
    assert read_one(tmp_path / "d", "a.json", b'{\n"n": 1,\n"text": "a"\n}')[0] == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "not UTF-8 text"),
        ("a.json", '[{"text": "a"}]'.encode("utf-16"), "not UTF-8 text"),
        ("a.json", b'[{"text": "a"}, {"text": ', "is not JSON: truncated ("),
        ("a.json", b'[{"text": "a"} {"text": "b"}]', "is not JSON (Expecting ',' delimiter"),
        ("a.json", b"7", "must hold a list of objects, or an object a line"),
    ],
)
def test_a_json_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError) as error:
        read_one(tmp_path / "d", name, content)
    assert f"{tmp_path}/d/{name}: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("a.jsonl", b'{"n": 1, "m": 2}\n{"n": 2, "k": 1}', "n, m, k"),
        ("a.json", b'[{"n": 1, "m": 2}]', "n, m"),
    ],
)
def test_a_json_file_without_the_column_is_refused_while_planning(
    tmp_path: Path, name: str, content: bytes, names: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read_one(tmp_path / "d", name, content)
    assert f"{tmp_path}/d/{name} has no such column (it has {names})" in str(error.value)


def test_a_later_file_without_the_column_fails_in_its_worker(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", ["one"])
    (tmp_path / "b.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(DataError, match=r"b\.jsonl: no column 'text' \(it has n\)"):
        read(SourcesConfig(dataset=str(tmp_path)))


TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.binary()),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_parquet_text_of_every_type_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["2024-01-01", "é", None, "", "a\0b"]
    values = [
        text.encode() if text is not None and "binary" in str(kind) else text for text in texts
    ]
    column = pa.array(values, type=kind)
    pq.write_table(pa.table({"n": [1, 2, 3, 4, 5], "text": column}), tmp_path / "a.parquet")
    found, (counts,) = read(SourcesConfig(dataset=str(tmp_path)))
    assert found == [["2024-01-01", "é", "a\0b"]]
    assert counts.bad_places == [[2, "'text' is not a string but null"]]


def test_parquet_bytes_that_are_no_text_say_so(tmp_path: Path) -> None:
    for name, kind in {"a": pa.binary(), "b": pa.string()}.items():
        column = pa.array([b"good", b"\xff\xfe"], type=pa.binary()).view(kind)
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
    texts, counts = read(SourcesConfig(dataset=str(tmp_path)))
    assert texts == [["good"], ["good"]]
    reason = (
        "'text' is of bytes that are not UTF-8 text (invalid start byte at byte 0 of it): cast "
        "the column to a string"
    )
    assert [count.bad_places for count in counts] == [[[1, reason]]] * 2


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.nulls(2), "null"),
        (pa.array([1, 2]), "a number"),
        (pa.array([0, 1], type=pa.timestamp("ns")), "of type"),
        (pa.array([["a"], ["b"]]), "an array"),
        (pa.array([{"a": 1}, {"a": 2}]), "an object"),
    ],
)
def test_parquet_columns_that_are_no_text_say_what_they_are(
    tmp_path: Path, column: pa.Array, reason: str
) -> None:
    pq.write_table(pa.table({"text": column, "text.x": ["p", "q"]}), tmp_path / "a.parquet")
    texts, (counts,) = read(SourcesConfig(dataset=str(tmp_path)))
    assert texts == [[]] and counts.bad_records == 2
    assert all(f"'text' is not a string but {reason}" in str(why) for _, why in counts.bad_places)
