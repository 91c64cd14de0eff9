from pathlib import Path

from mobilellama.files.atomic import read_json
from mobilellama.sft.main import main
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.rows import Rows
from tests.sft.helpers.mutations import write_mutated


def test_every_mutated_record_is_kept_or_dropped_for_one_reason(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    path, output = write_mutated(tmp_path / "a.jsonl", 2_000, seed=11), tmp_path / "out"
    argv = ["--data.path", str(path), "--tokenizer", str(small_tokenizer), "--output", str(output)]
    argv += [
        "--seq_len",
        "256",
        "--max_bad_share",
        "0.99",
        "--workers",
        "1",
        "--heldout_share",
        "0",
    ]
    assert main(["prepare", *argv]) == 0
    report = read_json(output / "report.json")
    assert report["records"] == 2_000
    assert report["conversations"] + report["dropped_records"] == 2_000
    assert sum(found["count"] for found in report["dropped"].values()) == report["dropped_records"]
    assert len(report["dropped"]) > 12
    assert report["conversations"] > 100 and report["unread_fields"]
    rows = TokenDataset(output).view("conversations", 256, "train")
    assert isinstance(rows, Rows)
    assert all(rows.mask(i).any() for i in range(len(rows)))
