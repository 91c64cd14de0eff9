import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenize.documents import Counts, read_documents
from mobilellama.tokenize.sources import SourcesConfig, find_slices

Command = Callable[..., subprocess.CompletedProcess[str]]

TEXTS = [f"row {i} é" for i in range(700)]


def read(sources: SourcesConfig) -> tuple[list[list[str]], list[Counts]]:
    """Return the texts and the counts of each slice."""
    texts, counted = [], []
    for piece in find_slices(sources, 1 << 30):
        counted.append(Counts())
        batches = read_documents(piece, sources, counted[-1])
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
    with pytest.raises(DataError, match=r"a.parquet: no column 'text' \(it has n, content\)"):
        read(SourcesConfig(dataset=str(tmp_path)))


def test_a_saved_dataset_is_cut_into_row_ranges(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict({"validation": table}).save_to_disk(str(tmp_path / "saved"))
    sources = SourcesConfig(
        dataset=str(tmp_path / "saved"), split="validation", subset="mine", rows_per_slice=300
    )
    pieces = find_slices(sources, 10)
    assert [(p.subset, p.bucket, p.start, p.end, p.size, p.unit) for p in pieces] == [
        ("mine", 0, 0, 300, 700, "rows"),
        ("mine", 1, 300, 600, 700, "rows"),
        ("mine", 2, 600, 700, 700, "rows"),
    ]
    assert {piece.source for piece in pieces} == {"saved:validation"}
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


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no file that is one of"):
        find_slices(SourcesConfig(dataset=str(tmp_path)), 10)


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, damage: str) -> None:
    write_parquet(tmp_path / "a.parquet", [*TEXTS])
    whole = (tmp_path / "a.parquet").read_bytes()
    data = whole[:-100] if damage == "cut" else whole[:50] + b"\xff" * 400 + whole[450:]
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"a.parquet: cannot be read by datasets \("):
        read(SourcesConfig(dataset=str(tmp_path)))


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"a.jsonl: cannot be read by datasets \("):
        read(SourcesConfig(dataset=str(tmp_path)))


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
