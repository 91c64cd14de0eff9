"""A language model's linear layers in 8 or 4 bits, by bitsandbytes; tower and projector whole.

    8bit   LLM.int8() (arXiv:2208.07339): int8 rows, outlying columns of the input in 16 bits
    4bit   NF4 (QLoRA, arXiv:2305.14314, section 3): blocks of 64, computed in the model's dtype

The head stays whole too: it is what chooses the token. Nothing quantised is written out.
"""

import importlib
from typing import Any, Literal

import torch
from torch import Tensor

from mobilellama.config import ConfigError, one_line
from mobilellama.vlm.model import LANGUAGE, VisionLanguageModel

_BLOCK = 64  # of NF4
_PACKED_ROWS = 32  # a tile of the CPU's kernel

Quantization = Literal["none", "8bit", "4bit"]


def require_bitsandbytes(kind: Quantization) -> None:
    """Raise ConfigError where bitsandbytes is wanted and cannot be imported."""
    if kind == "none":
        return
    try:
        importlib.import_module("bitsandbytes")
    except Exception as error:  # a library of CUDA's missing is no ImportError everywhere
        rule = f"needs bitsandbytes, which cannot be imported ({one_line(error).rstrip('.')})"
        remedy = "Install it with pip install 'mobilellama[gpu]', or leave --quantization out"
        raise ConfigError("quantization", kind, rule, remedy) from None


def quantize(model: VisionLanguageModel, kind: Quantization, dtype: torch.dtype) -> set[str]:
    """Put layers that hold quantised weights where the language model's linear ones are.

    Args:
        model: on ``meta``.
        kind: how.
        dtype: of the computation.

    Returns:
        The names of the weights that ``put_quantized`` must give.

    Raises:
        ConfigError: bitsandbytes is not there, or cannot compute a layer of that width.
    """
    if kind == "none":
        return set()
    require_bitsandbytes(kind)
    if kind == "4bit":
        _require_whole_blocks(model)
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    language = model.language_model
    head = language.get_output_embeddings()
    kept = [name for name, module in language.named_modules() if module is head]
    before = dict(language.named_modules())
    config = BitsAndBytesConfig(
        load_in_8bit=kind == "8bit",
        load_in_4bit=kind == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
    replace_with_bnb_linear(language, modules_to_not_convert=kept, quantization_config=config)
    return {
        f"{LANGUAGE}{name}.weight"
        for name, module in language.named_modules()
        if module is not before[name]
    }


def _require_whole_blocks(model: VisionLanguageModel) -> None:
    """Raise ConfigError where blocks would run over the ends of rows.

    bitsandbytes does not always refuse such layers: on a CPU 96 x 48 come out wrong.
    """
    head = model.language_model.get_output_embeddings()
    for name, module in model.language_model.named_modules():
        if not isinstance(module, torch.nn.Linear) or module is head:
            continue
        if module.in_features % _BLOCK:
            what = f"{LANGUAGE}{name} is {module.in_features} wide"
            rule = f"needs widths that are multiples of {_BLOCK}, and {what}"
            raise ConfigError("quantization", "4bit", rule, "Use 8bit or none")


def put_quantized(module: Any, weight: Tensor, device: torch.device) -> None:
    """Quantise a weight, (out, in) on the CPU, into a layer that ``quantize`` made."""
    kind, how = type(module.weight), dict(module.weight.__dict__)
    for statistics in ("CB", "SCB"):  # of the empty weight
        how.pop(statistics, None)
    module.weight = kind(weight, requires_grad=False, **how).to(device)
    if weight.shape[0] % _PACKED_ROWS:
        # bitsandbytes' kernel of newer CPUs asserts whole tiles; the way of other CPUs does not.
        module.support_avx512bf16_for_cpu = False
