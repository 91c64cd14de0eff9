"""What a job script decides: how a step ended, whether to requeue, and where to stay away from.

The script is run by bash, with small programs in the place of SLURM's commands: what is tested is
what it makes of their answers. Of srun, the test's own lines play the step.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mobilellama.files.atomic import write_json
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.steps import STEPS
from mobilellama.launch.submission.render import Script
from mobilellama.run_folder import Verdict, VerdictKind

SIGNATURE = "0123456789abcdef"
PROGRAMS = {
    "scontrol": """#!/bin/sh
        echo "scontrol $*" >> "$CLUSTER/calls"
        case "$1 $2" in
            "show hostnames") echo "$3" | tr , '\\n' ;;
            "show job")
                [ ! -e "$CLUSTER/down" ] || { rm "$CLUSTER/down"; exit 1; }
                read -r record < "$CLUSTER/record"
                echo "$record" ;;
            # SLURM ends everything in the job's shell at once, and scontrol may be there too.
            requeue*)
                kill -TERM 0
                if [ -e "$CLUSTER/requeue_later" ]; then
                    rm "$CLUSTER/requeue_later"
                    echo "Unable to contact slurm controller" >&2
                    exit 1
                fi
                [ ! -e "$CLUSTER/no_requeue" ] && exit 0
                echo "Requested operation is presently disabled for job 7" >&2
                exit 1 ;;
        esac
    """,
    "sbatch": """#!/bin/sh
        echo "sbatch $*" >> "$CLUSTER/calls"
        [ ! -e "$CLUSTER/no_sbatch" ] && echo "8;cluster"
    """,
    "squeue": """#!/bin/sh
        cat "$CLUSTER/queue"
    """,
    # The health check and the step are told by the module that they run; the rest is run as it is.
    "srun": """#!/bin/bash
        while [[ $1 == --* ]]; do
            [[ $1 == --output=* ]] && output=${1#--output=}
            shift
        done
        case "$2 $3" in
            "-m mobilellama.launch.health") source "$CLUSTER/health" ;;
            "-m mobilellama")
                printf '%s\\n' "$@" > "$CLUSTER/started"
                exec > "${output/\\%t/0}" 2>&1
                source "$PROGRAMS/words"
                source "$CLUSTER/step" ;;
            *)
                "$@"
                [ ! -e "$CLUSTER/early" ] || kill -USR1 "$(ps -o ppid= -p "$PPID")" ;;
        esac
    """,
    # A clock that runs two hundred times faster.
    "sleep": """#!/bin/bash
        printf -v seconds '%d.%03d' $(($1 * 5 / 1000)) $(($1 * 5 % 1000))
        exec /bin/sleep "$seconds"
    """,
}
# What the lines that play a step are made of.
WORDS = """
begin() {
    local job=${2:-$SLURM_JOB_ID.$SLURM_RESTART_COUNT}
    printf '{\\n  "job": "%s"\\n}\\n' "$job" > "$RUN/attempts/000$1.json"
}
save() { mkdir "$RUN/checkpoints/step-$1"; }
bucket() { mkdir -p "$RUN/code"; echo '{}' > "$RUN/code/$1.json"; }
verdict() { cp "$PROGRAMS/$1-$2.json" "$RUN/verdict.json"; }
until_asked() {
    touch "$CLUSTER/ready"
    until [ -e "$MOBILELLAMA_STOP_FILE" ]; do /bin/sleep 0.01; done
}
until_killed() { touch "$CLUSTER/ready"; while :; do /bin/sleep 0.01; done; }
"""
CRASH = "echo 'ValueError: bad'; exit 1"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one start ended."""

    code: int
    said: str
    """What the script itself printed."""
    calls: list[str]
    """What it asked of SLURM, but for questions."""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, and the verdicts that a trainer writes: KIND-ATTEMPT.json."""
    folder = tmp_path_factory.mktemp("programs")
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "words").write_text(WORDS)
    kinds: tuple[VerdictKind, ...] = ("finished", "stopped", "failed")
    for kind in kinds:
        for attempt in (1, 2):
            misleading = 'said\n "kind": "finished",\n "attempt": 9,'
            verdict = Verdict(kind=kind, message=misleading, attempt=attempt, step=10)
            write_json(folder / f"{kind}-{attempt}.json", vars(verdict))
    return folder


class Job:
    """A job script, and the programs around it."""

    def __init__(
        self, root: Path, programs: Path, slurm: SlurmConfig, *, step: str, part: str, nodes: str
    ) -> None:
        self.made, self.cluster = root / "a", root / "cluster"
        self.folder = LaunchFolder.of(STEPS[step], self.made)
        self._nodes = nodes
        for folder in ("attempts", "checkpoints"):
            (self.made / folder).mkdir(parents=True)
        self.folder.create()
        jobs = [{"id": "7"}, {"id": "6"}]
        self.folder.launch.write_text(json.dumps({"jobs": jobs}))
        self.cluster.mkdir()
        (self.cluster / "queue").touch()
        self._script = Script(
            step=STEPS[step],
            part=part,
            name="a",
            arguments=["--run.folder", str(self.made)],
            folder=self.folder,
            cwd=str(root),
            code=root / "code",
            python="/opt/python",
            signature=SIGNATURE,
            slurm=slurm,
        )
        self._script.path.write_text(self._script.text())
        self._env = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "PROGRAMS": str(programs),
            "CLUSTER": str(self.cluster),
            "RUN": str(self.made),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": nodes,
            "SLURM_JOB_NUM_NODES": str(len(nodes.split(","))),
            "SLURM_CPUS_ON_NODE": "16",
            "SLURM_CPUS_PER_TASK": "4",
        }
        if part == "tasks":
            self._env |= {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "3"}

    def record(self, name: str = "record", **fields: str) -> None:
        """Let SLURM say this of the job, as 'scontrol show job -o' does; later if so named."""
        known = {
            "JobId": "7",
            "JobName": "a b",
            "JobState": "RUNNING",
            "Reason": "None",
            "Dependency": "(null)",
            "Requeue": "1",
            "Restarts": "0",
            "ExitCode": "0:0",
            "StartTime": "2026-01-01T10:00:00",
            "PreemptEligibleTime": "2026-01-01T10:00:00",
            "PreemptTime": "None",
            "ReqNodeList": "(null)",
            "ExcNodeList": "(null)",
            "NodeList": self._nodes,
        } | fields
        text = " ".join(f"{name}={value}" for name, value in known.items())
        (self.cluster / name).write_text(f"{text} Power= \n")

    def start(
        self, step: str, *, restarts: int = 0, health: str = "", warn: int = 0, **fields: str
    ) -> Ended:
        """Run the script to its end; whatever it leaves behind is killed.

        Args:
            step: the lines that play it.
            restarts: how often the job was requeued before.
            health: the lines that play the check of the nodes.
            warn: a signal for the script once the step is ready for it.
            fields: of SLURM's record of the job, once something runs in it.
        """
        self.record(Restarts=str(restarts))
        self.record("later", **{"Restarts": str(restarts)} | fields)
        later = 'cp "$CLUSTER/later" "$CLUSTER/record"\n'
        (self.cluster / "step").write_text(later + step)
        (self.cluster / "health").write_text(later + health)
        (self.cluster / "calls").write_text("")
        with open(self.cluster / "said", "wb") as said:
            process = subprocess.Popen(
                ["bash", str(self._script.path)],
                env=self._env | ({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if warn:
                self.wait_ready()
                process.send_signal(warn)
            ended = os.pidfd_open(process.pid)  # wait(timeout=...) would look only now and then
            assert select.select([ended], [], [], 10)[0], (self.cluster / "said").read_text()
            os.close(ended)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        calls = (self.cluster / "calls").read_text().splitlines()
        return Ended(
            code=process.returncode,
            said=(self.cluster / "said").read_text(),
            calls=[call for call in calls if not call.startswith("scontrol show")],
        )

    def wait_ready(self) -> None:
        end_s = time.monotonic() + 10
        while not (self.cluster / "ready").exists():
            assert time.monotonic() < end_s, (self.cluster / "said").read_text()
            time.sleep(0.005)

    def marks(self) -> dict[str, str]:
        """What the script has noted of its part, by name."""
        kinds = ("finished", "failed", "failures", "resubmitted")
        found = {path.name: path for kind in kinds for path in self.folder.root.glob(f"*.{kind}")}
        return {name: path.read_text().strip() for name, path in sorted(found.items())}

    def tested(self, excluded: str) -> str:
        """The question whether the cluster has enough nodes without some."""
        return f"sbatch --test-only --exclude={excluded} {self._script.path}"

    @property
    def was_started(self) -> bool:
        return (self.cluster / "started").exists()


@pytest.fixture
def make_job(tmp_path: Path, programs: Path) -> Callable[..., Job]:
    """Make a job of other settings."""

    def make(
        *, step: str = "pretrain", part: str = "run", nodes: str = "127.0.0.1", **slurm: Any
    ) -> Job:
        given = {"health": "none", "scratch": str(tmp_path / "scratch"), "tasks": 64} | slurm
        return Job(tmp_path, programs, SlurmConfig(**given), step=step, part=part, nodes=nodes)

    return make


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    """A job that trains on one node."""
    return make_job()


REQUEUED = ["scontrol requeue 7"]


# ---- what a run's verdict says ------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1])
def test_a_run_that_has_finished_is_done_whatever_srun_returned(job: Job, code: int) -> None:
    job.folder.mark("run", "failed").write_text("of a former start\n")
    job.folder.mark("run", "failures").write_text("2\nstep 0\n")
    ended = job.start(f"begin 1; save 10; verdict finished 1; exit {code}")
    assert (ended.code, ended.calls) == (0, [])
    assert job.marks() == {"run.finished": SIGNATURE}


def test_a_run_that_has_failed_for_good_is_given_up_with_its_message(job: Job) -> None:
    ended = job.start(
        "begin 1; echo 'loss = nan' > \"$MOBILELLAMA_FAILED_FILE\"; verdict failed 1; exit 2"
    )
    assert (ended.code, ended.calls) == (1, [])
    assert job.marks() == {"run.failed": "loss = nan"}
    assert "giving up: loss = nan" in ended.said


def test_a_failed_run_without_a_message_is_given_up_with_the_place_of_its_verdict(
    job: Job,
) -> None:
    ended = job.start("begin 1; save 10; verdict failed 1; exit 2")
    assert (ended.code, ended.calls) == (1, [])
    assert job.marks() == {"run.failed": f"see {job.made}/verdict.json"}


def test_what_fails_before_it_is_a_run_is_given_up_with_its_message(job: Job) -> None:
    ended = job.start("echo 'train.lr = -1: bad' > \"$MOBILELLAMA_FAILED_FILE\"; exit 2")
    assert (ended.code, ended.calls) == (1, [])
    assert job.marks() == {"run.failed": "train.lr = -1: bad"}


def test_a_run_that_stopped_with_something_saved_goes_on(job: Job) -> None:
    job.folder.mark("run", "failures").write_text("2\nstep 0\n")
    ended = job.start("begin 1; save 10; verdict stopped 1; exit 0")
    assert (ended.code, ended.calls) == (0, REQUEUED)
    assert job.marks() == {}
    assert "stopped with step 10 saved" in ended.said


def test_a_run_that_stopped_with_nothing_saved_counts_as_a_failure(job: Job) -> None:
    ended = job.start("begin 1; verdict stopped 1; exit 0")
    assert (ended.code, ended.calls) == (0, REQUEUED)
    assert job.marks() == {"run.failures": "1\nstep 0"}
    assert "stopped before anything new was saved (is slurm.time too short?)" in ended.said


@pytest.mark.parametrize(
    "step",
    [
        "exit 1",  # crashed before it was an attempt
        f"begin 2; verdict finished 1; {CRASH}",
        f"begin 2; begin 3; verdict finished 2; {CRASH}",  # another one took over from 2
        f"begin 2; echo '{{' > \"$RUN/verdict.json\"; {CRASH}",
    ],
)
def test_the_verdict_of_another_attempt_is_ignored(job: Job, programs: Path, step: str) -> None:
    (job.made / "attempts/0001.json").touch()
    (job.made / "verdict.json").write_bytes((programs / "finished-1.json").read_bytes())
    ended = job.start(step, restarts=1)
    assert (ended.code, ended.calls) == (0, REQUEUED)
    assert job.marks() == {"run.failures": "1\nstep 0"}


def test_a_run_that_is_launched_again_after_it_had_finished_is_started(job: Job) -> None:
    """More steps may be asked for; the run itself says whether there is anything to do."""
    job.folder.mark("run", "finished").write_text(f"{SIGNATURE}\n")
    ended = job.start("begin 1; save 10; verdict finished 1", restarts=0)
    assert ended.code == 0 and job.was_started


@pytest.mark.parametrize(("signature", "starts"), [(SIGNATURE, False), ("another", True)])
def test_a_restart_of_what_has_finished_starts_nothing(
    job: Job, signature: str, starts: bool
) -> None:
    job.folder.mark("run", "finished").write_text(f"{signature}\n")
    ended = job.start("begin 1; save 10; verdict finished 1", restarts=1)
    assert (ended.code, ended.calls) == (0, [])
    assert job.was_started == starts


# ---- crashes ------------------------------------------------------------------------------------


def test_the_third_crash_in_a_row_at_the_same_step_is_the_last(job: Job) -> None:
    for number in (1, 2):
        ended = job.start(f"begin {number}; {CRASH}", restarts=number - 1)
        assert (ended.code, ended.calls) == (0, REQUEUED)
        assert job.marks() == {"run.failures": f"{number}\nstep 0"}
        assert f"exit code 1: ValueError: bad; failure {number} of 3 with step 0" in ended.said
    ended = job.start(f"begin 3; {CRASH}", restarts=2)
    assert (ended.code, ended.calls) == (1, [])
    assert job.marks() == {
        "run.failures": "3\nstep 0",
        "run.failed": "exit code 1: ValueError: bad; 3 times in a row with step 0 saved",
    }


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        ("2\nstep 0", f"save 10; {CRASH}", "1\nstep 10"),
        ("2\nstep 0", f"save 10; save 9; {CRASH}", "1\nstep 10"),
        ("2\nstep 0", f'mkdir "$RUN/checkpoints/step-10.tmp-1"; {CRASH}', None),
        ("1\nstep 0", CRASH, "2\nstep 0"),
        ("2\nstep 5", CRASH, "1\nstep 0"),
        ("", CRASH, "1\nstep 0"),
        ("1", CRASH, "1\nstep 0"),
    ],
)
def test_a_crash_counts_from_the_last_one_at_the_same_step(
    job: Job, before: str, step: str, after: str | None
) -> None:
    """Only a whole checkpoint begins the count anew; a row with None is the third failure."""
    job.folder.mark("run", "failures").write_text(f"{before}\n")
    ended = job.start(f"begin 1; {step}")
    assert ended.calls == ([] if after is None else REQUEUED)
    assert job.marks()["run.failures"] == (after or "3\nstep 0")


def test_the_number_of_failures_may_be_given(make_job: Callable[..., Job]) -> None:
    job = make_job(max_failures=1)
    ended = job.start(f"begin 1; {CRASH}")
    assert (ended.code, ended.calls) == (1, [])
    assert "run.failed" in job.marks()


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("step 1\\nRuntimeError: CUDA error\\nKeyError: 3", "RuntimeError: CUDA error"),
        (
            "mobilellama: error: the connection to another rank is lost\\ntorch.cuda.Error: x",
            "torch.cuda.Error: x",
        ),
        (
            "mobilellama: error: the connection to another rank is lost. See below",
            "mobilellama: error: the connection to another rank is lost. See below",
        ),
        ("mobilellama: error: data: another rank found it damaged\\nOSError: x", "OSError: x"),
        (
            "torch.distributed.DistBackendError: NCCL error in: x.cpp\\ntorch.cuda.Error: x",
            "torch.cuda.Error: x",
        ),
        (
            "torch.distributed.DistNetworkError: the client socket has failed",
            "torch.distributed.DistNetworkError: the client socket has failed",
        ),
        ("no error at all", ""),
    ],
)
def test_a_crash_is_told_with_the_first_cause_that_was_printed(
    job: Job, printed: str, reason: str
) -> None:
    ended = job.start(f"printf '{printed}\\n'; exit 3")
    assert f"exit code 3: {reason}; failure 1 of 3" in ended.said


def test_after_so_many_restarts_a_job_gives_up(make_job: Callable[..., Job]) -> None:
    job = make_job(max_restarts=2)
    assert job.start("begin 1; save 1; verdict stopped 1", restarts=1).calls == REQUEUED
    ended = job.start("begin 2; save 2; verdict stopped 2", restarts=2)
    assert (ended.code, ended.calls) == (1, [])
    assert job.marks() == {"run.failed": "restarted 2 times, which is slurm.max_restarts"}


def test_a_run_that_writes_nothing_is_ended_and_requeued(make_job: Callable[..., Job]) -> None:
    job = make_job(hang_minutes=0.001)  # 60 ms, looked at after 1 s of the fast clock
    ended = job.start("begin 1; /bin/sleep 0.2; until_killed")
    assert (ended.code, ended.calls) == (0, REQUEUED)
    assert "hung for 0.001 minutes; failure 1 of 3 with step 0 saved" in ended.said
    assert job.marks() == {"run.failures": "1\nstep 0"}


def test_a_hung_run_that_does_not_end_when_asked_is_killed(make_job: Callable[..., Job]) -> None:
    job = make_job(hang_minutes=0.001)
    ended = job.start("trap '' TERM; begin 1; /bin/sleep 0.2; until_killed")
    assert (ended.code, ended.calls) == (0, REQUEUED)
    assert "hung for 0.001 minutes; failure 1 of 3 with step 0 saved" in ended.said


# ---- who decides --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "restarts", "step"),
    [
        ("COMPLETING", "0", CRASH),
        ("CANCELLED", "0", "save 10; verdict stopped 1"),
        ("PENDING", "1", "verdict failed 1"),
        ("RUNNING", "1", CRASH),
        ("RUNNING", "1", "save 10; verdict stopped 1"),
    ],
)
def test_a_start_that_is_not_slurms_current_one_decides_nothing(
    job: Job, state: str, restarts: str, step: str
) -> None:
    ended = job.start(f"begin 1; {step}", JobState=state, Restarts=restarts)
    assert (ended.code, ended.calls, job.marks()) == (1, [], {})
    assert f"not deciding: the job is '{state} {restarts}'" in ended.said


def test_a_run_that_has_finished_is_done_whoever_is_asked(job: Job) -> None:
    ended = job.start("begin 1; save 10; verdict finished 1", Restarts="1")
    assert (ended.code, job.marks()) == (0, {"run.finished": SIGNATURE})


def test_a_controller_that_is_down_for_a_while_is_asked_again(job: Job) -> None:
    ended = job.start('begin 1; save 10; verdict stopped 1; touch "$CLUSTER/down"')
    assert not (job.cluster / "down").exists()
    assert (ended.code, ended.calls) == (0, REQUEUED)


def test_a_cancelled_job_is_not_started(job: Job) -> None:
    job.folder.cancelled.touch()
    ended = job.start("begin 1", restarts=1)
    # Not 0, which would let the steps that wait for it begin.
    assert (ended.code, ended.calls, job.marks()) == (1, [], {})
    assert "cancelled: not started" in ended.said and not job.was_started


@pytest.mark.parametrize("step", [CRASH, "save 10; verdict stopped 1"])
def test_a_job_that_was_cancelled_meanwhile_is_not_requeued(job: Job, step: str) -> None:
    ended = job.start(f'begin 1; touch "{job.folder.cancelled}"; {step}')
    assert (ended.code, ended.calls) == (1, [])
    assert "cancelled: not requeued" in ended.said
    assert "run.failed" not in job.marks()


# ---- requeues that are refused ------------------------------------------------------------------


def test_where_a_requeue_is_refused_another_job_takes_the_place(job: Job) -> None:
    (job.cluster / "no_requeue").touch()
    (job.cluster / "queue").write_text(
        "9 afterok:7(unfulfilled)\n10 afterok:77(unfulfilled)\n11 (null)\n"
        "12 afterok:3(unfulfilled),afterok:7(unfulfilled)\n"
    )
    script = f"{job.folder.root}/job.sbatch"
    ended = job.start("begin 1; save 10; verdict stopped 1")
    assert ended.code == 1  # else what waits for this job would begin
    assert ended.calls == [
        "scontrol requeue 7",
        f"sbatch --parsable {script}",
        "scontrol update JobId=9 Dependency=afterok:8",
        "scontrol update JobId=12 Dependency=afterok:3,afterok:8",
    ]
    assert job.marks() == {"run.resubmitted": "8"}


def test_where_neither_is_possible_the_job_gives_up(job: Job) -> None:
    (job.cluster / "no_requeue").touch()
    (job.cluster / "no_sbatch").touch()
    ended = job.start("begin 1; save 10; verdict stopped 1")
    assert ended.code == 1
    said = job.marks()["run.failed"]
    assert said.startswith("may be neither requeued (Requested operation is presently disabled")


def test_a_requeue_that_fails_for_another_reason_is_tried_again(job: Job) -> None:
    """A second job beside one whose requeue took hold after all would never end."""
    (job.cluster / "requeue_later").touch()
    ended = job.start("begin 1; save 10; verdict stopped 1")
    assert (ended.code, ended.calls) == (0, [*REQUEUED, *REQUEUED])
    assert "Unable to contact slurm controller; trying again" in ended.said


def test_a_run_that_another_job_has_taken_over_is_left_to_it(job: Job) -> None:
    ended = job.start(f"begin 1; begin 2 9.0; {CRASH}")
    assert (ended.code, ended.calls, job.marks()) == (1, [], {})
    assert "another start (9.0) goes on with this run" in ended.said


def test_a_mark_that_cannot_be_written_ends_the_job_instead_of_counting_anew(job: Job) -> None:
    """A folder in the place of the mark stands for a disk that is full."""
    (job.folder.root / ".run.failures.7").mkdir()
    ended = job.start(f"begin 1; {CRASH}")
    assert (ended.code, ended.calls) == (1, [])
    assert "is the disk full?" in ended.said
    assert "the failures cannot be counted" in job.marks()["run.failed"]


# ---- warnings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warning", "end_s", "preempted", "cause"),
    [
        ("USR1", 300, "None", "SLURM, because the job's time ends"),
        ("USR1", 9000, "None", "a person or program that sent the job a signal (USR1)"),
        ("USR1", 9000, "2026-01-01T11:00:00", "SLURM, because it preempts the job"),
        ("USR1", 300, "2026-01-01T09:00:00", "SLURM, because the job's time ends"),
        ("USR2", 9000, "None", "a person or program that sent the job a signal (USR2)"),
        ("TERM", 9000, "None", "SLURM, because the job is ended or requeued"),
        ("TERM", 9000, "2026-01-01T11:00:00", "SLURM, because it preempts the job"),
    ],
)
def test_a_warned_run_saves_and_goes_on(
    job: Job, warning: str, end_s: int, preempted: str, cause: str
) -> None:
    end = datetime.fromtimestamp(time.time() + end_s).isoformat(timespec="seconds")
    ended = job.start(
        "begin 1; until_asked; save 10; verdict stopped 1",
        warn=signal.Signals[f"SIG{warning}"],
        PreemptTime=preempted,
        EndTime=end,
    )
    assert (ended.code, ended.calls, job.marks()) == (0, REQUEUED, {})
    assert f"asked to save and stop within 270 s, by {cause}\n" in ended.said
    assert (job.folder.logs / "7.0/stop").exists()


def test_a_warned_run_that_has_saved_but_crashes_goes_on(job: Job) -> None:
    """It had to end, and nothing is lost: no failure."""
    ended = job.start("begin 1; until_asked; save 10; exit 1", warn=signal.SIGUSR1)
    assert (ended.code, ended.calls, job.marks()) == (0, REQUEUED, {})


def test_a_warned_run_that_does_not_stop_is_ended_in_time(make_job: Callable[..., Job]) -> None:
    job = make_job(warn_s=40)  # it has 20 s, of the fast clock
    ended = job.start("begin 1; until_asked; until_killed", warn=signal.SIGUSR1)
    assert (ended.code, ended.calls) == (0, REQUEUED)
    assert "asked to save and stop within 20 s" in ended.said
    assert job.marks() == {"run.failures": "1\nstep 0"}


def test_a_run_is_asked_once_however_often_the_job_is_warned(job: Job) -> None:
    step = 'begin 1; until_asked; kill -TERM "$PPID"; /bin/sleep 0.05; save 10; verdict stopped 1'
    ended = job.start(step, warn=signal.SIGUSR1)
    assert (ended.code, ended.calls) == (0, REQUEUED)
    assert ended.said.count("asked to save and stop") == 1


def test_a_warning_before_the_run_has_begun_ends_it(job: Job) -> None:
    (job.cluster / "early").touch()
    ended = job.start("until_killed")
    assert (ended.code, ended.calls) == (0, REQUEUED)
    assert "stopped before it began, by a person or program that sent the job a" in ended.said
    assert not job.was_started


def test_a_stop_that_the_next_start_finds_is_not_for_it(job: Job) -> None:
    job.start("begin 1; until_asked; save 10; verdict stopped 1", warn=signal.SIGUSR1)
    step = 'begin 2; [ ! -e "$MOBILELLAMA_STOP_FILE" ] && save 20 && verdict finished 2'
    assert job.start(step, restarts=1).code == 0
    assert job.marks() == {"run.finished": SIGNATURE}


# ---- preemption ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preempted", "marks"),
    [
        ("2026-01-01T11:00:00", {}),
        ("2026-01-01T10:00:00", {}),
        ("2026-01-01T09:00:00", {"run.failures": "1\nstep 0"}),  # of a former start
        ("None", {"run.failures": "1\nstep 0"}),
    ],
)
def test_a_preempted_run_that_saved_nothing_is_nobodys_failure(
    job: Job, preempted: str, marks: dict[str, str]
) -> None:
    ended = job.start(f"begin 1; {CRASH}", PreemptTime=preempted)
    assert (ended.code, ended.calls, job.marks()) == (0, REQUEUED, marks)


def test_a_preempted_run_that_failed_for_good_is_given_up(job: Job) -> None:
    ended = job.start("begin 1; verdict failed 1", PreemptTime="2026-01-01T11:00:00")
    assert (ended.code, ended.calls) == (1, [])


# ---- nodes --------------------------------------------------------------------------------------

NODES = "127.0.0.1,127.0.0.2,127.0.0.3"


def found(**nodes: str) -> str:
    """The lines of a check that finds this of the nodes, by their last digit."""
    lines = [f"echo '{text}' > \"$4/127.0.0.{name[1:]}\"" for name, text in nodes.items()]
    return "\n".join(["shift", *lines])  # python -m MODULE --output FOLDER


def test_well_nodes_are_left_alone(make_job: Callable[..., Job]) -> None:
    job = make_job(nodes=NODES, health="node")
    ended = job.start(
        "begin 1; save 1; verdict finished 1", health=found(n1="OK", n2="OK", n3="OK 8 GPUs")
    )
    assert (ended.code, ended.calls) == (0, [])
    assert "not well" not in ended.said


@pytest.mark.parametrize(
    ("excluded", "merged"), [("(null)", "127.0.0.2"), ("node[7-9]", "node[7-9],127.0.0.2")]
)
def test_a_bad_node_is_told_and_stayed_away_from(
    make_job: Callable[..., Job], excluded: str, merged: str
) -> None:
    job = make_job(nodes=NODES, health="node")
    check = found(n1="OK", n2="BAD GPUs: 7 of 8 answer", n3="OK")
    ended = job.start("begin 1", health=check, ExcNodeList=excluded)
    assert (ended.code, job.was_started) == (0, False)
    update = f"scontrol update JobId=7 ExcNodeList={merged}"
    assert ended.calls == [job.tested(merged), *REQUEUED, update]
    assert "127.0.0.2 is not well: BAD GPUs: 7 of 8 answer" in ended.said
    assert not list((job.cluster.parent / "scratch").iterdir())
    assert job.marks() == {}  # the node's failure is not the run's


def test_start_after_start_with_bad_nodes_becomes_the_runs_failure(
    make_job: Callable[..., Job],
) -> None:
    """As where every node lacks something: a job would walk through the whole cluster."""
    job = make_job(health="node")
    check = found(n1="BAD GPUs")
    for restarts in range(5):
        assert len(job.start("begin 1", health=check, restarts=restarts).calls) == 3
        assert job.marks() == {}
    for restarts in (5, 6):
        assert job.start("begin 1", health=check, restarts=restarts).calls == REQUEUED
    assert job.start("begin 1", health=check, restarts=7).code == 1
    assert "8 starts in a row found some; 3 times in a row" in job.marks()["run.failed"]
    job.start("begin 1; save 1; verdict finished 1", health=found(n1="OK"), restarts=8)
    assert not job.folder.mark("run", "bad").exists()


def test_a_bad_node_that_the_cluster_cannot_do_without_is_not_stayed_away_from(
    make_job: Callable[..., Job],
) -> None:
    """Else the job would wait for ever."""
    job = make_job(nodes=NODES, health="node")
    (job.cluster / "no_sbatch").touch()
    ended = job.start("begin 1", health=found(n1="OK", n2="BAD GPUs", n3="OK"))
    assert ended.calls == [job.tested("127.0.0.2"), *REQUEUED]
    assert "without which the cluster has too few; failure 1 of 3" in ended.said


def test_a_start_that_is_not_slurms_current_one_requeues_for_no_bad_node(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(health="node")
    ended = job.start("begin 1", health=found(n1="BAD scratch"), Restarts="1")
    assert (ended.code, ended.calls) == (1, [])


def test_a_node_that_gives_no_answer_is_bad_and_so_may_be_several(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(nodes=NODES, health="node")
    ended = job.start("begin 1", health=found(n1="BAD scratch", n3="OK"))
    both = "127.0.0.1,127.0.0.2"
    update = f"scontrol update JobId=7 ExcNodeList={both}"
    assert ended.calls == [job.tested(both), *REQUEUED, update]
    assert "127.0.0.2 is not well: it gave no answer" in ended.said


def test_where_all_nodes_are_bad_none_is_stayed_away_from(make_job: Callable[..., Job]) -> None:
    job = make_job(nodes=NODES, health="node")
    ended = job.start("begin 1", health=found(n1="BAD a", n2="BAD b"), ExcNodeList="node9")
    assert (ended.code, ended.calls, job.was_started) == (0, REQUEUED, False)
    assert f"no node is well; see {job.folder.logs}/7.0/health; failure 1 of 3" in ended.said


def test_the_only_node_of_a_job_is_stayed_away_from_if_it_is_bad(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(health="node")
    ended = job.start("begin 1", health=found(n1="BAD scratch"))
    update = "scontrol update JobId=7 ExcNodeList=127.0.0.1"
    assert ended.calls == [job.tested("127.0.0.1"), *REQUEUED, update]


def test_where_a_requeue_is_refused_the_next_job_stays_away_from_the_bad_node(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(health="node")
    (job.cluster / "no_requeue").touch()
    ended = job.start("begin 1", health=found(n1="BAD scratch"), ExcNodeList="node9")
    script = f"{job.folder.root}/job.sbatch"
    assert ended.calls[2:] == [f"sbatch --parsable --exclude=node9,127.0.0.1 {script}"]


def test_a_warning_during_the_check_requeues_without_a_start(make_job: Callable[..., Job]) -> None:
    job = make_job(health="node")
    check = f'{found(n1="OK")}\ntouch "$CLUSTER/ready"\n'
    check += 'until [ -e "$MOBILELLAMA_STOP_FILE" ]; do /bin/sleep 0.01; done'
    ended = job.start("begin 1", health=check, warn=signal.SIGUSR1)
    assert (ended.code, ended.calls, job.was_started) == (0, REQUEUED, False)
    assert "asked to stop before the run begins, by a person or program" in ended.said
    assert job.marks() == {}


# ---- what a step is given -----------------------------------------------------------------------


def test_a_step_has_a_scratch_folder_that_is_removed_at_the_end(job: Job) -> None:
    step = '[ -d "$TMPDIR" ] && touch "$TMPDIR/x" && echo "$TMPDIR" > "$CLUSTER/seen"'
    ended = job.start(f"{step}; begin 1; save 1; verdict finished 1")
    scratch = job.cluster.parent / "scratch/mobilellama-7.0"
    assert ended.code == 0
    assert (job.cluster / "seen").read_text() == f"{scratch}\n"
    assert scratch.parent.is_dir() and not scratch.exists()


def test_processes_are_told_where_to_meet_and_how_many_cores_they_have(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(nodes="127.0.0.3,127.0.0.4")
    shown = '"$MASTER_ADDR" "$MASTER_PORT" "$SRUN_CPUS_PER_TASK" "$MOBILELLAMA_LAUNCH"'
    job.start(f'printf "%s\\n" {shown} > "$CLUSTER/seen"; begin 1; save 1; verdict finished 1')
    host, port, cores, launch = (job.cluster / "seen").read_text().splitlines()
    assert (host, cores, launch) == ("127.0.0.3", "2", str(job.folder.root))  # 16 cores of 8
    assert 20000 <= int(port) < 30000


def test_another_start_meets_at_another_port_and_logs_elsewhere(job: Job) -> None:
    for restarts in (0, 1):
        job.start('echo "$MASTER_PORT" >> "$CLUSTER/ports"; exit 1', restarts=restarts)
        assert "MOBILELLAMA_LAUNCH=" in (job.folder.logs / f"7.{restarts}/environment").read_text()
    ports = (job.cluster / "ports").read_text().split()
    assert len(set(ports)) == 2
    assert (job.folder.logs / "7.1/rank-0.log").exists()


# ---- steps that are no training -----------------------------------------------------------------


def test_a_task_that_ends_with_0_is_done(make_job: Callable[..., Job]) -> None:
    job = make_job(step="export")
    ended = job.start("exit 0")
    assert (ended.code, ended.calls, job.marks()) == (0, [], {"run.finished": SIGNATURE})


def test_a_task_that_crashes_is_tried_three_times(make_job: Callable[..., Job]) -> None:
    job = make_job(step="export")
    assert job.start(CRASH).calls == REQUEUED
    assert job.marks() == {"run.failures": "1\nnothing"}
    job.folder.mark("run", "failures").write_text("2\nnothing\n")
    ended = job.start(CRASH, restarts=2)
    assert (ended.code, ended.calls) == (1, [])
    assert job.marks()["run.failed"] == (
        "exit code 1: ValueError: bad; 3 times in a row with nothing saved"
    )


def test_a_task_of_an_array_has_marks_of_its_own_and_requeues_itself_alone(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(step="tokenize", part="tasks")
    ended = job.start(f'echo 2 > "$MOBILELLAMA_PROGRESS_FILE"; {CRASH}')
    assert (ended.code, ended.calls) == (0, ["scontrol requeue 6_3"])
    assert job.marks() == {"task-3-of-64.failures": "1\n2 of its buckets"}
    assert (job.folder.logs / "6_3.0/rank-0.log").read_text() == "ValueError: bad\n"
    ended = job.start("exit 0", restarts=1)
    assert (ended.code, job.marks()) == (0, {"task-3-of-64.finished": SIGNATURE})
    words = (job.cluster / "started").read_text().splitlines()
    assert words[-3:] == ["--task_index=3", "--task_count=64", "--workers=4"]


def test_a_warned_task_is_ended_at_once_and_goes_on_with_what_is_whole(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(step="tokenize", part="tasks")
    for restarts, done in enumerate((0, 4, 4, 9)):
        (job.cluster / "ready").unlink(missing_ok=True)
        step = f'echo {done} > "$MOBILELLAMA_PROGRESS_FILE"; until_killed'
        ended = job.start(step, restarts=restarts, warn=signal.SIGUSR1)
        assert (ended.code, ended.calls) == (0, ["scontrol requeue 6_3"])
        assert "] asked to stop, by a person" in ended.said  # it has nothing to save
    assert job.marks() == {"task-3-of-64.failures": "1\n9 of its buckets"}


def test_where_a_requeue_is_refused_a_task_gives_up_and_says_what_to_do(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(step="tokenize", part="tasks")
    (job.cluster / "no_requeue").touch()
    ended = job.start(f"bucket 0; {CRASH}")
    assert (ended.code, ended.calls) == (1, ["scontrol requeue 6_3"])
    assert "Launch it again: only the missing tasks" in job.marks()["task-3-of-64.failed"]


def test_the_job_that_finishes_an_array_has_a_mark_of_its_own(make_job: Callable[..., Job]) -> None:
    job = make_job(step="tokenize", part="finish")
    ended = job.start("exit 0")
    assert (ended.code, job.marks()) == (0, {"finish.finished": SIGNATURE})
    words = (job.cluster / "started").read_text().splitlines()
    assert words[-3:] == ["tokenize", "finish", f"--output={job.made}"]
