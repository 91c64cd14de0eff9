"""Attempts, the fence, verdicts and checkpoints of a run's folder."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import read_json
from mobilellama.run_folder import FencedError, RunFolder, Verdict


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.create()
    return folder


def make_checkpoint(run: RunFolder, name: str) -> Path:
    folder = run.checkpoints / name
    folder.mkdir()
    (folder / "weights").write_text(name)
    return folder


def begin_many(path: Path, count: int) -> list[int]:
    return [RunFolder(path).begin_attempt({"argv": ["x"]}) for _ in range(count)]


def test_attempts_count_up_from_1_and_say_who_began_them(run: RunFolder) -> None:
    assert run.newest_attempt() == 0
    assert [run.begin_attempt({"world_size": n}) for n in (8, 4)] == [1, 2]
    assert run.newest_attempt() == 2
    assert sorted(path.name for path in run.attempts.iterdir()) == ["0001.json", "0002.json"]
    facts = read_json(run.attempts / "0002.json")
    assert facts["world_size"] == 4 and facts["pid"] == os.getpid() and facts["host"]


def test_attempts_go_past_four_digits(run: RunFolder) -> None:
    (run.attempts / "9999.json").write_text("{}")
    assert [run.begin_attempt({}), run.begin_attempt({})] == [10_000, 10_001]


def test_no_two_of_many_starts_at_once_get_the_same_attempt(run: RunFolder) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = pool.map(lambda _: begin_many(run.path, 10), range(8))
        assert sorted(number for numbers in taken for number in numbers) == list(range(1, 81))


def test_no_two_processes_get_the_same_attempt(run: RunFolder) -> None:
    # spawn: a fork would copy the locks of torch's threads, and other tests set up the forkserver.
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        taken = pool.starmap(begin_many, [(run.path, 20)] * 2)
    assert sorted(number for numbers in taken for number in numbers) == list(range(1, 41))


def test_an_attempt_that_was_superseded_may_not_write(run: RunFolder) -> None:
    first = run.begin_attempt({})
    run.require_newest(first)
    make_checkpoint(run, "step-5")
    second = run.begin_attempt({})
    verdict = Verdict(kind="stopped", message="m", attempt=first, step=5)
    for write in (
        lambda: run.require_newest(first),
        lambda: run.write_verdict(verdict),
        lambda: run.remove_checkpoint(5, first),
    ):
        with pytest.raises(FencedError, match="attempt 1 was superseded by attempt 2"):
            write()
    assert not run.verdict.exists() and run.checkpoint_steps() == [5]
    run.require_newest(second)


def test_a_verdict_is_read_back_until_another_attempt_begins(run: RunFolder) -> None:
    assert run.read_verdict() is None
    verdict = Verdict(
        kind="failed", message="naïve\n“quotes”", attempt=run.begin_attempt({}), step=7
    )
    run.write_verdict(verdict)
    assert run.read_verdict() == verdict
    second = run.begin_attempt({})
    assert run.read_verdict() is None  # it was the first attempt's
    newer = Verdict(kind="finished", message="", attempt=second, step=9)
    run.write_verdict(newer)
    assert run.read_verdict() == newer


def test_checkpoints_are_ordered_as_integers_and_only_whole_ones_count(run: RunFolder) -> None:
    for name in ("step-100", "step-20", "step-3", "step-200.tmp-1", "step-7.old-1", "step-8.bad-1"):
        make_checkpoint(run, name)
    make_checkpoint(run, "step-x")
    assert run.checkpoint_steps() == [3, 20, 100]
    assert run.checkpoint(100) == run.checkpoints / "step-100"


def test_a_run_without_a_folder_has_no_checkpoints(tmp_path: Path) -> None:
    missing = RunFolder(tmp_path / "none")
    assert missing.checkpoint_steps() == [] and missing.newest_attempt() == 0
    assert missing.read_verdict() is None


def test_leftovers_of_killed_attempts_go_and_all_else_stays(run: RunFolder) -> None:
    for name in ("step-4", "step-9.tmp-2", "step-9.old-11", "step-4.bad-2", "mine"):
        make_checkpoint(run, name)
    run.remove_leftovers()
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-4", "step-4.bad-2", "mine"}


def test_a_removed_checkpoint_is_gone_and_its_neighbours_stay(run: RunFolder) -> None:
    attempt = run.begin_attempt({})
    for step in (1, 10, 100):
        make_checkpoint(run, f"step-{step}")
    run.remove_checkpoint(10, attempt)
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-1", "step-100"}


def test_a_removal_that_is_killed_half_way_leaves_nothing_that_counts(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    attempt = run.begin_attempt({})
    make_checkpoint(run, "step-10")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        run.remove_checkpoint(10, attempt)
    assert run.checkpoint_steps() == []
    assert [path.name for path in run.checkpoints.iterdir()] == [f"step-10.old-{attempt}"]
    run.remove_leftovers()
    assert not list(run.checkpoints.iterdir())


def test_a_folder_that_cannot_be_made_is_refused_by_its_field(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        RunFolder(tmp_path / "file" / "run").create()
    assert str(caught.value) == (
        f"run.folder = {tmp_path}/file/run: cannot be made or written to ({tmp_path}/file is no "
        "writable folder). Give a writable folder."
    )


def test_making_a_folder_again_changes_nothing(run: RunFolder) -> None:
    run.begin_attempt({})
    make_checkpoint(run, "step-1")
    run.create()
    assert run.newest_attempt() == 1 and run.checkpoint_steps() == [1]


@pytest.mark.parametrize("name", ["config.yaml", "tokenizer.model", "metrics.jsonl"])
def test_a_folder_with_someone_elses_files_is_not_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"run.folder = .* holds {name} but no run"):
        RunFolder(tmp_path).create()
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_with_the_launchers_files_is_taken(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "job.sbatch").touch()
    RunFolder(tmp_path).create()
    (tmp_path / "config.yaml").touch()
    RunFolder(tmp_path).require_usable()  # a run's own, by now


def test_a_file_in_the_way_is_named_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run.folder = .*file/run: cannot be made .*/file is no"):
        RunFolder(tmp_path / "file/run").require_usable()


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"kind": "finished"}', "\xe9"])
def test_a_damaged_verdict_is_none(run: RunFolder, text: str) -> None:
    run.verdict.write_text(text, encoding="latin-1")
    assert run.read_verdict() is None


def test_files_that_are_no_attempts_are_not_counted(run: RunFolder) -> None:
    run.begin_attempt({})
    for name in ("²3.json", "x.json", "7.txt", "-4.json"):
        (run.attempts / name).touch()
    assert run.attempt_numbers() == [1]
    (run.attempts / "99999999999999.json").touch()
    assert run.newest_attempt() == 99999999999999


def test_a_changed_template_or_tokenizer_of_a_run_is_named_with_a_remedy(run: RunFolder) -> None:
    run.require_whole_texts()  # of an older version: nothing to compare with
    run.template.write_text("user: x")
    run.tokenizer.write_bytes(b"model")
    run.write_digests()
    run.require_whole_texts()
    run.template.write_text("user: y")
    with pytest.raises(DataError, match=r"template.yaml: is missing, or not as the run wrote it"):
        run.require_whole_texts()
    run.template.write_text("user: x")
    run.tokenizer.write_bytes(b"medal")
    with pytest.raises(DataError, match=r"tokenizer.model: .* remove .*digests.json"):
        run.require_whole_texts()
    run.tokenizer.unlink()
    run.require_whole_texts()  # whoever reads it says that it is gone, or was given another
    run.digests.write_text(run.digests.read_text().replace("tokenizer", "tokenizes"))
    with pytest.raises(DataError, match=r"digests.json: is damaged"):
        run.require_whole_texts()


def test_an_attempt_whose_number_nobody_reaches_is_refused_before_anything_starts(
    run: RunFolder,
) -> None:
    for name in (f"{10**19}.json", "\u0661.json", "12.json", "00012.json"):
        (run.attempts / name).touch()
        assert run.newest_attempt() == 0
    with pytest.raises(ConfigError, match=r"holds attempts/10+\.json, whose number no attempt"):
        run.require_usable()


def test_names_that_are_no_steps_are_no_checkpoints(run: RunFolder) -> None:
    for name in ("step-\u0663", "step-007", f"step-{10**19}", "step-5x", "step-0", "step-12"):
        (run.checkpoints / name).mkdir()
    assert run.checkpoint_steps() == [0, 12]


def test_a_flipped_verdict_or_attempt_is_told_and_ignored(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    number = run.begin_attempt({"saved_step": 46})
    run.write_verdict(Verdict(kind="stopped", message="", attempt=number, step=46))
    for path, old, new in ((run.verdict, "46", "44"), (run.attempts / "0001.json", "46", "47")):
        path.write_text(path.read_text().replace(old, new, 1))
    assert run.read_verdict() is None
    assert run.read_attempt(1) == {}
    assert "verdict.json: is damaged" in caplog.text
    assert "0001.json: is damaged" in caplog.text


@pytest.mark.parametrize(
    "name", ["verdict.json", "config.yaml", "metrics.jsonl", "template.yaml", "stop"]
)
def test_a_folder_where_a_file_will_be_written_is_told_before_the_work(
    run: RunFolder, name: str
) -> None:
    (run.path / name).mkdir()
    with pytest.raises(ConfigError, match=rf"run.folder = .*{name} is a folder, and a file of"):
        run.require_usable()


@pytest.mark.parametrize("name", ["checkpoints", "attempts", "frozen"])
def test_a_file_where_a_folder_is_needed_is_told_before_the_work(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=rf"run.folder = .*{name} is a file, and a folder of"):
        RunFolder(tmp_path).require_usable()


def usability_without_rights(folder: Path, pipe: Connection) -> None:
    """Send what a user who is not root is told of a run's folder."""
    if os.geteuid() == 0:
        os.setuid(65_534)
    try:
        RunFolder(folder).require_usable()
        pipe.send("usable")
    except ConfigError as error:
        pipe.send(str(error))


def test_a_locked_folder_of_checkpoints_names_itself() -> None:
    with TemporaryDirectory() as folder:  # pytest's own lie in one that others may not enter
        run = RunFolder(folder)
        run.create()
        run.begin_attempt({})
        Path(folder).chmod(0o777)
        run.attempts.chmod(0o777)
        run.checkpoints.chmod(0o555)
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        process = context.Process(target=usability_without_rights, args=(Path(folder), there))
        process.start()
        process.join()
        message = here.recv()
    assert f"run.folder = {folder}: {run.checkpoints} may not be written to" in message


def test_a_line_of_metrics_that_is_nested_too_deeply_is_left_out(run: RunFolder) -> None:
    run.metrics.write_text("[" * 100_000 + '\n{"step": 1, "loss": 2.0}\n')
    assert run.read_metrics() == [{"step": 1, "loss": 2.0}]
