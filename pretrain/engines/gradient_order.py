"""A check that all ranks make the gradients of the same parameters, in the same order.

ZeRO-2 puts gradients into a bucket in the order in which a backward pass makes them, and sums the
buckets over ranks. Where one rank makes them in another order, or leaves one out, gradients of
different parameters are summed, and nothing but the moments shows it. ZeRO-1 takes them in the
order of the parameters after the last backward pass, so that only those count that are missing.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from mobilellama.config import UserError


class GradientOrderError(UserError):
    """Ranks made different gradients, or in another order. The weights were not changed yet."""


class GradientOrder:
    """Notes every gradient of a step by a hook; ``require_same`` compares the ranks' notes."""

    def __init__(
        self, named_parameters: Sequence[tuple[str, nn.Parameter]], *, ordered: bool
    ) -> None:
        """Begin to note.

        Args:
            named_parameters: those that train, the same on all ranks.
            ordered: whether their order counts, or only which there are.
        """
        self._names = [name for name, _ in named_parameters]
        self._ordered = ordered
        self._noted: list[int] = []
        for number, (_, parameter) in enumerate(named_parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._note, number))

    def _note(self, number: int, parameter: torch.Tensor) -> None:
        del parameter
        self._noted.append(number)

    def require_same(self, device: torch.device) -> None:
        """Compare the notes of all ranks and begin anew: 16 bytes in one collective, one sync.

        Raises:
            GradientOrderError: two ranks differ; it is raised on all.
        """
        noted = self._noted if self._ordered else sorted(set(self._noted))
        self._noted = []
        digest = hashlib.blake2b(np.array(noted, dtype="<i4").tobytes(), digest_size=7).digest()
        number = int.from_bytes(digest, "little")
        extremes = torch.tensor([number, -number], dtype=torch.int64, device=device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        largest, smallest = extremes.tolist()  # host-device sync
        if largest != -smallest:
            ranks: list[list[int]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(ranks, noted)
            raise GradientOrderError(self._difference(ranks))

    def _difference(self, ranks: list[list[int]]) -> str:
        """Say where the first rank that differs from rank 0 does so."""
        other = next(rank for rank, noted in enumerate(ranks) if noted != ranks[0])
        pairs = zip_longest(ranks[0], ranks[other])
        found = next(both for both in pairs if both[0] != both[1])
        first, second = ("none" if i is None else f"'{self._names[i]}'" for i in found)
        same = set(ranks[0]) == set(ranks[other])
        remedy = "with --engine.kind ddp" if same else "on one process"
        return (
            f"rank 0 and rank {other} did not make the same gradients"
            f"{' in the same order' if self._ordered else ''}: the first that differs is {first} "
            f"on rank 0 and {second} on rank {other}. ZeRO would add gradients of different "
            "parameters, so the step was not taken. This model's backward pass depends on its "
            f"input: train it {remedy}"
        )
