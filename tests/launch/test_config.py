"""The launcher's own options: parted from the stage's, read from the site's file, and checked."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.launch.config import (
    Options,
    SlurmConfig,
    as_arguments,
    read_options,
    site_file,
    split_options,
)


@pytest.mark.parametrize(
    ("argv", "mine", "theirs"),
    [
        ("", "", ""),
        ("--a 1 --slurm.nodes 2 --b 3", "--slurm.nodes=2", "--a 1 --b 3"),
        ("--a=1 --slurm.nodes=2 --b=3", "--slurm.nodes=2", "--a=1 --b=3"),
        ("--slurm.extra --qos=high --a 1", "--slurm.extra=--qos=high", "--a 1"),
        ("--slurm.extra=--qos=high --a 1", "--slurm.extra=--qos=high", "--a 1"),
        ("--slurm.env.A=b=c", "--slurm.env.A=b=c", ""),
        ("--slurm.env.A b=c", "--slurm.env.A=b=c", ""),
        ("--slurm.setup a --slurm.setup b", "--slurm.setup=a --slurm.setup=b", ""),
        ("--slurm.nodes", "--slurm.nodes", ""),
        ("--slurm.config site.yaml --config demo", "--slurm.config=site.yaml", "--config demo"),
        ("--a 1 --dry-run --b 2", "--dry_run", "--a 1 --b 2"),
        ("--a 1 --dry_run", "--dry_run", "--a 1"),
        ("--no-check --a 1", "--check=false", "--a 1"),
        ("--no_check --check false", "--check=false --check false", ""),
        ("--local --processes 4 --a 1", "--local --processes 4", "--a 1"),
        ("--local true --a 1", "--local true", "--a 1"),
        ("--help", "--help", ""),
        ("--help all", "--help all", ""),
        ("--flag --slurm.nodes 2 --lr -1e-3", "--slurm.nodes=2", "--flag --lr -1e-3"),
        ("--image a.png b.png --dry-run --b c", "--dry_run", "--image a.png b.png --b c"),
        ("--dry-run --slurm.nodes 2 stray", "--dry_run --slurm.nodes=2", "stray"),
        ("--localize x --checkpoint y", "", "--localize x --checkpoint y"),
        ("--dry-run RUN --output x", "--dry_run", "RUN --output x"),
        ("--no-check RUN", "--check=false", "RUN"),
        ("--check false RUN", "--check false", "RUN"),
        ("--local RUN --output x", "--local", "RUN --output x"),
        ("--local --processes 4 RUN", "--local --processes 4", "RUN"),
        ("--output mem --run.folder time", "", "--output mem --run.folder time"),
    ],
)
def test_the_launchers_words_are_parted_from_the_stages_which_keep_their_order(
    argv: str, mine: str, theirs: str
) -> None:
    assert split_options(argv.split()) == (mine.split(), theirs.split())


@pytest.mark.parametrize(
    ("flag", "ours"),
    [("--partition", "partition"), ("--ntasks-per-node", "tasks_per_node"), ("--qos", "extra")],
)
def test_an_option_of_sbatch_is_met_with_ours(flag: str, ours: str) -> None:
    for words in ([f"{flag}=3"], [flag, "3"]):
        with pytest.raises(ConfigError) as error:
            split_options([*words, "--run.folder", "x"])
        assert str(error.value) == f"{flag} = 3: is an option of sbatch. Give --slurm.{ours}."


def test_a_value_with_spaces_stays_one_word() -> None:
    argv = ["--title", "two words", "--slurm.extra", "--qos=high --reservation=r", "--x", ""]
    assert split_options(argv) == (
        ["--slurm.extra=--qos=high --reservation=r"],
        ["--title", "two words", "--x", ""],
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's site file is looked for; there is none yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    path = site_file()
    path.parent.mkdir(parents=True)
    return path


def options(*argv: str) -> Options:
    mine, theirs = split_options(argv)
    assert theirs == []
    return read_options(mine, prog="mobilellama launch pretrain", about="")


def refused(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        options(*argv)
    return str(caught.value)


def test_the_site_file_is_in_the_users_config_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert site_file() == Path("/etc/xdg/mobilellama/slurm.yaml")
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert site_file() == tmp_path / ".config/mobilellama/slurm.yaml"


def test_without_a_site_file_or_options_the_defaults_hold(site: Path) -> None:
    assert not site.exists()
    assert options() == Options()


def test_the_command_line_overrules_the_site_file_and_that_the_defaults(site: Path) -> None:
    site.write_text("slurm:\n  nodes: 4\n  partition: gpu\n")
    slurm = options("--slurm.nodes", "2").slurm
    assert (slurm.nodes, slurm.partition, slurm.gpus_per_node) == (2, "gpu", 8)


def test_a_named_site_file_takes_the_place_of_the_users(site: Path, tmp_path: Path) -> None:
    site.write_text("slurm:\n  nodes: 4\n  partition: gpu\n")
    other = tmp_path / "other.yaml"
    other.write_text("slurm:\n  account: a\n")
    for argv in (("--slurm.config", str(other)), (f"--slurm.config={other}",)):
        slurm = options(*argv, "--slurm.nodes", "3").slurm
        assert (slurm.nodes, slurm.partition, slurm.account) == (3, None, "a")


def test_a_named_site_file_that_is_not_there_is_refused(site: Path) -> None:
    assert refused("--slurm.config", "none.yaml") == (
        "slurm.config = none.yaml: is not a file. Give a YAML file with fields of slurm."
    )


def test_flags_become_the_fields_that_they_mean(site: Path) -> None:
    assert options("--dry-run", "--no-check", "--local", "--processes", "4") == Options(
        dry_run=True, check=False, local=True, processes=4
    )
    assert refused("--processes", "0") == "processes = 0: must be at least 1. Give 1 or more."


def test_environment_variables_of_file_and_command_line_are_put_together(site: Path) -> None:
    site.write_text("slurm:\n  env:\n    NCCL_SOCKET_IFNAME: ib0\n    OMP_NUM_THREADS: '4'\n")
    argv = ("--slurm.env.OMP_NUM_THREADS", "8", "--slurm.env.TEXT", "two words")
    shown = {name: str(value) for name, value in options(*argv).slurm.env.items()}
    assert shown == {
        "NCCL_SOCKET_IFNAME": "ib0",
        "OMP_NUM_THREADS": "8",
        "TEXT": "two words",
    }
    assert options("--slurm.env", '{"A": "b"}').slurm.env == {"A": "b"}


def test_setup_lines_of_the_command_line_take_the_place_of_the_files(site: Path) -> None:
    site.write_text("slurm:\n  setup:\n    - module load cuda/12.8\n    - 'echo \"it''s\"'\n")
    assert options().slurm.setup == ["module load cuda/12.8", 'echo "it\'s"']
    lines = ("--slurm.setup", "source env.sh", "--slurm.setup", "ulimit -l unlimited")
    assert options(*lines).slurm.setup == ["source env.sh", "ulimit -l unlimited"]
    assert options("--slurm.setup+", "c").slurm.setup[-1] == "c"
    assert len(options("--slurm.setup+", "c").slurm.setup) == 3


@pytest.mark.parametrize(("written", "read"), [("24:00:00", 24 * 3600), ("90", 90)])
def test_a_time_that_yaml_makes_a_number_is_refused_in_a_file(
    site: Path, written: str, read: int
) -> None:
    site.write_text(f"slurm:\n  time: {written}\n")
    assert refused() == (
        f"slurm.time = {read}: is a number. YAML reads 24:00:00 as seconds, but SLURM reads a "
        f"number as minutes (in {site}, line 2). Put it in quotes."
    )
    site.write_text(f"slurm:\n  time: '{written}'\n")
    assert options().slurm.time == written
    assert options("--slurm.time", written).slurm.time == written


def test_an_unknown_field_is_met_with_the_nearest(site: Path) -> None:
    assert refused("--slurm.node", "2") == (
        "--slurm.node = 2: is not a field. See 'mobilellama launch pretrain --help all'; "
        "did you mean '--slurm.nodes'?"
    )
    site.write_text("slurm:\n  partitoin: gpu\n")
    assert refused() == (
        f"slurm.partitoin = gpu: is not a field (in {site}, line 2). "
        "See 'mobilellama launch pretrain --help all'; did you mean 'slurm.partition'?"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        *(
            (f"--slurm.{name} 0", f"slurm.{name} = 0: must be at least 1. Give 1 or more.")
            for name in (
                "nodes",
                "tasks",
                "warn_s",
                "health_s",
                "max_failures",
                "tasks_per_node",
                "cpus_per_task",
                "max_running",
            )
        ),
        *(
            (f"--slurm.{name}=-1", f"slurm.{name} = -1{point}: must be at least 0. Give 0 or more.")
            for name, point in (
                ("gpus_per_node", ""),
                ("min_scratch_gib", ".0"),
                ("max_gpu_used_mib", ""),
                ("max_restarts", ""),
            )
        ),
        (
            "--slurm.hang_minutes 0",
            "slurm.hang_minutes = 0.0: must be a number above 0. Give minutes.",
        ),
        (
            "--slurm.hang_minutes .nan",
            "slurm.hang_minutes = nan: must be a number above 0. Give minutes.",
        ),
        (
            "--slurm.gpus_per_node 0",
            "slurm.tasks_per_node = null: must be given if slurm.gpus_per_node is 0. "
            "Give the number of processes on each node.",
        ),
        (
            "--slurm.time soon",
            "slurm.time = soon: is not a time limit that SLURM reads. "
            "Give minutes, HH:MM:SS, D-HH or D-HH:MM:SS.",
        ),
        (
            "--slurm.time 5",
            "slurm.time = 5: must be above slurm.warn_s = 300 s, the time for saving. "
            "Raise it, or lower slurm.warn_s.",
        ),
        (
            "--slurm.warn_s 86400",
            "slurm.time = 24:00:00: must be above slurm.warn_s = 86400 s, the time for saving. "
            "Raise it, or lower slurm.warn_s.",
        ),
        (
            "--slurm.env.2A b",
            "slurm.env = 2A: b: is not a name for an environment variable. Fix the name.",
        ),
        (
            "--slurm.health ful",
            "slurm.health = ful: expected one of none, node, full. "
            "See 'mobilellama launch pretrain --help'.",
        ),
    ],
)
def test_a_value_that_breaks_a_rule_is_named_with_it(site: Path, argv: str, message: str) -> None:
    assert refused(*argv.split()) == message


@pytest.mark.parametrize(
    "name", ["extra", "srun_extra", "partition", "account", "job_name", "exclude"]
)
def test_what_goes_into_one_line_of_the_script_has_one(site: Path, name: str) -> None:
    for value in ("a\nb", "a\rb", "a\x07"):
        assert refused(f"--slurm.{name}", value) == (
            f"slurm.{name} = {value!r}: has a character that a line of a script cannot hold. "
            "Write it in one line of printable characters."
        )


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        ("--slurm.gpus_per_node 0 --slurm.tasks_per_node 2", {"tasks_per_node": 2}),
        ("--slurm.max_restarts 0", {"max_restarts": 0}),
        ("--slurm.min_scratch_gib 0", {"min_scratch_gib": 0}),
        ("--slurm.time 6", {"time": "6"}),  # 360 s, a minute above warn_s
    ],
)
def test_a_value_at_the_edge_of_a_rule_is_taken(
    site: Path, argv: str, field: dict[str, object]
) -> None:
    assert vars(options(*argv.split()).slurm).items() >= field.items()


@pytest.mark.parametrize(
    ("gpus", "tasks", "processes"), [(8, None, 8), (8, 2, 2), (0, 4, 4), (1, 1, 1)]
)
def test_a_node_has_one_process_a_gpu_unless_told_otherwise(
    gpus: int, tasks: int | None, processes: int
) -> None:
    slurm = SlurmConfig(gpus_per_node=gpus, tasks_per_node=tasks)
    assert slurm.processes_per_node == processes


@pytest.mark.parametrize(
    ("warn_s", "stop_within_s"),
    [
        (300, 300 - 30),
        (61, 61 - 30),
        (60, 30),  # both are half
        (40, 40 // 2),
        (1, 0),
    ],
)
def test_the_last_half_minute_of_the_warning_is_for_the_requeue(
    warn_s: int, stop_within_s: int
) -> None:
    assert SlurmConfig(warn_s=warn_s).stop_within_s == stop_within_s


def test_nested_fields_become_arguments_as_the_command_line_reads_them() -> None:
    values = {
        "config": "demo",
        "run": {"folder": "runs/a b", "note": None},
        "train": {"seq_len": 64, "lr": 1e-4, "flag": True, "deep": {"er": "x=y"}},
        "names": ["a", "b c"],
        "empty": {},
    }
    assert as_arguments(values) == [
        "--config=demo",
        "--run.folder=runs/a b",
        "--run.note=null",
        "--train.seq_len=64",
        "--train.lr=0.0001",
        "--train.flag=true",
        "--train.deep.er=x=y",
        '--names=["a", "b c"]',
    ]


def test_a_mapping_that_is_one_field_is_written_whole(site: Path) -> None:
    values = {"slurm": {"nodes": 2, "env": {"A": "b", "C": "d"}}}
    arguments = as_arguments(values, whole=("slurm.env",))
    assert arguments == ["--slurm.nodes=2", '--slurm.env={"A": "b", "C": "d"}']
    assert options(*arguments).slurm == SlurmConfig(nodes=2, env={"A": "b", "C": "d"})


def test_what_as_arguments_writes_is_read_back(site: Path) -> None:
    values = {"setup": ["a b", "c"], "partition": None, "time": "90", "extra": "--qos=high"}
    slurm = options(*as_arguments({"slurm": values})).slurm
    assert (slurm.setup, slurm.partition) == (["a b", "c"], None)
    assert (slurm.time, slurm.extra) == ("90", "--qos=high")


def test_numbers_of_the_sites_file_that_are_names_are_taken(site: Path) -> None:
    site.write_text("slurm:\n  account: 12345\n  env: {NCCL_NTHREADS: 512, RATIO: 0.5, A: x}\n")
    slurm = options().slurm
    assert slurm.account in (12345, "12345")
    assert {name: str(value) for name, value in slurm.env.items()} == {
        "NCCL_NTHREADS": "512", "RATIO": "0.5", "A": "x",
    }  # fmt: skip


@pytest.mark.parametrize("field", ["partition", "account", "job_name", "exclude"])
def test_a_name_in_the_queue_has_no_quotation_mark(site: Path, field: str) -> None:
    assert "holds a quotation mark" in refused(f"--slurm.{field}", 'a"b')


@pytest.mark.parametrize("swallowed", ["--dry-run", "--local", "--no-check", "--slurm.nodes"])
def test_an_option_without_its_value_does_not_take_the_next_option_for_it(swallowed: str) -> None:
    """As an unset variable of the shell leaves it: the job would be submitted in earnest."""
    with pytest.raises(ConfigError, match=r"^--slurm\.job_name = .*Is a shell variable unset"):
        split_options(["--output", "x", "--slurm.job_name", swallowed])
    assert split_options([f"--slurm.job_name={swallowed}"])[0] == [f"--slurm.job_name={swallowed}"]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            "{A: true}",
            "slurm.env.A = true: must be a text or a number (in SITE, line 1). Put it in quotes.",
        ),
        (
            "{1: x}",
            "slurm.env = 1: x: is not a name for an environment variable (in SITE, line 1). "
            "Fix the name.",
        ),
    ],
)
def test_values_of_variables_are_texts_or_numbers(site: Path, env: str, message: str) -> None:
    site.write_text(f"slurm: {{env: {env}}}\n")
    assert refused() == message.replace("SITE", str(site))


@pytest.mark.parametrize("scratch", ["~/x", "tmp", "$TMPDIR"])
def test_scratch_is_an_absolute_path(site: Path, scratch: str) -> None:
    assert "is not an absolute path" in refused("--slurm.scratch", scratch)
