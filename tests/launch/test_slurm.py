"""What SLURM's commands say, read: records of jobs, refusals, and commands that are not there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mobilellama.config import UserError
from mobilellama.launch import slurm
from mobilellama.launch.slurm import ACTIVE, JobState

# 'scontrol show job -o' of Slurm 22.05, with a name and a comment that have spaces.
RUNNING = (
    "JobId=1 JobName=my run UserId=u(1000) GroupId=u(1000) MCS_label=N/A Priority=4294901759 "
    "Nice=0 Account=(null) QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 "
    "Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:02 TimeLimit=01:00:00 TimeMin=N/A "
    "SubmitTime=2026-11-28T14:32:34 EligibleTime=2026-11-28T14:32:34 "
    "AccrueTime=2026-11-28T14:32:34 StartTime=2026-11-28T14:32:35 EndTime=2026-11-28T15:32:35 "
    "Deadline=N/A PreemptEligibleTime=2026-11-28T14:32:35 PreemptTime=None SuspendTime=None "
    "SecsPreSuspend=0 LastSchedEval=2026-11-28T14:32:35 Scheduler=Backfill Partition=main "
    "AllocNode:Sid=localhost:19731 ReqNodeList=(null) ExcNodeList=(null) NodeList=node1 "
    "BatchHost=node1 NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:* "
    "TRES=cpu=1,mem=1G,node=1,billing=1 Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=* "
    "MinCPUsNode=1 MinMemoryCPU=1G MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 "
    "OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null) Command=(null) "
    "WorkDir=/home/u Comment=a=b c  StdErr=/home/u/1.log StdIn=/dev/null StdOut=/home/u/1.log "
    "Power= \n"
)
WAITING = (
    "JobId=3 JobName=wrap UserId=u(1000) GroupId=u(1000) MCS_label=N/A Priority=4294901757 Nice=0 "
    "Account=(null) QOS=(null) JobState=PENDING Reason=Dependency "
    "Dependency=afterok:2_*(unfulfilled) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 "
    "RunTime=00:00:00 TimeLimit=01:00:00 TimeMin=N/A SubmitTime=2026-11-28T14:32:37 "
    "EligibleTime=Unknown AccrueTime=Unknown StartTime=Unknown EndTime=Unknown Deadline=N/A "
    "SuspendTime=None SecsPreSuspend=0 LastSchedEval=2026-11-28T14:32:37 Scheduler=Main "
    "Partition=main AllocNode:Sid=localhost:19731 ReqNodeList=(null) ExcNodeList=(null) NodeList= "
    "NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:* WorkDir=/home/u Power= \n"
)
# An array's tasks that wait have one record together; each that has begun has its own.
ARRAY = (
    "JobId=2 ArrayJobId=2 ArrayTaskId=2-5%2 ArrayTaskThrottle=2 JobName=tok UserId=u(1000) "
    "JobState=PENDING Reason=JobArrayTaskLimit Dependency=(null) Requeue=1 Restarts=0 "
    "ExitCode=0:0 StartTime=Unknown ReqNodeList=(null) ExcNodeList=(null) NodeList= NumNodes=1 \n"
    "JobId=5 ArrayJobId=2 ArrayTaskId=1 ArrayTaskThrottle=2 JobName=tok UserId=u(1000) "
    "JobState=FAILED Reason=NonZeroExitCode Dependency=(null) Requeue=1 Restarts=1 "
    "ExitCode=1:0 StartTime=2026-11-28T14:32:38 ReqNodeList=(null) ExcNodeList=(null) "
    "NodeList=node1 BatchHost=node1 NumNodes=1 \n"
    "\n"
)

NO_CONTROLLER = (
    "Run this on a node of a SLURM cluster whose controller is up ('scontrol ping' tells), or use "
    "--local to run on this machine"
)
Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Put programs in the place of SLURM's: shell lines by name; no others are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(folder))

    def make(**lines: str) -> None:
        for name, text in lines.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    return make


def shows(text: str) -> str:
    """The lines of a program that prints a text."""
    return f"cat <<'END'\n{text}END"


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_the_record_of_a_running_job_is_read(programs: Programs) -> None:
    programs(scontrol=shows(RUNNING))
    assert slurm.states("1") == [
        JobState(
            id="1",
            state="RUNNING",
            reason="",
            nodes="node1",
            restarts=2,
            task=None,
            exit_code="0:0",
            start="2026-11-28T14:32:35",
        )
    ]


def test_the_record_of_a_waiting_job_is_read(programs: Programs) -> None:
    programs(scontrol=shows(WAITING))
    (state,) = slurm.states("3")
    assert (state.state, state.reason, state.nodes, state.start) == (
        "PENDING",
        "Dependency",
        "",
        "",
    )


def test_the_records_of_an_array_are_read(programs: Programs) -> None:
    programs(scontrol=shows(ARRAY))
    states = slurm.states("2")
    assert [(state.id, state.task, state.state) for state in states] == [
        ("2", "2-5%2", "PENDING"),
        ("2", "1", "FAILED"),
    ]
    assert [(state.reason, state.restarts, state.exit_code) for state in states] == [
        ("JobArrayTaskLimit", 0, "0:0"),
        ("NonZeroExitCode", 1, "1:0"),
    ]


def test_the_job_that_is_asked_for_is_named(programs: Programs, tmp_path: Path) -> None:
    programs(scontrol=f'echo "$*" > {tmp_path}/asked; echo "Invalid job id" >&2; exit 1')
    assert slurm.states("2_3") == []
    assert (tmp_path / "asked").read_text() == "show job -o 2_3\n"


FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


def test_of_a_job_that_is_forgotten_the_accounting_is_asked(programs: Programs) -> None:
    rows = "2_0|COMPLETED|node1|0:0|2026-11-28T14:32:38\n2_1|CANCELLED by 1000|None assigned|0:0|\n"
    programs(scontrol=FORGOTTEN, sacct=shows(rows))
    assert slurm.states("2") == [
        JobState(
            id="2",
            task="0",
            state="COMPLETED",
            reason="",
            nodes="node1",
            restarts=0,
            exit_code="0:0",
            start="2026-11-28T14:32:38",
        ),
        JobState(
            id="2", task="1", state="CANCELLED", reason="", nodes="", restarts=0, exit_code="0:0"
        ),
    ]


@pytest.mark.parametrize("sacct", [None, "echo 'accounting storage is disabled' >&2; exit 1", ":"])
def test_a_job_that_nobody_knows_has_no_state_and_is_not_active(
    programs: Programs, sacct: str | None
) -> None:
    programs(scontrol=FORGOTTEN, **({"sacct": sacct} if sacct else {}))
    assert slurm.states("2") == []
    assert not slurm.is_active("2")


@pytest.mark.parametrize(
    ("state", "active"),
    [
        *((state, True) for state in ACTIVE),
        ("COMPLETED", False),
        ("FAILED", False),
        ("CANCELLED", False),
        ("TIMEOUT", False),
        ("PREEMPTED", False),
        ("NODE_FAIL", False),
        ("OUT_OF_MEMORY", False),
    ],
)
def test_a_job_is_active_until_it_is_over(state: str, active: bool) -> None:
    job = JobState(id="1", state=state, reason="", nodes="", restarts=0)
    assert job.is_active == active


def test_an_array_is_active_while_one_task_is(programs: Programs) -> None:
    programs(scontrol=shows(ARRAY))
    assert slurm.is_active("2")
    programs(scontrol=shows(ARRAY.splitlines(keepends=True)[1]))
    assert not slurm.is_active("2")


@pytest.mark.parametrize(
    ("printed", "size"),
    [
        ("MailProg = /bin/mail\nMaxArraySize            = 1001\nMaxJobCount = 10000\n", 1001),
        ("MaxJobCount = 10000\n", None),
    ],
)
def test_the_largest_array_is_read_of_the_configuration(
    programs: Programs, printed: str, size: int | None
) -> None:
    programs(scontrol=shows(printed))
    assert slurm.max_array_size() == size


@pytest.mark.parametrize(("printed", "job"), [("7", "7"), ("7;cluster", "7")])
def test_a_job_that_is_submitted_has_a_number(
    programs: Programs, tmp_path: Path, printed: str, job: str
) -> None:
    programs(sbatch=f"echo '{printed}'; printf '%s\\n' \"$@\" > {tmp_path}/asked")
    assert slurm.submit("/runs/a b/job.sbatch", "--dependency=afterok:3") == job
    assert (tmp_path / "asked").read_text().splitlines() == [
        "--parsable",
        "--dependency=afterok:3",
        "/runs/a b/job.sbatch",
    ]


# What sbatch of Slurm 22.05 prints, without and with --test-only.
@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "invalid partition specified: nope; "
            "Batch job submission failed: Invalid partition name specified",
        ),
        (
            "allocation failure: Requested node configuration is not available\n",
            "Requested node configuration is not available",
        ),
        ("sbatch: error: Invalid --time specification\n", "Invalid --time specification"),
        ("sbatch: error: Twice.\nsbatch: error: Twice.\n\n", "Twice"),
        ("", "exit code 255"),
    ],
)
def test_a_refusal_is_told_in_slurms_words(programs: Programs, printed: str, said: str) -> None:
    programs(sbatch=f"(\n{shows(printed)}\n) >&2; exit 255")
    remedy = (
        "Fix the options of --slurm or the site's file "
        "('mobilellama launch doctor' shows partitions and GPUs)"
    )
    assert refused(lambda: slurm.submit("job.sbatch")) == (
        f"sbatch refuses job.sbatch: {said}. {remedy}"
    )
    assert refused(lambda: slurm.test_submit("job.sbatch")) == (
        f"sbatch --test-only refuses job.sbatch: {said}. {remedy}"
    )


def test_a_script_that_slurm_would_take_is_no_error(programs: Programs, tmp_path: Path) -> None:
    programs(sbatch=f'echo "$*" > {tmp_path}/asked; echo "sbatch: Job 12 to start at ..." >&2')
    slurm.test_submit("job.sbatch", "--array=0-3")
    assert (tmp_path / "asked").read_text() == "--test-only --array=0-3 job.sbatch\n"


@pytest.mark.parametrize("name", ["sbatch", "squeue", "scontrol"])
def test_a_command_that_is_not_there_is_named_with_the_remedies(
    programs: Programs, name: str
) -> None:
    programs(**{other: ":" for other in ("sbatch", "squeue", "scontrol") if other != name})
    message = refused(lambda: slurm.require_commands("sbatch", "squeue", "scontrol"))
    assert message == (
        f"{name}: not found. Run this on a login node of a SLURM cluster, install its client "
        "(Debian: apt-get install slurm-client), or use --local to run on this machine"
    )
    programs(**{name: ":"})
    slurm.require_commands("sbatch", "squeue", "scontrol")


def test_a_command_that_refuses_is_named_with_what_it_said(programs: Programs) -> None:
    programs(scancel="echo 'scancel: error:  Kill job error' >&2; echo two >&2; exit 1")
    assert refused(lambda: slurm.call("scancel", "1", "a b")) == (
        "scancel 1 'a b': scancel: error: Kill job error two"
    )
    programs(scancel="exit 3")
    assert refused(lambda: slurm.call("scancel", "1")) == "scancel 1: exit code 3"
    assert slurm.call("scancel", "1", check=False).returncode == 3


def test_a_command_that_gives_no_answer_is_told(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "_TIMEOUT_S", 0.05)
    programs(squeue="exec /bin/sleep 5")
    assert refused(lambda: slurm.call("squeue")) == (
        f"squeue: no answer in 0.05 s. {NO_CONTROLLER}"
    )


# What the commands of Slurm 22.05 print without a slurm.conf, and with one of a controller that is
# down.
NO_CONF = """\
NAME: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
NAME: error: fetch_config: DNS SRV lookup failed
NAME: error: _establish_config_source: failed to fetch config
NAME: fatal: Could not establish a configuration source
"""
DOWN = {
    "squeue": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
    "scontrol": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
    "sbatch": "sbatch: error: Batch job submission failed: Unable to contact slurm controller "
    "(connect failure)\n",
    "scancel": "scancel: error: Kill job error on job id 7: Unable to contact slurm controller "
    "(connect failure)\n",
}
CALLS: dict[str, Callable[[], object]] = {
    "squeue": lambda: slurm.named("a"),
    "scontrol": lambda: slurm.states("7"),
    "sbatch": lambda: slurm.test_submit("job.sbatch"),
    "scancel": lambda: slurm.call("scancel", "7", check=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_machine_without_a_controller_is_told_with_one_remedy(
    programs: Programs, name: str
) -> None:
    no_conf = NO_CONF.replace("NAME", name)
    for printed, what in (
        (no_conf, "SLURM has no configuration on this machine"),
        (DOWN[name], "SLURM's controller does not answer"),
    ):
        programs(**{name: f"{{\n{shows(printed)}\n}} >&2; exit 1"})
        assert refused(CALLS[name]) == f"{name}: {what}. {NO_CONTROLLER}"


def test_jobs_of_a_name_are_found_once_each(programs: Programs, tmp_path: Path) -> None:
    programs(squeue=f'echo "$*" > {tmp_path}/asked; printf "12\\n9\\n12\\n"')
    assert slurm.named("a b") == ["9", "12"]
    assert (tmp_path / "asked").read_text() == "--me -h --name a b -o %F\n"


def test_our_environment_reaches_the_commands(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    programs(scontrol='echo "$SLURM_CONF"')
    assert slurm.call("scontrol").stdout == "/etc/other.conf\n"


def test_a_silent_controller_is_not_taken_for_a_forgotten_job(
    programs: Callable[..., None],
) -> None:
    programs(scontrol="echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1")
    assert "SLURM's controller does not answer" in refused(lambda: slurm.is_active("7"))


def test_what_belongs_to_a_job_is_not_handed_on_to_the_next(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_RESTART_COUNT", "MOBILELLAMA_LAUNCH", "MOBILELLAMA_STOP_FILE"):
        monkeypatch.setenv(name, "2")
    programs(
        sbatch='echo "8${SLURM_RESTART_COUNT-}${MOBILELLAMA_LAUNCH-}${MOBILELLAMA_STOP_FILE-}"'
    )
    assert slurm.submit("a.sbatch") == "8"


@pytest.mark.parametrize(
    ("printed", "number"), [("8", "8"), ("8;one", "8"), ("Welcome!\\nRead the news.\\n8", "8")]
)
def test_the_number_of_a_job_is_the_last_line(
    programs: Callable[..., None], printed: str, number: str
) -> None:
    programs(sbatch=f'printf "{printed}\\n"')
    assert slurm.submit("a.sbatch") == number


@pytest.mark.parametrize("printed", ["", "would start at noon", "8 9"])
def test_what_is_no_number_is_told(programs: Callable[..., None], printed: str) -> None:
    programs(sbatch=f'echo "{printed}"')
    message = refused(lambda: slurm.submit("a.sbatch"))
    assert message.startswith("sbatch printed no job number for a.sbatch. It printed: ")
    assert (printed or "nothing") in message


def test_variables_of_a_job_that_one_launches_from_do_not_reach_sbatch(
    programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_JOB_ID", "SBATCH_ARRAY_INX", "SRUN_CPUS_PER_TASK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    programs(env="exec /usr/bin/env")
    lines = slurm.call("env").stdout.splitlines()
    ours = [line for line in lines if line.startswith(("SLURM", "SBATCH", "SRUN"))]
    assert ours == ["SLURM_CONF=/etc/other.conf"]
