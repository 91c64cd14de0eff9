"""Does transformers, alone, read an exported folder as what was trained?

Logits of the folder's model against ours with the same rounded weights, both computed in
fp32; ids of the folder's tokenizer against the training's.
"""

from pathlib import Path

import torch
from torch import Tensor

from mobilellama.files.pretrained import load_causal_model, load_tokenizer
from mobilellama.pretrain.hf.weights import DTYPES, cast
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

# Of the largest logit. Both sides compute in fp32 but sum in different orders (SDPA, norms):
# 1e-6 to 1e-5 was seen; a wrong weight, rotation or norm gives 1e-2 and more.
LOGIT_TOLERANCE = 1e-4
_TOKENS = 64
_TEXTS = ("Hello world", " leading", "a  b   c", "\tdef f(x):\n    return x", "naïve 日本 🙂", "")


def check_logits(folder: Path, source: WeightSource, config: ModelConfig, *, dtype: str) -> float:
    """Return the largest difference of logits, relative to the largest logit.

    Args:
        folder: the export.
        source: what was written; it is read again, in fp32.
        config: the architecture.
        dtype: of the export.

    Raises:
        RuntimeError: the difference is above ``LOGIT_TOLERANCE``.
    """
    expected = our_logits(source, config, dtype=dtype)
    found = their_logits(folder, probe_ids(config))
    return require_same_logits(found, expected, what=f"{folder}: transformers' logits")


def probe_ids(config: ModelConfig) -> Tensor:
    """Return the (1, T) token ids that logits are compared on: drawn, always the same."""
    length = min(_TOKENS, config.max_seq_len)
    return torch.randint(config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def our_logits(source: WeightSource, config: ModelConfig, *, dtype: str) -> Tensor:
    """Return our model's logits on ``probe_ids``, (1, T, V): weights rounded, computed in fp32."""
    model = build_on(torch.device("cpu"), config)
    for name, parameter in model.named_parameters():
        parameter.copy_(cast(name, source.parameter(name), DTYPES[dtype]))
    return model_logits(model)


@torch.no_grad()
def model_logits(model: LanguageModel) -> Tensor:
    """Return a model's logits on ``probe_ids``, (1, T, V), without dropout."""
    return model.eval().logits(probe_ids(model.config))


@torch.no_grad()
def their_logits(folder: Path, input_ids: Tensor) -> Tensor:
    """Return the logits that transformers computes in fp32 with a folder's model, (1, T, V)."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = load_causal_model(folder, dtype=torch.float32)
    return model(input_ids=input_ids).logits


def require_same_logits(found: Tensor, expected: Tensor, *, what: str) -> float:
    """Return the largest difference of logits, relative to the largest logit.

    Args:
        found: the logits in question.
        expected: ours, of the same shape.
        what: whose `found` are, for the message.

    Raises:
        RuntimeError: the difference is above ``LOGIT_TOLERANCE``.
    """
    difference = relative_difference(found, expected)
    if not difference <= LOGIT_TOLERANCE:  # also catches NaN
        raise RuntimeError(
            f"{what} differ from ours by {difference:.2g} of the largest logit (tolerance "
            f"{LOGIT_TOLERANCE:.0e}); the export was not kept"
        )
    return difference


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, as a share of the second's largest value."""
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return float((found - expected).abs().max()) / scale


def check_tokenizer(folder: Path, tokenizer: TextTokenizer, *, add_bos: bool) -> None:
    """Raise RuntimeError unless AutoTokenizer gives the training's ids on some hard texts."""
    loaded = load_tokenizer(folder)
    start = [tokenizer.bos_id] if add_bos else []
    for text in _TEXTS:
        expected, found = start + tokenizer.encode(text, begins=True), loaded(text).input_ids
        if found != expected:
            raise RuntimeError(
                f"{folder}: AutoTokenizer gives {found} for {text!r}, not {expected}"
            )
