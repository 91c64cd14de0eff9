"""What vision-language training keeps for the backward pass, from forward passes that are counted.

The language model is transformers', so no formula is written here. Six forward passes of the real
widths, but of one or two layers and few tokens, run on the CPU, and autograd's own hooks count what
they save. It is linear in layers, tokens and images:

    fixed + layers * layer_fixed + tokens * length
    + samples * (image + tokens * (token + layers * layer))

A head of few rows stands in for the real one, whose bytes pretraining's plan has.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from mobilellama.pretrain.planning.activations import Shape as RowShape
from mobilellama.pretrain.planning.activations import input_bytes, kept_by_head
from mobilellama.pretrain.planning.saved import bytes_saved
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.model import VisionLanguageModel, build_on

_FEW_ROWS = 64  # of embedding and head
_MORE_TOKENS = 64  # beside an image's


@dataclass(frozen=True, kw_only=True)
class SavedBytes:
    """The terms of the sum."""

    fixed: float
    """Whatever the batch."""
    layer_fixed: float
    """Of a layer, whatever the batch: copies of its weights by autocast."""
    length: float
    """Of a token of one row, whatever the number of rows: rotary tables."""
    image: float
    """Of a sample's image."""
    token: float
    """Of a token outside the layers: embedding, last norm."""
    layer: float
    """Of a token in one layer."""

    def total(self, *, samples: int, seq_len: int, layers: int) -> int:
        """Return the sum for a micro-batch, without the loss."""
        rows = samples * (self.image + seq_len * (self.token + layers * self.layer))
        return round(self.fixed + layers * self.layer_fixed + seq_len * self.length + rows)


def count_saved(
    architecture: Architecture,
    model: ModelConfig,
    *,
    adapt: Callable[[nn.Module], object],
    dtype: torch.dtype,
    autocast: bool,
    head_is_frozen: bool,
) -> SavedBytes:
    """Return the terms, by forward passes on the CPU.

    Args:
        architecture: of the run.
        model: the language model's, for what the loss keeps.
        adapt: freezes what does not train, and adds adapters.
        dtype: of the weights.
        autocast: whether bf16 is computed by autocast, as DDP does.
        head_is_frozen: whether the head does not train.
    """
    tokens = architecture.image_tokens + _MORE_TOKENS

    def saved(*, layers: int, samples: int, seq_len: int) -> int:
        small = _small(architecture, layers)
        built = build_on(torch.device("cpu"), small, adapt=adapt)
        for parameter in built.parameters():
            parameter.data = parameter.data.to(dtype)
        forward = partial(_forward, built, samples, seq_len, autocast=autocast)
        held = bytes_saved(built, forward)
        shape = RowShape(
            samples=samples, seq_len=seq_len, element_bytes=2 if autocast else dtype.itemsize
        )
        few = replace(model, vocab_size=_FEW_ROWS)
        return held - kept_by_head(few, shape, frozen=head_is_frozen)

    one = saved(layers=1, samples=1, seq_len=tokens)
    long = saved(layers=1, samples=1, seq_len=2 * tokens)
    second = saved(layers=2, samples=1, seq_len=tokens) - one
    layer = saved(layers=2, samples=1, seq_len=2 * tokens) - long - second
    sample = saved(layers=1, samples=2, seq_len=tokens) - one
    more_tokens = saved(layers=1, samples=2, seq_len=2 * tokens) - long - sample
    length = long - one - more_tokens
    image = sample - more_tokens
    return SavedBytes(
        fixed=one - (second - layer) - length - sample,
        layer_fixed=second - layer,
        length=length / tokens,
        image=image,
        token=(more_tokens - layer) / tokens,
        layer=layer / tokens,
    )


def _small(architecture: Architecture, layers: int) -> Architecture:
    language = architecture.language | {"num_hidden_layers": layers, "vocab_size": _FEW_ROWS}
    vision = architecture.vision | {"num_hidden_layers": 2}  # without gradients: it saves nothing
    return replace(architecture, language=language, vision=vision)


def _forward(model: VisionLanguageModel, samples: int, seq_len: int, *, autocast: bool) -> object:
    ids = torch.zeros(samples, seq_len, dtype=torch.int64)
    ids[:, : model.config.image_tokens] = IMAGE
    side = model.config.image_pixels
    pixels = torch.zeros(samples, 3, side, side, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return model(ids, ids.clamp(min=0), pixels)


def checkpointed_bytes(
    saved: SavedBytes, model: ModelConfig, shape: RowShape, *, stream_bytes: int
) -> int:
    """Return what is kept with checkpointing: the layers' inputs, and one layer computed again.

    Args:
        saved: what is kept without.
        model: the language model's.
        shape: of the micro-batch.
        stream_bytes: bytes of an element between layers.
    """
    inputs = input_bytes(model, replace(shape, element_bytes=stream_bytes))
    one = saved.total(samples=shape.samples, seq_len=shape.seq_len, layers=1)
    return one + model.n_layers * inputs + round((model.n_layers - 1) * saved.layer_fixed)
