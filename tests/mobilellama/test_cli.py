"""The command line as a user meets it: help at once, one message for a mistake, exit code 2."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilellama.shards.main import VERBS as SHARDS_VERBS
from tests.helpers.command_line import GIVEN, RUN, Cli


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
        f"mobilellama shards VERB = inof: must be one of {', '.join(SHARDS_VERBS)}. "
        "See 'mobilellama shards --help'; did you mean 'info'?"
    )


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
