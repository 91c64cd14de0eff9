"""The state of a launch, from SLURM's word, the marks of the job script and the run's folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilellama.launch.folder import LaunchFolder, task_name
from mobilellama.launch.launched.state import Part, part_of, status_of, summed_up
from mobilellama.launch.launched.table import describe
from mobilellama.launch.slurm import JobState
from tests.launch.helpers.launches import LOCAL, LOCAL_TASKS, RUN, TASKS, launched, mark, trained


def state(text: str) -> JobState:
    """A job's state as ``STATE``, ``STATE/REASON`` or ``STATE/REASON/EXIT_CODE``."""
    name, reason, code = [*text.split("/"), "", ""][:3]
    return JobState(id="7", state=name, reason=reason, nodes="", restarts=0, exit_code=code)


@pytest.mark.parametrize(
    ("states", "summed"),
    [
        ("", ("", "")),
        ("COMPLETED", ("completed", "")),
        ("COMPLETED COMPLETED", ("completed", "")),
        ("RUNNING", ("running", "")),
        ("PENDING/Resources RUNNING COMPLETED FAILED", ("running", "")),
        ("PENDING/Resources COMPLETING FAILED", ("completing", "")),
        ("FAILED COMPLETED PENDING/Priority", ("pending", "Priority")),
        ("PENDING/Dependency", ("waiting", "waits for the step before (Dependency)")),
        (
            "PENDING/DependencyNeverSatisfied",
            ("held", "what it waits for has failed (DependencyNeverSatisfied)"),
        ),
        ("COMPLETED FAILED/NonZeroExitCode/1:0", ("failed", "NonZeroExitCode")),
        ("COMPLETED FAILED//1:0", ("failed", "exit code 1:0")),
        ("TIMEOUT/TimeLimit FAILED", ("timeout", "TimeLimit")),
        ("CANCELLED", ("cancelled", "")),
    ],
)
def test_what_still_has_to_come_counts_most(states: str, summed: tuple[str, str]) -> None:
    assert summed_up([state(text) for text in states.split()]) == summed


@pytest.mark.parametrize(
    ("said", "marks", "expected"),
    [
        ("JobState=RUNNING NodeList=n[1-2] Restarts=3", {}, ("running", "", "n[1-2]", 3)),
        ("JobState=PENDING Reason=Priority Restarts=1", {}, ("pending", "Priority", "", 1)),
        ("JobState=COMPLETING NodeList=n1", {}, ("completing", "", "n1", 0)),
        ("JobState=TIMEOUT Reason=TimeLimit NodeList=n1", {}, ("timeout", "TimeLimit", "", 0)),
        (
            "JobState=COMPLETED NodeList=n1",
            {"run_finished": RUN.signature},
            ("finished", "", "", 0),
        ),
        ("JobState=COMPLETED NodeList=n1", {"run_finished": "another"}, ("completed", "", "", 0)),
        (
            "JobState=FAILED Reason=NonZeroExitCode",
            {"run_failed": "loss = nan"},
            ("failed", "NonZeroExitCode", "", 0),
        ),
        # Its mark is of a former start, which somebody has requeued.
        ("JobState=RUNNING NodeList=n1", {"run_failed": "x"}, ("running", "", "n1", 0)),
        ("JobState=COMPLETED", {"run_failed": "x"}, ("failed", "", "", 0)),
        (None, {}, ("unknown", "", "", 0)),
        (None, {"run_failed": "x"}, ("failed", "", "", 0)),
        (None, {"run_finished": RUN.signature}, ("finished", "", "", 0)),
    ],
)  # fmt: skip
def test_the_state_of_a_run_is_slurms_word_and_its_marks(
    tmp_path: Path,
    says: Callable[..., None],
    said: str | None,
    marks: dict[str, str],
    expected: tuple[str, str, str, int],
) -> None:
    folder = launched(tmp_path, RUN)
    mark(folder, **marks)
    if said:
        says(job7=said)
    part = part_of("run", folder, RUN, ["7"])
    assert (part.state, part.reason, part.nodes, part.restarts) == expected
    assert (part.part, part.job) == ("run", "7")


