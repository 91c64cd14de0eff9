"""Corpora that are refused, and outputs that cannot be written: as docs/bad_input.md says."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.kill_at import IN_WORKER, environment
from benchmarks.killed_command import KillableCommand
from mobilellama.config import ConfigError
from mobilellama.tokenize.main import main
from tests.helpers.documented import rows, words
from tests.tokenize.conftest import GOOD

Command = Callable[..., subprocess.CompletedProcess[str]]

REFUSED = rows("bad_input.md", "Corpora that are refused")
EVENTS = rows("bad_input.md", "Output that cannot be written, and processes that end")
DISK_KB = 2000


def file_beside(root: Path) -> None:
    (root / "c4.jsonl").write_bytes(GOOD)


def broken_link(root: Path) -> None:
    (root / "c4/b.jsonl").symlink_to("/nowhere")


def pipe(root: Path) -> None:
    os.mkfifo(root / "c4/b.jsonl")


def nothing(root: Path) -> None:
    (root / "c4/a.jsonl").unlink()


def reserved_name(root: Path) -> None:
    shutil.copytree(root / "c4", root / "plan.json")


MAKERS = dict(zip(REFUSED, (file_beside, broken_link, pipe, nothing, reserved_name), strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_a_corpus_is_refused_with_these_words_before_anything_is_written(
    small_tokenizer: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "corpus"
    (root / "c4").mkdir(parents=True)
    (root / "c4/a.jsonl").write_bytes(GOOD)
    MAKERS[name](root)
    words_given = ["run", "--tokenizer", str(small_tokenizer), "--sources.root", str(root)]
    with pytest.raises(ConfigError) as error:
        main([*words_given, "--output", str(tmp_path / "out")])
    assert words(REFUSED[name][0]) in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(disk: Path, *, leave: int) -> None:
    """Fill the disk up to so many pages of 4 KiB."""
    (disk / "fill").unlink(missing_ok=True)
    free = shutil.disk_usage(disk).free
    (disk / "fill").write_bytes(bytes(free - 4096 * leave))


@pytest.mark.slow
def test_a_full_or_read_only_disk_is_told_at_each_file_and_the_next_start_goes_on(
    small_tokenizer: Path, small_corpus: Path, tokenize_command: Command, disk: Path
) -> None:
    output, told = disk / "out", set[str]()
    run = ["run", "--tokenizer", small_tokenizer, "--sources.root", small_corpus]
    run += ["--output", output, "--workers", 1]

    def fails(name: str, *command: str | int | Path) -> None:
        done = tokenize_command(*command)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert words(EVENTS[name][0]) in done.stderr.split("mobilellama: error:")[1], name
        assert not [path for path in output.rglob("*") if ".tmp." in path.name]
        told.add(name)

    def remount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)

    fill(disk, leave=0)
    fails("the disk is full at the plan", *run)
    fill(disk, leave=2)
    fails("the disk is full at the tokenizer", *run)
    fill(disk, leave=20)
    fails("the disk is full at a bucket", *run)
    remount("ro")
    fails("the folder is read-only, at a bucket", *run)
    remount("rw")
    (disk / "fill").unlink()
    done = tokenize_command(*run)
    assert done.returncode == 0, done.stderr
    finish = ("finish", "--output", output)
    size = (output / "manifest.parquet").stat().st_size
    for name in ("manifest.parquet", "dataset.json"):
        (output / name).unlink()
    remount("ro")
    fails("the folder is read-only, at the manifest", *finish)
    remount("rw")
    fill(disk, leave=0)
    fails("the disk is full at the manifest", *finish)
    fill(disk, leave=-(-size // 4096))
    fails("the disk is full at dataset.json", *finish)
    (disk / "fill").unlink()
    assert tokenize_command(*finish).returncode == 0
    assert told == {name for name in EVENTS if "worker" not in name}


@pytest.mark.slow
def test_a_killed_worker_is_told_with_these_words(
    small_tokenizer: Path, small_corpus: Path, tmp_path: Path
) -> None:

    given = ("--tokenizer", small_tokenizer, "--sources.root", small_corpus)
    around = environment(tmp_path / "hook", IN_WORKER[2], 1, "itself")
    command = KillableCommand(
        "run", *given, "--output", tmp_path / "out", "--workers", 2, environment=around
    )
    assert command.wait() == 2
    assert words(EVENTS["a worker was killed, as for want of memory"][0]) in command.error()
