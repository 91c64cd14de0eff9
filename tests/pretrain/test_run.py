"""Runs as a user starts them: stops, verdicts, errors, the order of samples."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.run_folder import RunFolder, Verdict
from tests.helpers.ranks import Ranks, run_ranks
from tests.pretrain.helpers.running import FOREVER, contents, steps_done, train_until_an_error
from tests.pretrain.helpers.stopped import losses_of
from tests.pretrain.helpers.tiny import tiny_argv, train_tiny
from tests.pretrain.state.test_checkpoint import flip_a_byte, wait_for

pytestmark = pytest.mark.slow  # each trains, in processes of its own


def test_the_stop_file_stops_the_run_and_is_gone_at_the_next_start(
    small_dataset: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    ranks = Ranks(train_tiny, 2, small_dataset, tmp_path, FOREVER)
    wait_for(lambda: steps_done(run) >= 2)
    run.stop.touch()
    assert ranks.results() == [0, 0]
    verdict = run.read_verdict()
    assert verdict is not None
    assert str(run.stop) in verdict.message
    run_ranks(train_tiny, 2, small_dataset, tmp_path, {"train.max_steps": verdict.step + 1})
    assert not run.stop.exists()
    after = run.read_verdict()
    assert after == Verdict(
        kind="finished", message=f"finished at step {verdict.step + 1}", attempt=2,
        step=verdict.step + 1,
    )  # fmt: skip


def test_a_finished_run_that_is_started_again_does_nothing_and_stays_finished(
    small_dataset: Path, tmp_path: Path
) -> None:
    fields = {"train.max_steps": 2}
    run_ranks(train_tiny, 1, small_dataset, tmp_path, fields)
    before = losses_of(tmp_path)
    run_ranks(train_tiny, 1, small_dataset, tmp_path, fields)
    assert losses_of(tmp_path) == before
    verdict = RunFolder(tmp_path).read_verdict()
    assert verdict is not None
    assert (verdict.kind, verdict.attempt) == ("finished", 2)


def test_per_document_attention_trains_and_differs_from_causal(
    small_dataset: Path, tmp_path: Path
) -> None:
    mixture = tmp_path / "docstrings.yaml"
    mixture.write_text("common_crawl: 1\n")  # the subset of short documents
    shared = {"train.max_steps": 2, "engine.precision": "fp32", "data.mixture": mixture}
    for attention in ("causal", "per_document"):
        fields = shared | {"model.attention": attention}
        run_ranks(train_tiny, 2, small_dataset, tmp_path / attention, fields)
    causal, separate = losses_of(tmp_path / "causal"), losses_of(tmp_path / "per_document")
    assert causal[1]["loss"] != separate[1]["loss"]
    assert causal[1]["loss"] == pytest.approx(separate[1]["loss"], rel=0.01)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("train.seq_len", 16, "train.seq_len = 16: "),
        ("model.d_ff", 96, "model.d_ff = 96: "),
        ("data.seed", 7, "data.seed = 7: "),
        ("train.global_batch_size", 16, "train.global_batch_size = 16: "),
        ("engine.precision", "fp32", "engine.precision = fp32: "),
    ],
)
def test_a_run_folder_made_by_another_config_is_refused_by_field_and_left_as_it_is(
    small_dataset: Path, tmp_path: Path, field: str, value: Any, named: str
) -> None:
    fields = {"train.max_steps": 1, "engine.precision": "bf16"}
    run_ranks(train_tiny, 1, small_dataset, tmp_path, fields)
    before = contents(tmp_path)
    [(kind, message)] = run_ranks(
        train_until_an_error, 1, small_dataset, tmp_path, fields | {field: value}
    )
    assert kind == "ConfigError"
    assert message.startswith(named)
    assert "was made with" in message and "another run.folder" in message
    # No attempt was begun, so that one that may be at work in the folder goes on.
    assert contents(tmp_path) == before


def test_a_recipe_field_may_change_on_resume(small_dataset: Path, tmp_path: Path) -> None:
    run_ranks(train_tiny, 1, small_dataset, tmp_path, {"train.max_steps": 1})
    fields = {"train.max_steps": 2, "optimizer.learning_rate": 5e-3}
    run_ranks(train_tiny, 1, small_dataset, tmp_path, fields)
    # The second of two warm-up steps runs at the new peak; each attempt's config is kept.
    assert losses_of(tmp_path)[2]["learning_rate"] == 5e-3
    rates = [
        json.loads((tmp_path / f"attempts/{i:04}.json").read_text())["config"]["optimizer"]
        for i in (1, 2)
    ]
    assert [rate["learning_rate"] for rate in rates] == [1e-2, 5e-3]


def train_and_return_the_log(dataset: Path, run: Path, fields: dict[str, Any]) -> list[str]:
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logging.getLogger("mobilellama").addHandler(Keep())
    assert train_tiny(dataset, run, fields) == 0
    return messages


def test_a_finished_run_that_is_made_longer_tells_what_its_learning_rate_does(
    small_dataset: Path, tmp_path: Path
) -> None:
    run_ranks(train_tiny, 1, small_dataset, tmp_path, {"train.max_steps": 4})
    fields = {"train.max_steps": 6, "schedule.kind": "wsd", "schedule.decay_steps": 1}
    (messages,) = run_ranks(train_and_return_the_log, 1, small_dataset, tmp_path, fields)
    assert [text for text in messages if "learning rate" in text] == [
        "learning rate: warm-up to 0.01 over 2 steps, then constant to step 5, then linear to "
        "0.001 at step 6",
        "the learning rate goes from 10 % of its peak at step 4 to 100 % at step 5 (the run was at "
        "its end) and to 10 % at step 6, the last; it rises again, and the loss may rise with it "
        "for a while",
    ]
    rates = {step: record["learning_rate"] for step, record in losses_of(tmp_path).items()}
    # Step 3 has progress 0 of the cosine, step 4 is its last; 5 and 6 are wsd's.
    expected = {1: 0.005, 2: 0.01, 3: 0.01, 4: 0.001, 5: 0.01, 6: 0.001}
    assert rates == pytest.approx(expected)


def test_tensorboard_that_cannot_be_written_does_not_end_the_run(
    small_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "tensorboard").touch()
    fields = {"train.max_steps": 4}
    (messages,) = run_ranks(train_and_return_the_log, 1, small_dataset, tmp_path, fields)
    (told,) = [text for text in messages if "no longer go to" in text]
    assert "tensorboard, which failed: [Errno 17] File exists" in told
    verdict = RunFolder(tmp_path).read_verdict()
    assert verdict is not None and (verdict.kind, verdict.step) == ("finished", 4)
    assert sorted(losses_of(tmp_path)) == [1, 2, 3, 4]


def test_a_sink_that_does_not_exist_is_told_on_every_rank(
    small_dataset: Path, tmp_path: Path
) -> None:
    fields = {"metrics.sinks": "[console, nobodys.sink]"}
    results = run_ranks(train_until_an_error, 2, small_dataset, tmp_path, fields)
    assert [kind for kind, _ in results] == ["ConfigError", "ConfigError"]
    assert all("metrics.sinks = nobodys.sink: cannot be imported" in told for _, told in results)
    assert not list(tmp_path.iterdir())  # it is told before a run begins


def test_data_verify_finds_a_flipped_bit_on_whichever_rank_checks_it(
    small_dataset: Path, tmp_path: Path
) -> None:
    import shutil

    dataset = tmp_path / "dataset"
    shutil.copytree(small_dataset, dataset)
    flip_a_byte(dataset / "wikipedia/00000.bin", at=1000)
    fields = {"data.verify": True, "train.max_steps": 1}
    outcomes = run_ranks(train_until_an_error, 2, dataset, tmp_path / "run", fields)
    assert {kind for kind, _ in outcomes} == {"DataError", "OtherRankError"}
    assert any("wikipedia/00000.bin" in message for _, message in outcomes)
    verdict = RunFolder(tmp_path / "run").read_verdict()
    assert verdict is not None  # written by whichever rank found it
    assert verdict.kind == "failed" and "wikipedia/00000.bin" in verdict.message


BAD = [
    ({"data.path": "/nowhere"}, "data.path = /nowhere: is not a folder"),
    ({"model.vocab_size": 500}, "model.vocab_size = 500: is below the 800 pieces of the tokenizer"),
    ({"train.seq_len": 64}, "train.seq_len = 64: must not exceed model.max_seq_len = 32"),
    (
        {"train.micro_batch_size": 3},
        "train.global_batch_size = 8: must be a multiple of train.micro_batch_size * processes",
    ),
    (
        {"distributed.devices": 3, "train.global_batch_size": 16},
        "With this micro-batch it divides over 1, 2, 4, 8 processes",
    ),
    (
        {"train.global_batch_size": 1_000_000, "train.micro_batch_size": 1},
        "train.global_batch_size = 1000000: exceeds the ",
    ),
    (
        {"train.seq_len": 10_000_000, "model.max_seq_len": 10_000_000},
        "train.seq_len = 10000000: no bucket of",
    ),
    ({"data.mixture": "redpyjama"}, "did you mean 'redpajama'?"),
    ({"train.max_steps": 0}, "train.max_steps = 0: must be at least 1"),
    ({"optimizer.learning_rate": -1.0}, "optimizer.learning_rate = -1.0: must be above 0"),
    ({"schedule.min_lr_ratio": 1.5}, "schedule.min_lr_ratio = 1.5: must be a share"),
    ({"model.n_heads": 5}, "model.n_heads = 5: must split model.d_model = 64"),
    ({"distributed.nodes": 2}, "distributed.nodes = 2: needs a launcher"),
    ({"distributed.threads": 1_000_000}, "distributed.threads = 1000000: exceeds the"),
    (
        {"distributed.devices": 1000},
        "distributed.devices = 1000: is more processes than any",
    ),
    ({"data.path": ""}, "data.path = (empty): must not be empty"),
    ({"data.workers": "many"}, "data.workers = many: expected an int"),
    ({"run.max_hours": "long"}, "run.max_hours = long: expected float or null"),
    ({"model": "file.yaml"}, "--model = file.yaml: is a section"),
    ({"train.seqlen": 32}, "did you mean '--train.seq_len'?"),
    ({"train.seq_len": "many"}, "train.seq_len = many: expected an int"),
    ({"engine.kind": "fsdp"}, "engine.kind = fsdp: expected one of deepspeed, ddp"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_told_before_any_process_starts(
    small_dataset: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        train_tiny(small_dataset, tmp_path / "run", fields)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def run_cli(dataset: Path, run: Path, fields: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mobilellama", "pretrain", *tiny_argv(dataset, run, fields)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def test_the_command_answers_bad_input_with_one_message_and_exit_code_2(
    small_dataset: Path, tmp_path: Path
) -> None:
    process = run_cli(small_dataset, tmp_path, {"train.micro_batch_size": 3})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert err.splitlines() == [err.strip()]
    assert err.startswith("mobilellama: error: train.global_batch_size = 8: must be a multiple of")


@pytest.mark.slow
def test_the_command_starts_its_own_processes_and_ctrl_c_saves(
    small_dataset: Path, tmp_path: Path
) -> None:
    """Without torchrun: distributed.devices processes; a terminal's Ctrl-C reaches all of them."""
    run = RunFolder(tmp_path)
    process = run_cli(small_dataset, tmp_path, FOREVER | {"distributed.devices": 2})
    wait_for(lambda: steps_done(run) >= 2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    verdict = run.read_verdict()
    assert verdict is not None
    assert verdict.kind == "stopped"
    manifest = json.loads((run.checkpoint(verdict.step) / "manifest.json").read_text())
    assert manifest["world_size"] == 2


@pytest.mark.slow
def test_torchrun_starts_the_same_run(small_dataset: Path, tmp_path: Path) -> None:
    arguments = tiny_argv(small_dataset, tmp_path, {"train.max_steps": 2})
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "-m", "mobilellama", "pretrain", *arguments,
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdict = RunFolder(tmp_path).read_verdict()
    assert verdict is not None
    assert (verdict.kind, verdict.step) == ("finished", 2)


def test_a_rank_that_is_killed_is_told_of_by_the_others_in_one_message(
    small_dataset: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    ranks = Ranks(train_tiny, 2, small_dataset, tmp_path, FOREVER)
    wait_for(lambda: steps_done(run) >= 2)
    ranks.signal(1, signal.SIGKILL)
    with pytest.raises(AssertionError, match="OtherRankError: the connection to another rank"):
        ranks.results()
    assert run.read_verdict() is None  # a crash is not final


def test_spoilt_lines_of_metrics_jsonl_do_not_stop_a_resume(
    small_dataset: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    run_ranks(train_tiny, 1, small_dataset, tmp_path, {"train.max_steps": 1})
    with open(run.metrics, "ab") as file:
        file.write(b'5\n{"loss": 3}\n{"step": "x"}\n\xff\xfe\n')
    run_ranks(train_tiny, 1, small_dataset, tmp_path, {"train.max_steps": 2})
    assert sorted(losses_of(tmp_path)) == [1, 2]
