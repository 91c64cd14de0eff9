import os
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verification.checked_files import bucket_names
from mobilellama.shards.verify import verify_dataset
from tests.shards.conftest import flip


def test_a_truncated_and_a_missing_file_are_named_with_their_sizes(copy: Path) -> None:
    path = copy / "github/00000.bin"
    size = path.stat().st_size
    os.truncate(path, size - 4096)
    with pytest.raises(DataError) as caught:
        verify_dataset(TokenDataset(copy))
    assert (
        f"{path}: {size - 4096:,} bytes, expected {size:,}. Bad buckets: github/00000. Run"
        in str(caught.value)
    )
    path.unlink()
    with pytest.raises(
        DataError, match=r"github/00000\.bin: missing\. Bad buckets: github/00000\. Run"
    ):
        verify_dataset(TokenDataset(copy))


def test_ranks_that_share_the_buckets_find_what_is_in_their_share(copy: Path) -> None:
    flip(copy / "github/00000.bin")
    dataset = TokenDataset(copy)
    names = bucket_names(dataset)
    assert names.index("github/00000") % 2 == 0
    with pytest.raises(DataError, match=r"github/00000\.bin"):
        verify_dataset(dataset, buckets=names[0::2])
    assert verify_dataset(dataset, buckets=names[1::2]).files == 2 * len(names[1::2])
