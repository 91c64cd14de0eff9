"""Kills change no byte of a dataset: the short form of benchmarks/tokenize_recovery.py."""

import shutil
from pathlib import Path

import pytest

from benchmarks.kill_at import AT_START, Point, environment, was_reached
from benchmarks.killed_command import KillableCommand
from benchmarks.tokenize_recovery import VICTIMS, Drills, run_drills, summary

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of the small corpus: a drill reads it a few times."""
    root = tmp_path_factory.mktemp("drills") / "corpus"
    for name in ("wikipedia", "common_crawl"):
        shutil.copytree(small_corpus / name, root / name)
    return root


@pytest.fixture(scope="module")
def drills(corpus: Path, small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Drills:
    """The drills of this corpus; one run without a kill is made at once."""
    return Drills(corpus, small_tokenizer, tmp_path_factory.mktemp("drills"))


def test_kills_of_every_victim_change_no_byte_and_leave_no_file_and_no_process(
    drills: Drills,
) -> None:
    results = run_drills(drills, len(VICTIMS), seed=1)
    assert [result.faults for result in results] == [[]] * len(VICTIMS)
    counted = summary(results)
    assert counted["identical"] == counted["drills"] == len(VICTIMS)
    assert counted["kills"] >= len(VICTIMS)
    assert set(counted["exit_codes"]["group"]) == {"-9"}


def test_a_drill_finds_a_byte_that_differs_and_a_file_that_was_left(
    drills: Drills, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, name, *_ = drills.expected
    monkeypatch.setitem(drills.expected, name, "0" * 64)
    monkeypatch.delitem(drills.expected, left)
    result = drills.drill("worker", 1, seed=2)
    assert sorted(result.faults) == sorted([f"{name} differs", f"{left} was left"])


@pytest.mark.parametrize("point", AT_START[1:3], ids=lambda point: point.name)
def test_the_next_start_removes_what_a_kill_within_the_plans_writing_left(
    corpus: Path, small_tokenizer: Path, tmp_path: Path, point: Point
) -> None:
    words = ["run", "--tokenizer", small_tokenizer, "--sources.root", corpus, "--workers", 1]
    words += ["--output", tmp_path / "out"]
    hook = tmp_path / "hook"
    killed = KillableCommand(*words, environment=environment(hook, point, 1, "itself"))
    assert (killed.wait(), was_reached(hook)) == (-9, True)
    assert [path.name[:14] for path in (tmp_path / "out").iterdir()] == ["plan.json.tmp."]
    again = KillableCommand(*words)
    assert again.wait() == 0, again.error()
    assert not list((tmp_path / "out").glob("*.tmp.*"))
