"""Resuming vision-language training: bitwise on as many ranks, the same samples on any number."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder
from mobilellama.vlm.config import Config
from tests.helpers.ranks import Ranks, run_ranks
from tests.pretrain.helpers.running import contents, steps_done
from tests.pretrain.helpers.stopped import cut_back, losses_of
from tests.pretrain.state.test_checkpoint import wait_for
from tests.vlm.helpers.tiny_vlm import train_vlm, vlm_argv
from tests.vlm.test_run import EPOCH, FIRST, LORA, Parts, parts, same_losses, trained_names

__all__ = ["parts"]

pytestmark = pytest.mark.slow  # each trains, in processes of its own


def state_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Return every weight of a checkpoint, and the moments of what trains, flat, by name."""
    checkpoint, trained = Checkpoint(RunFolder(run).checkpoint(step)), trained_names(run, step)
    state = {}
    for name in checkpoint.names():
        for kind in checkpoint.kinds if name in trained else ["weight"]:
            shape = torch.Size([checkpoint.numel(name)])
            state[f"{name}:{kind}"] = checkpoint.parameter(name, shape, kind).clone()
    return state


def assert_same_state(one: Path, other: Path, step: int) -> None:
    expected, found = state_of(one, step), state_of(other, step)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert any(name.endswith(":exp_avg") for name in expected)