@pytest.mark.parametrize(
    ("said", "marks", "state"),
    [
        ("JobState=RUNNING NodeList=n1", {}, "running"),  # saves, and ends
        ("JobState=PENDING Reason=Priority", {}, "cancelled"),
        ("JobState=CANCELLED", {}, "cancelled"),
        ("JobState=COMPLETED", {}, "cancelled"),
        ("JobState=COMPLETED", {"run_failed": "x"}, "cancelled"),
        ("JobState=COMPLETED", {"run_finished": RUN.signature}, "finished"),
    ],
)
def test_a_cancelled_run_is_so_once_it_has_ended(
    tmp_path: Path,
    says: Callable[..., None],
    said: str,
    marks: dict[str, str],
    state: str,
) -> None:
    folder = launched(tmp_path, RUN)
    mark(folder, **marks)
    folder.cancelled.touch()
    says(job7=said)
    assert part_of("run", folder, RUN, ["7"]).state == state


def test_the_newest_of_several_jobs_counts_and_the_others_were_restarts(
    tmp_path: Path, says: Callable[..., None]
) -> None:
    folder = launched(tmp_path, RUN)
    says(job7="JobState=FAILED", job11="JobState=RUNNING NodeList=n2 Restarts=2")
    part = part_of("run", folder, RUN, ["7", "10", "11"])
    assert (part.job, part.state, part.restarts) == ("11", "running", 4)


@pytest.mark.parametrize(
    ("marks", "state"),
    [
        ({}, "stopped"),
        ({"run_finished": LOCAL.signature}, "finished"),
        ({"run_failed": "loss = nan"}, "failed"),
    ],
)
def test_a_local_run_needs_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks: dict[str, str], state: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = launched(tmp_path, LOCAL)
    mark(folder, **marks)
    status = status_of(folder, LOCAL)
    assert status.state == state
    assert (status.is_local, status.is_over, status.parts[0].job) == (True, True, "")
    assert status.message == marks.get("run_failed", "")


@pytest.mark.parametrize(
    ("marks", "state"),
    [
        ({}, "stopped"),
        ({"finish_finished": LOCAL_TASKS.signature}, "finished"),
        ({"finish_failed": "the disk is full"}, "failed"),
    ],
)
def test_an_array_that_runs_on_a_machine_is_one_command(
    tmp_path: Path, marks: dict[str, str], state: str
) -> None:
    folder = launched(tmp_path, LOCAL_TASKS)
    mark(folder, **marks)
    status = status_of(folder, LOCAL_TASKS)
    (part,) = status.parts
    assert (status.state, part.part, part.state, part.reason) == (state, "run", state, "")
    assert status.message == marks.get("finish_failed", "")


def test_a_local_run_is_running_while_its_command_is(tmp_path: Path) -> None:
    folder = launched(tmp_path, LOCAL)
    with folder.submitting():
        status = status_of(folder, LOCAL)
    assert (status.state, status.is_over) == ("running", False)


def test_the_restarts_of_a_local_run_are_those_of_its_newest_launch(tmp_path: Path) -> None:
    folder = launched(tmp_path, LOCAL)
    launched_s = folder.launch.stat().st_mtime
    for number, after_s in enumerate((-90, -60, 0, 30, 60)):
        environment = folder.logs / f"local.{number}" / "environment"
        environment.parent.mkdir()
        environment.touch()
        os.utime(environment, (0, launched_s + after_s))
    assert status_of(folder, LOCAL).parts[0].restarts == 2


def test_a_job_that_slurm_has_stopped_keeps_its_nodes_and_is_not_over(
    tmp_path: Path, says: Callable[..., None]
) -> None:
    folder = launched(tmp_path, RUN)
    says(job7="JobState=STOPPED NodeList=n1")
    status = status_of(folder, RUN)
    assert (status.state, status.is_over) == ("suspended", False)


def test_where_slurm_is_not_installed_the_marks_alone_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = launched(tmp_path, RUN)
    assert part_of("run", folder, RUN, ["7"]).state == "unknown"
    mark(folder, run_finished=RUN.signature)
    assert part_of("run", folder, RUN, ["7"]).state == "finished"


