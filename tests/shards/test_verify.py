import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from mobilellama.shards.dataset import Plan, read_receipt
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verification.checked_files import bucket_files
from mobilellama.shards.verification.journal import JOURNAL, Journal
from mobilellama.tokenize.main import main as tokenize_main
from tests.shards.conftest import Cli, flip


def tokenize_again(copy: Path, corpus: Path, tokenizer: Path) -> None:
    """Do what the message says."""
    arguments = ["--tokenizer", str(tokenizer), "--sources.root", str(corpus)]
    arguments += ["--output", str(copy), "--heldout_share", "0.02", "--workers", "1"]
    assert tokenize_main(["run", *arguments]) == 0


def test_a_good_dataset_passes_and_says_what_was_checked(small_dataset: Path, cli: Cli) -> None:
    code, out, _ = cli("shards", "verify", small_dataset, "--workers", 2)
    dataset = TokenDataset(small_dataset)
    assert code == 0
    assert f"{small_dataset}: good. {2 * len(dataset.manifest) + 1} files" in out
    assert f"fingerprint {dataset.fingerprint}" in out


def test_bad_buckets_are_named_and_only_they_are_written_again(
    copy: Path, cli: Cli, small_corpus: Path, small_tokenizer: Path
) -> None:
    def state() -> dict[str, tuple[bytes, tuple[int, int]]]:
        files = [path for path in copy.rglob("*") if path.is_file() and path.name != JOURNAL]
        stats = {path: path.stat() for path in files}
        return {
            str(path.relative_to(copy)): (path.read_bytes(), (stat.st_ino, stat.st_mtime_ns))
            for path, stat in stats.items()
        }

    before = state()
    flip(copy / "common_crawl/00001.bin")
    flip(copy / "github/00000.idx")
    os.truncate(copy / "github/00001.bin", 10)
    (copy / "wikipedia/00000.json").write_text('{"subset"')
    code, out, err = cli("shards", "verify", copy)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert "github/00001.bin: 10 bytes, expected " in err  # sizes and receipts first
    assert (
        f"Bad buckets: github/00001, wikipedia/00000. Run 'mobilellama shards verify {copy} --redo "
        "true', then the same 'mobilellama tokenize run' again: it writes only these\n"
    ) in err
    assert (copy / "github/00001.json").exists()
    code, out, err = cli("shards", "verify", copy, "--redo", "true", "--workers", 2)
    assert (code, out) == (2, "")
    assert f"mobilellama: error: {copy}/common_crawl/00001.bin: sha256 " in err
    assert " (and 3 more bad). " in err
    for line in ("github/00000.idx: sha256 ", "github/00001.bin: 10 bytes", "00000.json: not a re"):
        assert line in err
    assert (
        "Bad buckets: common_crawl/00001, github/00000, github/00001, wikipedia/00000. Their "
        "receipts are removed. Run the same 'mobilellama tokenize run' again: it writes only these"
    ) in err
    left = sorted(str(path.relative_to(copy)) for path in copy.glob("*/*.json"))
    assert left == ["common_crawl/00000.json"]
    tokenize_again(copy, small_corpus, small_tokenizer)
    after = state()
    assert {name: data for name, (data, _) in after.items()} == {
        name: data for name, (data, _) in before.items()
    }
    for ending in ("bin", "idx", "json"):  # this bucket was good, and stayed
        name = f"common_crawl/00000.{ending}"
        assert after[name] == before[name]
    code, out, err = cli("shards", "verify", copy)
    assert code == 0 and not (copy / JOURNAL).exists()
    # Noted good by the checks above: the tokenizer, and the two files of the bucket that stayed.
    assert "has found 3 files good: not read again." in err and "of them read by an unf" in out


def test_a_second_check_reads_only_what_the_first_has_not_found_good(copy: Path, cli: Cli) -> None:
    flip(copy / "github/00000.bin")
    good = (copy / "github/00000.bin").stat().st_size
    assert cli("shards", "verify", copy)[0] == 2
    flip(copy / "github/00000.bin")  # as it was
    code, out, err = cli("shards", "verify", copy)
    total = sum(path.stat().st_size for path in copy.glob("*/*.[bi][id][nx]"))
    total += (copy / "tokenizer.model").stat().st_size
    assert code == 0
    assert f"({(total - good) / 1e6:.1f} MB of them read by an unfinished check)" in out
    assert f"verify {copy}: 1 file, {good / 1e3:.1f} kB, " in err
    assert "has found 10 files good: not read again. --all true reads every file" in err
    assert not (copy / JOURNAL).exists()
    code, out, _ = cli("shards", "verify", copy)  # all is read, once more
    assert code == 0 and "unfinished" not in out


def test_all_reads_every_file(copy: Path, cli: Cli) -> None:
    flip(copy / "github/00000.bin")
    for arguments, known in (((), False), (("--all", "true"), False), ((), True)):
        _, _, err = cli("shards", "verify", copy, *arguments)
        assert ("has found 10 files good" in err) is known