ENGINES = [
    pytest.param({"engine.kind": "deepspeed"}, id="zero1-fp32"),
    pytest.param({"engine.kind": "deepspeed", "engine.precision": "bf16"}, id="zero1-bf16"),
    pytest.param(
        # Two micro-batches a step.
        {"engine.kind": "deepspeed", "engine.zero_stage": 2, "train.micro_batch_size": 1},
        id="zero2-fp32",
    ),
    pytest.param(
        {"engine.kind": "deepspeed", "engine.zero_stage": 2, "engine.precision": "bf16"} | LORA
        | {"lora.dropout": 0.1},
        id="zero2-bf16-lora",
    ),
    pytest.param({"engine.kind": "ddp", "optimizer.kind": "lion"}, id="ddp-fp32-lion"),
    pytest.param({"engine.kind": "ddp", "data.pack": True} | LORA, id="ddp-fp32-lora-packed"),
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_stage_resumed_in_mid_epoch_equals_one_that_never_stopped_bit_for_bit(
    parts: Parts, tmp_path: Path, engine: dict[str, Any]
) -> None:
    """Two epochs of 18 samples in batches of 4: five steps each, the last of them short."""
    fields = engine | EPOCH | {
        "train.epochs": 2, "checkpoint.every_steps": 3, "data.workers": 2,
        "data.validation": parts.captions, "validation.every_steps": 4,
        "optimizer.projector_learning_rate": 2e-2,
    }  # fmt: skip
    whole = tmp_path / "whole"
    parts.train(2, whole, fields)
    resumed = cut_back(whole, tmp_path / "resumed", step=3)
    parts.train(2, resumed, fields)
    assert_same_state(whole, resumed, 10)
    assert losses_of(whole) == losses_of(resumed)
    records = losses_of(resumed)
    assert sorted(records) == list(range(1, 11))
    assert [records[i]["consumed"] for i in (3, 5, 6, 10)] == [12, 18, 22, 36]
    assert "validation_loss/image" in records[8]


@pytest.mark.parametrize("engine", ENGINES[::2])
def test_a_first_stage_resumed_equals_one_that_never_stopped_bit_for_bit(
    parts: Parts, tmp_path: Path, engine: dict[str, Any]
) -> None:
    fields = engine | FIRST | EPOCH | {"checkpoint.every_steps": 1}
    whole = tmp_path / "whole"
    parts.train(2, whole, fields, data=parts.captions)
    resumed = cut_back(whole, tmp_path / "resumed", step=1)
    parts.train(2, resumed, fields, data=parts.captions)
    assert_same_state(whole, resumed, 3)
    assert losses_of(whole) == losses_of(resumed)
    (one,), (other,) = (RunFolder(run).frozen.iterdir() for run in (whole, resumed))
    assert one.read_bytes() == other.read_bytes()


def test_a_resume_needs_neither_the_start_nor_the_tokenised_records(
    parts: Parts, tmp_path: Path
) -> None:
    """Those are made again, of the same records, and are the same."""
    fields = EPOCH | {"checkpoint.every_steps": 2}
    gone = shutil.copytree(parts.language, tmp_path / "gone")
    whole = tmp_path / "whole"
    parts.train(1, whole, fields | {"vision": parts.tower}, init=gone)
    shutil.rmtree(gone)
    resumed = cut_back(whole, tmp_path / "resumed", step=2)
    shutil.rmtree(resumed / "samples")
    parts.train(1, resumed, fields | {"vision": "gone"}, init=gone)
    assert_same_state(whole, resumed, 5)
    assert losses_of(whole) == losses_of(resumed)


@pytest.mark.parametrize(
    ("zero_stage", "fields"),
    [
        pytest.param(1, {}, id="zero1-all"),
        pytest.param(1, {"data.pack": True}, id="zero1-packed"),
        pytest.param(2, {}, id="zero2-all"),
        pytest.param(2, LORA, id="zero2-lora"),
    ],
)
def test_one_rank_then_two_then_one_gives_the_losses_of_one_to_rounding(
    parts: Parts, tmp_path: Path, fields: dict[str, Any], zero_stage: int
) -> None:
    fields = fields | EPOCH | {
        "engine.kind": "deepspeed", "engine.zero_stage": zero_stage, "train.epochs": 2,
        "checkpoint.every_steps": 2, "optimizer.learning_rate": 1e-3,
    }  # fmt: skip
    alone = tmp_path / "alone"
    parts.train(1, alone, fields)
    on_two = cut_back(alone, tmp_path / "on_two", step=2)
    parts.train(2, on_two, fields)
    elastic = cut_back(on_two, tmp_path / "elastic", step=6)
    parts.train(1, elastic, fields)
    same_losses(losses_of(alone), losses_of(elastic))
    assert sorted(losses_of(elastic)) == list(range(1, 11))


@pytest.mark.parametrize(
    ("ranks", "others", "zero_stage", "fields"),
    [
        pytest.param(1, 2, 1, {}, id="all-1-to-2-zero1"),
        pytest.param(2, 1, 2, {}, id="all-2-to-1-zero2"),
        pytest.param(2, 1, 1, LORA, id="lora-2-to-1-zero1"),
        pytest.param(1, 2, 2, LORA, id="lora-1-to-2-zero2"),
        pytest.param(1, 2, 2, FIRST, id="first-1-to-2-zero2"),
    ],
)
def test_a_checkpoint_loads_on_another_number_of_ranks_with_the_same_bits(
    parts: Parts, tmp_path: Path, fields: dict[str, Any], zero_stage: int, ranks: int, others: int
) -> None:
    """Loaded by others that take no step, and saved again: nothing changes."""
    run, data = tmp_path / "run", parts.captions if fields is FIRST else parts.records
    fields = fields | {"engine.kind": "deepspeed", "engine.zero_stage": zero_stage}
    parts.train(ranks, run, fields | {"train.max_steps": 2}, data=data)
    before = state_of(run, 2)
    argv = vlm_argv(parts.language, data, parts.images, run, {"vision": parts.tower} | fields)
    assert run_ranks(resave, others, argv) == [0] * others
    manifest = Checkpoint(RunFolder(run).checkpoint(2)).manifest
    assert (manifest.world_size, manifest.consumed) == (others, 8)
    after = state_of(run, 2)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def resave(argv: list[str]) -> int:
    """Load the newest checkpoint on these ranks and save it as its own successor."""
    from mobilellama.distributed import World
    from mobilellama.pretrain.assemble import assemble
    from mobilellama.pretrain.state import checkpoint
    from mobilellama.sft.data.template import read_template
    from mobilellama.vlm.run import facts_of, prepare_samples, recipe_of, tuning
    from mobilellama.vlm.start import open_start

    config = parse_config(Config, argv[1:], prog="test", about="")
    world, folder = World(config.distributed), RunFolder(config.run.folder)
    start = open_start(config, folder)
    recipe = recipe_of(config, start, read_template(config.data.template))
    newest = checkpoint.open_newest(folder, world, attempt=1)
    assert newest is not None
    manifest = newest.manifest
    fingerprint = recipe.fingerprint()
    identity, precision = manifest.identity, manifest.identity["engine.precision"]
    prepare_samples(config, recipe, fingerprint, folder, world, identity)
    facts = facts_of(config, start, recipe, fingerprint, precision)
    job = tuning(config, start, world, facts)
    attempt = assemble(job, folder, world, 1, newest)
    world.run_on_main(lambda: shutil.rmtree(folder.checkpoint(manifest.step)))
    facts = {
        "step": manifest.step, "consumed": manifest.consumed, "identity": identity,
        "record": job.facts.record,
        "config": manifest.config, "counters": {"watch": attempt.watch.state()},
        "frozen_sha256": manifest.frozen_sha256,
    }  # fmt: skip
    checkpoint.save(folder, world, attempt.engine, attempt=1, facts=facts)
    return 0


def test_more_epochs_go_on_where_the_short_last_step_ended(parts: Parts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    parts.train(1, run, EPOCH)
    parts.train(2, run, EPOCH | {"train.epochs": 2})
    records = losses_of(run)
    assert max(records) == 10
    assert (records[5]["consumed"], records[10]["consumed"]) == (18, 36)
    files, given = contents(run), (parts.language, parts.records, parts.images, run)
    for is_whole, fields, message in (
        (True, EPOCH, r"train.epochs = 1.0: the run is beyond them already, at step 10 \(36 samp"),
        (True, {"train.max_steps": 1}, r"train.max_steps = 1: the run is at step 10 already"),
        (False, EPOCH, r"train.epochs = 1.0: the run is beyond them already, at step 10 \(36 samp"),
    ):
        if not is_whole:  # what is lost and needed to tell is made again, and nothing else
            shutil.rmtree(run / "samples")
            del files["samples/train.images.json"]
        with pytest.raises(ConfigError, match=message):
            train_vlm(*given, fields | {"vision": parts.tower})
        assert contents(run) == files
    verdict = RunFolder(run).read_verdict()
    assert verdict is not None and (verdict.kind, verdict.attempt) == ("finished", 2)


def test_a_stop_request_saves_and_the_same_command_goes_on(parts: Parts, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    given = (parts.language, parts.records, parts.images, run.path)
    fields = {"vision": parts.tower, "data.workers": 2}
    ranks = Ranks(train_vlm, 2, *given, fields | {"train.max_steps": 1_000_000})
    wait_for(lambda: steps_done(run) >= 2)
    run.stop.touch()
    assert ranks.results() == [0, 0]
    verdict = run.read_verdict()
    assert verdict is not None and verdict.kind == "stopped"
    assert run.checkpoint_steps() == [verdict.step]
    parts.train(2, run.path, {"train.max_steps": verdict.step + 2})
    assert sorted(losses_of(run.path)) == list(range(1, verdict.step + 3))
