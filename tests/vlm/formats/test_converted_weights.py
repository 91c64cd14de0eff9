"""Language models whose weights transformers renames or joins as it loads them, from folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from mobilellama.config import DataError
from mobilellama.pretrain.config import RunConfig
from mobilellama.pretrain.hf.weight_files import StoredWeights
from mobilellama.run_folder import RunFolder
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.config import Config, ImageTextData, ProjectorConfig
from mobilellama.vlm.formats.converted_weights import ConvertedWeights
from mobilellama.vlm.formats.folder import open_folder
from mobilellama.vlm.formats.stored_model import load_model, open_model
from mobilellama.vlm.formats.trained import open_trained
from mobilellama.vlm.main import main
from mobilellama.vlm.model import LANGUAGE, build_language_model
from mobilellama.vlm.start import open_start
from tests.helpers.ranks import run_ranks
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.small_models import randomise
from tests.vlm.helpers.tiny_vlm import LANGUAGE as SIZES
from tests.vlm.helpers.tiny_vlm import make_tower, train_vlm

EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 12, "num_key_value_heads": 2},
    "qwen2_moe": {
        "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24,
        "num_key_value_heads": 2, "mlp_only_layers": [1],
    },
    "qwen3_moe": {
        "num_experts": 4, "moe_intermediate_size": 16, "num_key_value_heads": 2,
        "num_experts_per_tok": 2, "head_dim": 16,
    },
    "olmoe": {"num_experts": 4, "num_key_value_heads": 2, "pad_token_id": 0},
}  # fmt: skip


def make_model(folder: Path, kind: str, tokenizer: Path | None = None, **fields: Any) -> Any:
    """Write a model of random weights as transformers does; return it."""
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **(SIZES | EXPERTS.get(kind, {}) | fields))
    )
    randomise(model)
    model.save_pretrained(folder)
    if tokenizer:
        Tokenizer(tokenizer).save(folder)
    return model


def converted(folder: Path, kind: str) -> ConvertedWeights:
    config = AutoConfig.for_model(kind, **(SIZES | EXPERTS.get(kind, {}))).to_dict()
    with torch.device("meta"):
        model = build_language_model(config, "sdpa")
    return ConvertedWeights(StoredWeights(folder, "init", ""), model, str(folder))


@pytest.mark.parametrize("kind", [*EXPERTS, "llama", "gemma"])
def test_every_parameter_is_transformers_own_bit_for_bit(kind: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"head_dim": 16, "num_key_value_heads": 1} if kind == "gemma" else {}
    model = make_model(tmp_path, kind, **more)
    files = load_file(tmp_path / "model.safetensors")
    assert (len(files) > 40) == (kind in EXPERTS)  # each expert's by itself
    weights = converted(tmp_path, kind)
    parameters = dict(model.named_parameters())
    assert {*weights.names()} == parameters.keys()
    for name, value in parameters.items():
        assert weights.shape(name) == value.shape and weights.dtype(name) == torch.float32
        assert torch.equal(weights.stored(name), value), name
    weights.close()


def test_weights_of_two_dtypes_are_joined_in_the_wider(tmp_path: Path) -> None:
    make_model(tmp_path, "mixtral")
    path = tmp_path / "model.safetensors"
    files = load_file(path)
    narrow = {n: v.bfloat16() if ".experts.3.w1" in n else v for n, v in files.items()}
    save_file(narrow, path, metadata={"format": "pt"})
    weights = converted(tmp_path, "mixtral")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert weights.dtype(name) == weights.stored(name).dtype == torch.float32


def test_an_expert_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    make_model(tmp_path, "mixtral")
    path = tmp_path / "model.safetensors"
    files = load_file(path)
    expert = next(name for name in files if ".layers.0." in name and ".experts.3.w1" in name)
    save_file({n: v for n, v in files.items() if n != expert}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"weights of 'model\.layers\.0\.mlp\.experts\.gate_up_pro"):
        converted(tmp_path, "mixtral")
    save_file(files | {expert: torch.zeros(3, 5)}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"weights of 'model\.layers\.0\.mlp\.experts\.gate_up_pro"):
        converted(tmp_path, "mixtral")


def test_what_the_model_has_no_place_for_keeps_its_stored_name(tmp_path: Path) -> None:
    make_model(tmp_path, "mixtral")
    path = tmp_path / "model.safetensors"
    more = {"model.layers.9.block_sparse_moe.experts.0.w1.weight": torch.zeros(2, 2)}
    save_file(load_file(path) | more, path, metadata={"format": "pt"})
    assert next(iter(more)) in converted(tmp_path, "mixtral").names()


def test_what_transformers_passes_over_is_passed_over_and_told(
    small_tokenizer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Qwen3-Next's head that predicts a further token, which transformers' model does not have."""
    small = {
        "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
        "num_key_value_heads": 2, "head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    }  # fmt: skip
    init = tmp_path / "init"
    model = make_model(init, "qwen3_next", small_tokenizer, **small)
    path = init / "model.safetensors"
    files = load_file(path)
    config = Config(
        init=str(init), vision=str(make_tower(tmp_path / "tower")),
        run=RunConfig(folder=str(tmp_path / "run")), data=ImageTextData(path="-", images="-"),
        projector=ProjectorConfig(kind="ldpnetv2"),
    )  # fmt: skip
    save_file(files | {"mtp.fc.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    caplog.set_level("INFO")
    start = open_start(config, RunFolder(config.run.folder))
    assert "like transformers, does not read 1 (mtp.fc.weight)" in caplog.text
    for name, value in model.named_parameters():
        assert torch.equal(start.require_weights().stored(LANGUAGE + name), value), name
    start.close()
    save_file(files | {"other.weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"0 missing, 1 \(other\.weight\) unexpected"):
        open_start(config, RunFolder(config.run.folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_a_model_with_experts_is_started_from_trained_and_exported_with_transformers_logits(
    kind: str, small_tokenizer: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    theirs = make_model(tmp_path / "init", kind, small_tokenizer).eval()
    records, images = write_llava(tmp_path / "data", records=8, images=4)
    tower = make_tower(tmp_path / "tower")
    fields = {"vision": tower, "train.max_steps": 1, "optimizer.learning_rate": 1e-3}
    ids = torch.arange(3, 43)[None]
    for name, more in {"before": {"optimizer.learning_rate": 1e-30}, "after": {}}.items():
        run, output = tmp_path / f"{name}_run", tmp_path / name
        run_ranks(train_vlm, 1, tmp_path / "init", records, images, run, fields | more)
        arguments = ["--checkpoint", str(run), "--output", str(output), "--dtype", "fp32"]
        assert main(["export", *arguments, "--check", "true"]) == 0
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        stored = open_model(str(tmp_path / "before"))
        ours = load_model(stored, device=torch.device("cpu"), dtype=torch.float32)
        torch.testing.assert_close(ours.language_model(input_ids=ids).logits, expected)
    trained, exported = open_trained(str(tmp_path / "after_run")), open_folder(tmp_path / "after")
    moved = set()
    for name in trained.shapes:
        value = trained.weights.parameter(name)
        assert torch.equal(exported.weights.parameter(name), value), name
        if name.startswith(LANGUAGE):
            before = theirs.get_parameter(name.removeprefix(LANGUAGE))
            moved |= {name} if not torch.equal(value, before) else set()
    assert any("experts.gate_up_proj" in name for name in moved)
    trained.weights.close()