def test_a_named_journal_is_used_and_a_read_only_folder_is_none_the_worse(
    copy: Path, cli: Cli, tmp_path: Path
) -> None:
    journal = tmp_path / "elsewhere.jsonl"
    flip(copy / "github/00000.bin")
    assert cli("shards", "verify", copy, "--journal", journal)[0] == 2
    assert journal.exists() and not (copy / JOURNAL).exists()
    flip(copy / "github/00000.bin")
    code, out, _ = cli("shards", "verify", copy, "--journal", journal)
    assert code == 0 and "unfinished check" in out and not journal.exists()
    (copy / JOURNAL).mkdir()  # what root, too, cannot write to
    code, out, err = cli("shards", "verify", copy)
    assert code == 0
    assert f"{copy / JOURNAL}: cannot be read (not a file), and is ignored" in err


def test_the_sources_are_noted_too(
    small_dataset: Path, small_corpus: Path, cli: Cli, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(small_corpus, tmp_path / "corpus"))
    bad = next(copy.rglob("*.jsonl"))
    flip(bad)
    arguments = ("shards", "verify", small_dataset, "--sources", copy, "--journal", tmp_path / "j")
    assert cli(*arguments)[0] == 2
    flip(bad)
    code, out, _ = cli(*arguments)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 2
    for line in lines:
        assert "of them read by an unfinished check" in line


def make_huge(folder: Path) -> None:
    """Give a dataset a bucket of 40 GB, all holes. Its hash is wrong, but never seen."""
    plan = Plan.read(folder)
    found = [read_receipt(folder, slice_, plan.identity) for slice_ in plan.slices]
    receipts = [replace(one, tokens=20 * 10**9) if one.name == "github/00000" else one
                for one in found if one]  # fmt: skip
    os.truncate(folder / "github/00000.bin", 40 * 10**9)
    write_dataset(folder, plan.identity, receipts)
    for path in folder.glob("*/*.json"):
        path.unlink()


def test_after_kill_9_the_next_check_goes_on_and_says_the_same(
    small_dataset: Path, copy: Path, cli: Cli
) -> None:
    """What was noted by then is not read again."""
    make_huge(copy)
    program = (
        "import sys\n"
        "from mobilellama.shards.main import main\n"
        "from mobilellama.shards.verification import journal\n"
        "journal._WRITE_EVERY_S = 0.0\n"  # each file that is good is noted at once
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "verify", str(copy), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal, end_s = copy / JOURNAL, time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") == 10):
        assert process.poll() is None and time.monotonic() < end_s
        time.sleep(0.05)
    process.kill()
    out, _ = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL and out == b""
    (copy / "github/00000.bin").unlink()
    for name in ("github/00000.bin", "manifest.parquet", "dataset.json"):
        shutil.copy(small_dataset / name, copy / name)
    code, out, err = cli("shards", "verify", copy)
    assert code == 0 and "has found 10 files good: not read again" in err
    assert not journal.exists()
    code, afresh, _ = cli("shards", "verify", copy)
    assert code == 0
    without, count = re.subn(r" \([^)]* of them read by an unfinished check\)", "", out)
    shown = [re.sub(r"[0-9.]+ s;", "", text) for text in (without, afresh)]
    assert shown[0] == shown[1] and count == 1


def test_ctrl_c_ends_at_once_within_a_file_and_the_next_check_goes_on(
    copy: Path,
) -> None:
    make_huge(copy)
    command = [sys.executable, "-m", "mobilellama", "shards", "verify", str(copy)]
    process = subprocess.Popen(
        [*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr and f"verify {copy}: 11 files, 40.0 GB, 2 readers" in (
        process.stderr.readline()
    )
    time.sleep(1)  # the other 10 are read within a few milliseconds
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)  # 40 GB take half a minute
    assert process.returncode == 130 and out == ""
    assert err == (
        "mobilellama: interrupted: files found good are noted in verify.jsonl; the same command "
        "reads the others\n"
    )
    with Journal(copy / JOURNAL) as journal:
        left = [file.path.name for file in bucket_files(TokenDataset(copy), None)
                if not journal.knows(file)]  # fmt: skip
    assert left == ["00000.bin"]


def test_bad_settings_are_one_message_and_exit_code_2(small_dataset: Path, cli: Cli) -> None:
    code, out, err = cli("shards", "verify", small_dataset, "--workers", 0)
    assert (code, out) == (2, "")
    assert err == "mobilellama: error: workers = 0: must be at least 1. Give 1 or more.\n"
    code, _, err = cli("shards", "verify", "nowhere")
    assert code == 2
    assert err == (
        "mobilellama: error: dataset = nowhere: is not a folder. "
        "Give the --output of 'mobilellama tokenize run', or of 'mobilellama sft prepare'.\n"
    )
