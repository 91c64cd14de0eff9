"""'pretrain run --init': a new run with the weights of another, of an export, of a folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from mobilellama.config import ConfigError
from mobilellama.distributed import OtherRankError, World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.hf.start import StartingPoint
from mobilellama.pretrain.main import main
from mobilellama.pretrain.state.manifest import read_manifest
from mobilellama.pretrain.weight_source import HeldWeights
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import Origin, RunRecord
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.hub_server import TOKEN, File, HubServer, Repository
from tests.pretrain.helpers.stopped import cut_back, losses_of, state_of
from tests.pretrain.helpers.tiny import tiny_argv, train_tiny
from tests.sft.helpers.tiny_sft import finetune_tiny, prepare_tiny

pytestmark = pytest.mark.slow  # each trains, in processes of its own

FP32: dict[str, Any] = {"engine.precision": "fp32"}
STILL = FP32 | {"optimizer.learning_rate": 1e-30, "train.max_steps": 1}
"""One step that moves no weight: what a checkpoint then holds is what the run began with."""


@pytest.fixture(scope="module")
def former(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps, with a checkpoint after four; read only."""
    run = tmp_path_factory.mktemp("former") / "run"
    run_ranks(train_tiny, 1, small_dataset, run, FP32 | {"checkpoint.every_steps": 4})
    return run


