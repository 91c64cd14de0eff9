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

from mobilellama.config import DataError
from mobilellama.pretrain.hf.export_folder import find_checkpoint
from mobilellama.run_folder import RunFolder
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hostile_texts import hostile_texts
from tests.helpers.sealed import edit_sealed
from tests.pretrain.conftest import Command, LoadAlone
from tests.pretrain.helpers.trained import trained_model

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


def test_an_export_holds_these_files(exports: dict[str, Path]) -> None:
    assert sorted(path.name for path in exports["bf16"].iterdir()) == FILES


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
    assert (
        "notes.txt: is a file, but the output is a folder. Give a folder, new or empty." in message
    )
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
    assert "is an unfinished export" in done.err
