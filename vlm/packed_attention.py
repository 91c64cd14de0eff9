"""Attention of rows that hold several samples, sample by sample, where flash-attn is not there.

With positions that restart, transformers gives its 'sdpa' attention a mask of a row's whole square:
a row of 2048 positions that holds eight samples costs eight times what they cost. Here each sample
is attended to by itself, at the cost of a loop.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilellama.config import ConfigError
from mobilellama.pretrain.attention import Documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sample_by_sample"


def use(language_model: "PreTrainedModel") -> None:
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
    documents: Documents | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Return causal attention within each sample, (B, T, heads, width of a head), as sdpa does.

    Args:
        module: the layer, for messages.
        query: (B, heads, T, width of a head).
        key: (B, heads that divide those, T, width).
        value: as key.
        attention_mask: none: rows are padded on the right, where nothing is supervised.
        position_ids: (B or 1, T); each 0 begins a sample.
        documents: the same, found once for all layers; None: the model has not handed it on.
        scaling: of the products.
        dropout: of the probabilities.
        sliding_window: positions that each sees, itself included; None: all before it.

    Raises:
        ConfigError: the model does not hand positions on, so that samples would see each other.
    """
    if documents is None and position_ids is None:
        rule = f"needs to know where samples begin, but {type(module).__name__} is not told"
        raise ConfigError("data.pack", True, rule, "Set it to false")
    assert attention_mask is None and query.shape[2] == key.shape[2]

    def within(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend within one sample, or each row of a batch that is one."""
        length, mask = q.shape[-2], None
        if sliding_window is not None and length > sliding_window:
            mask = _window(length, sliding_window, q.device)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling,
            enable_gqa=q.shape[-3] != k.shape[-3],
        )  # fmt: skip

    documents = documents or _documents(position_ids, len(query))
    if documents.bounds is None or len(documents.bounds) == len(query) + 1:  # each row is one
        return within(query, key, value).transpose(1, 2), None
    lengths = documents.lengths
    # The rows end to end, cut in one go: a slice's gradient would be as large as what it is of.
    q, k, v = (x.transpose(1, 2).flatten(0, 1).split(lengths) for x in (query, key, value))
    parts = [
        within(a.transpose(0, 1), b.transpose(0, 1), c.transpose(0, 1)).transpose(0, 1)
        for a, b, c in zip(q, k, v, strict=True)
    ]
    return torch.cat(parts).view(query.transpose(1, 2).shape), None


def _documents(position_ids: Tensor | None, rows: int) -> Documents:
    """Find the samples; the same positions for all rows are those of rows that are one sample."""
    if position_ids is None or (len(position_ids) == 1 and rows > 1):
        return Documents(None)
    return Documents.from_positions(position_ids)


def _window(length: int, sliding_window: int, device: torch.device) -> Tensor:
    """Return whether a position sees another, (length, length)."""
    places = torch.arange(length, device=device)
    behind = places[:, None] - places[None]
    return (behind >= 0) & (behind < sliding_window)
