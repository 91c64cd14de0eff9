"""A small Llama as transformers writes it, and our model of its folder."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.pretrain.weight_source import fill

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
IDS = torch.arange(48)[None] * 5 % 96


def write_llama(folder: Path, *, dtype: torch.dtype = torch.float32, **fields: Any) -> Path:
    """Let transformers write a random Llama whose values all matter to the logits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shard_size = fields.pop("max_shard_size", "5GB")
    torch.manual_seed(1)
    model: Any = LlamaForCausalLM(LlamaConfig(**(SIZES | fields)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def as_bin(folder: Path, extra: dict[str, Tensor] | None = None, **options: Any) -> Path:
    """Replace model.safetensors by pytorch_model.bin, in the format of torch.save."""
    tensors = load_file(folder / "model.safetensors") | (extra or {})
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", **options)
    return folder / "pytorch_model.bin"


def filled(source: HfFolder) -> LanguageModel:
    model = build_on(torch.device("cpu"), source.config)
    fill(model, source)
    return model


def require_same_logits(folder: Path) -> HfFolder:
    """Assert that our model, filled from the folder, computes what transformers computes."""
    from transformers import AutoModelForCausalLM

    source = HfFolder(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected, found = theirs(input_ids=IDS).logits, filled(source).logits(IDS)
    assert expected.std() > 0.5  # a random model whose logits say something
    # Same fp32 weights, another order of summation.
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    return source
