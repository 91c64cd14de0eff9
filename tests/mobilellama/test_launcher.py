"""What a command is told by its launcher, and what it tells in return."""

import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pytest

from mobilellama import __main__ as command
from mobilellama import cli, launcher
from mobilellama.config import ConfigError, DataError, MachineError, UserError
from mobilellama.distributed import OtherRankError
from mobilellama.run_folder import FencedError


@pytest.fixture
def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file for the message of an error that another start would meet again."""
    path = tmp_path / "failed"
    monkeypatch.setenv(launcher.FAILED_FILE, str(path))
    return path


def test_the_stop_file_is_what_the_launcher_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launcher.STOP_FILE, raising=False)
    assert launcher.stop_file() is None
    monkeypatch.setenv(launcher.STOP_FILE, "")
    assert launcher.stop_file() is None
    monkeypatch.setenv(launcher.STOP_FILE, "/runs/a b/logs/7.0/stop")
    assert launcher.stop_file() == Path("/runs/a b/logs/7.0/stop")


def test_the_first_failure_that_is_told_stays(failed: Path) -> None:
    launcher.tell_failure("“first”\ntwo lines")
    launcher.tell_failure("second")
    assert failed.read_text(encoding="utf-8") == "“first”\ntwo lines\n"


def test_without_a_launcher_nothing_is_told(
    failed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv(launcher.FAILED_FILE)
        else:
            monkeypatch.setenv(launcher.FAILED_FILE, value)
        launcher.tell_failure("first")
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_no_further_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(launcher.FAILED_FILE, str(tmp_path / "gone/failed"))
    launcher.tell_failure("first")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("job", "restarts", "name"),
    [
        (None, None, None),
        (None, "3", None),
        ("7", None, "7.0"),
        ("7", "3", "7.3"),
    ],
)
def test_a_jobs_name_counts_its_restarts(
    monkeypatch: pytest.MonkeyPatch, job: str | None, restarts: str | None, name: str | None
) -> None:
    for variable, value in (("SLURM_JOB_ID", job), ("SLURM_RESTART_COUNT", restarts)):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    assert launcher.job_name() == name


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], int]:
    """Run the command with a stage that raises; return its exit code."""

    def run_with(error: Exception) -> int:
        def fail(argv: list[str]) -> int:
            raise error

        stage = ModuleType("mobilellama.odd.main")
        stage.main = fail  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, "mobilellama.odd", ModuleType("mobilellama.odd"))
        monkeypatch.setitem(sys.modules, "mobilellama.odd.main", stage)
        monkeypatch.setitem(command.STAGES, "odd", "raises what the test wants")
        monkeypatch.setattr("sys.argv", ["mobilellama", "odd"])
        return command.main()

    return run_with


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("train.lr", -1, "must be at least 0", "Give 0 or more"),
        DataError("code/0.bin: is truncated. Tokenise it again"),
        UserError("a model without weights. Give another"),
    ],
)
def test_an_error_that_another_start_would_meet_is_told(
    failed: Path,
    run: Callable[[Exception], int],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    assert run(error) == 2
    assert failed.read_text() == f"{error}\n"
    assert capsys.readouterr().err == f"mobilellama: error: {error}\n"


@pytest.mark.parametrize(
    "error",
    [
        MachineError("/data: the disk is full"),
        OtherRankError("another rank failed; see the message of rank 0"),
        FencedError("attempt 1 was superseded by attempt 2"),
        PermissionError(13, "Permission denied", "/data"),
        OSError(28, "No space left on device", "/data"),
    ],
)
def test_an_error_that_may_be_mended_by_the_next_start_is_not_told(
    failed: Path, run: Callable[[Exception], int], error: Exception
) -> None:
    assert run(error) == 2
    assert not failed.exists()


def test_the_consequence_of_another_ranks_error_comes_after_it_and_in_a_log_of_its_own_alone(
    run: Callable[[Exception], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """torchrun kills the other ranks when one ends, so the one with the cause must be first."""
    monkeypatch.delenv(launcher.LAUNCH, raising=False)
    monkeypatch.setattr(cli, "_CAUSE_FIRST_S", 0.2)
    for has_own_log in (False, True):
        begun_s = time.monotonic()
        assert run(OtherRankError("another rank failed", told_here=True)) == 2
        assert time.monotonic() - begun_s >= 0.2
        said = "mobilellama: error: another rank failed\n" if has_own_log else ""
        assert capsys.readouterr().err == said
        monkeypatch.setenv(launcher.LAUNCH, str(tmp_path))
    monkeypatch.delenv(launcher.LAUNCH)
    begun_s = time.monotonic()
    assert run(OtherRankError("the connection to another rank is lost")) == 2
    assert time.monotonic() - begun_s >= 0.2  # of another node's, too
    assert "connection" in capsys.readouterr().err


def test_what_is_no_users_error_is_not_told(failed: Path, run: Callable[[Exception], int]) -> None:
    with pytest.raises(RuntimeError):
        run(RuntimeError("CUDA error"))
    assert not failed.exists()


def test_a_mistake_on_the_command_line_is_told(
    failed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mobilellama", "shards", "inof"])
    assert command.main() == 2
    said = capsys.readouterr().err.removeprefix("mobilellama: error: ")
    assert failed.read_text() == said and "did you mean 'info'?" in said


RECORD = (
    "JobId=7 JobState={} PreemptTime={} StartTime=2026-01-01T10:00:00 EndTime=2026-01-01T12:00:00 "
    "NodeList=n1"
)


@pytest.mark.parametrize(
    ("state", "preempted", "at", "cause"),
    [
        ("RUNNING", "None", "11:55:00", "the end of its job's time"),
        ("RUNNING", "2026-01-01T11:55:00", "11:55:01", "a preemption of its job"),
        ("COMPLETING", "2026-01-01T11:00:00", "11:00:01", "a preemption of its job"),
        # Of a former start of the same job.
        ("RUNNING", "2026-01-01T09:00:00", "11:55:00", "the end of its job's time"),
        ("COMPLETING", "None", "11:00:00", "a requeue of its job"),
        ("RUNNING", "None", "10:30:00", "a warning of SLURM's to its job"),
    ],
)
def test_a_warning_of_slurms_is_told_by_its_cause(
    state: str, preempted: str, at: str, cause: str
) -> None:
    now_s = datetime.fromisoformat(f"2026-01-01T{at}").timestamp()
    assert launcher.cause_in_record(RECORD.format(state, preempted), now_s=now_s) == cause


def test_a_record_that_tells_nothing_leaves_the_warning() -> None:
    assert launcher.cause_in_record("", now_s=0) == "a warning of SLURM's to its job"


def test_a_stop_file_tells_who_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "logs" / "stop"
    mine.parent.mkdir()
    monkeypatch.setenv(launcher.STOP_FILE, str(mine))
    monkeypatch.setenv(launcher.LAUNCH, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "stop").touch()
    assert launcher.stop_file_cause(tmp_path / "stop") == f"the user, who made {tmp_path}/stop"
    launcher.ask_to_stop(tmp_path / "stop", launcher.CANCELLED)
    assert launcher.stop_file_cause(tmp_path / "stop") == "'mobilellama launch cancel'"
    mine.touch()  # as a job's script does
    assert launcher.stop_file_cause(mine) == "a warning of SLURM's to its job"
    (tmp_path / "cancelled").touch()
    assert launcher.stop_file_cause(mine) == "'mobilellama launch cancel' --save"


def test_a_signal_is_told_by_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv(launcher.LAUNCH, raising=False)
    assert launcher.signal_cause("SIGINT") == "Ctrl-C"
    assert launcher.signal_cause("SIGTERM") == "another process (SIGTERM)"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert launcher.signal_cause("SIGTERM") == "SLURM, which ends or requeues its job (SIGTERM)"
    monkeypatch.setenv(launcher.LAUNCH, str(tmp_path))
    (tmp_path / "cancelled").touch()
    assert launcher.signal_cause("SIGTERM") == "'mobilellama launch cancel'"
