"""The documents of a dataset, read from its buckets without the export's code."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobilellama.shards.reader import TokenDataset

Documents = Callable[[str, str], list[list[int]]]


@pytest.fixture(scope="session")
def documents_of(small_dataset: Path) -> Documents:
    """Return a subset's training or held-out documents, in the order of the buckets."""
    dataset = TokenDataset(small_dataset)

    def read(subset: str, split: str) -> list[list[int]]:
        documents: list[list[int]] = []
        for row in dataset.manifest:
            if row["subset"] == subset:
                path = small_dataset / f"{subset}/{row['bucket']:05}.bin"
                cut = row["train_tokens"]
                ids = np.fromfile(path, "<u2")
                ids = ids[:cut] if split == "train" else ids[cut:]
                ends = np.flatnonzero(ids == dataset.identity.eos_id) + 1
                documents += [part.tolist() for part in np.split(ids, ends)[:-1]]
        return documents

    return read
