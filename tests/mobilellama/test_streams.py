"""Standard streams that are closed, broken or full: no traceback, and no result is lost in silence.

Each case is a whole command in a shell.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellama.files.atomic import read_json

COMMAND = f"{sys.executable} -m mobilellama"
HELP = f"{COMMAND} --help"
VERB_HELP = f"{COMMAND} shards verify --help"
FULL = "mobilellama: error: standard output: the disk is full (No space left on device)"


def run(script: str, **variables: object) -> tuple[int, str, str]:
    """Run a script in bash; return its exit code, output and errors."""
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", [HELP, VERB_HELP])
def test_help_into_a_pipe_that_nobody_reads_ends_quietly(command: str) -> None:
    code, out, err = run(f"{command} | true; echo ${{PIPESTATUS[0]}}")
    assert (code, err) == (0, "")
    assert out in ("0\n", "141\n")  # whether the reader had left by then
    code, out, err = run(f"(sleep 0.1; {command}; echo $? >&2) | true")
    assert (code, err) == (0, "141\n")


@pytest.mark.parametrize("command", [HELP, VERB_HELP, "$VERIFY"])
def test_a_full_disk_behind_the_output_is_one_line_and_exit_code_2(
    command: str, small_dataset: Path
) -> None:
    verify = f"{COMMAND} shards verify {small_dataset}"
    code, _, err = run(f"{command} >/dev/full", VERIFY=verify)
    assert code == 2
    assert [line[: len(FULL)] for line in err.splitlines() if " I verify" not in line] == [FULL]


@pytest.mark.parametrize(
    ("streams", "shown", "told"),
    [
        ("2>&-", True, False),
        (">&-", False, True),
        ("<&-", True, True),
        ("<&- >&- 2>&-", False, False),
        ("2>/dev/full", True, False),
        ("2> >(true)", True, False),
    ],
)
def test_without_a_stream_a_command_does_its_work(
    small_dataset: Path, tmp_path: Path, streams: str, shown: bool, told: bool
) -> None:
    script = f"cd {tmp_path} && {COMMAND} shards verify {small_dataset} {streams}"
    code, out, err = run(script)
    assert code == 0
    assert ("good. 11 files" in out) is shown
    assert ("verify: 100.0 %" in err) is told
    code, out, err = run(f"{COMMAND} shards verify {tmp_path}/nowhere {streams}")
    assert (code, out) == (2, "")
    assert ("is not a folder" in err) is told


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_worker_processes_work_without_a_stream(
    small_corpus: Path, small_tokenizer: Path, small_dataset: Path, tmp_path: Path, streams: str
) -> None:
    code, _, err = run(
        f"{COMMAND} tokenize run --tokenizer {small_tokenizer} --sources.root {small_corpus} "
        f"--output {tmp_path}/out --heldout_share 0.02 --workers 2 {streams}"
    )
    assert (code, err) == (0, "")
    made, expected = (read_json(f / "dataset.json") for f in (tmp_path / "out", small_dataset))
    assert made["fingerprint"] == expected["fingerprint"]
