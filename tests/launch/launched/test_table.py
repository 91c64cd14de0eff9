"""What people read of launches."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.launched.state import Part, Status
from mobilellama.launch.launched.table import age, describe, table
from tests.launch.helpers.launches import RUN, TASKS, launched, trained


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


NOW_S = datetime.fromisoformat("2026-01-03T12:00:00+00:00").timestamp()
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
    assert table(found, now_s=NOW_S).splitlines() == [
        "run   age  step      job  state     nodes  restarts       progress  tokens/s  left",
        "1_4b  2 d  pretrain    7  running   n1            1   1,234/20,000    98,765   1 d",
        "b     2 d  pretrain   12  pending                 0         step 0",
        "red   2 d  tokenize    8  failed                  3              3",
        "hf    2 d  export      7  finished  n1            1",
        "done  2 d  pretrain    7  finished  n1            1  20,000/20,000",
        "",
        "b: Priority",
        "red: task 3: the disk is full",
    ]


def test_a_local_launch_is_listed_like_the_others(tmp_path: Path) -> None:
    part = Part(part="run", job="", state="running", reason="", nodes="", restarts=1)
    local = made("running", parts=[part], progress=PROGRESS | {"repeated_steps": 1}, is_local=True)
    assert table([local], now_s=NOW_S).splitlines() == [
        "run   age  step          job  state    restarts      progress  tokens/s  left",
        "1_4b  2 d  pretrain  --local  running         1  1,234/20,000    98,765   1 d",
    ]
    shown = describe(local, LaunchFolder(tmp_path, train=True)).splitlines()
    assert shown[0] == "1_4b: pretrain, running"
    assert "starts    2, 1 step done again" in shown
    assert shown[-2:] == [
        "part      job  state    nodes  restarts  reason",
        "run   --local  running                1",
    ]


def test_a_narrow_terminal_is_shown_less_and_long_names_on_several_lines() -> None:
    nodes = Part(part="run", job="123456", state="running", reason="", nodes="n[1-20]", restarts=3)
    name = "mobilellama-1.4b-on-redpajama-with-another-seed-4"
    found = [made("running", name=name, parts=[nodes], progress=PROGRESS)]
    assert len(table(found, now_s=NOW_S).splitlines()[1]) > 100
    assert table(found, now_s=NOW_S, width=80).splitlines() == [
        "run                                  step      state        progress  left",
        "mobilellama-1.4b-on-redpajama-with-  pretrain  running  1,234/20,000   1 d",
        "another-seed-4",
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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),  # another node's clock
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86_399, "23 h"),
        (86_400, "1 d"),
        (40 * 86_400, "40 d"),
    ],
)
def test_an_age_is_told_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert age("2026-01-03T12:00:00+00:00", NOW_S + seconds) == text
    assert age("2026-01-03T13:00:00+01:00", NOW_S + seconds) == text


def test_an_age_that_nobody_knows_is_said_to_be_so() -> None:
    assert age("yesterday", NOW_S) == "?"


@pytest.mark.parametrize(
    ("state", "restarts", "shown"),
    [
        ("pending", 0, "pending"),
        ("pending", 2, "requeued"),
        ("timeout", 2, "out of time"),
        ("node_fail", 0, "a node failed"),
        ("out_of_memory", 0, "out of memory"),
        ("preempted", 0, "preempted"),
        ("finished", 3, "finished"),
    ],
)
def test_people_read_what_became_of_a_job_and_programs_slurms_word(
    state: str, restarts: int, shown: str, tmp_path: Path
) -> None:
    part = Part(part="run", job="7", state=state, reason="", nodes="", restarts=restarts)
    status = made(state, parts=[part])
    assert status.parts[0].state == state
    lines = table([status], now_s=NOW_S).splitlines()
    assert f" 7  {shown} " in f"{lines[1]} "
    folder = launched(tmp_path, RUN)
    assert describe(status, folder).startswith(f"1_4b: pretrain, {shown}\n")


def test_columns_that_no_launch_fills_are_left_out() -> None:
    part = Part(part="run", job="7", state="finished", reason="", nodes="", restarts=0)
    assert table([made("finished", parts=[part], saved="nothing")], now_s=NOW_S).splitlines() == [
        "run   age  step      job  state     restarts",
        "1_4b  2 d  pretrain    7  finished         0",
    ]
