"""The state of a launch, from SLURM's word, the marks of the job script and the run's folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellama.launch import status as command
from mobilellama.launch.folder import Job, Launch, LaunchFolder, task_name
from mobilellama.launch.known import known_file, remember
from mobilellama.launch.slurm import JobState
from mobilellama.launch.status import (
    Config,
    Part,
    Status,
    describe,
    list_known,
    part_of,
    status_of,
    summed_up,
    table,
)
from mobilellama.launch.steps import STEPS


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


RUN = Launch(
    step="pretrain",
    name="1_4b",
    arguments=["--run.folder", "1_4b"],
    folder="1_4b",
    cwd="/home/u",
    submitted="2026-01-01T00:00:00+00:00",
    tasks=0,
    jobs=[Job(part="run", id="7", script="job.sbatch")],
)
LOCAL = replace(RUN, jobs=[])
TASKS = replace(
    RUN,
    step="tokenize",
    name="red",
    tasks=4,
    jobs=[
        Job(part="tasks", id="8", script="job.sbatch"),
        Job(part="finish", id="9", script="finish.sbatch"),
    ],
)


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a program in scontrol's place say this of jobs, by number; it knows no others."""
    folder, records = tmp_path / "bin", tmp_path / "records"
    folder.mkdir()
    records.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (folder / "scontrol").write_text(
        f'#!/bin/sh\ncat "{records}/$4" 2>/dev/null ||\n'
        '{ echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }\n'
    )
    (folder / "scontrol").chmod(0o755)
    (folder / "sacct").write_text("#!/bin/sh\nexit 1\n")
    (folder / "sacct").chmod(0o755)

    def say(**jobs: str) -> None:
        for number, text in jobs.items():
            number = number.removeprefix("job")
            lines = [f"JobId={number} {line}\n" for line in text.split(";")]
            (records / number).write_text("".join(lines))

    return say


def launched(root: Path, launch: Launch) -> LaunchFolder:
    folder = LaunchFolder.of(STEPS[launch.step], root / launch.name)
    folder.create()
    folder.write(launch)
    return folder


def mark(folder: LaunchFolder, **marks: str) -> None:
    """Write marks; ``run_failed`` is ``run.failed``."""
    for name, text in marks.items():
        part, _, kind = name.rpartition("_")
        folder.mark(part, kind).write_text(f"{text}\n")


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
        ({}, "stopped on a machine"),
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
    assert status.parts[0].job == ""
    assert status.message == marks.get("run_failed", "")


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


def test_buckets_that_are_whole_are_counted(tmp_path: Path, says: Callable[..., None]) -> None:
    folder = launched(tmp_path, TASKS)
    for name in ("code/0.json", "code/12.json", "code/12.bin", "web/3.json", "dataset.json"):
        (folder.made / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.made / name).touch()
    (folder.made / "code/facts.json").touch()
    assert status_of(folder, TASKS).saved == "3 buckets"


def trained(folder: LaunchFolder) -> None:
    """What a run of 16 processes leaves behind that was started twice."""
    run = folder.run
    assert run
    run.attempts.mkdir()
    facts: dict[str, Any] = {"host": "n1", "world_size": 16, "job": "7.0", "started": "10:00:00"}
    (run.attempts / "0001.json").write_text(json.dumps(facts | {"saved_step": 0}))
    facts |= {"job": "7.1", "started": "11:00:00", "repeated_steps": 7, "saved_step": 90}
    (run.attempts / "0002.json").write_text(json.dumps(facts))
    (run.checkpoints / "step-90").mkdir(parents=True)
    (run.checkpoints / "step-100").mkdir()
    (run.checkpoints / "step-110.tmp-2").mkdir()
    records = [
        {"step": 90, "loss": 3.5, "left_s": 1820.0, "step_s": 2.0, "tokens_per_s_per_gpu": 1.0},
        {"step": 100, "loss": 2.25, "left_s": 1800.0, "step_s": 2.0, "tokens_per_s_per_gpu": 500.0},
        {"step": 100, "val_loss": 2.5},
    ]
    run.metrics.write_text("".join(f"{json.dumps(record)}\n" for record in records) + '{"step":')


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
    assert status_of(folder, RUN).progress["max_steps"] == 100


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


def made(
    state: str,
    *,
    name: str = "1_4b",
    step: str = "pretrain",
    parts: Sequence[Part] = (),
    saved: str = "step 100",
    **fields: Any,
) -> Status:
    part = Part(part="run", job="7", state=state, reason="", nodes="n1", restarts=1)
    return Status(
        folder=f"/runs/{name}",
        step=step,
        name=name,
        submitted="2026-01-01T00:00:00+00:00",
        state=state,
        parts=list(parts) or [part],
        saved=saved,
        **fields,
    )


PROGRESS = {
    "step": 1234,
    "max_steps": 20000,
    "loss": 2.25,
    "left_s": 90061.0,
    "tokens_per_s": 98765.4,
    "attempts": 2,
    "repeated_steps": 7,
}
TASK_PARTS = [
    Part(part="tasks", job="8", state="failed", reason="3 done", nodes="", restarts=2),
    Part(part="finish", job="9", state="held", reason="x", nodes="", restarts=1),
]


