from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import DataError
from mobilellama.shards.compare import first_difference as module
from mobilellama.shards.compare.first_difference import BucketDifference, first_difference
from mobilellama.shards.dataset import Identity
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.packing import Packing
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import IDENTITY, receipt

PACKED = replace(IDENTITY, packing=Packing(seq_len=64))


def write(
    folder: Path,
    documents: Sequence[Sequence[int]],
    identity: Identity = IDENTITY,
    *,
    rows: Sequence[int] | None = None,
    mask: Sequence[int] | None = None,
) -> TokenDataset:
    """Write one bucket a/00000 of these ids as they are."""
    (folder / "a").mkdir(parents=True)
    ids = np.array([i for document in documents for i in document])
    ids.astype(np.dtype(identity.dtype).newbyteorder("<")).tofile(folder / "a/00000.bin")
    lengths = np.array([len(document) for document in documents], int)
    with open(folder / "a/00000.idx", "wb") as file:
        write_index(file, lengths, identity.dtype, None if rows is None else np.array(rows))
    made = receipt("a", 0, lengths.tolist())
    if identity.packing is not None:
        np.array(mask, np.uint8).tofile(folder / "a/00000.mask")
        made = replace(made, counts={"rows": 1, "train_rows": 1})
    write_dataset(folder, identity, [made])
    return TokenDataset(folder)


def found(first: TokenDataset, second: TokenDataset) -> BucketDifference | None:
    spell = (lambda ids: " ".join(map(str, ids)), None)
    return first_difference(first, second, "a/00000", spell)


@pytest.mark.parametrize("at_once", [1, 2, 1 << 22])
def test_the_first_id_that_differs_is_found_with_its_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    first = write(tmp_path / "x", [[5, 6, 2], [7, 8, 9, 2], [4, 2]])
    second = write(tmp_path / "y", [[5, 6, 2], [7, 8, 1, 2], [3, 2]])
    difference = found(first, second)
    assert difference is not None
    assert (difference.kind, difference.token) == ("ids", 5)
    assert (difference.first.document, difference.first.offset) == (1, 2)
    assert (difference.first.ids, difference.first.text) == ([7, 8, 9, 2], "7 8 9 2")
    assert (difference.second.ids, difference.second.text) == ([7, 8, 1, 2], None)
    assert found(first, first) is None


def test_a_bucket_that_ends_before_differs_where_it_ends(tmp_path: Path) -> None:
    first = write(tmp_path / "x", [[5, 6, 2], [7, 2]])
    difference = found(first, write(tmp_path / "y", [[5, 6, 2]]))
    assert difference is not None and (difference.kind, difference.token) == ("ids", 3)
    assert (difference.first.document, difference.first.offset) == (1, 0)
    assert difference.second.document is None and difference.second.ids == []
    nothing = found(write(tmp_path / "z", []), first)
    assert nothing is not None and nothing.token == 0 and nothing.first.document is None


def test_equal_ids_may_be_other_documents(tmp_path: Path) -> None:
    first = write(tmp_path / "x", [[5, 6], [7, 2], [9, 2]])
    difference = found(first, write(tmp_path / "y", [[5, 6, 7, 2], [9, 2]]))
    assert difference is not None
    assert (difference.kind, difference.token) == ("document ends", 1)
    assert (difference.first.document, difference.first.offset) == (0, 1)
    last = found(first, write(tmp_path / "z", [[5, 6], [7, 2], [9], [2]]))
    assert last is not None and (last.kind, last.token) == ("document ends", 4)


def test_another_width_of_the_same_ids_is_no_difference(tmp_path: Path) -> None:
    documents = [[5, 6, 2], [7, 2]]
    wide = write(tmp_path / "y", documents, replace(IDENTITY, dtype="int32"))
    assert found(write(tmp_path / "x", documents), wide) is None


def test_rows_and_masks_are_compared_where_the_ids_are_the_same(tmp_path: Path) -> None:
    documents = [[5, 6, 2], [7, 2], [8, 2]]
    mask = [0, 1, 1, 0, 1, 0, 1]
    first = write(tmp_path / "x", documents, PACKED, rows=[0, 2, 3], mask=mask)
    rows = found(first, write(tmp_path / "y", documents, PACKED, rows=[0, 1, 3], mask=mask))
    assert rows is not None and (rows.kind, rows.token) == ("rows", 1)
    other = [*mask[:4], 0, *mask[5:]]
    masked = found(first, write(tmp_path / "z", documents, PACKED, rows=[0, 2, 3], mask=other))
    assert masked is not None and (masked.kind, masked.token) == ("mask", 4)
    assert masked.first.document == 1 and masked.first.offset == 1


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    first = write(tmp_path / "x", [[5, 6, 2]])
    path = tmp_path / "x/a/00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"x/a/00000\.bin: 4 bytes, but the manifest says 6 bytes"):
        found(first, write(tmp_path / "y", [[5, 7, 2]]))
