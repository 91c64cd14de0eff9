"""The buckets' files as memory maps: many of them, cut ones, missing ones."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import DataError
from mobilellama.shards import buckets
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import MakeDataset


def test_more_buckets_than_may_be_open_are_read(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus has more buckets than a process may have files; arrays given out stay good."""
    monkeypatch.setattr(buckets, "_OPEN_BUCKETS", 4)
    made = make_dataset({"a": [[9]] * 40})
    windows = TokenDataset(made.folder).windows("a", 8)
    before = len(os.listdir("/proc/self/fd"))
    first = windows.tokens(0)
    expected = first.copy()
    for sample in range(len(windows)):
        windows.tokens(sample)
    assert len(os.listdir("/proc/self/fd")) - before <= 5
    assert np.array_equal(first, expected)


def test_a_truncated_bucket_is_named_when_it_is_read(small_dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_dataset, tmp_path / "copy"))
    path = copy / "wikipedia/00000.bin"
    os.truncate(path, path.stat().st_size - 2)
    windows = TokenDataset(copy).windows("wikipedia", 64)
    with pytest.raises(DataError) as caught:
        windows.tokens(0)
    assert f"{path}: {path.stat().st_size} bytes, but the manifest says" in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match=r"00000\.bin: missing, but the manifest says"):
        windows.tokens(0)


def test_a_bucket_that_is_cut_while_it_is_read_is_named(make_dataset: MakeDataset) -> None:
    """Without the look at its size the process would end by SIGBUS."""
    made = make_dataset({"a": [[9_000]]})
    windows = TokenDataset(made.folder).windows("a", 8)
    last = len(windows) - 1
    windows.tokens(last)
    for size in (17_998, 4096, 0):
        os.truncate(made.folder / "a/00000.bin", size)
        with pytest.raises(DataError, match=rf"a/00000.bin: was cut from 18,000 to {size:,} bytes"):
            windows.tokens(last)
