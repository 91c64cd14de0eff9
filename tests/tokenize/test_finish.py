import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.files.atomic import read_json
from mobilellama.shards.dataset import Plan, Receipt
from mobilellama.shards.format import write_index
from mobilellama.tokenize import finish
from mobilellama.tokenize.bucket import train_tokens
from mobilellama.tokenize.finish import Config, finish_dataset, main, tell_unheld
from mobilellama.tokenize.main import main as tokenize_main
from tests.helpers.sealed import edit_sealed

Command = Callable[..., subprocess.CompletedProcess[str]]
Digest = Callable[[Path], dict[str, str]]


def test_the_tasks_of_an_array_and_finish_make_the_bytes_of_one_run(
    small_corpus: Path,
    small_tokenizer: Path,
    small_dataset: Path,
    tokenize_command: Command,
    digest: Digest,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", small_corpus]
    arguments += ["--output", output, "--heldout_share", "0.02", "--task_count", "3"]
    for task in (2, 0):
        done = tokenize_command("run", *arguments, "--task_index", task)
        assert done.returncode == 0, done.stderr
        assert f"mobilellama tokenize finish --output {output}" in done.stdout
    early = tokenize_command("finish", "--output", output)
    assert early.returncode == 2
    # slices 1 and 4 of the five are task 1's
    assert re.search(
        r"has only 3 of 5 buckets\. Missing: common_crawl/00001, wikipedia/00000\.", early.stderr
    )
    assert not (output / "dataset.json").exists()
    assert tokenize_command("run", *arguments, "--task_index", 1).returncode == 0
    done = tokenize_command("finish", "--output", output)
    assert done.returncode == 0, done.stderr
    assert digest(output) == digest(small_dataset)


def test_the_last_file_of_a_worker_that_is_just_ending_is_removed_too(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(small_dataset, tmp_path / "dataset")
    ending, living = (subprocess.Popen(["sleep", seconds]) for seconds in ("0.5", "60"))
    threading.Thread(target=ending.wait).start()  # else it would stay a zombie, which has an id
    host = socket.gethostname()
    last = folder / f"github/00000.bin.tmp.{host}.{ending.pid}.00000000"
    last.touch()
    finish_dataset(folder)
    assert not last.exists()
    other = folder / f"github/00000.bin.tmp.{host}.{living.pid}.00000000"
    other.touch()
    monkeypatch.setattr(finish, "_LAST_WRITER_S", 0.2)
    finish_dataset(folder)  # does not wait for ever
    assert other.exists()
    living.kill()
    living.wait()


def test_the_table_adds_up(small_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Config(output=str(small_dataset))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["subset", "buckets", "documents", "tokens"]
    rows = [[int(x.replace(",", "")) for x in line.split()[1:5]] for line in lines[1:5]]
    for column in (0, 1, 2, 3):
        assert sum(row[column] for row in rows[:3]) == rows[3][column]
    subsets = [line.split()[0] for line in lines[1:4]]
    receipts = [[*(small_dataset / subset).glob("*.json")] for subset in subsets]
    sizes = [sum(read_json(path)["bytes_in"] for path in paths) for paths in receipts]
    shown = [f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB" for n in sizes]
    assert [" ".join(line.split()[5:7]) for line in lines[1:4]] == shown
    assert lines[4].split()[5:7] == [f"{sum(sizes) / 1e6:.1f}", "MB"]
    assert lines[-2] == f"fingerprint {read_json(small_dataset / 'dataset.json')['fingerprint']}"


def test_finishing_again_changes_nothing(small_dataset: Path, digest: Digest) -> None:
    before = digest(small_dataset)
    finish_dataset(small_dataset)
    assert digest(small_dataset) == before


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output = .*: holds no plan.json"):
        main(Config(output=str(tmp_path)))


@pytest.fixture
def copied(small_dataset: Path, tmp_path: Path) -> Path:
    """A dataset to damage."""
    import shutil

    return Path(shutil.copytree(small_dataset, tmp_path / "copied"))


def test_a_bucket_whose_file_is_cut_counts_as_missing(copied: Path) -> None:
    path = copied / "github/00001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"has only 4 of 5 buckets\. Missing: github/00001\."):
        finish_dataset(copied)


def test_a_receipt_of_another_plan_is_refused(copied: Path) -> None:
    edit_sealed(copied / "github/00001.json", identity_sha256="0" * 64)
    with pytest.raises(DataError, match=r"does not belong to the plan beside it"):
        finish_dataset(copied)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"identity": {', b"\xff\x00", b"{}", b"[" * 99999]
)
@pytest.mark.parametrize("name", ["plan.json", "github/00001.json"])
def test_a_file_that_is_no_plan_or_receipt_is_named_with_a_remedy(
    copied: Path,
    small_tokenizer: Path,
    small_corpus: Path,
    name: str,
    content: bytes,
) -> None:
    (copied / name).write_bytes(content)
    what = "a plan. Restore it" if name == "plan.json" else "a receipt. Remove .*github/00001"
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", small_corpus]
    arguments += ["--output", copied, "--heldout_share", 0.02]
    for verb in (["finish", "--output", copied], ["run", *arguments]):
        with pytest.raises(DataError, match=rf"{name}: not {what}.* again"):
            tokenize_main([*map(str, verb)])


@pytest.mark.parametrize(
    ("field", "value"), [("documents", "7"), ("tokens", 1.5), ("sha256", {}), ("bucket", True)]
)
def test_a_receipt_with_a_field_of_another_type_is_refused(
    copied: Path, field: str, value: object
) -> None:
    edit_sealed(copied / "github/00001.json", lambda content: content.update({field: value}))
    with pytest.raises(DataError, match=r"github/00001.json: not a receipt. Remove"):
        finish_dataset(copied)


def test_a_plan_with_a_field_of_another_type_is_refused(copied: Path) -> None:
    slices = read_json(copied / "plan.json")["slices"]
    edit_sealed(copied / "plan.json", slices=[slices[0] | {"size": "7"}, *slices[1:]])
    with pytest.raises(DataError, match=r"plan.json: not a plan. Restore it"):
        finish_dataset(copied)


def test_a_corpus_without_any_text_makes_no_dataset(
    small_tokenizer: Path, tokenize_command: Command, tmp_path: Path
) -> None:
    (tmp_path / "corpus/c4").mkdir(parents=True)
    (tmp_path / "corpus/c4/a.jsonl").write_text('{"text": ""}\n')
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", tmp_path / "corpus"]
    done = tokenize_command("run", *arguments, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "no document was found in 1 slice" in done.stderr
    assert not (tmp_path / "out/dataset.json").exists()


def receipt_of(folder: Path, subset: str, bucket: int, lengths: list[int], share: float) -> Receipt:
    """Write the index of a bucket with documents of these lengths; return its receipt."""
    (folder / subset).mkdir(parents=True, exist_ok=True)
    with (folder / f"{subset}/{bucket:05}.idx").open("wb") as file:
        write_index(file, np.array(lengths, dtype=np.int64), "uint16")
    return Receipt(
        subset=subset, bucket=bucket, source="a", start=0, end=1, unit="bytes",
        documents=len(lengths), tokens=sum(lengths),
        train_tokens=train_tokens(np.array(lengths), share), bytes_in=0, records=len(lengths),
        bad_records=0, empty_texts=0, replaced_surrogates=0, sha256={}, identity_sha256="",
    )  # fmt: skip


@pytest.mark.parametrize("lengths", [[500, 100], [10] * 99 + [20], [3, 1000], [1, 1, 8], [19, 1]])
def test_a_subset_of_which_nothing_is_held_out_names_the_share_that_would_help(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lengths: list[int]
) -> None:
    small = receipt_of(tmp_path, "book", 0, lengths, 0.0005)
    held = receipt_of(tmp_path, "c4", 0, [10, 10], 0.5)
    assert small.train_tokens == small.tokens
    tell_unheld(tmp_path, 0.0005, [small, held])
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("book: nothing is held out") and "heldout_share = 0.0005" in told
    share = float(re.findall(r"--heldout_share (\S+) holds", told)[0])
    assert train_tokens(np.array(lengths), share) < sum(lengths)
    # ... and it is no more than is needed, to one digit
    assert train_tokens(np.array(lengths), share / 2.01) == sum(lengths)


def test_of_several_buckets_the_least_share_is_named_and_one_held_out_is_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two = [receipt_of(tmp_path, "book", i, [100, 10**i], 0.0005) for i in (1, 2)]
    tell_unheld(tmp_path, 0.0005, two)
    assert "--heldout_share 0.05 holds" in caplog.text  # 10 / (2 * 110) = 0.045...
    caplog.clear()
    tell_unheld(tmp_path, 0.0005, [*two, receipt_of(tmp_path, "book", 3, [9, 9], 0.5)])
    tell_unheld(tmp_path, 0.0, two)  # nothing was asked for
    assert not caplog.records


def test_one_document_a_bucket_is_never_held_out_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tell_unheld(tmp_path, 0.5, [receipt_of(tmp_path, "book", 0, [100], 0.5)])
    assert "A bucket with one document never holds it out" in caplog.text


def test_a_bucket_of_which_an_earlier_version_lost_a_long_record_is_refused(
    small_dataset: Path, tmp_path: Path
) -> None:
    """Unless the plan says so: its other buckets may hold such records."""
    folder = shutil.copytree(small_dataset, tmp_path / "dataset")
    place = [17, "too long (its line has more than 67,108,864 bytes)"]
    edit_sealed(folder / "github/00000.json", bad_records=1, bad_places=[place])
    with pytest.raises(UserError) as caught:
        finish_dataset(folder)
    assert str(caught.value).startswith(
        f"{folder}/github/00000.json: an earlier version left out the record at 17 of github/"
    )
    assert f"remove {folder}/github/00000.* and run 'mobilellama tokenize run'" in str(caught.value)
    edit_sealed(folder / "plan.json", lambda plan: plan["identity"].update(long_records="skip"))
    identity_sha256 = Plan.read(folder).identity.sha256
    for slice_ in Plan.read(folder).slices:
        edit_sealed(folder / f"{slice_.name}.json", identity_sha256=identity_sha256)
    assert "fingerprint" in finish_dataset(folder)
