"""Attention of rows that hold several samples, sample by sample, where flash-attn is not there.

With positions that restart, transformers gives its 'sdpa' attention a mask of a row's whole square:
a row of 2048 positions that holds eight samples costs eight times what they cost. Here each sample
is attended to by itself, at the cost of a loop.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellama.config import ConfigError

NAME = "sample_by_sample"


def use(language_model: Any) -> None:
    """Let a model of transformers that trains on packed rows attend so; it was built with sdpa."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    language_model.config._attn_implementation = NAME  # for which transformers makes no mask


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_ids: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return causal attention within each sample, (B, T, heads, width of a head), as sdpa does.

    Args:
        module: the layer, for messages.
        query: (B, heads, T, width of a head).
        key: (B, heads that divide those, T, width).
        value: as key.
        attention_mask: none: rows are padded on the right, where nothing is supervised.
        position_ids: (B or 1, T); each 0 begins a sample.
        scaling: of the products.
        dropout: of the probabilities.
        sliding_window: positions that each sees, itself included; None: all before it.

    Raises:
        ConfigError: the model does not hand positions on, so that samples would see each other.
    """
    if position_ids is None:
        rule = f"but {type(module).__name__} is not told where samples begin"
        raise ConfigError("data.pack", True, rule, "Set it to false")
    assert attention_mask is None and query.shape[2] == key.shape[2]
    rows, width = query.shape[0], query.shape[2]

    def within(row: int | slice, begin: int, end: int) -> Tensor:
        q, k, v = (x[row, ..., begin:end, :] for x in (query, key, value))
        mask = None
        if sliding_window is not None and end - begin > sliding_window:
            mask = _window(end - begin, sliding_window, query.device)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling,
            enable_gqa=q.shape[-3] != k.shape[-3],
        )  # fmt: skip

    starts = torch.nonzero(position_ids == 0).tolist()  # host-device sync
    if len(starts) == len(position_ids):  # one each
        return within(slice(None), 0, width).transpose(1, 2), None
    assert len(position_ids) == rows
    made = []
    for row in range(rows):
        edges = [begin for k, begin in starts if k == row]
        parts = [within(row, a, b) for a, b in pairwise([*edges, width])]
        made.append(torch.cat(parts, dim=1))
    return torch.stack(made).transpose(1, 2), None


def _window(length: int, sliding_window: int, device: torch.device) -> Tensor:
    """Return whether a position sees another, (length, length)."""
    places = torch.arange(length, device=device)
    behind = places[:, None] - places[None]
    return (behind >= 0) & (behind < sliding_window)
