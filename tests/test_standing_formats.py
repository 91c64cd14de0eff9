"""What an earlier commit wrote is read today as it was read then; see fixtures/README.md."""

import hashlib
import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.manifest import read_manifest
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import RECORD, Origin, record_of
from mobilellama.sft.main import main as sft_main
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verify import verify_dataset
from mobilellama.tokenize.main import main as tokenize_main
from mobilellama.vlm.chat.assistant import load
from tests.helpers.ranks import run_ranks

MADE = Path(__file__).parent / "fixtures/made_by_22bff75"
EXPECTED: dict[str, Any] = json.loads((MADE / "expected.json").read_text())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(MADE, tmp_path / "made"))


@pytest.mark.parametrize("name", ["dataset", "rows"])
def test_a_dataset_has_its_fingerprint_and_is_whole(name: str) -> None:
    dataset = TokenDataset(MADE / name)
    verify_dataset(dataset, workers=1)
    assert dataset.fingerprint == EXPECTED[name]["fingerprint"]


def test_the_same_text_gives_the_same_fingerprint_again(tmp_path: Path) -> None:
    argv = ["--tokenizer", str(MADE / "dataset/tokenizer.model"), "--sources.root"]
    argv += [str(MADE / "corpus"), "--output", str(tmp_path / "anew"), "--workers", "1"]
    argv += ["--heldout_share", "0.1", "--slice_bytes", "4000"]
    assert tokenize_main(["run", *argv]) == 0
    assert TokenDataset(tmp_path / "anew").fingerprint == EXPECTED["dataset"]["fingerprint"]


def test_the_same_conversations_give_the_same_fingerprint_again(tmp_path: Path) -> None:
    argv = ["--data.path", str(MADE / "chats.json"), "--output", str(tmp_path / "anew")]
    argv += ["--tokenizer", str(MADE / "dataset/tokenizer.model"), "--seq_len", "384"]
    argv += ["--heldout_share", "0.1", "--workers", "1"]
    assert sft_main(["prepare", *argv]) == 0
    assert TokenDataset(tmp_path / "anew").fingerprint == EXPECTED["rows"]["fingerprint"]


