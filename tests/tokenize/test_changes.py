"""A corpus that changes under its dataset: what is noticed, what is refused, what goes on."""

import json
import os
import shutil
from pathlib import Path

import datasets
import pytest

from mobilellama.config import DataError
from mobilellama.files.atomic import read_json
from mobilellama.pool import Workers
from mobilellama.shards.dataset import Identity, Plan
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.source_file import SourceRange
from mobilellama.shards.verification.sources import verify_sources
from mobilellama.tokenize.changes import SourceChecks
from mobilellama.tokenize.finish import finish_dataset
from mobilellama.tokenize.main import main as tokenize_main
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.slices import find_slices
from tests.helpers.changed_sources import LINES, change, identity_of, make_corpus, run
from tests.helpers.sealed import edit_sealed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "root")


@pytest.mark.parametrize("keep_time", [False, True])
def test_text_changed_in_place_is_not_taken_for_the_old_one(
    root: Path,
    small_tokenizer: Path,
    tmp_path: Path,
    keep_time: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert run(root, small_tokenizer, output) == 0
    before = TokenDataset(output).fingerprint
    change(root / "c4/b.jsonl", 7, keep_time=keep_time)
    capsys.readouterr()
    assert run(root, small_tokenizer, output) == 2
    err = capsys.readouterr().err
    assert f"sources = {root}/c4/b.jsonl: has changed since {output} was made of it" in err
    assert f"remove {output}/c4/00001.* and run the same command again" in err
    assert TokenDataset(output).fingerprint == before
    for path in output.glob("c4/00001.*"):  # the remedy
        path.unlink()
    assert run(root, small_tokenizer, output) == 0
    assert run(root, small_tokenizer, tmp_path / "fresh") == 0
    made = TokenDataset(output).fingerprint
    assert made == TokenDataset(tmp_path / "fresh").fingerprint != before
    assert run(root, small_tokenizer, output) == 0


def test_a_touched_or_copied_source_of_the_same_bytes_goes_on_and_is_told(
    root: Path, small_tokenizer: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run(root, small_tokenizer, output) == 0
    receipt = (output / "c4/00000.json").read_bytes()
    (root / "c4/a.jsonl").touch()
    assert run(root, small_tokenizer, output) == 0
    told = capfd.readouterr()
    assert f"{root}/c4/a.jsonl: time or inode have changed since it was tokenised" in told.err
    assert "is finished already, there is nothing to do" in told.out
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    assert run(moved, small_tokenizer, output) == 0
    assert "moved/book/c.jsonl" in capfd.readouterr().err
    assert (output / "c4/00000.json").read_bytes() == receipt


def test_slices_made_before_and_after_a_change_do_not_stand_in_one_dataset(
    root: Path, small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, tasks = tmp_path / "out", ("--slice_bytes", "700", "--task_count", "2")
    assert run(root, small_tokenizer, output, *tasks, "--task_index", "0") == 0
    change(root / "c4/a.jsonl", 20)  # of its slice 1, which task 0 has made
    assert run(root, small_tokenizer, output, *tasks, "--task_index", "1") == 0
    assert run(root, small_tokenizer, output, "--slice_bytes", "700") == 2
    message = capsys.readouterr().err
    assert (
        f"{root}/c4/a.jsonl: has changed since" in message
        and not (output / "dataset.json").exists()
    )


def test_a_change_in_a_later_range_is_no_change_of_an_earlier_one(
    root: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    output, tasks = tmp_path / "out", ("--slice_bytes", "700", "--task_count", "2")
    assert run(root, small_tokenizer, output, *tasks, "--task_index", "0") == 0
    made = {path.stem for path in (output / "book").glob("*.json")}
    slices = [p for p in Plan.read(output).slices if p.subset == "book"]
    later = next(p for p in slices if p.name.split("/")[1] not in made)
    content = (root / "book/c.jsonl").read_bytes()
    change(root / "book/c.jsonl", content[: later.start].count(b"\n") + 2)
    assert run(root, small_tokenizer, output, "--slice_bytes", "700") == 0
    fresh = tmp_path / "fresh"
    assert run(root, small_tokenizer, fresh, "--slice_bytes", "700") == 0
    assert TokenDataset(output).fingerprint == TokenDataset(fresh).fingerprint


def test_a_source_that_changes_after_it_was_read_stops_the_run_at_its_end(
    root: Path,
    small_tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The change comes between one bucket and the next, in the middle of one run."""
    each, ended = Workers.each, []

    def and_change(*arguments, **named):  # pyright: ignore[reportMissingParameterType]
        for slice_, end in each(*arguments, **named):
            if not ended:
                ended.append(slice_.source)
                change(root / ended[0], 3)
            yield slice_, end

    monkeypatch.setattr(Workers, "each", and_change)
    assert run(root, small_tokenizer, tmp_path / "out") == 2
    assert f"{root / ended[0]}: has changed since {tmp_path / 'out'}" in capsys.readouterr().err
    assert not (tmp_path / "out/dataset.json").exists()


@pytest.mark.parametrize("how", ["content", "time"])
def test_a_source_that_is_written_to_while_it_is_read_fails_its_slice(root: Path, how: str) -> None:
    path = root / "c4/a.jsonl"
    path.write_text("".join(LINES) * 3_000)  # of several blocks
    sources = SourcesConfig(root=str(root))
    slice_ = next(s for s in find_slices(sources, 1 << 30) if s.source == "c4/a.jsonl")
    texts = read_documents(slice_, sources, Counts())
    next(texts)
    change(path, 3) if how == "content" else path.touch()
    with pytest.raises(DataError, match=r"a\.jsonl: another process wrote to it while it was read"):
        list(texts)


def test_the_hash_of_a_range_goes_to_the_end_of_its_last_line(root: Path) -> None:
    import hashlib

    sources = SourcesConfig(root=str(root))
    content = (root / "c4/a.jsonl").read_bytes()
    ends = [0]
    for slice_ in find_slices(sources, 333):
        if slice_.source != "c4/a.jsonl":
            continue
        counts = Counts()
        assert list(read_documents(slice_, sources, counts))
        read = SourceRange.from_json(counts.source_file)
        assert read is not None
        start, end = read.start, read.end
        assert (start, content[end - 1 : end]) == (slice_.start, b"\n")
        expected = hashlib.sha256(content[start:end]).hexdigest()
        assert read.sha256 == expected
        ends.append(end)
    assert ends[-1] == len(content) and ends == sorted(set(ends))


def test_a_table_changed_under_the_same_number_of_rows_is_noticed(
    small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, output = tmp_path / "saved", tmp_path / "out"
    rows = [f"row {i} is red" for i in range(30)]
    datasets.Dataset.from_dict({"text": rows}).save_to_disk(str(saved))
    more = ("--sources.rows_per_slice", "10")
    assert run(saved, small_tokenizer, output, *more, kind="dataset") == 0
    shutil.rmtree(saved)
    datasets.Dataset.from_dict({"text": rows}).save_to_disk(str(saved))
    assert run(saved, small_tokenizer, output, *more, kind="dataset") == 0
    shutil.rmtree(saved)
    rows[15] = "row 15 is sad"
    datasets.Dataset.from_dict({"text": rows}).save_to_disk(str(saved))
    capsys.readouterr()
    assert run(saved, small_tokenizer, output, *more, kind="dataset") == 2
    assert f"remove {output}/saved/00001.* and run" in capsys.readouterr().err


def test_receipts_of_older_versions_do_not_know_their_source_and_load(
    root: Path, small_tokenizer: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert run(root, small_tokenizer, output) == 0
    before = TokenDataset(output).fingerprint
    for slice_ in Plan.read(output).slices:
        edit_sealed(output / f"{slice_.name}.json", lambda values: values.pop("source_file"))
    finish_dataset(output)
    change(root / "c4/a.jsonl", 0)
    assert run(root, small_tokenizer, output) == 0
    assert TokenDataset(output).fingerprint == before
    checked = verify_sources(output, identity_of(output), str(root), workers=1)
    assert (checked.buckets, checked.unknown) == (0, 3)


def test_finish_tells_of_a_source_with_several_times_of_change(
    root: Path, small_tokenizer: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output, tasks = tmp_path / "out", ("--slice_bytes", "700", "--task_count", "2")
    assert run(root, small_tokenizer, output, *tasks, "--task_index", "0") == 0
    os.utime(root / "c4/a.jsonl", ns=(1, 1))
    assert run(root, small_tokenizer, output, *tasks, "--task_index", "1") == 0
    assert "was changed between" not in capfd.readouterr().err
    assert tokenize_main(["finish", "--output", str(output)]) == 0
    (line,) = [
        line for line in capfd.readouterr().err.splitlines() if "was changed between" in line
    ]
    assert "W c4/a.jsonl was changed between the writing of two of its buckets. Run" in line


def test_checks_pass_over_buckets_that_are_not_made(root: Path, tmp_path: Path) -> None:
    sources = SourcesConfig(root=str(root))
    identity = Identity(
        tokenizer_sha256="0", vocab_size=9, eos_id=2, dtype="uint16", seed=1,
        slice_bytes=1, heldout_share=0.0, encoder_version=1,
    )  # fmt: skip
    SourceChecks(tmp_path, identity, sources).require_unchanged(find_slices(sources, 100))


def test_a_receipt_holds_what_was_read(root: Path, small_tokenizer: Path, tmp_path: Path) -> None:
    assert run(root, small_tokenizer, tmp_path / "out") == 0
    status = (root / "book/c.jsonl").stat()
    found = read_json(tmp_path / "out/book/00000.json")["source_file"]
    assert found["size"] == found["end"] == status.st_size and found["start"] == 0
    assert (found["mtime_ns"], found["inode"]) == (status.st_mtime_ns, status.st_ino)
    assert json.dumps(found["sha256"]).strip('"').isalnum() and len(found["sha256"]) == 64