def test_launches_are_listed_a_line_each_with_reasons_below() -> None:
    waiting = Part(part="run", job="12", state="pending", reason="Priority", nodes="", restarts=0)
    failed = "task 3: the disk is full"
    found = [
        made("running", progress=PROGRESS, message="of a former start"),
        made("pending", name="b", parts=[waiting], saved="step 0"),
        made("failed", name="red", step="tokenize", parts=TASK_PARTS, saved="3", message=failed),
        made("finished", name="hf", step="export", saved="nothing"),
        made("finished", name="done", progress=PROGRESS | {"step": 20000}),
    ]
    assert table(found).splitlines() == [
        "run   step      job  state     nodes  restarts            progress  tokens/s         left",
        "1_4b  pretrain    7  running   n1            1   step 1,234/20,000    98,765  1d 01:01:01",
        "b     pretrain   12  pending                 0              step 0",
        "red   tokenize    8  failed                  3                   3",
        "hf    export      7  finished  n1            1",
        "done  pretrain    7  finished  n1            1  step 20,000/20,000",
        "",
        "b: Priority",
        "red: task 3: the disk is full",
    ]


def test_one_launch_is_described_with_its_parts_starts_and_why_it_ended(
    tmp_path: Path, says: Callable[..., None]
) -> None:
    folder = launched(tmp_path, RUN)
    trained(folder)
    status = made("failed", progress=PROGRESS, message="loss = nan")
    assert describe(status, folder) == (
        "1_4b: pretrain, failed\n"
        "\n"
        "folder    /runs/1_4b\n"
        "launched  2026-01-01T00:00:00+00:00\n"
        "saved     step 100\n"
        "step      1,234 of 20,000, loss 2.2500\n"
        "speed     98,765 tokens/s, 1d 01:01:01 left\n"
        "starts    2, 7 steps done again\n"
        f"logs      {folder.logs}\n"
        "\n"
        "part  job  state   nodes  restarts  reason\n"
        "run     7  failed  n1            1\n"
        "\n"
        "start     job  host  processes  from step  done again\n"
        "10:00:00  7.0  n1           16          0           ?\n"
        "11:00:00  7.1  n1           16         90           7\n"
        "\n"
        "loss = nan"
    )


def test_a_launch_that_is_no_run_is_described_without_steps(
    tmp_path: Path, says: Callable[..., None]
) -> None:
    folder = launched(tmp_path, TASKS)
    status = made("failed", step="tokenize", name="red", parts=TASK_PARTS, saved="3 buckets")
    assert describe(status, folder) == (
        "red: tokenize, failed\n"
        "\n"
        "folder    /runs/red\n"
        "launched  2026-01-01T00:00:00+00:00\n"
        "saved     3 buckets\n"
        f"logs      {folder.logs}\n"
        "\n"
        "part    job  state   nodes  restarts  reason\n"
        "tasks     8  failed                2  3 done\n"
        "finish    9  held                  1  x"
    )


def test_the_status_is_printed_as_text_and_as_json(
    tmp_path: Path, says: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = launched(tmp_path, RUN)
    trained(folder)
    says(job7="JobState=RUNNING NodeList=n1 Restarts=1")
    assert command.main(Config(run=str(folder.made))) == 0
    assert capsys.readouterr().out == f"{describe(status_of(folder, RUN), folder)}\n"
    assert command.main(Config(run=str(folder.made), json=True)) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["name"], shown["folder"]) == ("running", "1_4b", str(folder.made))
    assert shown["parts"] == [
        {
            "part": "run",
            "job": "7",
            "state": "running",
            "reason": "",
            "nodes": "n1",
            "restarts": 1,
        }
    ]
    assert shown["progress"]["step"] == 100


def test_without_a_run_the_newest_launches_that_are_still_there_are_listed(
    tmp_path: Path,
    says: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert command.main(Config()) == 0
    assert capsys.readouterr().out == (
        "nothing was launched yet; see 'mobilellama launch --help'\n"
    )
    for launch in (RUN, TASKS):
        remember(launched(tmp_path, launch).made)
    remember(tmp_path / "removed since")
    remember(tmp_path / RUN.name)  # launched again
    assert command.main(Config(json=True)) == 0
    assert [shown["name"] for shown in json.loads(capsys.readouterr().out)] == ["red", "1_4b"]
    assert command.main(Config()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "red", "1_4b"]


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
    assert "Unable to contact slurm controller. Is the controller up?" in part.reason


def test_one_damaged_launch_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good"):
        folder = LaunchFolder(tmp_path / name, train=True)
        folder.create()
        folder.write(replace(LOCAL, folder=str(tmp_path / name), name=name))
        remember(tmp_path / name)
    (tmp_path / "bad" / "launch" / "launch.json").write_text("{")
    assert [status.name for status in list_known()] == ["good"]
    assert f"{tmp_path}/bad/launch/launch.json: is damaged" in caplog.text


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
    assert (status.progress["step"], status.progress["repeated_steps"]) == (3, 0)
    assert "3 of 3, loss 2.5000" in describe(status, folder)


def test_a_path_of_the_list_that_is_no_utf_8_is_kept(tmp_path: Path) -> None:
    known_file().parent.mkdir(parents=True)
    known_file().write_bytes(b"/caf\xe9\n")
    remember(tmp_path)
    assert known_file().read_bytes() == b"/caf\xe9\n" + f"{tmp_path}\n".encode()
    assert list_known() == []
