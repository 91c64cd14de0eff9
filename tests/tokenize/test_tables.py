import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenize.counts import Counts
from mobilellama.tokenize.documents import read_documents
from mobilellama.tokenize.slices import find_slices
from mobilellama.tokenize.sources import SourcesConfig

Command = Callable[..., subprocess.CompletedProcess[str]]

TEXTS = [f"row {i} é" for i in range(700)]


def read(sources: SourcesConfig) -> tuple[list[list[str]], list[Counts]]:
    """Return the texts and the counts of each slice."""
    texts, counted = [], []
    for slice_ in find_slices(sources, 1 << 30):
        counted.append(Counts())
        batches = read_documents(slice_, sources, counted[-1])
        texts.append([text for batch in batches for text in batch])
    return texts, counted


def write_parquet(path: Path, texts: list[str | None], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": list(range(len(texts))), column: texts}), path)


def write_json_lines(path: Path, texts: list[str | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))


def test_a_local_folder_is_sliced_by_data_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/b.parquet", [*TEXTS[:300]])
    write_json_lines(tmp_path / "data/c/d.jsonl", [*TEXTS[300:600]])
    (tmp_path / "data/a.json").write_text(json.dumps([{"text": text} for text in TEXTS[600:]]))
    (tmp_path / "data/README.md").write_text("a card")
    sources = SourcesConfig(dataset=str(tmp_path / "data"))
    found = [(p.subset, p.bucket, p.source, p.unit) for p in find_slices(sources, 10)]
    assert found == [
        ("data", 0, "a.json", "bytes"),
        ("data", 1, "b.parquet", "bytes"),
        ("data", 2, "c/d.jsonl", "bytes"),
    ]
    assert read(sources)[0] == [TEXTS[600:], TEXTS[:300], TEXTS[300:600]]


def test_rows_without_text_are_counted_with_their_numbers(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", None, "", "two"])
    texts, (counts,) = read(SourcesConfig(dataset=str(tmp_path)))
    assert texts == [["one", "two"]]
    assert (counts.records, counts.empty_texts, counts.bytes_in) == (4, 1, 6)
    assert counts.bad_places == [[1, "'text' is not a string but null"]]


def test_another_column_holds_the_text(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["x", "y"], column="content")
    assert read(SourcesConfig(dataset=str(tmp_path), text_column="content"))[0] == [["x", "y"]]
    with pytest.raises(
        ConfigError,
        match=r"^sources\.text_column = text: .*a\.parquet has no such column \(it has n, con",
    ):
        read(SourcesConfig(dataset=str(tmp_path)))


def test_a_saved_dataset_is_cut_into_row_ranges(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict({"validation": table}).save_to_disk(str(tmp_path / "saved"))
    sources = SourcesConfig(
        dataset=str(tmp_path / "saved"), split="validation", subset="mine", rows_per_slice=300
    )
    slices = find_slices(sources, 10)
    assert [(p.subset, p.bucket, p.start, p.end, p.size, p.unit) for p in slices] == [
        ("mine", 0, 0, 300, 700, "rows"),
        ("mine", 1, 300, 600, 700, "rows"),
        ("mine", 2, 600, 700, 700, "rows"),
    ]
    assert {slice_.source for slice_ in slices} == {"saved:validation"}
    texts, counts = read(sources)
    assert texts == [TEXTS[:300], TEXTS[300:600], TEXTS[600:]]
    assert [c.source_read for c in counts] == [300, 300, 100]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "nope"}, "cannot be opened by datasets"),
        ({"text_column": "nope"}, r"sources.text_column = nope: the dataset has no such column"),
    ],
)
def test_a_saved_dataset_without_what_is_named_is_refused(
    tmp_path: Path, fields: dict[str, str], message: str
) -> None:
    table = datasets.Dataset.from_dict({"text": ["a"]})
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "saved"))
    given: dict[str, str] = {"dataset": str(tmp_path / "saved")} | fields
    with pytest.raises(ConfigError, match=message):
        find_slices(SourcesConfig(**given), 10)  # pyright: ignore[reportArgumentType]


