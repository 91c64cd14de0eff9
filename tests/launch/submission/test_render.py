"""Job scripts: their whole text for three launches, and that values arrive in it unchanged.

MOBILELLAMA_UPDATE_GOLDEN=1 writes the texts of golden/ anew; look at the difference.
"""

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import mobilellama
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.steps import STEPS
from mobilellama.launch.submission.render import Script, array_of
from mobilellama.launch.submission.request import LaunchRequest
from mobilellama.launch.submission.submit import dry_run

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "MOBILELLAMA_UPDATE_GOLDEN"
PRETRAIN = ["--config", "mobilellama_1_4b", "--data.path", "/data", "--run.folder", "/runs/1_4b"]
TOKENIZE = ["--tokenizer", "tokenizer.model", "--sources.root", "/raw", "--output", "/data/red"]
REQUESTS = {
    "one_node": LaunchRequest(
        step_name="pretrain",
        arguments=PRETRAIN,
        slurm=SlurmConfig(python="/opt/python"),
        cwd="/home/u",
    ),
    "twenty_nodes": LaunchRequest(
        step_name="sft",
        arguments=[*PRETRAIN[:-1], "/runs/chat model", "--title", 'it\'s $HOME; "quoted"'],
        slurm=SlurmConfig(
            nodes=20,
            gpus_per_node=8,
            cpus_per_task=14,
            time="2-00:00:00",
            partition="gpu",
            account="my-project",
            exclude="node7,node[12-14]",
            extra="--qos=high --reservation=r",
            srun_extra="--container-image=/images/a.sqsh",
            setup=["module load cuda/12.8", 'source "$HOME/env.sh"'],
            env={"NCCL_SOCKET_IFNAME": "ib0", "TEXT": "it's two words"},
            python="/opt/python 3/bin/python",
            scratch="/local/scratch",
            warn_s=600,
        ),
        cwd="/home/u/my work",
    ),
    "array": LaunchRequest(
        step_name="tokenize",
        arguments=TOKENIZE,
        slurm=SlurmConfig(
            tasks=64,
            max_running=16,
            partition="gpu",
            cpu_partition="cpu",
            cpus_per_task=8,
            mem="32G",
            python="/opt/python",
        ),
        cwd="/home/u",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_dry_run_prints_the_scripts_that_are_kept_as_examples(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mobilellama.launch.submission.request.snapshot_name", lambda: "3f2a91c04b7d"
    )
    monkeypatch.setattr(mobilellama, "__version__", "0.0.0")
    text, path = dry_run(REQUESTS[name]), GOLDEN / f"{name}.sbatch"
    if os.environ.get(UPDATE):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"if it is meant: {UPDATE}=1 pytest"


def made_by(step: str, slurm: SlurmConfig, arguments: Sequence[str] = (), part: str = "") -> Script:
    """A script whose paths are fixed."""
    return Script(
        step=STEPS[step],
        part=part or ("tasks" if STEPS[step].finish else "run"),
        name="a",
        arguments=arguments,
        folder=LaunchFolder.of(STEPS[step], Path("/runs/a")),
        cwd="/home/u",
        code=Path("/code/3f2a91c04b7d"),
        python="/opt/python",
        signature="0123456789abcdef",
        slurm=slurm,
    )


@pytest.mark.parametrize("step", ["tokenize", "pretrain", "export", "evaluate"])
@pytest.mark.parametrize(
    "config",
    [
        SlurmConfig(),
        SlurmConfig(health="none", cpu_bind=None, cpus_per_task=3),
        SlurmConfig(
            health="node", gpus_per_node=0, tasks_per_node=2, setup=["if true; then :; fi"]
        ),
    ],
)
def test_bash_accepts_every_script(step: str, config: SlurmConfig) -> None:
    script = made_by(step, config)
    texts = [script.text()]
    if STEPS[step].finish:
        texts.append(replace(script, part="finish").text())
    for text in texts:
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def option(script: Script, name: str) -> str | None:
    """The value of one of sbatch's options; None where it is not given."""
    found = [value for value in script.options() if value.partition("=")[0] == f"--{name}"]
    assert len(found) < 2
    return found[0].partition("=")[2] if found else None


@pytest.mark.parametrize(
    ("step", "partition", "cpu_partition", "chosen"),
    [
        ("pretrain", "gpu", "cpu", "gpu"),
        ("vlm-evaluate", "gpu", "cpu", "gpu"),
        ("tokenize", "gpu", "cpu", "cpu"),
        ("export", "gpu", "cpu", "cpu"),
        ("export", "gpu", None, "gpu"),
        ("export", None, "cpu", "cpu"),
        ("pretrain", None, "cpu", None),
        ("export", None, None, None),
    ],
)
def test_a_step_without_gpus_goes_to_the_partition_for_those(
    step: str, partition: str | None, cpu_partition: str | None, chosen: str | None
) -> None:
    slurm = SlurmConfig(partition=partition, cpu_partition=cpu_partition)
    assert option(made_by(step, slurm), "partition") == chosen
    if step == "tokenize":
        assert option(made_by(step, slurm, part="finish"), "partition") == chosen


@pytest.mark.parametrize(
    ("step", "config", "wanted"),
    [
        (
            "pretrain",
            SlurmConfig(nodes=20),
            "--nodes=20 --ntasks-per-node=8 --gpus-per-node=8 --exclusive --mem=0",
        ),
        (
            "pretrain",
            SlurmConfig(gpus_per_node=4, tasks_per_node=2, cpus_per_task=6, mem="64G"),
            "--nodes=1 --ntasks-per-node=2 --gpus-per-node=4 --cpus-per-task=6 --exclusive "
            "--mem=64G",
        ),
        (
            "vlm",
            SlurmConfig(gpus_per_node=0, tasks_per_node=2),
            "--nodes=1 --ntasks-per-node=2 --exclusive --mem=0",
        ),
        ("export", SlurmConfig(nodes=20), "--nodes=1 --ntasks-per-node=1 --cpus-per-task=4"),
        (
            "evaluate",
            SlurmConfig(cpus_per_task=9, mem="64G"),
            "--nodes=1 --ntasks-per-node=1 --cpus-per-task=9 --gpus-per-node=1 --mem=64G",
        ),
    ],
)
def test_a_step_asks_for_what_it_needs(step: str, config: SlurmConfig, wanted: str) -> None:
    names = {"nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "exclusive", "mem"}
    options = made_by(step, config).options()
    found = [word for word in options if word.partition("=")[0].removeprefix("--") in names]
    assert " ".join(found) == wanted


def test_options_with_spaces_are_quoted_and_a_percent_sign_is_doubled() -> None:
    """sbatch would else take %j in a folder's name for the job's number."""
    folder = LaunchFolder(Path("/runs/50%j of it"), train=True)
    script = replace(made_by("pretrain", SlurmConfig()), folder=folder, cwd="/home/u/a b", name="x")
    assert option(script, "chdir") == '"/home/u/a b"'
    assert option(script, "output") == '"/runs/50%%j of it/logs/batch-%j.log"'
    assert option(script, "job-name") == "x"


def test_further_options_of_sbatch_come_last_as_they_are() -> None:
    options = made_by("pretrain", SlurmConfig(extra='--comment="a b" --qos=high')).options()
    assert options[-1] == '--comment="a b" --qos=high'


@pytest.mark.parametrize(
    ("tasks", "max_running", "text"),
    [
        (range(64), None, "0-63"),
        (range(64), 16, "0-63%16"),
        ([0], None, "0"),
        ([3], 2, "3%2"),
        ([0, 1], None, "0-1"),
        ([0, 2, 4], None, "0,2,4"),
        ([0, 1, 2, 5, 7, 8], 2, "0-2,5,7-8%2"),
        ([], None, ""),
    ],
)
def test_tasks_are_written_as_spans(
    tasks: Sequence[int], max_running: int | None, text: str
) -> None:
    assert array_of(tasks, max_running) == text


HOSTILE = [
    "--data.path=/data/two words",
    "--title",
    'it\'s "quoted", `date` and $HOME \\ back',
    "",
    "two\nlines",
    "*",
    "~",
    "#",
    "a;b|c&d>e",
    "{{ braces }} {% for %}",
    "ünï",
]


def started(script: Script, environment: dict[str, str] | None = None) -> list[str]:
    """The words that srun gets to start the step with, after running the lines that start it."""
    lines = script.text().splitlines(keepends=True)
    begin = next(i for i, line in enumerate(lines) if line.startswith("srun --kill-on-bad-exit=1"))
    end = next(i for i, line in enumerate(lines) if line.startswith("srun_pid=$!") and i > begin)
    call = "".join(lines[begin:end]).rstrip().removesuffix("&")
    words = "srun() { printf '%s\\0' \"$@\"; }\nPYTHON='/opt/my python'\nLOGS=/logs\n"
    done = subprocess.run(
        ["bash", "-u"], input=words + call, capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\0")[:-1]


def test_arguments_arrive_unchanged() -> None:
    script = made_by("pretrain", SlurmConfig(), HOSTILE)
    assert started(script) == [
        "--kill-on-bad-exit=1",
        "--wait=60",
        "--cpu-bind=cores",
        "--output=/logs/rank-%t.log",
        "/opt/my python",
        "-m",
        "mobilellama",
        "pretrain",
        "run",
        *HOSTILE,
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SlurmConfig(), ["--cpu-bind=cores"]),
        (SlurmConfig(cpu_bind=None), []),
        (
            SlurmConfig(srun_extra='--container-image=i --x="a b"'),
            ["--cpu-bind=cores", "--container-image=i", "--x=a b"],
        ),
    ],
)
def test_further_options_of_srun_come_before_the_command(
    config: SlurmConfig, words: list[str]
) -> None:
    found = started(made_by("pretrain", config))
    assert found[2 : found.index("--output=/logs/rank-%t.log")] == words


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        ([], ["--workers=8"]),
        (["--workers", "3"], []),
        (["--workers=3"], []),
    ],
)
def test_a_task_of_an_array_is_told_its_number_and_its_cores(
    arguments: list[str], workers: list[str]
) -> None:
    script = made_by("tokenize", SlurmConfig(tasks=64), ["--output", "/runs/a", *arguments])
    variables = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_CPUS_PER_TASK": "8"}
    words = started(script, variables)
    assert words[words.index("tokenize") :] == [
        *("tokenize", "run", "--output", "/runs/a", *arguments),
        *("--task_index=5", "--task_count=64", *workers),
    ]


