import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from mobilellama.config import ConfigError
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.slices import find_slices
from tests.helpers.text_tables import TEXTS, read, write_json_lines, write_parquet

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_file_is_refused_before_the_hub_is_asked(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", [*TEXTS[:3]])
    with pytest.raises(ConfigError, match=r"a\.jsonl: is a file, .* Give the folder that holds"):
        find_slices(SourcesConfig(dataset=str(tmp_path / "a.jsonl")), 10)


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


@pytest.mark.parametrize("name", ["a.jsonl.xz", "a.zip", "a.parquet.gz", "a.txt.gz"])
def test_files_of_another_packing_are_refused_and_not_left_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    write_parquet(tmp_path / "a.parquet", ["x"])
    with pytest.raises(ConfigError, match=rf"holds {name}, which is not one of .parquet"):
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
    assert "folders of files of lines (arxiv, book)" in told[1] and "as --sources.root" in told[1]


def test_folders_of_one_name_are_no_tree_of_subsets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_json_lines(tmp_path / "train" / "a.jsonl", ["one"])
    find_slices(SourcesConfig(dataset=str(tmp_path)), 1 << 30)
    assert not caplog.records


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no file that is one of"):
        find_slices(SourcesConfig(dataset=str(tmp_path)), 10)


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
