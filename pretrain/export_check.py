"""Does transformers, alone, read an exported folder as what was trained?

Logits of the folder's model against ours with the same rounded weights, both computed in
fp32; ids of the folder's tokenizer against sentencepiece's.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from mobilellama.pretrain.hf_weights import ParameterSource, cast
from mobilellama.pretrain.model import ModelConfig, build_on
from mobilellama.tokenizer import Tokenizer

# Of the largest logit. Both sides compute in fp32 but sum in different orders (SDPA, norms):
# 1e-6 to 1e-5 was seen; a wrong weight, rotation or norm gives 1e-2 and more.
LOGIT_TOLERANCE = 1e-4
_TOKENS = 64
_TEXTS = ("Hello world", " leading", "a  b   c", "\tdef f(x):\n    return x", "naïve 日本 🙂", "")


def check_logits(
    folder: Path,
    source: ParameterSource,
    shapes: Mapping[str, torch.Size],
    config: ModelConfig,
    *,
    dtype: torch.dtype,
) -> float:
    """Return the largest difference of logits, relative to the largest logit.

    Args:
        folder: the export.
        source: gives each parameter in fp32, again.
        shapes: every parameter's name and shape.
        config: the architecture.
        dtype: of the export.

    Raises:
        RuntimeError: the difference is above ``LOGIT_TOLERANCE``.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    ours = build_on(torch.device("cpu"), config)
    parameters = dict(ours.named_parameters())
    generator = torch.Generator().manual_seed(0)
    length = min(_TOKENS, config.max_seq_len)
    input_ids = torch.randint(config.vocab_size, (1, length), generator=generator)
    with torch.no_grad():
        for name, shape in shapes.items():
            parameters[name].copy_(cast(name, source.parameter(name, shape), dtype))
        expected = ours.logits(input_ids)
        del ours, parameters
        theirs = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        found = theirs(input_ids=input_ids).logits
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    difference = float((found - expected).abs().max()) / scale
    if not difference <= LOGIT_TOLERANCE:  # also catches NaN
        raise RuntimeError(
            f"{folder}: transformers' logits differ from ours by {difference:.2g} of the largest "
            f"logit (tolerance {LOGIT_TOLERANCE:.0e}); the export was not kept"
        )
    return difference


def check_tokenizer(folder: Path, tokenizer: Tokenizer, *, add_bos: bool) -> None:
    """Raise RuntimeError unless AutoTokenizer gives sentencepiece's ids on some hard texts."""
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    start = [tokenizer.bos_id] if add_bos else []
    for text in _TEXTS:
        expected, found = start + tokenizer.processor.encode(text), loaded(text).input_ids
        if found != expected:
            raise RuntimeError(
                f"{folder}: AutoTokenizer gives {found} for {text!r}, not {expected}"
            )
