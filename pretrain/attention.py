"""Causal attention, over the whole sample or within each document.

On CUDA with flash-attn installed its kernels are used, the variable-length one for
documents; elsewhere PyTorch's scaled_dot_product_attention, document by document. The loop
over documents is exact but slow: on GPUs ``per_document`` wants flash-attn.

torch.nn.attention.varlen has a kernel of PyTorch's own for documents, with a causal window of
(-1, 0) and grouped queries, for GPUs in half precision. It is not used yet: it cannot run on a CPU,
and its gradients have not been compared with the loop's on a GPU.
"""

import importlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Where documents begin in a batch whose rows are laid end to end."""

    bounds: Tensor | None
    """(documents + 1,) int32: the first token of each, then the end; None: one per row."""
    longest: int = 0

    @staticmethod
    def from_positions(position_ids: Tensor | None) -> "Documents":
        """Find the documents from positions that restart at 0 (and do at every row)."""
        if position_ids is None:
            return Documents(None)
        starts = torch.nonzero(position_ids.flatten() == 0).flatten()  # host-device sync
        end = torch.tensor([position_ids.numel()], device=starts.device)
        bounds = torch.cat([starts, end]).to(torch.int32)
        return Documents(bounds, int((bounds[1:] - bounds[:-1]).max()))

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


def import_flash_attn() -> bool:
    """Load flash-attn if it is installed; return whether it is.

    Called when a model is built: a compiler cannot trace the search for a module.
    """
    try:
        importlib.import_module("flash_attn")
    except ImportError:
        return False
    return True


def attend(
    q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, documents: Documents, *, flash: bool
) -> Tensor:
    """Return softmax(q k^T / sqrt(H)) v under the causal mask, (B, T, N, H).

    Args:
        q_BTNH: queries.
        k_BTKH: keys; K divides N.
        v_BTKH: values.
        documents: attention stays inside each.
        flash: flash-attn is installed, and is used where it can be: on CUDA, in half precision.
    """
    if flash and q_BTNH.is_cuda and q_BTNH.dtype in (torch.bfloat16, torch.float16):
        return _flash(q_BTNH, k_BTKH, v_BTKH, documents)
    if documents.bounds is None:
        return _sdpa(q_BTNH, k_BTKH, v_BTKH)
    lengths = documents.bounds.diff().tolist()  # host-device sync
    q, k, v = (x.flatten(0, 1).split(lengths) for x in (q_BTNH, k_BTKH, v_BTKH))
    parts = [_sdpa(a[None], b[None], c[None])[0] for a, b, c in zip(q, k, v, strict=True)]
    return torch.cat(parts).view(q_BTNH.shape)


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
    out = flash_attn_varlen_func(q, k, v, bounds, bounds, longest, longest, **how)
    return out.view(q_BTNH.shape)


def _sdpa(q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(
        q_BTNH.transpose(1, 2),
        k_BTKH.transpose(1, 2),
        v_BTKH.transpose(1, 2),
        is_causal=True,
        enable_gqa=q_BTNH.shape[2] != k_BTKH.shape[2],
    )
    return out.transpose(1, 2)