RUNNING_ARRAY = (
    "ArrayJobId=8 ArrayTaskId=2-3 JobState=PENDING Reason=Resources Restarts=0;"
    "ArrayJobId=8 ArrayTaskId=1 JobState=RUNNING NodeList=n2 Restarts=1;"
    "ArrayJobId=8 ArrayTaskId=0 JobState=COMPLETED NodeList=n1 Restarts=2"
)


def test_the_tasks_of_an_array_are_counted(tmp_path: Path, says: Callable[..., None]) -> None:
    folder = launched(tmp_path, TASKS)
    folder.mark(task_name(0, 4), "finished").write_text(f"{TASKS.signature}\n")
    folder.mark(task_name(1, 4), "finished").write_text("another\n")
    says(job8=RUNNING_ARRAY, job9="JobState=PENDING Reason=Dependency")
    status = status_of(folder, TASKS)
    assert status.parts == [
        Part(part="tasks", job="8", state="running", reason="1 of 4 done", nodes="n2", restarts=3),
        Part(
            part="finish",
            job="9",
            state="waiting",
            reason="waits for the step before (Dependency)",
            nodes="",
            restarts=0,
        ),
    ]
    assert (status.state, status.saved) == ("running", "0 buckets")


def test_a_task_that_was_given_up_fails_the_array_and_is_named(
    tmp_path: Path, says: Callable[..., None]
) -> None:
    folder = launched(tmp_path, TASKS)
    for task in (0, 1, 2):
        folder.mark(task_name(task, 4), "finished").write_text(f"{TASKS.signature}\n")
    folder.mark(task_name(3, 4), "failed").write_text("the disk is full\n")
    says(
        job8="ArrayJobId=8 ArrayTaskId=3 JobState=FAILED Reason=NonZeroExitCode;"
        "ArrayJobId=8 ArrayTaskId=0 JobState=COMPLETED",
        job9="JobState=PENDING Reason=DependencyNeverSatisfied",
    )
    status = status_of(folder, TASKS)
    tasks, finish = status.parts
    assert (tasks.state, tasks.reason) == ("failed", "3 of 4 done, 1 failed; NonZeroExitCode")
    assert (finish.state, status.state) == ("held", "failed")
    assert status.message == "task 3: the disk is full"
    says(job8="")  # after some minutes SLURM forgets a job
    assert part_of("tasks", folder, TASKS, ["8"]).state == "failed"


def test_an_array_whose_tasks_are_done_waits_for_its_last_job(
    tmp_path: Path, says: Callable[..., None]
) -> None:
    folder = launched(tmp_path, TASKS)
    for task in range(4):
        folder.mark(task_name(task, 4), "finished").write_text(f"{TASKS.signature}\n")
    says(job8="ArrayJobId=8 ArrayTaskId=3 JobState=COMPLETED", job9="JobState=RUNNING NodeList=n1")
    status = status_of(folder, TASKS)
    assert [part.state for part in status.parts] == ["finished", "running"]
    assert (status.parts[0].reason, status.state) == ("4 of 4 done", "running")
    mark(folder, finish_finished=TASKS.signature)
    says(job9="JobState=COMPLETED")
    assert status_of(folder, TASKS).state == "finished"


def test_the_progress_of_a_run_is_that_of_its_newest_metrics(
    tmp_path: Path, says: Callable[..., None]
) -> None:
    folder = launched(tmp_path, RUN)
    trained(folder)
    says(job7="JobState=RUNNING NodeList=n[1-2] Restarts=1")
    status = status_of(folder, RUN)
    assert status.saved == "step 100"
    assert status.progress == {
        "attempts": 2,
        "repeated_steps": 7,
        "step": 100,
        "loss": 2.25,
        "left_s": 1800.0,
        "tokens_per_s": 16 * 500.0,
        "max_steps": 100 + 1800 // 2,
    }


