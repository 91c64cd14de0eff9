"""A foreign Hugging Face folder: read as what transformers reads, or refused by name."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.hf.folder import HfFolder, model_config
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.pretrain.sections import ModelConfig
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


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as transformers 5 writes it, in fp32; read only."""
    return write_llama(tmp_path_factory.mktemp("hf") / "plain", rope_theta=5e4)


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    """A copy of that folder to change."""
    return Path(shutil.copytree(plain, tmp_path / "copied"))


def edit_config(folder: Path, drop: tuple[str, ...] = (), **fields: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in drop} | fields))


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
    assert f"{copied}: 2 stored rotary tables ignored" in caplog.text
    assert source.names() == HfFolder(plain).names()


def test_a_bin_older_than_the_zip_format_is_read(copied: Path) -> None:
    as_bin(copied, _use_new_zipfile_serialization=False)
    require_same_logits(copied)


def test_shards_are_read_in_both_formats(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "sharded", max_shard_size="10KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    require_same_logits(folder)
    for name in shards:
        torch.save(load_file(folder / name), folder / f"{name}.bin")
        (folder / name).unlink()
    index["weight_map"] = {name: f"{file}.bin" for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    require_same_logits(folder)
    (folder / f"{shards[1]}.bin").unlink()
    with pytest.raises(DataError, match=rf"its index names 1 \({shards[1]}.bin\) not in the"):
        HfFolder(folder)


def test_safetensors_go_before_a_bin_as_in_transformers(copied: Path, plain: Path) -> None:
    zeros = {n: torch.zeros_like(t) for n, t in load_file(plain / "model.safetensors").items()}
    torch.save(zeros, copied / "pytorch_model.bin")
    require_same_logits(copied)


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
    assert "its head is tied to its embedding; ours becomes a copy" in caplog.text
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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mobilevlm"}, "model_type = mobilevlm: must be llama or mistral"),
        ({"model_type": "gpt2"}, "model_type = gpt2: must be llama or mistral"),
        ({"hidden_act": "gelu"}, "hidden_act = gelu: must be silu"),
        ({"attention_bias": True}, "attention_bias = true: must be false"),
        ({"mlp_bias": True}, "mlp_bias = true: must be false"),
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
        f"{copied}: its weights are not those of its config.json's model: 20 (model.embed_tokens"
        ".weight, model.layers.0.input_layernorm.weight, model.layers.0.mlp.down_proj.weight, ...) "
        "missing, 20 (embed_tokens.weight, layers.0.input_layernorm.weight, "
        "layers.0.mlp.down_proj.weight, ...) unexpected; the names lack the prefix 'model.'"
    ) in str(caught.value)
    without = {name: value for name, value in whole.items() if name != "lm_head.weight"}
    save_file(without, path)
    with pytest.raises(DataError, match=r"model: 1 \(lm_head.weight\) missing, 0 unexpected$"):
        HfFolder(copied)
    save_file(whole | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, path)
    with pytest.raises(DataError, match=r"0 missing, 1 \(model.layers.0.self_attn.q_proj.bias\)"):
        HfFolder(copied)


def test_shapes_and_dtypes_are_checked_against_the_config(copied: Path) -> None:
    path = copied / "model.safetensors"
    whole = load_file(path)
    save_file(whole | {"lm_head.weight": torch.ones(97, 32)}, path)
    with pytest.raises(DataError, match=r"'lm_head.weight' is 97 x 32, but its .* wants 96 x 32"):
        HfFolder(copied)
    save_file(whole | {"lm_head.weight": torch.ones(96, 32, dtype=torch.int8)}, path)
    with pytest.raises(DataError, match=r"'lm_head.weight' is stored as I8; fp32, bf16 and fp16"):
        HfFolder(copied)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_told(copied: Path, zipped: bool) -> None:
    path = copied / "model.safetensors"
    content = path.read_bytes()
    for kept in (len(content) - 100, 500, 4):
        path.write_bytes(content[:kept])
        with pytest.raises(DataError, match=rf"{path}: is damaged or truncated \("):
            HfFolder(copied)
    path.write_bytes(content)
    path = as_bin(copied, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for kept in (len(content) - 100, 500, 4, 0):
        path.write_bytes(content[:kept])
        with pytest.raises(DataError, match=rf"{path}: (cannot be read|is damaged)"):
            HfFolder(copied)


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(
    copied: Path, tmp_path: Path, zipped: bool
) -> None:
    code: Any = {"model.norm.bias": Runs(tmp_path / "made")}
    path = as_bin(copied, code, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"holds a pickle with more than tensors, which would run"):
        HfFolder(copied)
    assert not (tmp_path / "made").exists()
    torch.load(path, weights_only=False)  # what a careless reader does
    assert (tmp_path / "made").exists()


def test_a_bin_of_something_else_is_told(copied: Path) -> None:
    path = as_bin(copied)
    torch.save({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, path)
    with pytest.raises(DataError, match=r"it holds what is no tensor: 2 \(state_dict, epoch\)"):
        HfFolder(copied)
    torch.save([torch.ones(1)], path)
    with pytest.raises(DataError, match="it is no dict of tensors"):
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
    with pytest.raises(DataError, match=r"names '../x.safetensors', which is no file beside it"):
        HfFolder(copied)
    index.write_text("{}")
    with pytest.raises(DataError, match="has no weight_map"):
        HfFolder(copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json: is not JSON"):
        HfFolder(copied)


def test_an_index_that_lies_is_told(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "sharded", max_shard_size="10KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    right = index["weight_map"]["lm_head.weight"]
    wrong = next(file for file in index["weight_map"].values() if file != right)
    index["weight_map"]["lm_head.weight"] = wrong
    path.write_text(json.dumps(index))
    with pytest.raises(DataError, match=rf"{wrong}: lacks lm_head.weight, which the index says"):
        HfFolder(folder)


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
