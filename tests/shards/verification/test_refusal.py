from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verify import verify_dataset
from tests.shards.conftest import flip


def test_the_first_bad_file_in_the_manifest_s_order_is_named_and_the_others_counted(
    copy: Path,
) -> None:
    flip(copy / "wikipedia/00000.bin")
    flip(copy / "github/00001.idx")
    flip(copy / "github/00001.bin")
    with pytest.raises(DataError, match=r"github/00001\.bin: sha256 .* \(and 2 more bad\)\. Bad"):
        verify_dataset(TokenDataset(copy), workers=3)
