"""Checkpoints: whole or not there, checked at load, fenced, pruned."""

import itertools
import logging
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilellama import launcher
from mobilellama.config import DataError, UserError
from mobilellama.files.atomic import read_json
from mobilellama.pretrain.engines.engine import Fragment
from mobilellama.pretrain.state.checkpoint import Checkpoint, prune
from mobilellama.pretrain.state.config import CheckpointConfig
from mobilellama.run_folder import RunFolder
from tests.helpers.ranks import Ranks, run_ranks
from tests.helpers.sealed import edit_sealed
from tests.pretrain.helpers.stopped import losses_of, state_of
from tests.pretrain.helpers.tiny import train_tiny


def flip_a_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_a_checkpoint_holds_every_element_of_every_parameter_once(run: RunFolder) -> None:
    checkpoint = Checkpoint(run.checkpoint(6))
    checkpoint.verify()
    assert checkpoint.manifest.step == 6
    assert checkpoint.manifest.consumed == 48
    assert checkpoint.manifest.optimizer_step == 6
    assert checkpoint.manifest.world_size == 2
    # 2 * 800 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert sum(map(checkpoint.numel, checkpoint.names())) == 184_640
    owned = [
        (name, start, start + count)
        for receipt in checkpoint.receipts
        for name, (start, count) in receipt["fragments"].items()
    ]
    for name in checkpoint.names():
        pieces = sorted(piece[1:] for piece in owned if piece[0] == name)
        assert pieces[0][0] == 0
        assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
    split = [name for name, start, _ in owned if start]
    assert split, "no parameter lies on two ranks: the test shows too little"


def test_any_range_of_a_parameter_can_be_read_whoever_saved_it(run: RunFolder) -> None:
    checkpoint = Checkpoint(run.checkpoint(6))
    rng = random.Random(0)
    for name in checkpoint.names():
        count = checkpoint.numel(name)
        expected = checkpoint.parameter(name, torch.Size([count]))
        start = rng.randrange(count)
        stop = rng.randrange(start, count) + 1
        empty = torch.empty(stop - start)
        state = {kind: torch.empty(stop - start) for kind in ("exp_avg", "exp_avg_sq")}
        checkpoint.read(Fragment(name, start, empty, state))
        assert torch.equal(empty, expected[start:stop])
        for kind, found in state.items():
            whole = checkpoint.parameter(name, torch.Size([count]), kind)
            assert torch.equal(found, whole[start:stop]), kind


