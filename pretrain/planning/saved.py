"""Count what autograd saves in a forward pass, by its own hooks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def bytes_saved(module: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes of all storages that autograd saves, each counted once.

    Args:
        module: its parameters and buffers are left out.
        forward: the forward pass. Its result is held until all is counted.
    """
    own = {t.untyped_storage()._cdata for t in [*module.parameters(), *module.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storage.nbytes() for storage in saved.values())
