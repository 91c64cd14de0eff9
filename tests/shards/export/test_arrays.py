from pathlib import Path

import numpy as np

from mobilellama.shards.export.export import Config, main
from mobilellama.shards.reader import TokenDataset
from tests.shards.export.conftest import Documents


def test_the_arrays_hold_each_split_s_documents_in_order(
    small_dataset: Path, documents_of: Documents, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(Config(dataset=str(small_dataset), format="numpy", output=str(out))) == 0
    for subset in TokenDataset(small_dataset).subsets:
        for split in ("train", "heldout"):
            if not (expected := documents_of(subset, split)):
                assert not list(out.glob(f"{subset}/{split}-*"))
                continue
            ids = np.load(out / f"{subset}/{split}-00000.npy", mmap_mode="r")
            ends = np.load(out / f"{subset}/{split}-00000.ends.npy", mmap_mode="r")
            assert isinstance(ids, np.memmap) and ids.dtype == np.dtype("<u2")
            assert ends.dtype == np.dtype("<i8") and ends[-1] == len(ids)
            documents = [part.tolist() for part in np.split(ids, ends)[:-1]]
            assert documents == expected


def test_packed_rows_keep_their_mask_their_rows_and_their_conversations(
    packed_dataset: TokenDataset, tmp_path: Path
) -> None:
    out = tmp_path.parent / f"{tmp_path.name}-out"
    assert main(Config(dataset=str(packed_dataset.folder), format="numpy", output=str(out))) == 0

    def load(name: str) -> list[int]:
        return np.load(out / f"chat/{name}.npy").tolist()

    assert load("train-00000") == [*range(11), *range(50, 55)]
    assert load("train-00000.mask") == [0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert load("train-00000.ends") == [3, 5, 11, 16]
    assert load("train-00000.row_ends") == [5, 11, 16]
    assert load("heldout-00000") == [11, 12, 13, 14, *range(55, 61)]
    assert load("heldout-00000.ends") == [1, 2, 4, 6, 10]
    assert load("heldout-00000.row_ends") == [4, 10]
