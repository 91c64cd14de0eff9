"""Every verb's command line is read without torch; its help fits 80 columns and begins short."""

import importlib
import re
import subprocess
import sys

import pytest

from mobilellama.__main__ import STAGES
from mobilellama.cli import Verb, run_stage
from mobilellama.commandline.fields import fields_of
from mobilellama.commandline.help_text import MOST_SHOWN

HEAVY = {"torch", "lightning_fabric", "deepspeed", "transformers", "datasets", "numba"}
# Prints the heavy modules that reading a verb's command line imports, a verb a line.
READ = """
import contextlib, io, sys
from mobilellama.__main__ import main
for verb in sys.argv[2:]:
    for asked in ("--help", "--print_config"):
        sys.argv = ["mobilellama", sys.argv[1], verb, asked]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            try:
                code = main()
            except SystemExit as error:
                code = error.code
        heavy = sorted({name.partition(".")[0] for name in sys.modules} & %r)
        print(verb, asked, code or 0, bool(said.getvalue()), *heavy)
"""


def verbs_of(stage: str) -> dict[str, Verb]:
    return importlib.import_module(f"mobilellama.{stage}.main").VERBS


ALL_VERBS = [(stage, verb) for stage in STAGES for verb in verbs_of(stage)]


@pytest.mark.parametrize("stage", STAGES)
def test_help_and_print_config_of_every_verb_import_nothing_heavy(stage: str) -> None:
    verbs = [*verbs_of(stage)]
    done = subprocess.run(
        [sys.executable, "-c", READ % HEAVY, stage, *verbs],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    asked = [f"{verb} {flag}" for verb in verbs for flag in ("--help", "--print_config")]
    assert done.stdout.splitlines() == [f"{one} 0 True" for one in asked]


@pytest.mark.parametrize(("stage", "verb"), ALL_VERBS)
@pytest.mark.parametrize("asked", [["--help"], ["--help", "all"]])
def test_help_is_plain_text_of_80_columns_with_values_as_the_command_line_takes_them(
    stage: str, verb: str, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_stage(stage, "", verbs_of(stage), [verb, *asked])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: mobilellama {stage} {verb} ")
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert re.findall(r"`|\b(?:None|True|False|Optional|Union)\b", out) == []


@pytest.mark.parametrize(("stage", "verb"), ALL_VERBS)
def test_a_verb_of_many_fields_shows_ten_first(stage: str, verb: str) -> None:
    its = verbs_of(stage)[verb]
    known = fields_of(importlib.import_module(its.config or its.module).Config).by_name
    required = {name for name, field in known.items() if field.is_required}
    assert {*its.first} <= {*known} - required
    assert len({*its.first}) == (0 if len(known) <= MOST_SHOWN else 10 - len(required))


@pytest.mark.parametrize(("stage", "verb"), ALL_VERBS)
def test_a_word_too_many_is_met_with_flags_that_the_verb_has(stage: str, verb: str) -> None:
    its = verbs_of(stage)[verb]
    known = fields_of(importlib.import_module(its.config or its.module).Config).by_name
    assert {*its.meant} <= {*known} - {its.thing}


# 'vlm import' makes another person's folder ours: it reads no run.
READ_A_MODEL = [
    (stage, verb)
    for stage, verb in ALL_VERBS
    if verbs_of(stage)[verb].thing == "model" and (stage, verb) != ("vlm", "import")
]


@pytest.mark.parametrize(("stage", "verb"), READ_A_MODEL)
def test_every_verb_that_reads_a_model_says_in_the_same_words_what_it_takes(
    stage: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_stage(stage, "", verbs_of(stage), [verb, "--help", "all"])
    run = f"{'an' if stage == 'sft' else 'a'} '{stage} run'"
    assert (
        f"a name on the Hub (OWNER/NAME or OWNER/NAME@REVISION), the folder of {run}, for its "
        "newest checkpoint, or the folder of one checkpoint."
    ) in " ".join(capsys.readouterr().out.split())
