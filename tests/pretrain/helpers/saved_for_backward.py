"""Bytes that autograd saves in a forward pass, counted by its own hooks."""

from collections.abc import Callable

import torch


def saved_bytes(module: torch.nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes that autograd saves, without the module's own parameters and buffers."""
    own = {t.untyped_storage()._cdata for t in [*module.parameters(), *module.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = forward()
    del held
    return sum(storage.nbytes() for storage in saved.values())
