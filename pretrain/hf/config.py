"""config.json and generation_config.json, readable by transformers 4 and 5.

Version 5 reads ``dtype`` and ``rope_parameters``, version 4 ``torch_dtype`` and
``rope_theta``; each leaves the other's keys alone.
"""

from typing import Any

from mobilellama.pretrain.hf.device import DTYPE_NAMES
from mobilellama.pretrain.model import INIT_STD
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

_NEW_TOKENS = 256  # transformers' own default, 20, cuts answers off


def llama_config(model: ModelConfig, tokenizer: TextTokenizer, dtype: str) -> dict[str, Any]:
    """Return config.json of a LlamaForCausalLM with this architecture."""
    return {
        "architectures": ["LlamaForCausalLM"],
        **llama_sizes(model),
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_seq_len,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_theta": model.rope_theta, "rope_type": "default"},
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "initializer_range": INIT_STD,
        "use_cache": True,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "dtype": DTYPE_NAMES[dtype],
        "torch_dtype": DTYPE_NAMES[dtype],
    }


def llama_sizes(model: ModelConfig) -> dict[str, Any]:
    """Return the part of a config.json that gives its model's kind and sizes."""
    return {
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.kv_heads,
    }


def generation_config(
    *, start_id: int | None, eos_ids: list[int], pad_id: int | None
) -> dict[str, Any]:
    """Return generation_config.json: greedy, and a start that the model has seen.

    Args:
        start_id: what generation without a prompt starts from; written as ``bos_token_id``.
        eos_ids: what ends it; none, one or several.
        pad_id: what the shorter rows of a batch are filled with.
    """
    eos = eos_ids if len(eos_ids) > 1 else next(iter(eos_ids), None)
    ids = {"bos_token_id": start_id, "eos_token_id": eos, "pad_token_id": pad_id}
    return {
        **{name: value for name, value in ids.items() if value is not None},
        "do_sample": False,
        "max_new_tokens": _NEW_TOKENS,
    }