def test_the_job_that_finishes_an_array_takes_its_output_alone() -> None:
    folder = LaunchFolder(Path("/data/it's a"), train=False)
    script = replace(made_by("tokenize", SlurmConfig(), ["--workers", "3"]), folder=folder)
    finish = replace(script, part="finish")
    assert script.path == Path("/data/it's a.launch/job.sbatch")
    assert finish.path == Path("/data/it's a.launch/finish.sbatch")
    words = started(finish)
    assert words[words.index("tokenize") :] == ["tokenize", "finish", "--output=/data/it's a"]
    assert option(finish, "array") is None and option(script, "array") == "0-15"


# What the head of a script asks of SLURM.
SCONTROL = "scontrol() { echo 'JobId=7 JobState=RUNNING Requeue=1 Restarts=0 BatchFlag=1'; }"


def test_values_of_variables_and_setup_lines_arrive_unchanged(tmp_path: Path) -> None:
    value = 'it\'s "quoted", $HOME, `date` \\ and\ntwo lines; #{{ x }}'
    slurm = SlurmConfig(
        setup=["SEEN='a  b'; shown() { printf '%s\\0' \"$@\"; }", "export FROM_SETUP=${HOME}x"],
        env={"VALUE": value, "EMPTY": ""},
        scratch="/local/my scratch",
    )
    folder = LaunchFolder(tmp_path / "it's $HOME", train=True)
    text = replace(made_by("pretrain", slurm), folder=folder, python="/opt/a 'b'").text()
    text = text[: text.index("# ---- how far it is")]
    names = ("SEEN", "FROM_SETUP", "VALUE", "EMPTY", "MADE", "LAUNCH", "CODE", "PYTHON", "SCRATCH")
    shown = " ".join(f'"${name}"' for name in (*names, "PYTHONPATH"))
    done = subprocess.run(
        ["bash"],
        input=f"{SCONTROL}\n{text}\nshown {shown}\n",
        capture_output=True,
        text=True,
        env={"HOME": "/home/u", "SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]},
    )
    assert (done.returncode, done.stderr) == (0, "")
    made = str(folder.made)
    assert done.stdout.split("\0")[:-1] == [
        "a  b",
        "/home/ux",
        value,
        "",
        made,
        f"{made}/launch",
        "/code/3f2a91c04b7d",
        "/opt/a 'b'",
        "/local/my scratch/mobilellama-7.0",
        "/code/3f2a91c04b7d",
    ]
    assert (folder.logs / "7.0").is_dir()


def test_variables_of_a_launcher_do_not_reach_the_job(tmp_path: Path) -> None:
    text = replace(
        made_by("pretrain", SlurmConfig()), folder=LaunchFolder(tmp_path / "a", train=True)
    ).text()
    text = text[: text.index("# ---- how far it is")]
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
    done = subprocess.run(
        ["bash"],
        input=f"{SCONTROL}\n{text}\nenv\n",
        capture_output=True,
        text=True,
        env=dict.fromkeys(names, "3") | {"SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]},
    )
    lines = [line.partition("=") for line in done.stdout.splitlines()]
    shown = {name: value for name, _, value in lines}
    assert shown["MOBILELLAMA_LAUNCH"] == f"{tmp_path}/a/launch"
    assert shown["MOBILELLAMA_STOP_FILE"] == f"{tmp_path}/a/logs/7.0/stop"
    assert shown["PYTHONSAFEPATH"] == "1"
    assert not set(names) & set(shown)


@pytest.mark.parametrize(
    ("job_name", "made", "name"),
    [
        (None, "/runs/1_4b", "1_4b"),
        (None, "/runs/chat model: it's", "chat-model-it-s"),
        (None, "/runs/v1.0+a", "v1.0+a"),
        ("mine", "/runs/1_4b", "mine"),
    ],
)
def test_a_job_is_called_by_the_folder_that_it_makes(
    job_name: str | None, made: str, name: str
) -> None:
    slurm = SlurmConfig(job_name=job_name)
    arguments = ["--run.folder", made]
    request = LaunchRequest(step_name="pretrain", arguments=arguments, slurm=slurm, cwd="/")
    assert request.name == name
    assert request.scripts(Path("/code"))[0].name == name


def test_the_scripts_of_an_array_are_two_and_bear_the_launchs_signature() -> None:
    request = REQUESTS["array"]
    scripts = request.scripts(Path("/code/x"))
    assert [(script.part, script.name) for script in scripts] == [
        ("tasks", "red"),
        ("finish", "red-finish"),
    ]
    assert {script.signature for script in scripts} == {request.launch().signature}
    for script in scripts:
        assert f"\nSIGNATURE={request.launch().signature}\n" in script.text()
        assert f"\nSCRIPT={shlex.quote(str(script.path))}\n" in script.text()
