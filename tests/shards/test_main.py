import subprocess
import sys

import pytest

from tests.shards.conftest import Cli


def test_the_stage_lists_its_verbs(cli: Cli) -> None:
    code, out, _ = cli("shards", "--help")
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in ("info", "verify", "audit", "show", "plot"))


@pytest.mark.parametrize("verb", ["info", "verify", "audit", "show", "plot"])
def test_every_verb_explains_its_fields(verb: str) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "mobilellama", "shards", verb, "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "The dataset folder." in out


def test_an_unknown_verb_is_answered_with_a_suggestion(cli: Cli) -> None:
    code, _, err = cli("shards", "verfy")
    assert code == 2
    assert (
        "must be one of info, verify, audit, show, plot" in err and "did you mean 'verify'?" in err
    )


def test_a_folder_that_is_no_dataset_is_refused_by_a_fresh_process() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "mobilellama", "shards", "info", "/nowhere"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr == (
        "mobilellama: error: dataset = /nowhere: is not a folder. "
        "Give the --output of 'mobilellama tokenize run', or of 'mobilellama sft prepare'.\n"
    )
