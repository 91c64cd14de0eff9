"""Export: what transformers reads is what was trained, and a folder is whole or absent."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.hf.export_check import check_logits, check_tokenizer
from mobilellama.pretrain.hf.export_config import Config
from mobilellama.pretrain.hf.export_folder import find_checkpoint, parameter_shapes
from mobilellama.pretrain.hf.weights import cast
from mobilellama.pretrain.main import main
from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.run_folder import RunFolder
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.helpers.sealed import edit_sealed
from tests.pretrain.conftest import Command, LoadAlone

FILES = [
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "run_record.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
]


def trained_model(run: Path, step: int) -> LanguageModel:
    """Return our model with a checkpoint's fp32 weights."""
    checkpoint = Checkpoint(RunFolder(run).checkpoint(step))
    model = build_on(torch.device("cpu"), ModelConfig(**checkpoint.manifest.config["model"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.parameter(name, parameter.shape))
    return model


@pytest.fixture(scope="module")
def exports(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The newest checkpoint in fp32, the same in many shards, and in bf16 with <s>."""
    folder = tmp_path_factory.mktemp("exports")
    fields = {
        "fp32": ["--dtype", "fp32"],
        "sharded": ["--dtype", "fp32", "--max_shard_size_gb", "1e-4"],
        "bf16": ["--add_bos", "true", "--check", "true"],
    }
    for name, more in fields.items():
        arguments = ["--checkpoint", str(tiny_run), "--output", str(folder / name)]
        assert main(["export", *arguments, *more]) == 0
    return {name: folder / name for name in fields}


@pytest.fixture(scope="module")
def loaded(exports: dict[str, Path], load_alone: LoadAlone) -> dict[str, Any]:
    """What transformers alone says of the three exports."""
    answers = load_alone(*exports.values(), texts=hostile_texts(200))
    return {name: answers[str(path)] for name, path in exports.items()}


def test_transformers_alone_computes_our_logits(loaded: dict[str, Any], tiny_run: Path) -> None:
    with torch.no_grad():
        expected = trained_model(tiny_run, 4).logits(torch.arange(32)[None])[0]
    for name in ("fp32", "sharded"):
        # Same fp32 weights, another order of summation: a few units in the last place of ~1.
        torch.testing.assert_close(
            torch.tensor(loaded[name]["logits"]), expected, atol=1e-5, rtol=1e-5
        )
    bf16 = torch.tensor(loaded["bf16"]["logits"])
    # bf16 keeps 8 bits: each weight is off by up to 2^-9 of itself.
    assert 0 < (bf16 - expected).abs().max() < 0.05 * expected.abs().max()


def test_transformers_alone_takes_it_for_what_it_is(
    loaded: dict[str, Any], small_tokenizer: Path
) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    ids = [tokenizer.processor.encode(text) for text in hostile_texts(200)]
    for name, answer in loaded.items():
        start = [tokenizer.bos_id] if name == "bf16" else []
        assert answer["ids"] == [start + mine for mine in ids]
        assert answer["model"] == "LlamaForCausalLM"
        assert answer["generated_tokens"] >= 1
        assert answer["dtype"] == ("torch.bfloat16" if name == "bf16" else "torch.float32")
        # A model that never saw <s> starts from the end of a former document.
        assert answer["unprompted_start"] == (1 if name == "bf16" else 2)


def test_the_check_finds_other_weights_and_another_tokenizer(
    exports: dict[str, Path], tiny_run: Path
) -> None:
    model = trained_model(tiny_run, 4)

    def difference(step: int) -> float:
        checkpoint = Checkpoint(RunFolder(tiny_run).checkpoint(step))
        weights = CheckpointWeights(checkpoint, parameter_shapes(model.config))
        return check_logits(exports["sharded"], weights, model.config, dtype="fp32")

    assert difference(4) <= 1e-5
    with pytest.raises(RuntimeError, match="logits differ from ours by"):
        difference(2)
    tokenizer = Tokenizer(exports["bf16"] / "tokenizer.model")
    check_tokenizer(exports["bf16"], tokenizer, add_bos=True)
    with pytest.raises(RuntimeError, match="AutoTokenizer gives"):
        check_tokenizer(exports["bf16"], tokenizer, add_bos=False)


def test_bf16_weights_are_the_masters_rounded(exports: dict[str, Path], tiny_run: Path) -> None:
    masters = dict(trained_model(tiny_run, 4).named_parameters())
    with safe_open(exports["bf16"] / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(masters)
        assert file.metadata() == {"format": "pt"}
        for name, master in masters.items():
            assert torch.equal(file.get_tensor(name), master.detach().bfloat16())


def test_shards_hold_every_parameter_once_and_keep_to_the_size(exports: dict[str, Path]) -> None:
    folder = exports["sharded"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    whole = exports["fp32"] / "model.safetensors"
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(shards) > 3 and not (folder / "model.safetensors").exists()
    total_bytes = 0
    found: dict[str, str] = {}
    with safe_open(whole, framework="pt") as file:
        for shard in shards:
            with safe_open(shard, framework="pt") as part:
                names = list(part.keys())
                held = sum(part.get_tensor(name).nbytes for name in names)
                assert held <= 1e5 or len(names) == 1  # 1e-4 GB; a larger parameter is alone
                assert all(torch.equal(part.get_tensor(n), file.get_tensor(n)) for n in names)
                total_bytes += held
                found |= dict.fromkeys(names, shard.name)
        assert index["weight_map"] == found and set(found) == set(file.keys())
    assert (
        index["metadata"]["total_size"] == total_bytes == 4 * index["metadata"]["total_parameters"]
    )


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
    assert sorted(path.name for path in exports["bf16"].iterdir()) == FILES


def test_the_card_states_the_runs_facts(exports: dict[str, Path], tiny_run: Path) -> None:
    card = (exports["fp32"] / "README.md").read_text()
    checkpoint = Checkpoint(RunFolder(tiny_run).checkpoint(4))
    parameters = sum(p.numel() for p in trained_model(tiny_run, 4).parameters())
    records = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    loss = next(r["loss"] for r in reversed(records) if "loss" in r)
    heldout = next(r["validation_loss"] for r in reversed(records) if "validation_loss" in r)
    facts = [
        f"{parameters:,} parameters",
        "| steps | 4 of 4 |",
        f"| tokens seen | {4 * 8 * 32:,} |",
        "| learning rate | warm-up to 0.01 over 2 steps, then cosine to 0.001 at step 4 |",
        f"| all | 100.00 % | {loss:.4f} | {heldout:.4f} |",
        checkpoint.manifest.identity["data.fingerprint"],
        "| vocabulary | 832 (800 pieces) |",
        "AutoTokenizer",
        "this model has never seen it",
        "adds no `<s>`",
    ]
    assert [fact for fact in facts if fact not in card] == []
    subsets = ", ".join(
        f"`{name}`" for name in sorted(checkpoint.manifest.identity["data.mixture"])
    )
    assert f"It learnt from the texts of {subsets}: it repeats their errors" in card
    assert "license" not in card  # none was given
    assert "puts `<s>` first all the same" in (exports["bf16"] / "README.md").read_text()


def test_a_checkpoints_own_folder_can_be_named(
    command: Command, tiny_run: Path, tmp_path: Path
) -> None:
    step_2 = RunFolder(tiny_run).checkpoint(2)
    done = command(
        "pretrain", "export", "--checkpoint", step_2, "--output", tmp_path / "out", "--check",
        "false",
    )  # fmt: skip
    assert done.code == 0 and f'AutoModelForCausalLM.from_pretrained("{tmp_path}/out")' in done.out
    assert "after 2 of the 4 steps of its training" in (tmp_path / "out/README.md").read_text()
    # The last training loss at or before step 2, not the run's last.
    records = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    loss = next(r["loss"] for r in records if r["step"] == 2)
    assert f"| all | 100.00 % | {loss:.4f} | - |" in (tmp_path / "out/README.md").read_text()


def refused(command: Command, tmp_path: Path, *arguments: object) -> str:
    """Run an export that must fail: exit code 2, one message, nothing written. Return it."""
    before = sorted(tmp_path.rglob("*"))
    done = command("pretrain", "export", *arguments)
    assert done.code == 2
    assert sorted(tmp_path.rglob("*")) == before
    messages = [line for line in done.err.splitlines() if line.startswith("mobilellama: error:")]
    assert len(messages) == 1 and "Traceback" not in done.err
    return messages[0]


def test_a_folder_that_holds_something_is_refused(
    command: Command, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    message = refused(command, tmp_path, "--checkpoint", tiny_run, "--output", tmp_path / "out")
    rule = f"output = {tmp_path}/out: exists and is not empty. Give another folder, or remove it."
    assert message.endswith(rule)  # and no word of pushing: it is no export
    message = refused(
        command, tmp_path, "--checkpoint", tiny_run, "--output", tmp_path / "out/notes.txt"
    )
    assert "notes.txt: is a file, and a folder is written. Give a folder, new or empty." in message
    (tmp_path / "out/notes.txt").unlink()
    arguments = ["--checkpoint", tiny_run, "--output", tmp_path / "out", "--check", "false"]
    assert command("pretrain", "export", *arguments).code == 0
    message = refused(command, tmp_path, *arguments)
    assert message.endswith("or remove it; 'mobilellama pretrain push' pushes it as it is.")


def test_wrong_paths_are_told(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    def message(checkpoint: Path) -> str:
        arguments = ["--checkpoint", checkpoint, "--output", tmp_path / "out"]
        return refused(command, tmp_path, *arguments)

    assert "is neither a checkpoint nor a run's folder" in message(tmp_path / "nowhere")
    assert "The run has step-2, step-4" in message(tiny_run / "checkpoints/step-3")
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    assert "the run has no whole checkpoint" in message(tmp_path / "empty")


def test_a_flipped_byte_in_the_checkpoint_is_found(
    command: Command, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    path = run / "checkpoints/step-4/rank-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    arguments = ("--checkpoint", run, "--output", tmp_path / "out")
    message = refused(command, tmp_path, *arguments)
    assert f"{path}: its sha256 is not the one in its receipt" in message
    assert message.endswith("Take an earlier checkpoint. Other checkpoints of the run: step-2")
    path.unlink()  # told at once, before anything is read
    assert refused(command, tmp_path, *arguments).endswith("Other checkpoints of the run: step-2")
    (run / "checkpoints/step-2/rank-0.json").write_text("{}")
    assert refused(command, tmp_path, *arguments).endswith("Other checkpoints of the run: none")


def test_a_damaged_checkpoint_outside_of_a_run_has_no_others(
    tiny_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run / "checkpoints/step-4", tmp_path / "kept")
    (tmp_path / "kept/rank-0.json").unlink()
    with pytest.raises(DataError, match=r"Take an earlier checkpoint$"):
        find_checkpoint(str(tmp_path / "kept"))


def test_a_full_disk_is_told_with_the_folder_and_leaves_nothing(
    command: Command, tiny_run: Path, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        message = refused(command, tmp_path, "--checkpoint", tiny_run, "--output", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message == (
        f"mobilellama: error: {tmp_path}/out: the disk is full (File too large). No "
        "half-written file is used. Free some space and run the same command again"
    )


def test_a_checkpoint_of_another_model_than_its_config_is_refused(
    command: Command, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    path = run / "checkpoints/step-4/manifest.json"
    config = json.loads(path.read_text())["config"]
    config["model"]["n_layers"] = 3
    edit_sealed(path, config=config)
    message = refused(command, tmp_path, "--checkpoint", run, "--output", tmp_path / "out")
    assert "it lacks model.layers.2.input_layernorm.weight" in message


def test_another_tokenizer_is_refused_and_a_moved_checkpoint_needs_one(
    command: Command, tiny_run: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    other = Tokenizer(small_tokenizer).proto
    other.pieces[500].score -= 0.5
    (tmp_path / "other.model").write_bytes(other.SerializeToString())
    arguments = ["--checkpoint", tiny_run, "--output", tmp_path / "out"]
    message = refused(command, tmp_path, *arguments, "--tokenizer", tmp_path / "other.model")
    assert "has sha256" in message and "step-4's dataset was made with" in message

    # Away from its run, the checkpoint still knows which tokenizer it needs.
    moved = tmp_path / "step-4"
    shutil.copytree(tiny_run / "checkpoints/step-4", moved)
    arguments = ["--checkpoint", moved, "--output", tmp_path / "out", "--check", "false"]
    message = refused(command, tmp_path, *arguments)
    assert "tokenizer = null: is not given" in message
    message = refused(command, tmp_path, *arguments, "--tokenizer", tmp_path / "other.model")
    assert f"but {moved}'s dataset was made with" in message
    assert command("pretrain", "export", *arguments, "--tokenizer", small_tokenizer).code == 0


@pytest.mark.slow
def test_a_kill_leaves_no_folder_and_the_next_export_succeeds(
    command: Command, tiny_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = ["pretrain", "export", "--checkpoint", str(tiny_run), "--output", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mobilellama", *arguments], stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 60
    # From the first weight to the rename lies the check, seconds long.
    while not list(tmp_path.glob("out.tmp.*/model.safetensors*")):
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists()
    done = command(*arguments, "--check", "false")
    assert done.code == 0 and sorted(path.name for path in output.iterdir()) == FILES
    assert "is half an export" in done.err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"private": True}, "private = true: nothing is pushed"),
        ({"push": "no-owner"}, "push = no-owner: must name the owner"),
        ({"push": "a/b--c"}, "push = a/b--c: is no name that the Hub allows"),
        ({"max_shard_size_gb": 0}, "max_shard_size_gb = 0: must be at least"),
    ],
)
def test_fields_that_break_a_rule_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(checkpoint="c", output="o", **fields)
    assert str(caught.value).startswith(message)


def test_weights_that_a_dtype_cannot_hold_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"dtype = fp16: 'w' holds 7e\+04, above the largest 6.55e\+04"
    ):
        cast("w", torch.tensor([1.0, -7e4]), torch.float16)
    with pytest.raises(DataError, match="parameter 'w' holds NaN or infinity"):
        cast("w", torch.tensor([1.0, float("nan")]), torch.bfloat16)
    assert torch.equal(
        cast("w", torch.tensor([7e4]), torch.bfloat16), torch.tensor([7e4]).bfloat16()
    )
