import errno
import os
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verification import hashing
from mobilellama.shards.verify import verify_dataset
from tests.shards.conftest import flip


def test_a_file_that_cannot_be_read_is_one_of_the_bad_ones(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk with a bad block, and then without the file: the others are still compared."""
    flip(copy / "wikipedia/00000.bin")

    def hashed(path: Path, *arguments: object, **named: object) -> str:
        if path.name == "00000.idx" and path.parent.name == "github":
            path.unlink()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sha256_of_file(path)

    monkeypatch.setattr(hashing, "sha256_of_source", hashed)
    with pytest.raises(DataError) as caught:
        verify_dataset(TokenDataset(copy))
    assert f"{copy}/github/00000.idx: cannot be read (Input/output error) (and 1 m" in str(
        caught.value
    )
    assert "Bad buckets: github/00000, wikipedia/00000. Run " in str(caught.value)
