import os
import shutil
from pathlib import Path

import pytest
from datasets import load_dataset

from mobilellama.shards.export import parquet
from mobilellama.shards.export.export import Config, main
from mobilellama.shards.reader import TokenDataset
from tests.shards.export.conftest import Documents


def test_load_dataset_gives_each_split_s_documents_in_order(
    small_dataset: Path, documents_of: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_GROUP_TOKENS", 10_000)  # many row groups in a file
    out = tmp_path / "out"
    config = Config(dataset=str(small_dataset), format="hf", output=str(out), part_tokens=1)
    assert main(config) == 0
    assert (out / "github/train-00001.parquet").is_file()
    for subset in TokenDataset(small_dataset).subsets:
        for split in ("train", "heldout"):
            if not (expected := documents_of(subset, split)):
                assert not list(out.glob(f"{subset}/{split}-*"))
                continue
            loaded = load_dataset(str(out), subset, split=split, cache_dir=str(tmp_path / "cache"))
            assert loaded.column_names == ["input_ids"]
            assert list(loaded["input_ids"]) == expected


def test_packed_rows_keep_their_mask_and_their_conversations(
    packed_dataset: TokenDataset, tmp_path: Path
) -> None:
    out = tmp_path.parent / f"{tmp_path.name}-out"
    assert main(Config(dataset=str(packed_dataset.folder), format="hf", output=str(out))) == 0
    cache = str(tmp_path.parent / f"{tmp_path.name}-cache")
    train = load_dataset(str(out), "chat", split="train", cache_dir=cache)
    assert list(train) == [
        {"input_ids": [0, 1, 2, 3, 4], "loss_mask": [0, 1, 1, 0, 1], "lengths": [3, 2]},
        {"input_ids": [*range(5, 11)], "loss_mask": [0, 1, 1, 1, 1, 1], "lengths": [6]},
        {"input_ids": [*range(50, 55)], "loss_mask": [0, 1, 1, 1, 1], "lengths": [5]},
    ]
    heldout = load_dataset(str(out), "chat", split="heldout", cache_dir=cache)
    assert list(heldout) == [
        {"input_ids": [11, 12, 13, 14], "loss_mask": [0, 0, 0, 1], "lengths": [1, 1, 2]},
        {"input_ids": [*range(55, 61)], "loss_mask": [0, 1, 0, 1, 1, 1], "lengths": [2, 4]},
    ]


def test_folders_may_have_any_name(small_dataset: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"not \xff UTF-8")
    shutil.copytree(small_dataset, odd / "dataset")
    for dataset, out in ((small_dataset, tmp_path / "out"), (odd / "dataset", odd / "out")):
        assert main(Config(dataset=str(dataset), format="hf", output=str(out))) == 0
    names = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.parquet")]
    assert names
    for name in names:
        assert (odd / "out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
