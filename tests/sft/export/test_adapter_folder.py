"""Adapter folders: what peft writes is merged as peft computes it, and peft reads what we write."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.pretrain.weight_source import HeldWeights, fill
from mobilellama.run_record import LLAMA_LINEARS
from mobilellama.sft.export.adapter_folder import AdapterFolder, write_adapter
from mobilellama.sft.lora import init_lora_parameter, inject, is_adapter
from mobilellama.sft.lora_config import LoraConfig

IDS = torch.arange(2, 26)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of transformers with grouped heads, in fp32."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


MakeAdapter = Callable[..., Path]


@pytest.fixture
def make_adapter(base: Path, tmp_path: Path) -> MakeAdapter:
    """Makes adapters with peft itself, their B drawn so that they change the model."""

    def make(name: str = "adapter", **settings: Any) -> Path:
        defaults: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": list(LLAMA_LINEARS)}
        model = peft.get_peft_model(
            LlamaForCausalLM.from_pretrained(base),
            peft.LoraConfig(task_type="CAUSAL_LM", **defaults | settings),
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        model.save_pretrained(str(tmp_path / name))
        return tmp_path / name

    return make


def peft_logits(base: Path, adapter: Path) -> torch.Tensor:
    model = peft.PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), str(adapter))
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def merged_logits(base: Path, adapter: Path) -> torch.Tensor:
    folder = HfFolder(base)
    model = build_on(torch.device("cpu"), folder.config)
    fill(model, AdapterFolder(adapter).over(folder))
    with torch.no_grad():
        return model.logits(IDS)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "lm_head"]},
        {
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8},
            "alpha_pattern": {"v_proj": 32},
        },
        {"target_modules": r".*layers\.1\..*_proj"},
        {"target_modules": ["o_proj"], "modules_to_save": ["embed_tokens"]},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.5, "layers_to_transform": [1]},
    ],
    ids=lambda settings: "+".join(settings) or "plain",
)  # fmt: skip
def test_pefts_adapters_are_merged_as_peft_computes_them(
    settings: dict[str, Any], base: Path, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(**settings)
    expected = peft_logits(base, adapter)
    without = LlamaForCausalLM.from_pretrained(base)(input_ids=IDS).logits
    assert (expected - without).abs().max() > 0.01 * expected.abs().max()
    # fp32, summed in another order.
    torch.testing.assert_close(merged_logits(base, adapter), expected, rtol=1e-4, atol=1e-4)


def test_a_pickled_adapter_is_read_without_running_code(
    base: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    expected = merged_logits(base, adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(weights, adapter / "adapter_model.bin")
    assert torch.equal(merged_logits(base, adapter), expected)

    marker = tmp_path / "ran"
    torch.save({"x": _Runs(marker)}, adapter / "adapter_model.bin")
    with pytest.raises(DataError, match="a pickle with more than tensors, which would run code"):
        AdapterFolder(adapter)
    assert not marker.exists()


class _Runs:
    """A pickle of it would make a file when loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def injected(base: Path, lora: LoraConfig) -> LanguageModel:
    """Return our model over the base, with adapters that change it."""
    folder = HfFolder(base)
    model = build_on(torch.device("cpu"), folder.config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(folder.parameter(name))
        inject(model, lora)
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                a_like = name.replace("lora_B", "lora_A")
                parameter.copy_(init_lora_parameter(a_like, parameter.shape, seed=4))
    return model.eval()


@pytest.mark.parametrize("targets", [list(LLAMA_LINEARS), ["down_proj", "k_proj"]])
def test_peft_loads_what_we_write_and_computes_our_logits(
    targets: list[str], base: Path, tmp_path: Path
) -> None:
    lora = LoraConfig(rank=4, alpha=6, dropout=0.05, targets=targets)
    model = injected(base, lora)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    write_adapter(tmp_path, HeldWeights(weights), lora, base=str(base))
    expected = model.logits(IDS)
    assert peft.PeftConfig.from_pretrained(str(tmp_path)).base_model_name_or_path == str(base)
    with warnings.catch_warnings():  # peft only warns of missing keys
        warnings.simplefilter("error", UserWarning)
        found = peft_logits(base, tmp_path)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged_logits(base, tmp_path), expected, rtol=1e-4, atol=1e-4)
    adapter = AdapterFolder(tmp_path)
    assert adapter.base == str(base) and adapter.ranks == [4]
    assert len(adapter.modules) == 2 * len(targets)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    assert stored[name].shape == (32, 4) and stored[name].dtype == torch.float32


def change(folder: Path, **settings: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "adapter_config.json: use_dora = true: adds more than W + scaling"),
        ({"peft_type": "IA3"}, "adapter_config.json: peft_type = IA3: must be LORA"),
        ({"init_lora_weights": "pissa"}, "changes the base model's weights"),
        ({"from_the_future": [1]}, "from_the_future = [1]: adds more than W + scaling * B @ A"),
    ],
)
def test_variants_that_compute_something_else_are_refused(
    settings: dict[str, Any], message: str, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter()
    change(adapter, **settings)
    with pytest.raises(ConfigError) as caught:
        AdapterFolder(adapter)
    assert message in str(caught.value)


def test_an_adapter_of_another_model_is_refused(
    base: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    other = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=40, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(other).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError) as caught:
        merged_logits(tmp_path / "other", adapter)
    assert "adapts model.layers.0.mlp.down_proj as 32 x 48, but the base's is 32 x 40" in str(
        caught.value
    )
    assert f"Give the base that it was trained on ({base})" in str(caught.value)
    other.intermediate_size = 48
    LlamaForCausalLM(other).save_pretrained(tmp_path / "shallow")
    with pytest.raises(ConfigError, match=r"adapts model\.layers\.1\..*the base does not have"):
        merged_logits(tmp_path / "shallow", adapter)


def test_damaged_folders_are_told(base: Path, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter = .*nowhere: is not a folder"):
        AdapterFolder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json"):
        AdapterFolder(base)
    adapter = make_adapter()
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    whole = path.read_bytes()

    def message() -> str:
        with pytest.raises((ConfigError, DataError)) as caught:
            merged_logits(base, adapter)
        return str(caught.value)

    path.write_bytes(whole[:-100])
    assert "is damaged or truncated" in message()
    path.unlink()
    assert "has neither adapter_model.safetensors nor adapter_model.bin" in message()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    save_file({n: v for n, v in weights.items() if n != name}, path)
    assert "q_proj has one of lora_A and lora_B only" in message()
    save_file(weights | {name: weights[name][:, :3].contiguous()}, path)
    assert "lora_A (4, 32) and lora_B (32, 3) do not multiply" in message()
    save_file(weights | {"base_model.model.model.norm.weight": torch.ones(32)}, path)
    assert "'base_model.model.model.norm.weight' is not a weight of a LoRA adapter" in message()
    save_file(weights, path)
    change(adapter, r=8)
    assert "has rank 4, but adapter_config.json says 8" in message()
    (adapter / "adapter_config.json").write_text("[")
    assert "adapter_config.json: is not JSON" in message()
