"""A command line is read without torch: --help, --print_config and errors come at once."""

import importlib
import subprocess
import sys

import pytest

from mobilellama.__main__ import STAGES

HEAVY = {"torch", "lightning", "deepspeed", "transformers", "datasets"}
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


@pytest.mark.parametrize("stage", STAGES)
def test_help_and_print_config_of_every_verb_import_nothing_heavy(stage: str) -> None:
    verbs = [*importlib.import_module(f"mobilellama.{stage}.main").VERBS]
    done = subprocess.run(
        [sys.executable, "-c", READ % HEAVY, stage, *verbs],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    asked = [f"{verb} {flag}" for verb in verbs for flag in ("--help", "--print_config")]
    assert done.stdout.splitlines() == [f"{one} 0 True" for one in asked]
