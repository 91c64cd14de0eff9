"""Asking a run to stop: signals, the file, the clock, and the second Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mobilellama import launcher
from mobilellama.pretrain.stop import SIGNALS, StopRequest
from mobilellama.run_folder import RunFolder, Verdict
from tests.pretrain.helpers.tiny import tiny_argv
from tests.pretrain.state.test_checkpoint import wait_for

# A run that never looks at the flag, as one that hangs in a collective.
STUCK = """
import time
from mobilellama.pretrain.stop import StopRequest
stop = StopRequest()
with stop.handling_signals():
    print("ready", flush=True)
    while True:
        time.sleep(0.02)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag_and_nothing_else(number: signal.Signals) -> None:
    stop = StopRequest()
    with stop.handling_signals():
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
    name = number.name
    assert stop.reason == ("Ctrl-C" if name == "SIGINT" else f"another process ({name})")


def test_the_first_reason_is_kept() -> None:
    stop = StopRequest(max_hours=0)
    with stop.handling_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested() and stop.reason == "another process (SIGUSR1)"


def test_the_former_handlers_come_back_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError), StopRequest().handling_signals():
        assert all(signal.getsignal(n) not in before for n in SIGNALS)
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_stop_file_is_a_request(tmp_path: Path) -> None:
    stop = StopRequest(stop_files=[None, tmp_path / "stop"])
    assert not stop.requested()
    (tmp_path / "stop").touch()
    assert stop.requested()
    assert stop.reason == f"the user, who made {tmp_path / 'stop'}"
    (tmp_path / "stop").unlink()
    assert stop.requested()  # once asked for, it stays so


@pytest.mark.parametrize("said", [b"JobState=PREEMPTED Name=caf\xe9", b"\xff\xfe"])
def test_a_stop_whose_cause_slurm_tells_in_no_utf_8_is_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    scontrol, answer, asked = (tmp_path / name for name in ("scontrol", "answer", "stop"))
    answer.write_bytes(said)
    scontrol.write_text(f"#!/bin/sh\ncat {answer}\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv(launcher.STOP_FILE, str(asked))
    stop = StopRequest(stop_files=[asked])
    asked.touch()
    assert stop.requested()
    requeued = b"PREEMPTED" in said
    assert stop.reason == (
        "a requeue of its job" if requeued else "a warning of SLURM's to its job"
    )


def test_an_error_while_the_cause_is_sought_leaves_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "stop"
    monkeypatch.setenv(launcher.STOP_FILE, str(asked))
    monkeypatch.setenv(launcher.LAUNCH, "x" * 5000)  # no system has such a long name
    asked.touch()
    stop = StopRequest(stop_files=[asked])
    with stop.handling_signals():
        assert stop.requested()
    assert stop.reason == f"the file {asked}"
    stop = StopRequest()
    with stop.handling_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested()
    assert stop.reason == "a signal (SIGTERM)"


def test_the_wall_clock_limit_is_a_request() -> None:
    stop = StopRequest(max_hours=0.2 / 3600)
    assert not stop.requested()
    time.sleep(0.25)
    assert stop.requested()
    assert stop.reason == "the end of its time (run.max_hours)"
    assert not StopRequest(max_hours=1).requested()


def stuck() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_a_second_ctrl_c_leaves_at_once_with_130() -> None:
    process = stuck()
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    assert process.poll() is None  # the first only set the flag
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert process.returncode == 130
    assert "second Ctrl-C: leaving at once, without a checkpoint" in errors


def test_a_ctrl_c_that_the_launcher_passes_on_is_not_a_second_one() -> None:
    """A terminal sends it to every process, and the launcher sends it to its own again."""
    process = stuck()
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_answers_at_once_while_it_imports_and_stops_with_a_verdict(
    small_dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mobilellama", "pretrain", *tiny_argv(small_dataset, tmp_path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    maps = Path(f"/proc/{process.pid}/maps")
    wait_for(lambda: "libtorch_cpu" in maps.read_text(), timeout_s=180)
    process.send_signal(number)
    said = process.stderr.readline()
    by, cause = "SIGTERM", "another process (SIGTERM)"
    if number == signal.SIGINT:
        by = cause = "Ctrl-C"
    assert said.startswith(f"mobilellama: asked to stop by {by}: stopping before the")
    assert not (tmp_path / "attempts").exists()  # at once
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (0, False)
    verdict = RunFolder(tmp_path).read_verdict()
    assert verdict == Verdict(
        kind="stopped", message=f"stopped at step 0: {cause}, before its first step",
        attempt=1, step=0,
    )  # fmt: skip