def test_a_run_at_its_end_has_made_all_its_steps(tmp_path: Path, says: Callable[..., None]) -> None:
    folder = launched(tmp_path, RUN)
    trained(folder)
    assert folder.run
    record = {"step": 100, "loss": 2.0, "left_s": 0.0, "step_s": 2.0, "tokens_per_s_per_gpu": 1.0}
    folder.run.metrics.write_text(json.dumps(record) + "\n")
    assert status_of(folder, RUN).progress.get("max_steps") == 100


def test_a_run_that_has_not_begun_has_no_steps(tmp_path: Path, says: Callable[..., None]) -> None:
    folder = launched(tmp_path, RUN)
    status = status_of(folder, RUN)
    assert (status.progress, status.saved) == ({"attempts": 0, "repeated_steps": 0}, "step 0")


@pytest.mark.parametrize(
    ("verdict", "marks", "message"),
    [
        ("stopped", {}, "stopped by SIGTERM"),
        ("failed", {}, "stopped by SIGTERM"),
        ("finished", {}, ""),
        ("failed", {"run_failed": "3 times in a row"}, "3 times in a row"),
    ],
)
def test_why_a_run_ended_is_told_by_its_mark_or_else_by_its_verdict(
    tmp_path: Path,
    says: Callable[..., None],
    verdict: str,
    marks: dict[str, str],
    message: str,
) -> None:
    folder = launched(tmp_path, RUN)
    trained(folder)
    mark(folder, **marks)
    assert folder.run
    values = {"kind": verdict, "message": "stopped by SIGTERM", "attempt": 2, "step": 100}
    folder.run.verdict.write_text(json.dumps(values))
    assert status_of(folder, RUN).message == message
    folder.run.verdict.write_text(json.dumps(values | {"attempt": 1}))  # a former start's
    assert status_of(folder, RUN).message == marks.get("run_failed", "")


def test_an_array_that_slurm_has_forgotten_is_finished_only_if_its_tasks_are(
    tmp_path: Path, says: Callable[..., None]
) -> None:
    says()
    folder = LaunchFolder(tmp_path / "red", train=False)
    folder.create()
    part = part_of("tasks", folder, TASKS, ["8"])
    assert (part.state, part.reason) == ("unknown", "0 of 4 done")
    for task in range(4):
        folder.mark(task_name(task, 4), "finished").write_text(TASKS.signature)
        folder.mark(task_name(task, 64), "finished").write_text(TASKS.signature)
    part = part_of("tasks", folder, TASKS, ["8"])
    assert (part.state, part.reason) == ("finished", "4 of 4 done")


def test_a_controller_that_does_not_answer_is_said_and_nothing_is_concluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "scontrol"
    silent.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    silent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    folder = LaunchFolder(tmp_path / "1_4b", train=True)
    folder.create()
    part = part_of("run", folder, RUN, ["7"])
    assert part.state == "unknown"
    assert "scontrol: SLURM's controller does not answer. " in part.reason


@pytest.mark.parametrize("value", ["null", '"x"', "NaN", "[]", "1e999"])
def test_numbers_of_a_run_that_are_none_are_left_out(tmp_path: Path, value: str) -> None:
    folder = LaunchFolder(tmp_path / "1_4b", train=True)
    folder.create()
    assert folder.run
    folder.run.create()
    (folder.run.attempts / "0001.json").write_text(
        f'{{"world_size": {value}, "repeated_steps": {value}}}'
    )
    folder.run.metrics.write_text(f'{{"step": 3, "loss": 2.5, "left_s": {value}}}\n')
    status = status_of(folder, LOCAL)
    assert (status.progress.get("step"), status.progress.get("repeated_steps")) == (3, 0)
    assert "3 of 3, loss 2.5000" in describe(status, folder)


def test_a_time_left_that_no_step_could_fill_gives_no_number_of_steps(tmp_path: Path) -> None:
    folder = LaunchFolder(tmp_path / "1_4b", train=True)
    folder.create()
    assert folder.run
    folder.run.metrics.write_text('{"step": 3, "loss": 2.5, "left_s": 1e300, "step_s": 1e-300}\n')
    assert status_of(folder, LOCAL).progress.get("max_steps") == 3
