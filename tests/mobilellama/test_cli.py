"""The command line as a user meets it: help at once, one message for a mistake, exit code 2."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from mobilellama import __main__ as command
from mobilellama import __version__
from mobilellama.commandline.parser import parse_config
from mobilellama.config import ConfigError

Cli = Callable[..., tuple[int, str, str]]
RUN = ("pretrain", "run")
GIVEN = ("--data.path", "unused", "--run.folder", "unused")
HELP = "See 'mobilellama pretrain run --help'"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``mobilellama ARGUMENTS`` through its real entry; return (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mobilellama", *map(str, arguments)])
        capsys.readouterr()
        code = command.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """Run a command that must be refused; return its message, which is one line."""

    def run(*arguments: object) -> str:
        code, out, errors = cli(*arguments)
        assert (code, out) == (2, "")
        assert errors.startswith("mobilellama: error: ") and errors.count("\n") == 1
        return errors.removeprefix("mobilellama: error: ").strip()

    return run


@pytest.mark.parametrize(
    "arguments", [(), ("tokenize",), ("shards",), ("pretrain",), ("sft",), ("vlm",)]
)
def test_help_answers_within_a_second_and_loads_no_heavy_library(
    arguments: tuple[str, ...],
) -> None:
    code = (
        "import sys; from mobilellama.__main__ import main; code = main(); "
        "heavy = {'torch', 'numpy', 'pyarrow', 'jsonargparse', 'transformers', 'deepspeed'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    started_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--help"], capture_output=True, text=True
    )
    elapsed_s = time.perf_counter() - started_s
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout.startswith(f"usage: mobilellama {arguments[0] if arguments else 'STAGE'} ")
    assert elapsed_s < 1.0


@pytest.mark.parametrize(
    ("stage", "verb"),
    [("shards", "info"), ("tokenize", "run"), ("pretrain", "evaluate"), ("launch", "logs")],
)
def test_help_is_plain_text_and_writes_values_as_the_command_line_takes_them(
    cli: Cli, capsys: pytest.CaptureFixture[str], stage: str, verb: str
) -> None:
    with pytest.raises(SystemExit):
        cli(stage, verb, "--help")
    out = capsys.readouterr().out
    assert f"Fields of '{stage} {verb}':" in out
    assert "; null" in out and "| null" in out and re.search(r"default:\s+(true|false)\)", out)
    assert not re.findall(r"`|\b(?:None|True|False|Optional|Union)\b", out)


def test_the_installed_command_and_the_module_are_the_same_program() -> None:
    installed = Path(sys.executable).with_name("mobilellama")
    if not installed.exists():
        pytest.skip("mobilellama is not installed beside this Python")
    outputs = [
        subprocess.run([*program, "--help"], capture_output=True, text=True, check=True).stdout
        for program in ([installed], [sys.executable, "-m", "mobilellama"])
    ]
    assert outputs[0] == outputs[1]
    assert all(stage in outputs[0] for stage in command.STAGES)


def test_without_arguments_the_help_is_shown_and_the_exit_code_is_2(cli: Cli) -> None:
    assert cli() == (2, cli("--help")[1], "")
    assert cli("shards") == (2, cli("shards", "-h")[1], "")


def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version") == (0, f"mobilellama {__version__}\n", "")


def test_help_that_nobody_can_read_ends_without_a_traceback() -> None:
    command = f"{sys.executable} -m mobilellama --help"
    full = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True)
    assert full.returncode == 2 and full.stderr.count("\n") == 1
    cut = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True)
    assert (cut.stdout.count("\n"), cut.stderr) == (1, "")


def test_the_thing_of_a_verb_needs_no_flag_and_its_old_flag_is_warned_of(
    cli: Cli, tmp_path: Path
) -> None:
    new = cli("shards", "info", tmp_path)
    code, out, said = cli("shards", "info", "--path", tmp_path)
    assert new[0] == code == 2 and new[1] == out == ""
    assert said == (
        "mobilellama: warning: old names, which still work: --path is now DATASET "
        f"(without a flag)\n{new[2]}"
    )
    assert cli("pretrain", "plot")[2] == (
        "mobilellama: error: RUN, --output = (not given): are required. "
        "See 'mobilellama pretrain plot --help'.\n"
    )


@pytest.mark.parametrize(
    ("stage", "verb", "thing", "field"),
    [
        ("pretrain", "export", "RUN", "checkpoint"),
        ("pretrain", "push", "MODEL", "folder"),
        ("sft", "export", "RUN", "checkpoint"),
        ("vlm", "export", "RUN", "checkpoint"),
    ],
)
def test_what_leaves_the_house_is_named_without_a_flag(
    cli: Cli, capsys: pytest.CaptureFixture[str], stage: str, verb: str, thing: str, field: str
) -> None:
    assert re.search(rf"error: (--\w+, )*{thing}\b", cli(stage, verb)[2])
    with pytest.raises(SystemExit):
        cli(stage, verb, "some/where", "--print-config")
    assert f"{field}: some/where\n" in capsys.readouterr().out


def test_a_mistake_leaves_exit_code_2_one_message_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mobilellama", *RUN, "--config", "demo", *GIVEN],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "mobilellama: error: data.path = unused: is not a folder. "
        "Give the --output of 'mobilellama tokenize run', or of 'mobilellama sft prepare'.\n"
    )


def test_links_in_a_circle_are_one_message(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "corpus").mkdir()
    given = ("--tokenizer", "x", "--sources.root", tmp_path / "corpus")
    said = refused("tokenize", "run", *given, "--output", tmp_path / "loop")
    assert said.startswith(f"{tmp_path}/loop: Too many levels of symbolic links. Check the path")


def test_a_stage_or_verb_that_does_not_exist_is_met_with_the_nearest(
    refused: Callable[..., str],
) -> None:
    assert refused("pretrian", "run") == (
        "mobilellama STAGE = pretrian: must be one of tokenize, shards, pretrain, sft, vlm, "
        "launch. See 'mobilellama --help'; did you mean 'pretrain'?"
    )
    assert refused("shards", "inof") == (
        "mobilellama shards VERB = inof: must be one of info, verify, show, plot. "
        "See 'mobilellama shards --help'; did you mean 'info'?"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train.seqlen", "3"), "--train.seqlen = 3: is not a field."),
        (("--train.seqlen=3",), "--train.seqlen = 3: is not a field."),
        (("--train.seq_le",), "--train.seq_le = (no value): is not a field."),
    ],
)
def test_a_field_that_does_not_exist_is_met_with_the_nearest(
    refused: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    expected = f"{message} {HELP}; did you mean '--train.seq_len'?"
    assert refused(*RUN, "--config", "demo", *GIVEN, *arguments) == expected


def test_a_field_has_one_name_and_no_abbreviation(refused: Callable[..., str]) -> None:
    """'--train.max' would else be taken for the one field that begins so, today."""
    message = refused(*RUN, "--config", "demo", *GIVEN, "--train.max", "3")
    assert message.startswith("--train.max = 3: is not a field.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train.seq_len", "abc"), f"train.seq_len = abc: expected an int. {HELP}."),
        (
            ("--engine.kind", "dpp"),
            f"engine.kind = dpp: expected a Literal['deepspeed', 'ddp']. {HELP}.",
        ),
        (("--train.seq_len=-1",), "train.seq_len = -1: must be at least 1. Give 1 or more."),
        (("--train.seq_len",), f"--train.seq_len = (no value): expected one argument. {HELP}."),
        (
            ("--train.seq_len", "300"),
            "train.seq_len = 300: must not exceed model.max_seq_len = 256. "
            "Lower it or raise model.max_seq_len.",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named(
    refused: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    assert refused(*RUN, "--config", "demo", *GIVEN, *arguments) == message


def test_an_empty_value_is_met_with_a_question(refused: Callable[..., str]) -> None:
    message = "data.path = (empty): must not be empty. Is a shell variable unset?"
    assert refused(*RUN, "--data.path", "") == message


def test_fields_that_are_missing_are_named_as_they_are_typed(refused: Callable[..., str]) -> None:
    assert refused(*RUN, "--config", "demo", "--data.path", "x") == (
        f"--run.folder = (not given): is required. {HELP}."
    )
    assert refused(*RUN, "--config", "demo") == (
        f"--run.folder, --data.path = (not given): are required. {HELP}."
    )


def test_a_config_that_is_neither_file_nor_preset_is_met_with_the_nearest(
    refused: Callable[..., str],
) -> None:
    names = "demo, mobilellama_1_4b, mobilellama_2_7b"
    for arguments in (("--config", "mobilelama_1_4b"), ("--config=mobilelama_1_4b",)):
        assert refused(*RUN, *arguments, *GIVEN) == (
            f"--config = mobilelama_1_4b: is neither a file nor a preset ({names}). "
            "Give a YAML file or a preset's name; did you mean 'mobilellama_1_4b'?"
        )
    assert refused("shards", "info", "--config", "none.yaml", "x") == (
        "--config = none.yaml: is not a file. Give the path of a YAML file."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train:\n  seqlen: 3\n",
            f"train.seqlen = 3: is not a field (in FILE). {HELP}; did you mean 'train.seq_len'?",
        ),
        (
            "trian:\n  seq_len: 3\n",
            f"trian = {{'seq_len': 3}}: is not a field (in FILE). {HELP}; did you mean 'train'?",
        ),
        (
            "train: 3\n",
            f"train = 3: is a section, and must hold 'field: value' lines (in FILE). {HELP}.",
        ),
        (
            "train:\n",
            f"train = null: is a section, and must hold 'field: value' lines (in FILE). {HELP}.",
        ),
        ("train:\n  seq_len: abc\n", f"train.seq_len = abc: expected an int. {HELP}."),
        ("train:\n  seq_len: 0\n", "train.seq_len = 0: must be at least 1. Give 1 or more."),
        ("- 1\n", "--config = FILE: must hold 'field: value' lines. Fix the file."),
        ("", "--config = FILE: must hold 'field: value' lines. Fix the file."),
        ("train: [1\n", "--config = FILE: is not YAML (while parsing a flow sequence"),
        ("a: \udcff\n", "--config = FILE: is not YAML ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_config_file_with_a_mistake_is_named_with_it(
    refused: Callable[..., str], tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, errors="surrogateescape")
    assert refused(*RUN, "--config", file, *GIVEN).startswith(message.replace("FILE", str(file)))


@pytest.fixture
def printed(cli: Cli, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The whole config that 'pretrain run ARGUMENTS --print_config' prints."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as left:
            cli(*RUN, *arguments, "--print_config")
        assert left.value.code == 0
        return capsys.readouterr().out

    return run


def test_the_command_line_overrules_files_and_later_files_overrule_former_ones(
    printed: Callable[..., str], tmp_path: Path
) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("train:\n  seq_len: 64\n  max_steps: 11\noptimizer:\n  eps: 1e-6\n")
    two.write_text("train:\n  max_steps: 22\n  micro_batch_size: 2\n")
    files = ("--config", "demo", "--config", one, f"--config={two}")
    config = yaml.safe_load(printed(*files, *GIVEN, "--train.micro_batch_size", "1"))
    train = config["train"]
    assert (train["micro_batch_size"], train["max_steps"], train["seq_len"]) == (1, 22, 64)
    assert float(config["optimizer"]["eps"]) == 1e-6
    assert config["model"]["d_model"] == 256  # of the preset


def test_what_print_config_prints_is_a_config_file(
    printed: Callable[..., str], tmp_path: Path
) -> None:
    saved = tmp_path / "saved.yaml"
    saved.write_text(printed("--config", "demo", *GIVEN, "--train.max_steps", "7"))
    assert yaml.safe_load(saved.read_text())["train"]["max_steps"] == 7
    assert printed("--config", saved) == saved.read_text()


def test_print_config_says_which_required_fields_it_lacks(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, said in (
        (["--config", "demo"], "mobilellama: missing: --run.folder, --data.path\n"),
        (["--config", "demo", "--run.folder", "a"], "mobilellama: missing: --data.path\n"),
        (["--config", "demo", "--run.folder", "a", "--data.path", "b"], ""),
    ):
        with pytest.raises(SystemExit):
            cli(*RUN, *given, "--print_config")
        assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("rank", "local_rank"), [("RANK", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_LOCALID")]
)
def test_the_first_rank_of_each_node_tells_a_mistake_that_all_have_made(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, rank: str, local_rank: str
) -> None:
    monkeypatch.setenv(rank, "3")
    monkeypatch.setenv(local_rank, "1")
    assert cli("pretrian") == (2, "", "")
    monkeypatch.setenv(local_rank, "0")  # the first of the second node
    code, out, err = cli("pretrian")
    assert (code, out) == (2, "")
    assert err.startswith("mobilellama: error: [rank 3 on ")


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """A config with a list of strings."""

    names: list[str] = field(default_factory=list)
    """Some names."""
    other: int = 1
    """Another field."""


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], []),
        (["--names", "a"], ["a"]),
        (["--names", "a b", "c,d", "--other", "1"], ["a b", "c,d"]),
        (["--names=a", "b"], ["a", "b"]),
        (["--names", "a", "--other", "1", "--names", "b"], ["a", "b"]),
        (["--names", "[a, b]"], ["a", "b"]),
        (['--names=["a", "b"]'], ["a", "b"]),
        (["--names+", "a", "--names+", "b"], ["a", "b"]),
    ],
)
def test_a_list_is_written_as_words_or_as_a_list(arguments: list[str], names: list[str]) -> None:
    config = parse_config(_Lists, arguments, prog="p", about="")
    assert (config.names, config.other) == (names, 1)


def test_a_list_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(no value\): expected one argument"):
        parse_config(_Lists, ["--names", "--other", "1"], prog="p", about="")