def weights_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    state = state_of(run, step)
    return {name: value for name, value in state.items() if name.endswith(":weight")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def verify_as_found(inits: list[str]) -> str:
    """Verify a start as a rank that found its own of these commits."""
    world = World(DistributedConfig(accelerator="cpu", devices=2))
    start = StartingPoint(
        fingerprint="ab" * 32,
        origin=Origin(init=inits[world.rank]),
        weights=HeldWeights({"weight": torch.ones(1)}),
    )
    try:
        start.verify(world, "tester/tiny")
    except OtherRankError as error:
        return str(error)
    return "the same"


def test_ranks_that_found_two_commits_of_a_model_do_not_begin() -> None:
    first, second = (f"tester/tiny@{digit * 40}" for digit in "12")
    assert run_ranks(verify_as_found, 2, [first, first]) == ["the same"] * 2
    what = "tester/tiny: the ranks found different weights there. Give every node the same files"
    assert run_ranks(verify_as_found, 2, [first, second]) == [what] * 2


@pytest.mark.parametrize("engine", ["deepspeed", "ddp"])
def test_a_new_run_begins_with_the_very_weights_and_with_moments_of_its_own(
    former: Path, small_dataset: Path, tmp_path: Path, engine: str
) -> None:
    run = tmp_path / "run"
    fields = STILL | {"init": former, "engine.kind": engine}
    run_ranks(train_tiny, 2, small_dataset, run, fields)
    assert same(weights_of(run, 1), weights_of(former, 8))
    manifest = read_manifest(RunFolder(run).checkpoint(1))
    assert (manifest.step, manifest.consumed, manifest.optimizer_step) == (1, 8, 1)


def test_the_loss_goes_on_where_the_former_run_ended(
    former: Path, small_dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fields = FP32 | {"init": former, "validation.at_start": True, "optimizer.learning_rate": 1e-3}
    run_ranks(train_tiny, 1, small_dataset, run, fields)
    before, after = losses_of(former), losses_of(run)
    assert after[0]["validation_loss"] == before[8]["validation_loss"]
    assert after[8]["validation_loss"] < after[0]["validation_loss"]


def test_one_checkpoint_an_export_and_a_finetuning_run_are_starts_too(
    former: Path, small_dataset: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    step_4 = RunFolder(former).checkpoint(4)
    exported = tmp_path / "model"
    argv = ["--checkpoint", str(former), "--output", str(exported), "--dtype", "bf16"]
    assert main(["export", *argv]) == 0
    rounded = LlamaForCausalLM.from_pretrained(exported, dtype=torch.float32).state_dict()
    chats = prepare_tiny(tmp_path, small_tokenizer, seq_len=32, template="plain")
    tuned = tmp_path / "tuned"
    run_ranks(finetune_tiny, 1, former, chats, tuned, {"train.max_steps": 1})

    wanted = {
        step_4: weights_of(former, 4),
        exported: {f"{name}:weight": value.flatten() for name, value in rounded.items()},
        tuned: weights_of(tuned, 1),
    }
    for i, (init, weights) in enumerate(wanted.items()):
        run = tmp_path / f"run{i}"
        run_ranks(train_tiny, 1, small_dataset, run, STILL | {"init": init})
        assert same(weights_of(run, 1), weights), init


def test_a_run_from_weights_is_killed_and_resumed_bit_for_bit_without_them(
    former: Path, small_dataset: Path, tmp_path: Path
) -> None:
    init = shutil.copytree(former, tmp_path / "init")
    whole = tmp_path / "whole"
    fields = FP32 | {"checkpoint.every_steps": 4}
    run_ranks(train_tiny, 2, small_dataset, whole, fields | {"init": init})
    shutil.rmtree(init)
    for name, given in (("without", {}), ("gone", {"init": init})):
        resumed = cut_back(whole, tmp_path / name, step=4)
        run_ranks(train_tiny, 2, small_dataset, resumed, fields | given)
        assert same(state_of(resumed, 8), state_of(whole, 8))
        assert losses_of(resumed) == losses_of(whole)
        manifest = read_manifest(RunFolder(resumed).checkpoint(8))
        assert manifest.record == RunRecord(stage="pretrain", origin=Origin(init=str(init)))


def test_a_resume_refuses_other_weights_and_a_run_of_new_ones_any(
    former: Path, small_dataset: Path, tmp_path: Path
) -> None:
    run, step_4 = tmp_path / "run", RunFolder(former).checkpoint(4)
    run_ranks(train_tiny, 1, small_dataset, run, STILL | {"init": former})
    rule = rf"init = {step_4}: is not what the run began with, {former}\. Give that one, or another"
    with pytest.raises(ConfigError, match=rule):
        train_tiny(small_dataset, run, STILL | {"init": step_4})
    rule = rf"init = {step_4}: .*step-8 is of a run that began with new weights\. Leave it out"
    with pytest.raises(ConfigError, match=rule):
        train_tiny(small_dataset, former, FP32 | {"init": step_4})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model.d_ff": 96},
            r"its 'model.layers.0.mlp.gate_proj.weight' is 128 x 64, but the run's model wants "
            r"96 x 64\. Give --model.d_ff 128\.",
        ),
        (
            {"model.vocab_size": 832, "model.n_layers": 1},
            r"its 'model.embed_tokens.weight' is 800 x 64, but the run's model wants 832 x 64\. "
            r"Give --model.vocab_size 800 --model.n_layers 2\.",
        ),
        (
            {"model.n_layers": 3},
            r"it lacks 'model.layers.2.input_layernorm.weight', which is 64 in the run's model\. "
            r"Give --model.n_layers 2\.",
        ),
        (
            {"model.n_layers": 1},
            r"it has 'model.layers.1.input_layernorm.weight', 64, which the run's model lacks",
        ),
        (
            {"model.n_heads": 4},
            r"its model has n_heads 2, but the run's 4\. Give --model.n_heads 2 --model.n_kv_heads",
        ),
    ],
)
def test_a_model_of_another_shape_is_refused_with_the_flags_that_fit(
    former: Path, small_dataset: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_tiny(small_dataset, tmp_path / "run", STILL | fields | {"init": former})
    assert not (tmp_path / "run").exists()


def test_a_longer_context_begins_with_the_same_weights(
    former: Path, small_dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    longer = {"model.max_seq_len": 64, "train.seq_len": 64, "model.rope_theta": 20_000.0}
    run_ranks(train_tiny, 1, small_dataset, run, STILL | longer | {"init": former})
    assert same(weights_of(run, 1), weights_of(former, 8))
    assert read_manifest(RunFolder(run).checkpoint(1)).config["model"]["max_seq_len"] == 64


def test_weights_of_another_tokenizer_than_the_datasets_are_refused(
    former: Path, small_dataset: Path, tmp_path: Path
) -> None:
    other = tmp_path / "model"
    assert main(["export", "--checkpoint", str(former), "--output", str(other)]) == 0
    proto = Tokenizer(other / "tokenizer.model").proto
    proto.pieces[700].piece = "somethingelse"
    (other / "tokenizer.json").unlink()
    (other / "tokenizer.model").write_bytes(proto.SerializeToString())
    message = rf"data.path = {small_dataset}: was prepared with another tokenizer than {other}"
    with pytest.raises(ConfigError, match=message):
        train_tiny(small_dataset, tmp_path / "run", STILL | {"init": other})


def test_adapters_are_to_be_merged_first_and_a_card_names_what_a_run_began_with(
    former: Path, small_dataset: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    chats = prepare_tiny(tmp_path, small_tokenizer, seq_len=32, template="plain")
    tuned = tmp_path / "tuned"
    lora = {"lora.rank": 2, "train.max_steps": 1}
    run_ranks(finetune_tiny, 1, former, chats, tuned, lora)
    with pytest.raises(ConfigError, match=r"has LoRA adapters beside its weights\. Write a model"):
        train_tiny(small_dataset, tmp_path / "refused", STILL | {"init": tuned})

    run, exported = tmp_path / "run", tmp_path / "model"
    run_ranks(train_tiny, 1, small_dataset, run, STILL | {"init": former})
    assert main(["export", "--checkpoint", str(run), "--output", str(exported)]) == 0
    card = (exported / "README.md").read_text()
    assert f"pretrained further from the weights of `{former.name}`" in card
    assert str(former) not in card


def test_a_name_on_the_hub_begins_a_run_which_goes_on_when_the_hub_has_gone(
    former: Path, small_dataset: Path, tmp_path: Path
) -> None:
    exported, run = tmp_path / "model", tmp_path / "run"
    argv = ["--checkpoint", str(former), "--output", str(exported), "--dtype", "fp32"]
    assert main(["export", *argv]) == 0
    files = {
        path.name: File(path.read_bytes(), lfs=path.suffix in (".safetensors", ".model"))
        for path in exported.iterdir()
    }

    def train(steps: int, url: str) -> None:
        fields = STILL | {"init": "tester/tiny", "train.max_steps": steps, "engine.kind": "ddp"}
        place = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
        subprocess.run(
            [
                sys.executable,
                "-m",
                "mobilellama",
                "pretrain",
                *tiny_argv(small_dataset, run, fields),
            ],
            env=os.environ | place | {"HF_HUB_OFFLINE": "0"},
            check=True,
            timeout=120,
        )

    with HubServer() as hub:
        hub.repositories["tester/tiny"] = repository = Repository(files=files)
        train(1, hub.url)
    assert same(weights_of(run, 1), weights_of(former, 8))
    train(2, "http://127.0.0.1:9")
    record = read_manifest(RunFolder(run).checkpoint(2)).record
    assert record.origin == Origin(init=f"tester/tiny@{repository.sha}")