def test_state_of_other_names_than_the_optimizer_keeps_is_refused(run: RunFolder) -> None:
    checkpoint, empty = Checkpoint(run.checkpoint(6)), torch.empty(1)
    name = checkpoint.names()[0]
    rule = r"it holds exp_avg, exp_avg_sq of optimizer 'adamw', but this version's .* keeps sum\."
    with pytest.raises(UserError, match=rule):
        checkpoint.read(Fragment(name, 0, empty, {"sum": empty}))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_flipped_bit_in_the_tensors_is_found(run: RunFolder, rank: int) -> None:
    file = run.checkpoint(6) / f"rank-{rank}.safetensors"
    flip_a_byte(file, at=file.stat().st_size // 2)
    with pytest.raises(DataError, match=rf"rank-{rank}\.safetensors: its sha256 is not"):
        Checkpoint(run.checkpoint(6)).verify()


@pytest.mark.parametrize("name", ["rank-0.safetensors", "rank-1.json", "manifest.json"])
def test_a_missing_file_is_named(run: RunFolder, name: str) -> None:
    (run.checkpoint(6) / name).unlink()
    with pytest.raises(DataError, match=name):
        Checkpoint(run.checkpoint(6)).verify()


def test_a_truncated_file_is_named(run: RunFolder) -> None:
    file = run.checkpoint(6) / "rank-1.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DataError, match=r"rank-1\.safetensors: missing, or not of"):
        Checkpoint(run.checkpoint(6))


def test_an_edited_receipt_is_found(run: RunFolder) -> None:
    receipt = run.checkpoint(6) / "rank-0.json"
    receipt.write_text(receipt.read_text().replace('"rank": 0', '"rank": 1'))
    with pytest.raises(DataError, match="not the receipt that the manifest names"):
        Checkpoint(run.checkpoint(6))


RESUMED = {"train.max_steps": 6, "checkpoint.every_steps": 1, "engine.kind": "ddp"}


def test_what_was_set_aside_is_never_in_the_way(
    run: RunFolder, small_dataset: Path, trained: Path
) -> None:
    """Who removes attempts/ to make room begins to count anew."""
    (run.checkpoint(6) / "manifest.json").unlink()
    for name in ("step-6.bad-2", "step-6.bad-2+"):
        (run.checkpoints / name / "mine").mkdir(parents=True)
    run_ranks(train_tiny, 1, small_dataset, run.path, RESUMED)
    assert run.checkpoint_steps()[-1] == 6
    assert (run.checkpoints / "step-6.bad-2/mine").is_dir()
    assert (run.checkpoints / "step-6.bad-2++/rank-0.json").is_file()


def resume_with_warnings(dataset: Path, run: Path, fields: dict[str, Any]) -> list[str]:
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logging.getLogger("mobilellama.pretrain.state.checkpoint").addHandler(Keep(logging.WARNING))
    train_tiny(dataset, run, fields)
    return messages


def test_resume_passes_over_a_bad_checkpoint_names_it_and_keeps_it_aside(
    run: RunFolder, small_dataset: Path, trained: Path
) -> None:
    flip_a_byte(run.checkpoint(6) / "rank-1.safetensors", at=5000)
    (run.checkpoint(4) / "manifest.json").unlink()
    messages = run_ranks(resume_with_warnings, 2, small_dataset, run.path, {"train.max_steps": 6})
    everything = "\n".join(messages[0] + messages[1])
    assert "step-6/rank-1.safetensors: its sha256 is not the one" in everything
    assert "step-4/manifest.json: missing" in everything
    assert {"step-6.bad-2", "step-4.bad-2"} <= {path.name for path in run.checkpoints.iterdir()}
    # It resumed from step 2 and came to the same end.
    before, after = state_of(trained, 6), state_of(run.path, 6)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_when_every_checkpoint_is_damaged_the_run_does_not_silently_start_over(
    run: RunFolder, small_dataset: Path
) -> None:
    for step in run.checkpoint_steps():
        (run.checkpoint(step) / "manifest.json").write_text("{}")
    metrics = run.metrics.read_bytes()
    for _ in range(2):  # nor at a second try
        with pytest.raises(AssertionError, match=r"all checkpoints are damaged: step-2\.bad-2"):
            run_ranks(train_tiny, 2, small_dataset, run.path, {"train.max_steps": 6})
        assert run.metrics.read_bytes() == metrics
        verdict = run.read_verdict()
        assert verdict is not None
        assert verdict.kind == "failed"


def test_a_checkpoint_of_another_format_is_refused_not_set_aside(
    run: RunFolder, small_dataset: Path
) -> None:
    edit_sealed(run.checkpoint(6) / "manifest.json", format_version=2)
    with pytest.raises(AssertionError, match="format 2, but this version reads format 1"):
        run_ranks(train_tiny, 1, small_dataset, run.path, {"train.max_steps": 6})
    assert run.checkpoint_steps() == [2, 4, 6]


def test_only_the_last_few_and_every_nth_checkpoint_are_kept(
    small_dataset: Path, tmp_path: Path
) -> None:
    fields = {
        "train.max_steps": 9, "checkpoint.every_steps": 1, "checkpoint.keep_last": 2,
        "checkpoint.keep_every_steps": 4, "engine.kind": "ddp",
    }  # fmt: skip
    run_ranks(train_tiny, 1, small_dataset, tmp_path, fields)
    assert RunFolder(tmp_path).checkpoint_steps() == [4, 8, 9]
    assert {path.name for path in RunFolder(tmp_path).checkpoints.iterdir()} == {
        "step-4", "step-8", "step-9",
    }  # fmt: skip


def test_a_flipped_seed_is_a_damaged_checkpoint_not_another_run(
    run: RunFolder, small_dataset: Path, trained: Path
) -> None:
    path = run.checkpoint(6) / "manifest.json"
    text = path.read_text()
    seed = read_json(path)["identity"]["data.seed"]
    path.write_text(text.replace(f'"data.seed": {seed}', f'"data.seed": {seed ^ 1}'))
    assert path.read_text() != text
    (messages,) = run_ranks(resume_with_warnings, 1, small_dataset, run.path, RESUMED)
    assert "step-6/manifest.json: not a checkpoint's manifest (its content does not" in messages[0]
    assert "Take an earlier checkpoint" in messages[0]
    assert "step-6.bad-2" in messages[1]
    assert read_json(run.checkpoint(6) / "manifest.json")["identity"]["data.seed"] == seed
    assert read_json(run.attempts / "0002.json")["saved_step"] == 4


def test_a_checkpoint_under_another_steps_name_is_passed_over_and_nothing_is_deleted(
    run: RunFolder, small_dataset: Path, trained: Path
) -> None:
    shutil.copytree(run.checkpoint(2), run.checkpoint(1000))
    fields = RESUMED | {"train.max_steps": 8, "checkpoint.keep_last": 9}
    (messages,) = run_ranks(resume_with_warnings, 1, small_dataset, run.path, fields)
    assert "says step 1000, but it holds the checkpoint of step 2. Rename it" in messages[0]
    assert run.checkpoint_steps() == [2, 4, 6, 7, 8]
    assert Checkpoint(run.checkpoint(8)).manifest.consumed == 64
    with pytest.raises(DataError, match=r"step-1000\.bad-2"):  # any other name is the user's
        (run.checkpoints / "step-1000.bad-2/manifest.json").unlink()
        Checkpoint(run.checkpoints / "step-1000.bad-2")


def stop_before_the_first_step(dataset: Path, run: Path, fields: dict[str, Any]) -> int:
    os.environ[launcher.STOP_FILE] = str(run / "config.yaml")  # it is there
    return train_tiny(dataset, run, fields)


def test_a_verdict_before_the_first_step_has_the_step_of_a_checkpoint_that_can_be_read(
    run: RunFolder, small_dataset: Path, trained: Path
) -> None:
    shutil.copytree(run.checkpoint(2), run.checkpoint(1000))
    run_ranks(stop_before_the_first_step, 1, small_dataset, run.path, RESUMED)
    verdict = run.read_verdict()
    assert verdict is not None
    assert (verdict.kind, verdict.step) == ("stopped", 6)


def test_retention_keeps_what_was_just_written_and_later_ones_of_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunFolder(tmp_path)
    run.create()
    attempt = run.begin_attempt({})
    for step in (2, 4, 6, 1000, 2000):
        run.checkpoint(step).mkdir()
    config = CheckpointConfig(keep_last=1, keep_every_steps=None)
    prune(run, config, attempt=attempt, written=6)
    assert run.checkpoint_steps() == [6, 1000, 2000]
    assert "another start of the run wrote step-1000, step-2000; they are kept" in caplog.text


def test_a_folder_that_appeared_under_the_name_of_a_checkpoint_is_set_aside_not_overwritten(
    small_dataset: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    fields = {"train.max_steps": 30, "checkpoint.every_steps": 1000, "engine.kind": "ddp"}
    ranks = Ranks(train_tiny, 1, small_dataset, tmp_path, fields)
    wait_for(lambda: folder.metrics.exists())
    folder.checkpoint(30).mkdir()
    (folder.checkpoint(30) / "mine").touch()
    ranks.results()
    assert (folder.checkpoints / "step-30.bad-1/mine").exists()
    Checkpoint(folder.checkpoint(30)).verify()


def test_a_superseded_attempt_can_neither_save_nor_leave_a_verdict(
    small_dataset: Path, tmp_path: Path
) -> None:
    ranks = Ranks(train_tiny, 1, small_dataset, tmp_path, {"train.max_steps": 100_000})
    folder = RunFolder(tmp_path)
    wait_for(lambda: folder.metrics.exists())
    folder.begin_attempt({})  # what another start, on another node, does
    ranks.signal(0, signal.SIGTERM)
    with pytest.raises(AssertionError, match="attempt 1 was superseded by attempt 2"):
        ranks.results()
    assert folder.checkpoint_steps() == []
    assert not folder.verdict.exists()


def wait_for(condition: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def train_with_a_small_disk(dataset: Path, run: Path) -> int:
    """Rank 1 may write files of 100 kB at the most: its disk is full in the first save."""
    if os.environ["RANK"] == "1":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return train_tiny(dataset, run, {"train.max_steps": 4, "checkpoint.every_steps": 2})


def test_a_full_disk_on_one_rank_fails_all_and_leaves_no_checkpoint(
    small_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="another rank could not write its part"):
        run_ranks(train_with_a_small_disk, 2, small_dataset, tmp_path)
    folder = RunFolder(tmp_path)
    assert list(folder.checkpoints.iterdir()) == []  # nor what would take the next try's room
    assert folder.read_verdict() is None  # a retry may find room: nothing is final
    # With room again the same command starts over and finishes.
    run_ranks(train_tiny, 2, small_dataset, tmp_path, {"train.max_steps": 4})
    assert folder.checkpoint_steps() == [4]
    assert list(folder.checkpoints.iterdir()) == [folder.checkpoint(4)]


@pytest.mark.slow
def test_kill_9_at_any_instant_costs_only_the_steps_since_the_last_checkpoint(
    small_dataset: Path, tmp_path: Path
) -> None:
    """Two ranks that save after every step are killed at random, four times."""
    fields = {"train.max_steps": 30, "checkpoint.every_steps": 1, "checkpoint.keep_last": 3}
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run_ranks(train_tiny, 2, small_dataset, undisturbed, fields)
    seed = int(time.time())
    print(f"kills drawn with seed {seed}")  # shown by pytest if the test fails
    rng = random.Random(seed)
    folder = RunFolder(killed)
    for _ in range(4):
        reached = max(folder.checkpoint_steps(), default=0)
        target = reached + rng.randint(1, 5)
        ranks = Ranks(train_tiny, 2, small_dataset, killed, fields)
        wait_for(lambda target=target: max(folder.checkpoint_steps(), default=0) >= target)
        time.sleep(rng.uniform(0.0, 0.05))  # a step with its save takes about so long
        for rank in (1, 0):
            ranks.signal(rank, signal.SIGKILL)
        with pytest.raises(AssertionError, match="died without an answer"):
            ranks.results()
        Checkpoint(folder.checkpoint(folder.checkpoint_steps()[-1])).verify()
    run_ranks(train_tiny, 2, small_dataset, killed, fields)
    before, after = state_of(undisturbed, 30), state_of(killed, 30)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert losses_of(undisturbed) == losses_of(killed)
    names = {path.name for path in folder.checkpoints.iterdir()}
    assert names == {"step-28", "step-29", "step-30"}
