"""Counts the collectives of a rank and the bytes of their tensors, whoever calls them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Collectives(TorchDispatchMode):
    """Within this context, keep name and bytes of each collective."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.namespace == "c10d":
            # The tensors stand first: what is sent, or where it comes to and what is sent.
            sent = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            size = max((x.numel() * x.element_size() for x in sent), default=0)
            self.calls.append((func.overloadpacket.__name__, size))
        return func(*args, **(kwargs or {}))

    def counts(self) -> dict[str, int]:
        """Return how often each was called."""
        return dict(Counter(name for name, _ in self.calls))