def test_compressed_files_are_refused_because_a_cut_one_reads_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    write_parquet(tmp_path / "a.parquet", ["x"])
    with pytest.raises(ConfigError, match=r"holds a.jsonl.zst, which is not one of .parquet"):
        find_slices(SourcesConfig(dataset=str(tmp_path)), 10)


def test_a_tree_of_subsets_is_pointed_to_the_field_that_reads_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for subset in ("arxiv", "book"):
        write_json_lines(tmp_path / subset / "a.jsonl", ["one"])
    (tmp_path / "README.md").write_text("beside")
    with caplog.at_level(logging.INFO):
        (one, two) = find_slices(SourcesConfig(dataset=str(tmp_path), subset="s"), 1 << 30)
    assert (one.subset, two.subset) == ("s", "s")
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "left out: 1 file beside the data (1 .md), such as README.md"
    assert "folders of .jsonl files (arxiv, book)" in told[1] and "as --sources.root" in told[1]
    for subset in ("arxiv", "book"):
        (tmp_path / subset / "b.jsonl.zst").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        find_slices(SourcesConfig(dataset=str(tmp_path)), 1 << 30)
    assert "as RedPajama's tree does (arxiv/b.jsonl.zst, ...)" in str(caught.value)
    assert str(caught.value).endswith(
        "Give it as sources.root, which makes a subset of each folder."
    )


def test_folders_of_one_name_are_no_tree_of_subsets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_json_lines(tmp_path / "train" / "a.jsonl", ["one"])
    find_slices(SourcesConfig(dataset=str(tmp_path)), 1 << 30)
    assert not caplog.records


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no file that is one of"):
        find_slices(SourcesConfig(dataset=str(tmp_path)), 10)


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
    assert counts.bad_places[0][1].startswith("not JSON (Unterminated string")
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
    assert all(f"'text' is not a string but {reason}" in why for _, why in counts.bad_places)


def test_bytes_of_a_saved_dataset_are_text_too(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"text": [b"a", "é".encode(), b"\xff"]})
    table.save_to_disk(str(tmp_path / "saved"))
    texts, (counts,) = read(SourcesConfig(dataset=str(tmp_path / "saved")))
    assert texts == [["a", "é"]] and counts.bad_records == 1


def test_a_name_that_is_no_dataset_is_refused_without_a_traceback(
    small_tokenizer: Path,
    tokenize_command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = ["--tokenizer", small_tokenizer, "--sources.dataset", "someone/nothing"]
    done = tokenize_command("run", *arguments, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "sources.dataset = someone/nothing: cannot be opened by datasets (" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_over_tables_makes_a_dataset(
    small_tokenizer: Path,
    tokenize_command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # local files need no network
    write_parquet(tmp_path / "data/a.parquet", [*TEXTS])
    write_json_lines(tmp_path / "data/b.jsonl", [*TEXTS])
    arguments = ["--tokenizer", small_tokenizer, "--sources.dataset", tmp_path / "data"]
    done = tokenize_command("run", *arguments, "--output", tmp_path / "out", "--workers", 2)
    assert done.returncode == 0, done.stderr
    rows = TokenDataset(tmp_path / "out").manifest
    assert [(row["subset"], row["documents"]) for row in rows] == [("data", 700), ("data", 700)]
    assert rows[0]["tokens"] == rows[1]["tokens"]


def test_a_run_over_row_ranges_makes_a_dataset(
    small_tokenizer: Path, tokenize_command: Command, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(saved))
    arguments = ["--tokenizer", small_tokenizer, "--sources.dataset", saved]
    arguments += ["--sources.rows_per_slice", "400", "--output", tmp_path / "out"]
    done = tokenize_command("run", *arguments, "--workers", 1)
    assert done.returncode == 0, done.stderr
    rows = TokenDataset(tmp_path / "out").manifest
    assert [(row["subset"], row["unit"], row["documents"]) for row in rows] == [
        ("saved", "rows", 400),
        ("saved", "rows", 300),
    ]
