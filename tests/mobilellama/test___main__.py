"""The program: its help, its version, and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from mobilellama import __main__ as command
from mobilellama import __version__
from tests.helpers.command_line import Cli


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
