"""config.json and generation_config.json of an export, for both versions of transformers."""

import json
from pathlib import Path

from mobilellama.pretrain.hf.config import generation_config


def test_config_has_the_keys_of_both_versions_of_transformers(exports: dict[str, Path]) -> None:
    config = json.loads((exports["bf16"] / "config.json").read_text())
    expected = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 832,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }
    assert {name: config[name] for name in expected} == expected


def test_generation_is_greedy_and_long_enough_for_an_answer() -> None:
    assert generation_config(start_id=2, eos_ids=[2], pad_id=0) == {
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "do_sample": False,
        "max_new_tokens": 256,
    }


def test_ids_that_a_tokenizer_lacks_are_left_out_and_several_ends_are_a_list() -> None:
    none = generation_config(start_id=None, eos_ids=[], pad_id=None)
    assert set(none) == {"do_sample", "max_new_tokens"}
    assert generation_config(start_id=1, eos_ids=[2, 7], pad_id=None)["eos_token_id"] == [2, 7]
