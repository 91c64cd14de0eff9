"""Check that all ranks make the gradients of the same parameters, in the same order.

ZeRO-2 puts gradients into a bucket in the order in which the backward pass makes them, and sums
the buckets over ranks. If one rank makes them in another order, or leaves one out, ZeRO-2 adds
gradients of different parameters. No error shows this.

ZeRO-1 takes the gradients after the last backward pass, in the order of the parameters. There the
order does not matter, but a missing gradient does.
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
    """Ranks made different gradients, or made them in another order. The weights are unchanged."""


class GradientOrder:
    """Note every gradient of a step in a hook, and compare the notes of the ranks."""

    def __init__(
        self, named_parameters: Sequence[tuple[str, nn.Parameter]], *, ordered: bool
    ) -> None:
        """Add the hooks.

        Args:
            named_parameters: the parameters that train, the same on all ranks.
            ordered: whether the order of the gradients must be the same, too.
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
        """Compare the notes of all ranks, and clear them.

        It costs one collective of 16 bytes and one host-device sync.

        Raises:
            GradientOrderError: two ranks differ. It is raised on all ranks.
        """
        noted = self._noted if self._ordered else sorted(set(self._noted))
        self._noted = []
        # 7 bytes: the number and its negative must both fit into int64.
        digest = hashlib.blake2b(np.array(noted, dtype="<i4").tobytes(), digest_size=7).digest()
        number = int.from_bytes(digest, "little")
        # The largest number and, negated, the smallest: one collective tells whether all agree.
        extremes = torch.tensor([number, -number], dtype=torch.int64, device=device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        largest, smallest = extremes.tolist()  # host-device sync
        if largest != -smallest:
            ranks: list[list[int]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(ranks, noted)
            raise GradientOrderError(self._difference(ranks))

    def _difference(self, ranks: list[list[int]]) -> str:
        """Describe the first difference between rank 0 and a rank that differs from it."""
        other = next(rank for rank, noted in enumerate(ranks) if noted != ranks[0])
        pairs = zip_longest(ranks[0], ranks[other])
        found = next(both for both in pairs if both[0] != both[1])
        first, second = ("none" if i is None else f"'{self._names[i]}'" for i in found)
        same = set(ranks[0]) == set(ranks[other])
        remedy = "with --engine.kind ddp" if same else "on one process"
        return (
            f"rank 0 and rank {other} did not make the same gradients"
            f"{' in the same order' if self._ordered else ''}: the first difference is {first} "
            f"on rank 0 and {second} on rank {other}. ZeRO would add gradients of different "
            "parameters, so the step was not applied. The backward pass of this model depends on "
            f"its input: train it {remedy}"
        )
