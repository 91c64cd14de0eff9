"""From packed rows to the model's arguments."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mobilellama.pretrain.data import Sample, positions_in_documents
from mobilellama.pretrain.linear_cross_entropy import IGNORED
from mobilellama.shards.rows import Rows


class RowInputs:
    """Several conversations a row, each with position_ids of its own and its answers as labels."""

    def __init__(self, *, seq_len: int, pad_id: int) -> None:
        """Prepare.

        Args:
            seq_len: tokens that rows are padded to.
            pad_id: what they are padded with; nothing attends to it or learns from it.
        """
        self._seq_len, self._pad_id = seq_len, pad_id

    def stack(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return input_ids, labels and position_ids, each (samples, seq_len) int64.

        The label of a token is the one that follows it in its conversation, if that one is
        supervised, else -100. Positions restart at each conversation and where padding begins,
        so that attention crosses neither border. Example, two conversations of 4 and 3 tokens
        of which the last two and the last are supervised, padded to 8:

            input_ids      5   6   7   2   8   9   2   0
            labels      -100   7   2  -100 -100  2  -100 -100
            position_ids   0   1   2   3   0   1   2   0

        A place after the run's end (None) is all padding.
        """
        shape = (len(samples), self._seq_len)
        ids = np.full(shape, self._pad_id, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        position_ids = np.tile(np.arange(self._seq_len), (len(samples), 1))
        for k, sample in enumerate(samples):
            if sample is None:
                continue
            rows, i = _rows_of(sample)
            tokens, mask = rows.tokens(i), rows.mask(i)
            count = len(tokens)
            ids[k, :count] = tokens
            labels[k, : count - 1] = np.where(mask[1:], ids[k, 1:count], IGNORED)
            starts = [0, *rows.boundaries(i).tolist(), count, self._seq_len]
            position_ids[k] = positions_in_documents([b - a for a, b in pairwise(starts)])
        stacked = {"input_ids": ids, "labels": labels, "position_ids": position_ids}
        return {name: torch.from_numpy(value) for name, value in stacked.items()}

    def supervised_tokens(self, samples: Iterable[Sample], count: int) -> int:
        """Return how many of the samples' tokens are supervised."""
        places = (_rows_of(sample) for sample in samples if sample is not None)
        return sum(rows.supervised(i) for rows, i in places)


def _rows_of(sample: tuple[object, int]) -> tuple[Rows, int]:
    rows, i = sample
    assert isinstance(rows, Rows)
    return rows, i
