"""Encoding by several processes."""

import os
import signal
from pathlib import Path

import pytest

from tests.sft.helpers.preparing import (
    digest,
    prepare,
    processes_of_group,
    start_until_a_receipt,
)


def test_two_workers_write_the_bytes_that_one_writes(
    conversations: Path, prepared: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    more = ("--heldout_share", "0.1", "--workers", "2")
    assert prepare(small_tokenizer, conversations, tmp_path / "out", *more) == 0
    assert digest(tmp_path / "out") == digest(prepared)


@pytest.mark.slow
def test_a_killed_worker_ends_the_command_with_a_message(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    process = start_until_a_receipt(small_tokenizer, tmp_path)
    for one in processes_of_group(process.pid):
        if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes():
            os.kill(int(one), signal.SIGKILL)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "mobilellama: error: a worker process was killed while encoding; was memory sho" in err
    assert "Traceback" not in err
