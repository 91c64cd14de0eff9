import os
import subprocess
from pathlib import Path

import pytest

from mobilellama.files.atomic import sha256_of_file
from mobilellama.shards.export import export
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import Cli


def files_of(folder: Path) -> dict[str, tuple[str, int]]:
    """sha256 and time of the last write of every file, by its path."""
    return {
        str(path.relative_to(folder)): (sha256_of_file(path), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_interrupted_export_goes_on_with_the_files_that_are_missing(
    small_dataset: Path, tmp_path: Path, cli: Cli
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["shards", "export", small_dataset, "--format", "numpy", "--part_tokens", "1"]
    code, out, _ = cli(*command, "--output", whole)
    assert code == 0 and f'numpy.load("{whole}/common_crawl/train-00000.npy"' in out
    assert cli(*command, "--output", cut)[0] == 0
    before = files_of(cut)
    (cut / "github/train-00001.npy").unlink()
    (cut / "wikipedia/train-00000.ends.npy").write_bytes(b"half")
    left = cut / "wikipedia/train-00000.npy.tmp.elsewhere.1.00000000"
    left.touch()
    os.utime(left, (0, 0))  # what a writer of another machine left long ago
    code, _, err = cli(*command, "--output", cut)
    assert code == 0 and "written before: 6 of 8 parts" in err
    after = files_of(cut)
    assert {name: file[0] for name, file in after.items()} == {
        name: file[0] for name, file in files_of(whole).items()
    }
    rewritten = {name for name in after if name.endswith(".npy") and after[name] != before[name]}
    assert rewritten == {
        "github/train-00001.npy", "github/train-00001.ends.npy",
        "wikipedia/train-00000.npy", "wikipedia/train-00000.ends.npy",
    }  # fmt: skip


def test_the_sums_are_those_that_sha256sum_computes(
    small_dataset: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    assert cli("shards", "export", small_dataset, "--format", "hf", "--output", out)[0] == 0
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    names = {line.removesuffix(": OK") for line in checked.stdout.splitlines()}
    assert names == files_of(out).keys() - {"SHA256SUMS", "export.json"}
    assert {"README.md", "tokenizer.model", "common_crawl/heldout-00000.parquet"} <= names
    tokenizer = TokenDataset(small_dataset).tokenizer
    assert sha256_of_file(out / "tokenizer.model") == tokenizer.sha256


def test_a_dry_run_tells_the_files_and_writes_nothing(
    small_dataset: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    command = ["shards", "export", small_dataset, "--format", "megatron", "--output", out]
    code, printed, _ = cli(*command, "--dry-run", "true")
    assert code == 0 and not out.exists()
    assert "github/train-00000.*" in printed and "nothing was written" in printed
    tokens = TokenDataset(small_dataset).totals["github"]["train_tokens"]
    assert f"{tokens:,}" in printed


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    small_dataset: Path, packed_dataset: TokenDataset, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"

    def told(dataset: Path, *more: object) -> str:
        code, _, err = cli("shards", "export", dataset, "--output", out, *more)
        assert code == 2 and not out.exists()
        return err

    err = told(small_dataset, "--format", "numpy", "--subsets", "[github,wikpedia]")
    assert "subsets = wikpedia: is no subset" in err and "did you mean 'wikipedia'?" in err
    err = told(small_dataset, "--format", "hf", "--mixture", "redpajama")
    assert "mixture = redpajama: belongs to megatron's blend.json" in err
    err = told(packed_dataset.folder, "--format", "megatron")
    assert "cannot hold which tokens are supervised" in err and "Give numpy or hf" in err
    inside = small_dataset / "export"
    code, _, err = cli("shards", "export", small_dataset, "--format", "hf", "--output", inside)
    assert code == 2 and "lies within the dataset" in err and not inside.exists()


def test_a_disk_without_room_is_told_before_anything_is_written(
    small_dataset: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: Usage)
    out = tmp_path / "out"
    command = ["shards", "export", small_dataset, "--format", "megatron", "--output", out]
    code, _, err = cli(*command)
    assert code == 2 and "needs about" in err and "1.0 kB are free there" in err
    assert not out.exists()
