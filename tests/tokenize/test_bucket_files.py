"""The files of a bucket: gathered in another order, finished or not, named where a disk is full."""

import errno
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import DataError
from mobilellama.shards.dataset import Plan
from mobilellama.tokenize import bucket_files
from mobilellama.tokenize.bucket_files import (
    RefusedWriteError,
    gather,
    is_finished,
    naming_refused_writes,
)


@pytest.mark.parametrize("block_tokens", [1, 5, 1 << 20])
@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_sequences_are_gathered_in_any_order_and_whole(
    monkeypatch: pytest.MonkeyPatch, block_tokens: int, dtype: str
) -> None:
    monkeypatch.setattr(bucket_files, "_BLOCK_TOKENS", block_tokens)
    lengths = np.array([3, 1, 7, 2, 4], np.int64)
    sequences = np.split(np.arange(lengths.sum(), dtype=dtype), np.cumsum(lengths)[:-1])
    with tempfile.TemporaryFile() as spool:
        spool.write(np.concatenate(sequences).tobytes())
        spool.flush()
        for order in ([4, 2, 0, 1, 3], [1], [2, 2]):
            blocks = [*gather(spool, np.dtype(dtype), lengths, np.array(order))]
            expected = np.concatenate([sequences[i] for i in order])
            assert np.concatenate(blocks).tolist() == expected.tolist()
            largest = max(lengths[order])
            assert all(len(block) < block_tokens + 2 * largest for block in blocks)


def test_of_nothing_nothing_is_gathered() -> None:
    with tempfile.TemporaryFile() as spool:
        none = np.array([], np.int64)
        assert [*gather(spool, np.dtype("<u2"), none, none)] == []


def first_slice(dataset: Path) -> tuple[Plan, Path]:
    plan = Plan.read(dataset)
    return plan, dataset / plan.slices[0].name


def test_a_bucket_is_finished_by_its_receipt_and_the_size_of_its_files(
    small_dataset: Path, tmp_path: Path
) -> None:
    plan, stem = first_slice(small_dataset)
    piece, folder = plan.slices[0], tmp_path / "copy"
    (folder / piece.subset).mkdir(parents=True)
    for ending in ("bin", "idx", "json"):
        assert not is_finished(folder, piece, plan.identity)
        content = stem.with_name(f"{stem.name}.{ending}").read_bytes()
        (folder / f"{piece.name}.{ending}").write_bytes(content)
    assert is_finished(folder, piece, plan.identity)
    index = folder / f"{piece.name}.idx"
    index.write_bytes(index.read_bytes()[:-1])
    assert not is_finished(folder, piece, plan.identity)


def test_a_receipt_of_another_plan_is_refused(small_dataset: Path) -> None:
    plan, _ = first_slice(small_dataset)
    other = replace(plan.identity, seed=plan.identity.seed + 1)
    with pytest.raises(DataError, match="plan"):
        is_finished(small_dataset, plan.slices[0], other)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_what_was_written_and_what_to_do(number: int) -> None:
    with pytest.raises(
        RefusedWriteError, match=r"c4/00000\.bin: the disk is full \(.*Free some space"
    ):
        with naming_refused_writes(Path("c4/00000.bin")):
            raise OSError(number, "no room")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_cannot_be_written_to_names_the_bucket(number: int, tmp_path: Path) -> None:
    target = tmp_path / "c4/00000.bin"
    message = rf"{target}: cannot be written \(refused\)\. Finished buckets stay\. Allow writing to"
    with pytest.raises(RefusedWriteError, match=message), naming_refused_writes(target):
        raise OSError(number, "refused", str(target.parent / "00000.bin.tmp.x"))


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "not yours"),  # of no file
        PermissionError(errno.EACCES, "not yours", "/elsewhere/source.jsonl"),
        FileNotFoundError(errno.ENOENT, "not there", "x/00000.bin"),
    ],
)
def test_other_errors_come_through(error: OSError) -> None:
    with pytest.raises(type(error)), naming_refused_writes(Path("x/00000.bin")):
        raise error
