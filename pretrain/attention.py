"""Causal attention, over the whole sample or within each document.

On CUDA in half precision a kernel of variable lengths attends within documents: flash-attn's where
it is installed, else PyTorch's own (torch.nn.attention.varlen). Both take the places where
documents begin as a tensor, so that a compiled layer need not know how many there are. Elsewhere
PyTorch's scaled_dot_product_attention does it document by document. This loop is exact but slow.

PyTorch's kernel cannot run on a CPU. ``tests/pretrain/test_attention.py`` compares it with the loop
on a machine with a GPU.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Literal["flash_attn", "torch"]
"""Whose kernel attends on CUDA."""


@dataclass(frozen=True)
class Documents:
    """Where documents begin in a batch whose rows are laid end to end."""

    bounds: Tensor | None
    """(documents + 1,) int32: the first token of each, then the end; None: one per row."""
    longest: int = 0
    """No document has more tokens. The kernels take any number that none exceeds."""
    key_bounds: Tensor | None = field(init=False)
    """The same in other memory: the compiler refuses a kernel that gets one tensor twice."""

    def __post_init__(self) -> None:
        copied = None if self.bounds is None else self.bounds.clone()
        object.__setattr__(self, "key_bounds", copied)

    @staticmethod
    def from_positions(position_ids: Tensor | None) -> "Documents":
        """Find the documents from positions that restart at 0 (and do at every row).

        Args:
            position_ids: (B, T); None: each row is one document.
        """
        if position_ids is None:
            return Documents(None)
        starts = torch.nonzero(position_ids.flatten() == 0).flatten()  # host-device sync
        bounds = F.pad(starts, (0, 1), value=position_ids.numel()).to(torch.int32)
        # A row's length, and not the longest document's: to look for that would be one more sync,
        # and a number that differs in every batch makes the compiler compile again.
        return Documents(bounds, position_ids.shape[1])

    @cached_property
    def lengths(self) -> list[int]:
        """Return the tokens of each document, for the loop. The first call is a host-device sync.

        The layers of a pass share what it finds.
        """
        assert self.bounds is not None
        return self.bounds.diff().tolist()

    @staticmethod
    def rows(B: int, T: int, device: torch.device) -> "Documents":
        """Make each of B rows of T tokens one document, without a sync."""
        return Documents(torch.arange(0, B * T + 1, T, dtype=torch.int32, device=device), T)

    @staticmethod
    def from_bounds(bounds: Tensor, seq_len: int) -> "Documents":
        """Take the bounds as the data gives them; no document is longer than its row.

        The kernels take any length that none exceeds. To look for the longest would wait for the
        device, and give the compiler another number in each step.
        """
        return Documents(bounds, seq_len)

    def positions(self, B: int, T: int) -> Tensor:
        """Return each token's position in its document, (B, T) int64, without a sync."""
        assert self.bounds is not None
        bounds = self.bounds.long()
        starts = bounds[:-1].repeat_interleave(bounds.diff(), output_size=B * T)
        return (torch.arange(B * T, device=bounds.device) - starts).view(B, T)


Loop = Callable[[Tensor, Tensor, Tensor, Documents], Tensor]
"""Attends within documents, given queries, keys and values."""


def import_flash_attn() -> bool:
    """Load flash-attn if it is installed; return whether it is.

    Called when a model is built: a compiler cannot trace the search for a module.
    """
    try:
        importlib.import_module("flash_attn")
    except ImportError:
        return False
    return True


def find_kernel() -> Kernel | None:
    """Return whose kernel attends within documents on this machine's GPUs; None: the loop does.

    Called when a model is built: a compiler cannot trace the search for a module.
    """
    if import_flash_attn():
        return "flash_attn"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return None
    varlen = importlib.import_module("torch.nn.attention.varlen")
    takes = inspect.signature(varlen.varlen_attn).parameters
    return "torch" if {"window_size", "enable_gqa"} <= set(takes) else None  # not in older versions


def find_loop() -> Loop:
    """Return the loop over documents; on a machine with GPUs, one that no compiler looks into.

    Layers are compiled on GPUs alone. A compiled loop would be as long as the first batch has
    documents, and be compiled again for every other number. To tell the compiler loads it, 2 s.
    """
    if not torch.cuda.is_available():
        return one_by_one
    return cast(Loop, torch.compiler.disable(one_by_one))


def takes_kernel(q: Tensor) -> bool:
    """Return whether queries can go to a kernel: on CUDA, in half precision."""
    return q.is_cuda and q.dtype in (torch.bfloat16, torch.float16)


def attend(
    q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, documents: Documents, *,
    kernel: Kernel | None, loop: Loop,
) -> Tensor:  # fmt: skip
    """Return softmax(q k^T / sqrt(H)) v under the causal mask, (B, T, N, H).

    Args:
        q_BTNH: queries.
        k_BTKH: keys; K divides N.
        v_BTKH: values.
        documents: attention stays inside each.
        kernel: what ``find_kernel`` found; it is used where it can be.
        loop: what ``find_loop`` found.
    """
    if takes_kernel(q_BTNH):
        if kernel == "flash_attn":
            return _flash(q_BTNH, k_BTKH, v_BTKH, documents)
        # PyTorch's kernel takes heads of a multiple of 8, and does not pad others.
        if kernel == "torch" and documents.bounds is not None and q_BTNH.shape[-1] % 8 == 0:
            return _varlen(q_BTNH, k_BTKH, v_BTKH, documents)
    if documents.bounds is None:
        return _sdpa(q_BTNH, k_BTKH, v_BTKH)
    return loop(q_BTNH, k_BTKH, v_BTKH, documents)


def _flash(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, documents: Documents) -> Tensor:
    from flash_attn import (  # pyright: ignore[reportMissingImports]
        flash_attn_func,
        flash_attn_varlen_func,
    )

    # Its backward adds up in any order unless told otherwise.
    how = {"causal": True, "deterministic": torch.are_deterministic_algorithms_enabled()}
    if documents.bounds is None:
        return flash_attn_func(q_BTNH, k_BTKH, v_BTKH, **how)
    q, k, v = (x.flatten(0, 1) for x in (q_BTNH, k_BTKH, v_BTKH))
    bounds, longest = documents.bounds, documents.longest
    out = flash_attn_varlen_func(q, k, v, bounds, documents.key_bounds, longest, longest, **how)
    return out.view(q_BTNH.shape)


def _varlen(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, documents: Documents) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    assert documents.bounds is not None
    q, k, v = (x.flatten(0, 1) for x in (q_BTNH, k_BTKH, v_BTKH))
    longest = documents.longest
    out = varlen_attn(
        q, k, v, documents.bounds, documents.key_bounds, longest, longest,
        window_size=(-1, 0),  # causal
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    assert isinstance(out, Tensor)  # a pair only where more is asked for
    return out.view(q_BTNH.shape)


def one_by_one(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, documents: Documents) -> Tensor:
    """Attend to each document by itself; arguments and result are those of ``attend``."""
    q, k, v = (x.flatten(0, 1).split(documents.lengths) for x in (q_BTNH, k_BTKH, v_BTKH))
    parts = [_sdpa(a[None], b[None], c[None])[0] for a, b, c in zip(q, k, v, strict=True)]
    return torch.cat(parts).view(q_BTNH.shape)


def _sdpa(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(
        q_BTNH.transpose(1, 2),
        k_BTKH.transpose(1, 2),
        v_BTKH.transpose(1, 2),
        is_causal=True,
        enable_gqa=q_BTNH.shape[2] != k_BTKH.shape[2],
    )
    return out.transpose(1, 2)
