"""Counts the operators that make the CPU wait for a GPU; on a CPU they are the same operators.

``Tensor.tolist`` of a tensor on a CPU is none of them: a test that looks for it replaces it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

# What reads a tensor's values into Python, or has a result whose shape the values decide.
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")


class HostSyncs(TorchDispatchMode):
    """Within this context, keep the names of the operators that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING:
            self.names.append(name)
        return func(*args, **(kwargs or {}))
