"""flash-attn's interface on a CPU, for tests of what we and transformers pass to it.

Its kernels need a GPU. What stands here has its functions and their arguments, and is made as it
is: an autograd.Function around operators that the compiler takes as they are. The operators compute
what the kernels compute, document by document in fp32.
"""

import importlib.machinery
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, modeling_flash_attention_utils

DETERMINISTIC: list[bool] = []
"""For each backward pass of an attention so far: whether it was asked to be deterministic."""
LENGTHS: list[tuple[list[int], int]] = []
"""For each forward pass of an attention so far: the documents' lengths, the longest as told."""


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rest of a test import this as flash_attn."""
    flash, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    for function in (flash_attn_func, flash_attn_varlen_func):
        setattr(flash, function.__name__, function)
    # transformers asks for these too, and calls none of them in training without a mask.
    for module, names in (
        (flash, ["flash_attn_with_kvcache"]),
        (padding, ["index_first_axis", "pad_input", "unpad_input"]),
    ):
        for name in names:
            setattr(module, name, _not_here)
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    DETERMINISTIC.clear()
    LENGTHS.clear()


def install_in_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model of transformers take this as its flash_attention_2, on a CPU."""
    install(monkeypatch)
    monkeypatch.setattr(modeling_flash_attention_utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *given, **named: True)
    # What it has found is kept for the process; None: nothing yet. The test's end brings it back.
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)


def _not_here(*given: object, **named: object) -> None:
    raise NotImplementedError


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    deterministic: bool = False,
) -> Tensor:
    """Attend within each row, (B, T, N, H)."""
    bounds = torch.arange(0, q.shape[0] * q.shape[1] + 1, q.shape[1], dtype=torch.int32)
    rows = (x.flatten(0, 1) for x in (q, k, v))
    out = _Attention.apply(*rows, bounds, bounds.clone(), q.shape[1], softmax_scale, deterministic)
    return out.view(q.shape)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    deterministic: bool = False,
) -> Tensor:
    """Attend within each document, (tokens, N, H)."""
    return _Attention.apply(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, softmax_scale, deterministic
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor, bounds_k: Tensor,
        longest: int, scale: float | None, deterministic: bool,
    ) -> Tensor:  # fmt: skip
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        ctx.save_for_backward(q, k, v, bounds_q, bounds_k)
        ctx.scale, ctx.deterministic = scale, deterministic
        return _forward(q, k, v, bounds_q, bounds_k, longest, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bounds_q, bounds_k = ctx.saved_tensors
        of_qkv = _backward(grads[0], q, k, v, bounds_q, bounds_k, ctx.scale, ctx.deterministic)
        return *of_qkv, None, None, None, None, None


def _documents(bounds: Tensor, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Yield the parts of (tokens, heads, H) that are a document's, each (heads, length, H) fp32."""
    heads, lengths = tensors[0].shape[1], bounds.diff().tolist()
    each = (x.repeat_interleave(heads // x.shape[1], dim=1).float() for x in tensors)
    for part in zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in each), strict=True):
        yield list(part)


def _weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    future = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
    return (q @ k.transpose(1, 2) * scale).masked_fill(future, float("-inf")).softmax(dim=-1)


@torch.library.custom_op("flash_stand_in::forward", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor, bounds_k: Tensor, longest: int, scale: float
) -> Tensor:
    assert q.dtype in (torch.float16, torch.bfloat16)  # flash-attn refuses others
    assert bounds_q.dtype == torch.int32 and torch.equal(bounds_q, bounds_k)
    lengths = bounds_q.diff().tolist()
    assert longest >= max(lengths)  # a kernel leaves out what is longer
    LENGTHS.append((lengths, longest))
    done = [_weights(a, b, scale) @ c for a, b, c in _documents(bounds_q, q, k, v)]
    return torch.cat(done, dim=1).transpose(0, 1).to(q.dtype).contiguous()


@torch.library.custom_op("flash_stand_in::backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor, bounds_k: Tensor,
    scale: float, deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    DETERMINISTIC.append(deterministic)
    grads: list[list[Tensor]] = []
    for of_out, a, b, c in _documents(bounds_q, grad, q, k, v):
        weights, of_weights = _weights(a, b, scale), of_out @ c.transpose(1, 2)
        through = (of_weights - (of_weights * weights).sum(dim=-1, keepdim=True)) * weights * scale
        grads.append([through @ b, through.transpose(1, 2) @ a, weights.transpose(1, 2) @ of_out])
    of_q, of_k, of_v = (
        # Query heads that share a key's head add up in it.
        torch.cat(parts, dim=1).unflatten(0, (x.shape[1], -1)).sum(dim=1).transpose(0, 1)
        for parts, x in zip(zip(*grads, strict=True), (q, k, v), strict=True)
    )
    return _like(of_q, q), _like(of_k, k), _like(of_v, v)


def _like(value: Tensor, other: Tensor) -> Tensor:
    return torch.empty_like(other).copy_(value)


@_forward.register_fake
def _forward_shape(q: Tensor, *given: object) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@_backward.register_fake
def _backward_shape(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *given: object) -> Any:
    return tuple(torch.empty_like(x) for x in (q, k, v))