def test_a_finished_dataset_is_still_finished(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    argv = ["--tokenizer", "dataset/tokenizer.model", "--sources.root", "corpus"]
    argv += ["--output", "dataset", "--heldout_share", "0.1", "--slice_bytes", "4000"]
    before = {path: path.read_bytes() for path in made.glob("dataset/**/*.*")}
    assert tokenize_main(["run", *argv]) == 0
    assert "finished already" in "".join(capsys.readouterr())
    assert {path: path.read_bytes() for path in made.glob("dataset/**/*.*")} == before


@pytest.mark.parametrize("name", ["run", "chat_run", "see_run"])
def test_a_checkpoint_holds_its_masters_and_moments(name: str) -> None:
    expected = EXPECTED[name]
    checkpoint = Checkpoint(MADE / f"{name}/checkpoints/step-{expected['step']}")
    checkpoint.verify()
    manifest = checkpoint.manifest
    position = {key: getattr(manifest, key) for key in ("step", "consumed", "optimizer_step")}
    assert position == {key: expected[key] for key in position}
    assert (manifest.optimizer.kind, checkpoint.kinds) == (
        "adamw", ("weight", "exp_avg", "exp_avg_sq")
    )  # fmt: skip
    assert _state_sha256(checkpoint) == expected["state_sha256"]
    checkpoint.close()


ORIGINS = {
    "run": None,
    "chat_run": Origin(init="out/model"),
    "see_run": Origin(init="out/chat_model", vision="out/tower"),
}


@pytest.mark.parametrize(
    ("name", "stage"), [("run", "pretrain"), ("chat_run", "sft"), ("see_run", "vlm")]
)
def test_a_run_without_a_record_is_what_it_was(name: str, stage: str) -> None:
    run = RunFolder(MADE / name)
    facts = run.read_attempt(1)
    manifest = read_manifest(run.checkpoint(EXPECTED[name]["step"]))
    assert RECORD not in facts
    assert record_of(None, facts["config"]) == manifest.record
    assert (manifest.record.stage, manifest.record.origin) == (stage, ORIGINS[name])
    adapted = manifest.record.lora
    assert (adapted and (adapted.rank, adapted.alpha)) == ((2, 4) if name == "chat_run" else None)


def _state_sha256(checkpoint: Checkpoint) -> str:
    frozen = checkpoint._frozen.names() if checkpoint._frozen else []
    state = {
        f"{name}:{kind}": hashlib.sha256(
            checkpoint.parameter(name, torch.Size([checkpoint.numel(name)]), kind).numpy().tobytes()
        ).hexdigest()
        for name in checkpoint.names()
        for kind in (("weight",) if name in frozen else checkpoint.kinds)
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stage", "world_size"),
    [("run", "pretrain", 2), ("chat_run", "sft", 1), ("see_run", "vlm", 1)],
)
def test_a_run_goes_on_as_it_would_have_then(
    name: str, stage: str, world_size: int, made: Path
) -> None:
    """Two more steps have the losses that the earlier commit computed for them."""
    run = RunFolder(made / name)
    before = read_manifest(run.checkpoint(EXPECTED[name]["step"])).record
    run_ranks(_go_on, world_size, stage, made, name)
    newest = read_manifest(run.checkpoint(run.checkpoint_steps()[-1])).record
    assert newest == record_of(run.read_attempt(2)[RECORD], {})
    template = None if name == "run" else "vicuna_v1"  # of an older sft run it was not stored
    assert newest == replace(before, template=template)
    verdict = run.read_verdict()
    assert verdict is not None
    assert verdict.kind == "finished"
    losses = {record["step"]: record["loss"] for record in run.read_metrics() if "loss" in record}
    for step, loss in EXPECTED[name]["losses"].items():
        assert losses[int(step)] == pytest.approx(loss, rel=1e-5)


def _go_on(stage: str, made: Path, name: str) -> int:
    """Train two more steps with the run's own config; in this process, a rank."""
    # Its old names, and what follows from --init, are understood; what came later has defaults.
    stored = yaml.safe_load((made / name / "config.yaml").read_text())
    assert "launch" in stored and "warmup_share" in stored["schedule"]
    stored["train"]["max_steps"] += 2
    stored["run"]["folder"] = str(made / name)
    for section, key in (("data", "path"), ("data", "images")):
        if value := stored[section].get(key):
            stored[section][key] = str(made / Path(value).name)
    init = {"chat_run": "model", "see_run": "see_model"}.get(name)
    if init:
        stored["init"] = str(made / init)
    config = made / f"{name}.yaml"
    config.write_text(yaml.safe_dump(stored))
    main = importlib.import_module(f"mobilellama.{stage}.main").main
    return main(["run", "--config", str(config)])


def test_an_export_has_its_logits() -> None:
    assert _last_logits(MADE / "model") == pytest.approx(EXPECTED["model"], abs=1e-5)


def test_an_adapter_and_its_base_have_their_logits(tmp_path: Path) -> None:
    argv = ["--adapter", str(MADE / "adapter"), "--base", str(MADE / "model")]
    assert sft_main(["merge", *argv, "--output", str(tmp_path / "m"), "--dtype", "fp32"]) == 0
    assert _last_logits(tmp_path / "m") == pytest.approx(EXPECTED["adapter"], abs=1e-5)


def _last_logits(folder: Path) -> list[float]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits[0, -1, :8].tolist()


def test_a_folder_that_sees_has_its_features() -> None:
    assistant = load(MADE / "see_model", device="cpu", dtype="fp32")
    pixels = assistant.read_all([MADE / "images/0.png", MADE / "images/1.png"])
    features = assistant.features(pixels)
    assert list(features.shape) == EXPECTED["see_model"]["shape"]
    some = features.flatten()[:: features.numel() // 16][:16].tolist()
    assert some == pytest.approx(EXPECTED["see_model"]["features"], abs=1e-5)
