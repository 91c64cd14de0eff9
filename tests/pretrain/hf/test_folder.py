"""A foreign Hugging Face folder: read as what transformers reads, or refused by name."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.hf.folder import HfFolder, model_config
from mobilellama.pretrain.sections import ModelConfig
from tests.pretrain.helpers.hf_llama import (
    SIZES,
    as_bin,
    filled,
    require_same_logits,
    write_llama,
)


def edit_config(folder: Path, drop: tuple[str, ...] = (), **fields: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in drop} | fields))


def test_the_logits_are_those_of_transformers(plain: Path) -> None:
    source = require_same_logits(plain)
    assert source.config == ModelConfig(
        vocab_size=96,
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        d_ff=48,
        max_seq_len=64,
        rope_theta=5e4,
        norm_eps=1e-5,
    )
    assert source.names() == [name for name, _ in filled(source).named_parameters()]
    source.close()


def test_a_config_of_transformers_4_says_the_same(copied: Path, plain: Path) -> None:
    edit_config(
        copied, ("rope_parameters", "head_dim", "dtype"), rope_theta=5e4, rope_scaling=None,
        torch_dtype="float32", pretraining_tp=1,
    )  # fmt: skip
    assert require_same_logits(copied).config == HfFolder(plain).config


def test_leftover_keys_of_other_programs_are_ignored(copied: Path, plain: Path) -> None:
    edit_config(
        copied, n_head=16, n_query_groups=16, n_embd=2560, n_layer=32, norm_eps=1e-6,
        rope_base=10000, _mlp_class="LLaMAMLP", bias=False, max_sequence_length=2048,
    )  # fmt: skip
    assert HfFolder(copied).config == HfFolder(plain).config


def test_a_bin_with_rotary_tables_is_read(
    copied: Path, plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    as_bin(copied, tables)
    with caplog.at_level(logging.INFO):
        source = require_same_logits(copied)
    assert f"{copied}: 2 stored rotary tables are ignored" in caplog.text
    assert source.names() == HfFolder(plain).names()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_parameter_is_fp32_and_its_own_whatever_is_stored(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = write_llama(tmp_path / "half", dtype=dtype)
    for _ in range(2):  # safetensors, then .bin
        source, name = HfFolder(folder), "model.norm.weight"
        stored, value = source.stored(name), source.parameter(name)
        assert source.dtype(name) == dtype and source.shape(name) == (32,)
        assert stored.dtype == dtype and value.dtype == torch.float32
        assert torch.equal(value, stored.float())
        value.zero_()
        assert source.parameter(name).abs().sum() > 0
        if (folder / "model.safetensors").exists():
            as_bin(folder)


def test_a_tied_head_is_a_copy_of_the_embedding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_llama(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    source = require_same_logits(folder)
    assert "its head is tied to its embedding. Here the head is a copy" in caplog.text
    model = filled(source)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_a_mistral_without_a_window_is_a_llama(tmp_path: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(2)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3)
    model.save_pretrained(tmp_path)
    require_same_logits(tmp_path)
    edit_config(tmp_path, sliding_window=32)
    with pytest.raises(ConfigError, match="sliding_window = 32: attention must reach over max"):
        HfFolder(tmp_path)
    edit_config(tmp_path, sliding_window="32")
    with pytest.raises(ConfigError, match="sliding_window = 32: must be a whole number above 0"):
        HfFolder(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mobilevlm"}, "model_type = mobilevlm: must be llama or mistral"),
        ({"model_type": "gpt2"}, "model_type = gpt2: must be llama or mistral"),
        ({"hidden_act": "gelu"}, "hidden_act = gelu: must be silu"),
        ({"attention_bias": True}, "attention_bias = true: must be false"),
        ({"mlp_bias": True}, "mlp_bias = true: must be false"),
        ({"head_dim": "8"}, "head_dim = 8: must be a whole number above 0"),
        ({"head_dim": 16}, "head_dim = 16: must be hidden_size / num_attention_heads = 32 / 4"),
        ({"hidden_size": "32"}, "hidden_size = 32: must be a whole number above 0"),
        ({"intermediate_size": None}, "intermediate_size = (absent): must be a whole number"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps = tiny: must be a number"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4}: must be none"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling = {'type': 'linear', 'factor': 2.0}: rotary positions must not be scaled",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
            "rope_parameters = {'rope_type': 'llama3', 'rope_theta': 500000.0}: rotary positions",
        ),
    ],
)
def test_what_our_model_does_not_compute_is_refused_by_key_and_value(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        model_config({"model_type": "llama", **SIZES, **fields}, Path("m/config.json"))
    assert str(caught.value).startswith(f"m/config.json: {message}")
    assert str(caught.value).endswith("Give a folder of the LLaMA architecture.")


def test_unscaled_rotary_positions_are_known_in_every_spelling() -> None:
    def theta(**fields: Any) -> float:
        return model_config({"model_type": "llama", **SIZES, **fields}, Path("c")).rope_theta

    assert theta() == 10_000
    assert theta(rope_theta=2e4) == 2e4
    assert theta(rope_scaling={"type": "default"}, rope_theta=2e4) == 2e4
    # An export for both versions has both; version 5 reads rope_parameters.
    assert theta(rope_parameters={"rope_type": "default", "rope_theta": 3e4}, rope_theta=2e4) == 3e4


def test_names_must_be_exactly_the_models(copied: Path) -> None:
    path = copied / "model.safetensors"
    whole = load_file(path)
    save_file({name.removeprefix("model."): value for name, value in whole.items()}, path)
    with pytest.raises(DataError) as caught:
        HfFolder(copied)
    assert (
        f"{copied}: its weights do not fit the model of its config.json: 20 (model.embed_tokens"
        ".weight, model.layers.0.input_layernorm.weight, model.layers.0.mlp.down_proj.weight, ...) "
        "missing, 20 (embed_tokens.weight, layers.0.input_layernorm.weight, "
        "layers.0.mlp.down_proj.weight, ...) unexpected; the names lack the prefix 'model.'"
    ) in str(caught.value)
    without = {name: value for name, value in whole.items() if name != "lm_head.weight"}
    save_file(without, path)
    with pytest.raises(
        DataError, match=r"config.json: 1 \(lm_head.weight\) missing, 0 unexpected$"
    ):
        HfFolder(copied)
    save_file(whole | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, path)
    with pytest.raises(DataError, match=r"0 missing, 1 \(model.layers.0.self_attn.q_proj.bias\)"):
        HfFolder(copied)


def test_shapes_and_dtypes_are_checked_against_the_config(copied: Path) -> None:
    path = copied / "model.safetensors"
    whole = load_file(path)
    save_file(whole | {"lm_head.weight": torch.ones(97, 32)}, path)
    with pytest.raises(
        DataError, match=r"'lm_head.weight' is 97 x 32, but the model .* wants 96 x 32"
    ):
        HfFolder(copied)
    save_file(whole | {"lm_head.weight": torch.ones(96, 32, dtype=torch.int8)}, path)
    with pytest.raises(DataError, match=r"'lm_head.weight' is stored as I8; fp32, bf16 and fp16"):
        HfFolder(copied)


def test_folders_that_are_no_model_are_told(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model = .*nowhere: is not a folder. Give a folder"):
        HfFolder(tmp_path / "nowhere", field="model")
    with pytest.raises(ConfigError, match=r"init = .*: has no config.json. Give a folder with"):
        HfFolder(tmp_path)
    (copied / "model.safetensors").unlink()
    rule = "has no model.safetensors or pytorch_model.bin"
    with pytest.raises(ConfigError, match=rf"{copied}: {rule}. Give a folder"):
        HfFolder(copied)
    index = copied / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"lm_head.weight": "../x.safetensors"}}')
    with pytest.raises(DataError, match=r"names '../x.safetensors', which is not a file beside it"):
        HfFolder(copied)
    index.write_text("{}")
    with pytest.raises(DataError, match="has no weight_map"):
        HfFolder(copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json: is not JSON"):
        HfFolder(copied)


def test_the_fingerprint_knows_the_config_and_the_weights(copied: Path, plain: Path) -> None:
    fingerprint = HfFolder(plain).fingerprint
    assert fingerprint == HfFolder(copied).fingerprint and len(fingerprint) == 64
    path = copied / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert HfFolder(copied).fingerprint != fingerprint
    content[-5] ^= 1
    path.write_bytes(content)
    assert HfFolder(copied).fingerprint == fingerprint
    edit_config(copied, leftover=1)
    assert HfFolder(copied).fingerprint != fingerprint
