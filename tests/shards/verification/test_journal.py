"""What a verification notes, and when a note counts."""

import json
import os
import time
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.files.sealed import seal, unseal
from mobilellama.shards.sources.located import state_of
from mobilellama.shards.verification.checked_files import CheckedFile
from mobilellama.shards.verification.journal import JOURNAL, Journal


def checked(path: Path, start: int = 0, end: int | None = None) -> CheckedFile:
    return CheckedFile(path=path, start=start, end=end, size=None, sha256=sha256_of_file(path))


def place(file: CheckedFile) -> Path:
    """Return where a file of this machine is."""
    assert isinstance(file.path, Path)
    return file.path


@pytest.fixture
def files(tmp_path: Path) -> list[CheckedFile]:
    for name in "abc":
        (tmp_path / name).write_text(name * 10)
    return [checked(tmp_path / name) for name in "abc"]


def note(path: Path, *files: CheckedFile) -> None:
    with Journal(path) as journal:
        for file in files:
            state = state_of(file.path)
            assert state
            journal.note(file, state)


def test_a_noted_file_is_known_until_it_is_touched_or_must_have_another_hash(
    files: list[CheckedFile], tmp_path: Path
) -> None:
    path = tmp_path / JOURNAL
    note(path, *files[:2])
    a, b, c = files
    with Journal(path) as journal:
        assert [journal.knows(file) for file in files] == [True, True, False]
    os.utime(place(a), ns=(1, 1))
    (tmp_path / "new").write_text("b" * 10)
    (tmp_path / "new").replace(place(b))
    note(path, c)
    other = CheckedFile(path=place(c), size=None, sha256="0" * 64)
    with Journal(path) as journal:
        assert [journal.knows(file) for file in (*files, other)] == [False, False, True, False]
    place(c).unlink()
    assert not Journal(path).knows(c)


def test_a_range_is_noted_for_itself(files: list[CheckedFile], tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    some = checked(place(files[0]), 0, 5)
    note(path, some)
    journal = Journal(path)
    assert journal.knows(some)
    assert not journal.knows(checked(place(files[0]), 0, 6)) and not journal.knows(files[0])


def test_lines_that_are_cut_or_damaged_are_ignored_and_the_next_ones_are_whole(
    files: list[CheckedFile], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / JOURNAL
    note(path, *files[:2])
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first.replace(b'"size": 10', b'"size": 11') + b"\n" + second[:-9])
    note(path, files[2])
    assert "verify.jsonl: lines that are cut or damaged: 2. They are ignored" in caplog.text
    with Journal(path) as journal:
        assert [journal.knows(file) for file in files] == [False, False, True]


@pytest.mark.parametrize(("age_s", "counts"), [(6 * 86_400, True), (8 * 86_400, False)])
def test_a_note_counts_for_a_week(
    files: list[CheckedFile], tmp_path: Path, age_s: int, counts: bool
) -> None:
    path = tmp_path / JOURNAL
    note(path, files[0])
    content = unseal(json.loads(path.read_text()))
    assert content and abs(content["checked_s"] - time.time()) < 60
    path.write_text(json.dumps(seal(content | {"checked_s": int(time.time()) - age_s})) + "\n")
    assert Journal(path).knows(files[0]) is counts


def test_afresh_removes_the_notes(files: list[CheckedFile], tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    note(path, files[0])
    assert not Journal(path, afresh=True).knows(files[0])
    assert not path.exists()


def test_a_journal_that_cannot_be_written_is_told_once_and_the_check_goes_on(
    files: list[CheckedFile], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilellama.shards.verification.journal._WRITE_EVERY_S", 0.0)
    note(Path("/dev/full"), *files)
    assert caplog.text.count("/dev/full: cannot be written (No space left on device). The ch") == 1


def test_a_file_that_the_user_names_must_be_writable_and_no_other_file(
    files: list[CheckedFile], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"journal = .*nowhere/j: cannot be written \(No such"):
        Journal(tmp_path / "nowhere/j", asked=True)
    for other in (place(files[0]), Path("/dev/null")):
        with pytest.raises(ConfigError, match="is not a journal of 'shards verify'"):
            Journal(other, asked=True, afresh=True)
        assert other.exists()
    with Journal(tmp_path / "j", asked=True):
        assert not (tmp_path / "j").exists()  # it is made with the first note
    note(tmp_path / "j", files[0])
    assert Journal(tmp_path / "j", asked=True).knows(files[0])
