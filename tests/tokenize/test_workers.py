"""Worker processes of 'tokenize run': a kill, a Ctrl-C, a parent that is gone, a full disk."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.tokenizing import RECEIPTS, start, wait_for

pytestmark = pytest.mark.slow

Command = Callable[..., subprocess.CompletedProcess[str]]
Digest = Callable[[Path], dict[str, str]]


def test_an_interrupt_stops_the_workers_and_the_same_command_continues(
    many_slices: tuple[list[str | Path], Path],
    tokenize_command: Command,
    digest: Digest,
    tmp_path: Path,
) -> None:
    arguments, expected = many_slices
    output = tmp_path / "out"
    process = start(*arguments, "--output", output, "--workers", 2)
    wait_for(lambda: list(output.glob(RECEIPTS)))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert re.search(r"interrupted with \d+ of \d+ buckets finished; run the same command", err)
    assert "Traceback" not in err and out == ""
    assert not list(output.glob("*/*.tmp.*"))
    assert not (output / "dataset.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in output.glob(RECEIPTS)}
    done = tokenize_command("run", *arguments, "--output", output, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert f"{len(kept)} of" in done.stderr
    assert kept.items() <= {p: p.stat().st_mtime_ns for p in output.glob(RECEIPTS)}.items()
    assert digest(output) == digest(expected)


def workers_of(pid: int) -> list[int]:
    """Return the spawned processes of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            group = (folder / "stat").read_text().rpartition(")")[2].split()[2]
            if int(group) == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_a_killed_worker_costs_its_slice_alone(
    small_tokenizer: Path, tokenize_command: Command, tmp_path: Path
) -> None:
    root, output = tmp_path / "corpus", tmp_path / "out"
    for name, words in {"c4/long.jsonl": 2_000_000, "c4/short.jsonl": 2}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text((json.dumps({"text": "word " * (words // 2)}) + "\n") * 2)
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", root, "--output", output]
    process = start(*arguments, "--workers", 1)
    # The folder is made when the first slice, the largest, is begun; it takes seconds.
    wait_for(lambda: (output / "c4").exists())
    (worker,) = workers_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "error: 1 of 2 slices failed. The other buckets are kept:" in err
    assert "c4/00000: its worker was killed by SIGKILL. The kernel does this where memory" in err
    assert "Run the same command again, with fewer --workers" in err
    assert "Traceback" not in err
    assert sorted(path.name for path in (output / "c4").iterdir()) == [
        "00001.bin", "00001.idx", "00001.json",
    ]  # fmt: skip
    assert tokenize_command("run", *arguments).returncode == 0


def test_workers_end_when_their_parent_is_killed(
    many_slices: tuple[list[str | Path], Path], tmp_path: Path
) -> None:
    arguments, _ = many_slices
    output = tmp_path / "out"
    process = start(*arguments, "--output", output, "--workers", 2)
    wait_for(lambda: list(output.glob(RECEIPTS)))
    workers = workers_of(process.pid)
    process.kill()
    process.communicate(timeout=60)  # the workers hold the pipes: this waits for them too
    assert workers
    wait_for(lambda: not workers_of(process.pid), 10)  # a zombie has no command line


def test_a_run_sweeps_what_killed_writers_left_and_keeps_what_others_write(
    many_slices: tuple[list[str | Path], Path], tmp_path: Path
) -> None:
    arguments, _ = many_slices
    output = tmp_path / "out"
    tasks = ("--output", output, "--workers", 1, "--task_count", 2, "--task_index")
    process = start(*arguments, *tasks, 0)
    process.communicate(timeout=60)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    here = socket.gethostname()
    left, live, others = (
        output / "github" / f"00000.bin.tmp.{writer}.0123abcd"
        for writer in (f"{here}.{ended.pid}", f"{here}.{os.getpid()}", f"host-7.{ended.pid}")
    )
    (output / "github").mkdir(exist_ok=True)
    for path in (left, live, others):
        path.write_bytes(b"half")
    process = start(*arguments, *tasks, 1)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (left.exists(), live.exists(), others.exists()) == (False, True, True)


@pytest.mark.parametrize("limit", ["spool", "bucket"])
def test_a_full_disk_is_told_with_the_buckets_name(
    small_tokenizer: Path, tokenize_command: Command, digest: Digest, tmp_path: Path, limit: str
) -> None:
    """RLIMIT_FSIZE makes writes fail as a full disk does: in the middle of a file."""
    root, output = tmp_path / "corpus", tmp_path / "out"
    (root / "c4").mkdir(parents=True)
    # 400 kB of ids in one bucket, little in the other; or many documents, so that the index
    # (20 bytes each) is larger than the ids (2 bytes a token)
    texts = ["word " * 200_000] if limit == "spool" else ["é"] * 20_000
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (root / "c4/a.jsonl").write_text("".join(lines))
    (root / "c4/b.jsonl").write_text(json.dumps({"text": "small"}) + "\n")
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", root, "--output", output]
    limited = shlex.join(
        [sys.executable, "-m", "mobilellama", "tokenize", "run", *map(str, arguments)]
    )
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 250; exec {limited} --workers 1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f"{output}/c4/00000.bin: the disk is full" in done.stderr
    assert "Free some space and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(output.glob("c4/0*"))  # the other slice was not even tried
    assert tokenize_command("run", *arguments).returncode == 0
    assert "c4/00000.bin" in digest(output)
