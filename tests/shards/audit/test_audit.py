"""'shards audit' through the real command, on a dataset that the real 'tokenize run' made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mobilellama.shards.reader import TokenDataset
from tests.helpers.changed_sources import change, make_corpus, run
from tests.helpers.sealed import edit_sealed
from tests.helpers.text_tables import TEXTS, write_json_lines, write_parquet
from tests.shards.conftest import Cli


@pytest.fixture
def copy(small_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_dataset, tmp_path / "copy"))


def test_a_good_dataset_has_no_mismatch(small_dataset: Path, small_corpus: Path, cli: Cli) -> None:
    arguments = ["shards", "audit", small_dataset, "--sources", small_corpus, "--sample", 60]
    code, out, err = cli(*arguments)
    dataset = TokenDataset(small_dataset)
    assert code == 0
    assert out.endswith(
        f"{small_dataset}: good. 60 documents compared with sentencepiece's ids, 0 mismatches; "
        f"fingerprint {dataset.fingerprint}\n"
    )
    assert "audit: 100.0 % of " in err and " left" in err
    code, out, _ = cli(*arguments, "--json", "true")
    found = json.loads(out)
    assert (code, found["compared"], found["mismatches"]) == (0, 60, [])
    for name, totals in dataset.totals.items():
        subset = found["subsets"][name]
        assert (subset["documents"], subset["compared"]) == (totals["documents"], 20)


def test_a_wrong_id_is_one_line_and_exit_code_1(copy: Path, small_corpus: Path, cli: Cli) -> None:
    ids = np.fromfile(copy / "github/00001.bin", "<u2")
    ids[0] ^= 1
    ids.tofile(copy / "github/00001.bin")
    code, out, _ = cli("shards", "audit", copy, "--sources", small_corpus, "--sample", 1 << 20)
    assert code == 1
    [line] = [line for line in out.splitlines() if line.startswith("mismatch: ")]
    assert line.startswith(
        "mismatch: bucket github/00001, document 0, github/filtered_1.sampled.jsonl, line "
    )
    assert f": id 0 is {ids[0]}, expected {int(ids[0]) ^ 1} (" in line
    assert f"{copy}: bad. " in out and " compared, 1 mismatch. Run 'mobilellama shards v" in out


def test_ranges_of_a_file_bad_lines_and_a_changed_letter_are_told(
    small_tokenizer: Path, tmp_path: Path, cli: Cli
) -> None:
    root, output = make_corpus(tmp_path / "root"), tmp_path / "out"
    with open(root / "book/c.jsonl", "ab") as file:
        file.write(b'torn\n{"text": ""}\n{"text": "the last"}\n')
    assert run(root, small_tokenizer, output, "--slice_bytes", "900") == 0
    moved = root.rename(tmp_path / "moved")
    code, out, _ = cli("shards", "audit", output, "--sources", moved)
    assert code == 0
    assert "book: skipped 1 (not JSON), 1 (empty text)\n" in out
    assert "121 documents compared" in out
    change(moved / "c4/a.jsonl", 39)
    code, out, _ = cli("shards", "audit", output, "--sources", moved)
    assert code == 1
    [line] = [line for line in out.splitlines() if line.startswith("mismatch: ")]
    assert "bucket c4/00002, document " in line
    at = len("".join((moved / "c4/a.jsonl").read_text().splitlines(keepends=True)[:39]))
    assert f"c4/a.jsonl, line 1 from byte 1,800 on (byte {at:,}): id " in line


def test_a_document_that_the_dataset_lacks_is_found(
    small_tokenizer: Path, tmp_path: Path, cli: Cli
) -> None:
    root, output = make_corpus(tmp_path / "root"), tmp_path / "out"
    good = (root / "c4/b.jsonl").read_text()
    (root / "c4/b.jsonl").write_text(good.replace('"text": "line 7 ', '"tixt": "line 7 '))
    assert run(root, small_tokenizer, output) == 0
    (root / "c4/b.jsonl").write_text(good)
    code, out, _ = cli("shards", "audit", output, "--sources", root)
    assert code == 1
    assert "bucket c4/00001, c4/b.jsonl: 40 documents, but the bucket has 39\n" in out


def test_tables_are_audited_by_what_the_plan_says_of_them(
    small_tokenizer: Path, tmp_path: Path, cli: Cli
) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    write_parquet(data / "a.parquet", [*TEXTS[:90], None], column="body")
    (data / "b.json").write_text(json.dumps([{"body": text} for text in TEXTS[:50]]))
    more = ("--sources.text_column", "body")
    assert run(data, small_tokenizer, output, *more, kind="dataset") == 0
    code, out, _ = cli("shards", "audit", output, "--sources", data)
    assert code == 0 and "data: skipped 1 (no text)\n" in out and "140 documents compared" in out
    (data / "b.json").write_text((data / "b.json").read_text().replace("row", "raw"))
    code, out, _ = cli("shards", "audit", output, "--sources", data)
    assert code == 1 and "b.json#body, record 0: " in out and "and 30 more\n" in out


def test_what_cannot_be_audited_is_one_message_and_exit_code_2(
    copy: Path, small_corpus: Path, tmp_path: Path, cli: Cli
) -> None:
    write_json_lines(tmp_path / "other/c4/a.jsonl", ["x"])
    code, out, err = cli("shards", "audit", copy, "--sources", tmp_path / "other")
    assert (code, out) == (2, "")
    assert f"sources = {tmp_path}/other: holds no {tmp_path}/other/common_crawl/2023-06/" in err
    code, _, err = cli("shards", "audit", copy, "--sources", small_corpus, "--sample", 0)
    assert code == 2 and "sample = 0: must be at least 1" in err
    model = copy / "tokenizer.model"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    code, _, err = cli("shards", "audit", copy, "--sources", small_corpus)
    assert code == 2 and f"{model}: missing, or not the sentencepiece model that" in err
    model.write_bytes(content)
    edit_sealed(copy / "plan.json", lambda plan: plan["slices"].pop())
    code, _, err = cli("shards", "audit", copy, "--sources", small_corpus)
    assert code == 2 and "plan.json: does not belong to this dataset" in err
    (copy / "plan.json").unlink()
    code, _, err = cli("shards", "audit", copy, "--sources", small_corpus)
    assert code == 2 and "plan.json: missing, but it is needed to find the sources" in err
