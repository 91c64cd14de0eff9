"""The launch folder: its paths, launch.json, marks, and the lock that one launch holds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.launch.folder import (
    Job,
    Launch,
    LaunchFolder,
    current_jobs,
    find,
    parts_of,
    require,
    task_name,
    task_number,
)
from mobilellama.launch.steps import STEPS

JOB = Job(part="run", id="7", script="/runs/a/launch/job.sbatch")
LAUNCH = Launch(
    step="pretrain",
    name="a",
    arguments=["--run.folder", "/runs/a", "--title", "two\nlines, “quoted”"],
    folder="/runs/a",
    cwd="/home/u",
    submitted="2026-01-01T00:00:00+00:00",
    tasks=0,
    jobs=[JOB],
)
TASKS = replace(
    LAUNCH,
    step="tokenize",
    tasks=64,
    jobs=[
        Job(part="tasks", id="8", script="job.sbatch"),
        Job(part="finish", id="9", script="finish.sbatch"),
    ],
)


def launched(made: Path, *, train: bool = True) -> LaunchFolder:
    """A launch folder with launch.json."""
    folder = LaunchFolder(made, train=train)
    folder.create()
    folder.write(LAUNCH)
    return folder


def test_a_runs_launch_is_kept_inside_its_folder() -> None:
    folder = LaunchFolder.of(STEPS["pretrain"], Path("/runs/a"))
    assert folder.root == Path("/runs/a/launch")
    assert folder.logs == Path("/runs/a/logs")
    assert folder.launch == Path("/runs/a/launch/launch.json")
    assert folder.code == Path("/runs/a/launch/code")
    assert folder.cancelled == Path("/runs/a/launch/cancelled")
    assert folder.run is not None and folder.run.path == Path("/runs/a")


@pytest.mark.parametrize("step", [name for name, step in STEPS.items() if step.kind != "train"])
def test_an_outputs_launch_is_kept_beside_it(step: str) -> None:
    folder = LaunchFolder.of(STEPS[step], Path("/data/v1.0"))
    assert folder.root == Path("/data/v1.0.launch")
    assert folder.logs == Path("/data/v1.0.launch/logs")
    assert folder.run is None


@pytest.mark.parametrize("launch", [LAUNCH, TASKS, replace(LAUNCH, jobs=[], arguments=[])])
def test_what_is_written_is_read_back(tmp_path: Path, launch: Launch) -> None:
    folder = LaunchFolder(tmp_path / "a", train=True)
    assert folder.read() is None
    folder.create()
    folder.write(launch)
    assert folder.read() == launch


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "3",
        '{"jobs": 3}',
        '{"jobs": [3]}',
        '{"jobs": [{"part": "run"}]}',
        '{"jobs": [], "step": "pretrain"}',
        '{"jobs": [], "step": "pretrain", "other": 1}',
        "\udcff",
    ],
)
def test_a_damaged_launch_json_is_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    folder = launched(tmp_path / "a")
    folder.launch.write_text(text, errors="surrogateescape")
    with pytest.raises(UserError) as caught:
        folder.read()
    assert str(caught.value).startswith(f"{folder.launch}: is damaged (")
    assert str(caught.value).endswith(
        ". Remove it; jobs that it named are in 'squeue --me'",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "sft"),
        ("arguments", ["--run.folder", "/runs/a"]),
        ("cwd", "/home/v"),
        ("folder", "/runs/b"),
    ],
)
def test_other_work_has_another_signature(field: str, value: object) -> None:
    assert replace(LAUNCH, **{field: value}).signature != LAUNCH.signature


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "b"), ("submitted", "2027-01-01T00:00:00+00:00"), ("jobs", [])],
)
def test_the_same_work_has_the_same_signature_whenever_it_is_launched(
    field: str, value: object
) -> None:
    assert replace(LAUNCH, **{field: value}).signature == LAUNCH.signature
    assert len(LAUNCH.signature) == 16 and LAUNCH.signature.isalnum()


def test_the_order_of_the_arguments_is_part_of_the_signature() -> None:
    """The last option counts, so that another order may be other work."""
    turned = replace(LAUNCH, arguments=LAUNCH.arguments[::-1])
    assert turned.signature != LAUNCH.signature


@pytest.mark.parametrize("place", ["a", "a/", "a/launch"])
def test_a_runs_launch_is_found_from_the_run_and_from_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = launched(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for path in (place, f"{tmp_path}/{place}"):
        found = find(path)
        assert found is not None and found.run is not None
        assert (found.made, found.root) == (folder.made, folder.root)


@pytest.mark.parametrize("place", ["v1.0", "v1.0/", "v1.0.launch", "v1.0.launch/"])
def test_an_outputs_launch_is_found_from_the_output_and_from_itself(
    tmp_path: Path, place: str
) -> None:
    folder = launched(tmp_path / "v1.0", train=False)
    found = find(f"{tmp_path}/{place}")
    assert found is not None and found.run is None
    assert (found.made, found.root) == (folder.made, folder.root)


def test_a_run_that_is_itself_called_launch_is_found(tmp_path: Path) -> None:
    folder = launched(tmp_path / "launch")
    for path in (tmp_path / "launch", tmp_path / "launch/launch"):
        found = find(path)
        assert found is not None and found.root == folder.root


def test_where_nothing_was_launched_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "a/launch").mkdir(parents=True)
    assert find(tmp_path / "a") is None
    assert find(tmp_path / "none") is None
    with pytest.raises(ConfigError) as caught:
        require(str(tmp_path / "a"))
    assert str(caught.value) == (
        f"run = {tmp_path}/a: was not launched by 'mobilellama launch'. "
        "Give a run's folder or the output of a launched stage."
    )


def test_a_launch_is_required_with_its_folder(tmp_path: Path) -> None:
    launched(tmp_path / "a")
    folder, launch = require(str(tmp_path / "a"))
    assert (folder.made, launch) == (tmp_path / "a", LAUNCH)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.launch").touch()
    with pytest.raises(ConfigError) as caught:
        LaunchFolder(tmp_path / "a", train=False).create()
    assert str(caught.value) == (
        f"folder = {tmp_path}/a.launch: cannot be made (File exists). "
        "Give a writable folder that all nodes see."
    )


def test_a_runs_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/config.yaml").touch()
    with pytest.raises(ConfigError, match=r"holds config\.yaml but no run"):
        LaunchFolder(tmp_path / "a", train=True).create()
    assert not (tmp_path / "a/launch").exists()


def test_a_part_is_finished_only_by_this_very_launch(tmp_path: Path) -> None:
    folder = launched(tmp_path / "a")
    assert not folder.is_finished("run", {"abc"})
    folder.mark("run", "finished").write_text("abc\n")
    assert folder.is_finished("run", {"abc"})
    assert not folder.is_finished("run", {"abd"})
    assert not folder.is_finished("finish", {"abc"})


def test_work_done_under_either_form_of_config_is_done(tmp_path: Path) -> None:
    """A former version stored --config=COPY where two words were given."""
    folder = launched(tmp_path / "a")
    two = replace(LAUNCH, arguments=["--config", "a.yaml", "--config", "b.yaml", "--seed", "1"])
    one = replace(LAUNCH, arguments=["--config=a.yaml", "--config=b.yaml", "--seed", "1"])
    assert one.signature != two.signature
    for before, now in ((one, two), (two, one)):
        folder.mark("run", "finished").write_text(f"{before.signature}\n")
        assert folder.is_finished("run", now.signatures)
    other = replace(LAUNCH, arguments=["--config", "a.yaml", "--config", "c.yaml", "--seed", "1"])
    assert not folder.is_finished("run", other.signatures)
    assert LAUNCH.signatures == {LAUNCH.signature}


def test_tasks_are_missing_until_this_very_launch_has_done_them(tmp_path: Path) -> None:
    folder = launched(tmp_path / "a", train=False)
    assert folder.tasks_missing(4, {"abc"}) == [0, 1, 2, 3]
    folder.mark(task_name(1, 4), "finished").write_text("abc\n")
    folder.mark(task_name(2, 4), "finished").write_text("another\n")
    folder.mark(task_name(3, 8), "finished").write_text("abc\n")  # of eight: other records
    assert folder.tasks_missing(4, {"abc"}) == [0, 2, 3]
    for task in range(4):
        folder.mark(task_name(task, 4), "finished").write_text("abc\n")
    assert folder.tasks_missing(4, {"abc"}) == []


def test_failures_are_read_by_part(tmp_path: Path) -> None:
    folder = launched(tmp_path / "a", train=False)
    assert folder.failures() == {}
    folder.mark("finish", "failed").write_text("the disk\nis full\n")
    folder.mark("task-3-of-4", "failed").write_bytes(b"odd \xff\n")
    folder.mark("task-2-of-4", "failures").write_text("1\nnothing\n")
    assert folder.failures() == {"finish": "the disk\nis full", "task-3-of-4": "odd \ufffd"}


def test_clearing_the_marks_keeps_finished_tasks(tmp_path: Path) -> None:
    folder = launched(tmp_path / "a", train=False)
    parts = ("run", "finish", "task-0-of-2", "task-1-of-2")
    for part in parts:
        for kind in ("finished", "failed", "failures", "resubmitted"):
            folder.mark(part, kind).touch()
    folder.cancelled.touch()
    folder.clear_marks()
    assert sorted(path.name for path in folder.root.iterdir()) == [
        "launch.json",
        "logs",
        "task-0-of-2.finished",
        "task-1-of-2.finished",
    ]
    folder.clear_marks()  # nothing left to forget is no error


def test_parts_follow_from_the_step() -> None:
    assert list(parts_of(LAUNCH)) == ["run"]
    assert list(parts_of(TASKS)) == ["tasks", "finish"]


@pytest.mark.parametrize(("task", "count"), [(0, 1), (3, 64), (63, 64)])
def test_a_tasks_name_tells_its_number(task: int, count: int) -> None:
    assert task_number(task_name(task, count)) == task


@pytest.mark.parametrize("part", ["run", "finish", "tasks", "task-3", "task-a-of-3"])
def test_what_is_no_task_has_no_number(part: str) -> None:
    assert task_number(part) is None


def test_a_job_that_its_script_submitted_again_is_the_newest(tmp_path: Path) -> None:
    folder = launched(tmp_path / "a")
    assert current_jobs(folder, LAUNCH) == {"run": ["7"]}
    folder.mark("run", "resubmitted").write_text("11\n12\n")
    assert current_jobs(folder, LAUNCH) == {"run": ["7", "11", "12"]}


def test_tasks_that_were_submitted_again_belong_to_the_array(tmp_path: Path) -> None:
    folder = launched(tmp_path / "a", train=False)
    folder.mark("task-3-of-64", "resubmitted").write_text("11\n")
    folder.mark("finish", "resubmitted").write_text("12\n")
    assert current_jobs(folder, TASKS) == {"tasks": ["8", "11"], "finish": ["9", "12"]}


def test_a_launch_without_jobs_has_none(tmp_path: Path) -> None:
    assert current_jobs(launched(tmp_path / "a"), replace(LAUNCH, jobs=[])) == {}


HOLD = """
import sys
from pathlib import Path
from mobilellama.launch.folder import LaunchFolder
with LaunchFolder(Path(sys.argv[1]), train=True).submitting():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_launch_is_kept_out_while_another_process_is_at_it(tmp_path: Path) -> None:
    folder = launched(tmp_path / "a")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.made)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught, folder.submitting():
            pass
        assert str(caught.value) == (
            f"{folder.made}: is being launched, or runs by --local, in another command. Wait for "
            f"it, or end it with 'mobilellama launch cancel {folder.made}'"
        )
        assert folder.is_at_work()
        holder.kill()  # a lock does not outlive its process, however that ends
        holder.wait()
        with folder.submitting():
            assert (folder.root / "lock").is_file()


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    folder = launched(tmp_path / "a")
    with pytest.raises(RuntimeError), folder.submitting():
        with pytest.raises(UserError), folder.submitting():
            pass
        raise RuntimeError
    with folder.submitting():
        assert (folder.root / "lock").is_file()


@pytest.mark.parametrize("path", ["/", "/.launch"])
def test_a_path_without_a_name_has_no_launch(path: str) -> None:
    assert find(path) is None
