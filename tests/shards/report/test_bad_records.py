import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.bad_records import bad_records
from tests.shards.report.conftest import BAD_LINES


@pytest.fixture
def copy(odd_dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(odd_dataset, tmp_path / "copy")


def test_reasons_have_their_counts_and_the_lines_of_the_source(
    odd_dataset: Path, odd_corpus: Path
) -> None:
    found = bad_records(TokenDataset(odd_dataset), str(odd_corpus))
    shown = {(one.subset, one.reason): one for one in found}
    assert {key: one.count for key, one in shown.items()} == {
        ("c4", "not JSON"): 1,
        ("c4", "no 'text'"): 1,
        ("c4", "not an object but an array"): 1,
        ("common_crawl", "not JSON"): 1,
    }
    source = odd_corpus / "c4/c4-train.00000-of-01024.jsonl"
    written = source.read_text().split("\n")
    for one in found[:3]:
        (example,) = one.examples
        assert example.raw in BAD_LINES
        line = written.index(example.raw) + 1
        byte = sum(len(text) + 1 for text in written[: line - 1])
        name = source.relative_to(odd_corpus)
        assert example.place == f"{name}, line {line}, byte {byte:,}"
        assert example.detail.startswith(one.reason)
    (packed,) = shown["common_crawl", "not JSON"].examples
    assert packed.raw == "{" and ".jsonl.zst, line 5, byte " in packed.place


def test_without_the_corpus_places_are_bytes(odd_dataset: Path) -> None:
    found = bad_records(TokenDataset(odd_dataset), None)
    assert len(found) == 4
    for one in found:
        assert one.examples[0].raw == "" and " line " not in one.examples[0].place
        assert ", byte " in one.examples[0].place


def test_another_corpus_is_refused_and_one_lost_file_is_not(
    odd_dataset: Path, odd_corpus: Path, tmp_path: Path
) -> None:
    name = tmp_path / "c4/c4-train.00000-of-01024.jsonl"
    message = f"holds none of the files with bad records, such as {name}. Give the corpus"
    with pytest.raises(ConfigError, match=re.escape(message)):
        bad_records(TokenDataset(odd_dataset), str(tmp_path))
    part = shutil.copytree(odd_corpus, tmp_path / "part")
    shutil.rmtree(part / "c4")
    *lost, kept = bad_records(TokenDataset(odd_dataset), str(part))
    assert kept.examples[0].raw == "{"
    assert all(one.examples[0].raw.endswith("jsonl is not there]") for one in lost)


def many_bad(folder: Path, tokenizer: Path, *counts: int) -> Path:
    """Tokenise a file for each count, in which so many lines are bad in two ways."""
    from mobilellama.tokenize.main import main as tokenize_main

    (folder / "corpus/c4").mkdir(parents=True)
    for number, count in enumerate(counts):
        bad = ["{", '{"no": 1}', '{"no": 2}'] * (count // 3)
        path = folder / f"corpus/c4/{'ab'[number]}.jsonl"
        path.write_text("\n".join(['{"text": "good"}', *bad]))
    arguments = ["--tokenizer", str(tokenizer), "--sources.root", str(folder / "corpus")]
    arguments += ["--output", str(folder / "dataset"), "--max_bad_share", "0.99999"]
    assert tokenize_main(["run", *arguments, "--workers", "1"]) == 0
    return folder / "dataset"


def test_most_frequent_first_three_examples_and_what_a_receipt_does_not_keep(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    dataset = TokenDataset(many_bad(tmp_path, small_tokenizer, 12_000))
    found = bad_records(dataset, str(tmp_path / "corpus"))
    receipt = json.loads((dataset.folder / "c4/00000.json").read_text())
    kept = Counter(reason.partition(" (")[0] for _, reason in receipt["bad_places"])
    assert sum(kept.values()) == 10_000
    assert [(one.reason, one.count, len(one.examples)) for one in found] == [
        ("no 'text'", kept["no 'text'"], 3),
        ("not JSON", kept["not JSON"], 3),
        ("reason not kept", 2000, 0),
    ]
    assert [one.place for one in found[1].examples] == [
        f"c4/a.jsonl, line {2 + 3 * i}, byte {17 + 22 * i}" for i in range(3)
    ]


def test_reasons_that_receipts_do_not_keep_are_the_sum_over_the_buckets(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    """2,000 and 500 of the bad records of two buckets are above the 10,000 that each keeps."""
    dataset = TokenDataset(many_bad(tmp_path, small_tokenizer, 12_000, 10_500))
    counts = {one.reason: one.count for one in bad_records(dataset, None)}
    assert counts.pop("reason not kept") == 2_000 + 500
    assert sum(counts.values()) == 2 * 10_000


def test_files_that_are_bad_alike_have_one_reason(small_tokenizer: Path, tmp_path: Path) -> None:
    """Their paths stand before the reason, and would make each another one."""
    from mobilellama.tokenize.main import main as tokenize_main

    (tmp_path / "texts").mkdir()
    for number in range(9):
        (tmp_path / f"texts/{number}: a.txt").write_bytes(b"\xff" if number else b"good")
    arguments = ["--tokenizer", small_tokenizer, "--sources.dataset", tmp_path / "texts"]
    arguments += ["--output", tmp_path / "dataset", "--workers", 1]
    assert tokenize_main(["run", *map(str, arguments)]) == 0
    (one,) = bad_records(TokenDataset(tmp_path / "dataset"), None)
    assert (one.reason, one.count, len(one.examples)) == ("not UTF-8", 8, 3)
    assert one.examples[0].detail.startswith("1: a.txt: not UTF-8 (invalid start byte")


def test_a_lost_receipt_is_named(copy: Path) -> None:
    (copy / "c4/00000.json").unlink()
    with pytest.raises(DataError, match=r"c4/00000\.json: missing, but it says which records were"):
        bad_records(TokenDataset(copy), None)


def test_a_dataset_of_conversations_has_the_reasons_of_its_report(
    prepared_rows: Path,
) -> None:
    report = json.loads((prepared_rows / "report.json").read_text())
    found = bad_records(TokenDataset(prepared_rows), None)
    assert {one.reason.partition(":")[0]: one.count for one in found} == {
        name: one["count"] for name, one in report["dropped"].items()
    }
    assert sum(one.count for one in found) == 2
    for one in found:
        assert one.examples and all(example.place for example in one.examples)
    (prepared_rows / "report.json").write_text('{"dropped": 3}')
    with pytest.raises(DataError, match=r"report\.json: not the report of 'sft prepare'"):
        bad_records(TokenDataset(prepared_rows), None)
    (prepared_rows / "report.json").unlink()
    assert bad_records(TokenDataset(prepared_rows), None) == []
