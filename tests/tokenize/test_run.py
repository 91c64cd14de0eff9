import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from mobilellama.files.atomic import read_json
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verify import verify_dataset
from mobilellama.tokenize.main import main
from tests.helpers.file_server import serving
from tests.helpers.tokenizing import start

pytestmark = pytest.mark.slow

Command = Callable[..., subprocess.CompletedProcess[str]]
Digest = Callable[[Path], dict[str, str]]


def test_a_run_makes_a_dataset_that_the_reader_opens(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    assert dataset.subsets == ("common_crawl", "github", "wikipedia")
    assert len(dataset.windows("github", 128)) > 100
    rows = dataset.manifest
    assert [(row["subset"], row["bucket"]) for row in rows] == [
        ("common_crawl", 0), ("common_crawl", 1), ("github", 0), ("github", 1), ("wikipedia", 0),
    ]  # fmt: skip
    assert all(0 < row["train_tokens"] <= row["tokens"] for row in rows)
    assert rows[0]["source"].endswith("en_head_0000.json.gz.dedup.classifier.jsonl.zst")


def test_the_folder_holds_the_files_of_the_format_and_no_others(
    small_dataset: Path, digest: Digest
) -> None:
    buckets = ["common_crawl/00000", "common_crawl/00001", "github/00000", "github/00001"]
    buckets += ["wikipedia/00000"]
    expected = {f"{name}.{ending}" for name in buckets for ending in ("bin", "idx", "json")}
    expected |= {"plan.json", "tokenizer.model", "manifest.parquet", "dataset.json"}
    assert set(digest(small_dataset)) == expected


def test_two_workers_write_the_bytes_that_one_writes(
    many_slices: tuple[list[str | Path], Path],
    tokenize_command: Command,
    digest: Digest,
    tmp_path: Path,
) -> None:
    arguments, expected = many_slices
    done = tokenize_command("run", *arguments, "--output", tmp_path / "out", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == digest(expected)
    fingerprint = read_json(expected / "dataset.json")["fingerprint"]
    assert f"fingerprint {fingerprint}" in done.stdout


def test_no_file_tells_where_or_when_it_was_made_but_receipts_when_the_source_was(
    many_slices: tuple[list[str | Path], Path],
    tokenize_command: Command,
    digest: Digest,
    tmp_path: Path,
) -> None:
    arguments, expected = many_slices
    corpus = arguments[arguments.index("--sources.root") + 1]
    shutil.copytree(corpus, tmp_path / "moved")
    moved = [tmp_path / "moved" if a == corpus else a for a in arguments]
    done = tokenize_command("run", *moved, "--output", tmp_path / "out", "--workers", 1)
    assert done.returncode == 0, done.stderr
    found, wanted = digest(tmp_path / "out"), digest(expected)
    assert found.keys() == wanted.keys()
    differ = {name for name in wanted if found[name] != wanted[name]}
    assert differ <= {
        "dataset.json",
        *(name for name in wanted if name.split(".")[0][-5:].isdigit()),
    }
    assert not [name for name in differ if name.endswith((".bin", ".idx"))]
    for name in ("fingerprint", "identity", "manifest_sha256", "subsets"):
        one, other = (read_json(folder / "dataset.json") for folder in (tmp_path / "out", expected))
        assert one[name] == other[name]
    receipts = [name for name in differ if name != "dataset.json"]
    for name in receipts:
        one, other = (read_json(folder / name) for folder in (tmp_path / "out", expected))
        for receipt in (one, other):
            for state in ("mtime_ns", "ctime_ns", "inode"):
                assert receipt["source_file"].pop(state) > 0
            receipt.pop("sha256_of_this", None)
        assert one["source_file"] == other["source_file"] and one["tokens"] == other["tokens"]


def test_kills_at_random_instants_change_no_byte(
    many_slices: tuple[list[str | Path], Path],
    tokenize_command: Command,
    digest: Digest,
    tmp_path: Path,
) -> None:
    arguments, expected = many_slices
    rng = random.Random(3)
    for _ in range(8):
        process = start(*arguments, "--output", tmp_path / "out", "--workers", 2)
        time.sleep(rng.uniform(0.3, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = tokenize_command("run", *arguments, "--output", tmp_path / "out", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == digest(expected)


def test_three_runs_at_once_into_one_folder_write_the_same_bytes(
    many_slices: tuple[list[str | Path], Path], digest: Digest, tmp_path: Path
) -> None:
    """As when a job array is submitted twice: plans, buckets, sweeps and finishes collide."""
    arguments, expected = many_slices
    runs = [start(*arguments, "--output", tmp_path / "out", "--workers", 1) for _ in range(3)]
    for run in runs:
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    assert digest(tmp_path / "out") == digest(expected)


def test_the_redpajama_sample_gives_the_same_bytes_after_kills_and_with_one_worker(
    redpajama_sample: Path,
    llama_tokenizer: Path,
    llama_dataset: Path,
    tokenize_command: Command,
    digest: Digest,
    tmp_path: Path,
) -> None:
    arguments = ["--tokenizer", llama_tokenizer, "--sources.root", redpajama_sample]
    rng = random.Random(5)
    for _ in range(5):
        process = start(*arguments, "--output", tmp_path / "out", "--workers", 2)
        time.sleep(rng.uniform(0.5, 5.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = tokenize_command("run", *arguments, "--output", tmp_path / "out", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == digest(llama_dataset)


@pytest.mark.parametrize("finished", [True, False])
def test_leftovers_of_killed_writers_are_swept(
    many_slices: tuple[list[str | Path], Path],
    tokenize_command: Command,
    digest: Digest,
    tmp_path: Path,
    finished: bool,
) -> None:
    arguments, expected = many_slices
    output = tmp_path / "out"
    shutil.copytree(expected, output)
    if not finished:
        (output / "dataset.json").unlink()
    for name in ("github/00000.bin", "manifest.parquet", "plan.json"):
        left = output / f"{name}.tmp.a.host-7.7.0123abcd"
        left.write_bytes(b"half")
        os.utime(left, (0, 0))  # another machine's, of long ago
    done = tokenize_command("run", *arguments, "--output", output)
    assert done.returncode == 0, done.stderr
    assert digest(output) == digest(expected)
    assert not list(output.glob("*.tmp.*"))


def test_a_subset_that_is_named_as_a_temporary_is_not_swept(
    small_tokenizer: Path, tokenize_command: Command, tmp_path: Path
) -> None:
    root, output = tmp_path / "corpus", tmp_path / "out"
    names = ("a.tmp.b", "plan.json.tmp.host.7.0123abcd")
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "a.jsonl").write_text('{"text": "some words"}\n')
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", root, "--output", output]
    done = tokenize_command("run", *arguments, "--workers", 1)
    assert done.returncode == 0, done.stderr
    (output / names[0] / "notes.tmp.txt").write_text("a user's")
    assert tokenize_command("finish", "--output", output).returncode == 0
    verify_dataset(TokenDataset(output))
    assert (output / names[0] / "notes.tmp.txt").exists()


def test_a_finished_dataset_is_left_alone(
    many_slices: tuple[list[str | Path], Path], tokenize_command: Command
) -> None:
    arguments, folder = many_slices
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = tokenize_command("run", *arguments, "--output", folder)
    assert done.returncode == 0
    fingerprint = read_json(folder / "dataset.json")["fingerprint"]
    assert "is finished already" in done.stdout and f"fingerprint {fingerprint}" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("manifest.parquet", None, "manifest.parquet: missing"),
        ("manifest.parquet", b"PAR1", "not the one that dataset.json was written with"),
        ("dataset.json", b'{"fingerprint"', "not the description of a dataset"),
        ("dataset.json", b"", "not the description of a dataset"),
        ("dataset.json", b"[1]", "not the description of a dataset"),
        ("dataset.json", b"\xff\x00", "not the description of a dataset"),
    ],
)
def test_a_dataset_whose_description_is_broken_is_finished_again(
    small_corpus: Path,
    small_tokenizer: Path,
    small_dataset: Path,
    digest: Digest,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    reason: str,
) -> None:
    output = Path(shutil.copytree(small_dataset, tmp_path / "out"))
    (output / name).unlink()
    if content is not None:
        (output / name).write_bytes(content)
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", small_corpus]
    arguments += ["--output", output, "--heldout_share", 0.02]
    assert main(["run", *map(str, arguments)]) == 0
    out, err = capfd.readouterr()
    assert reason in err and "finishing again" in err and "is finished already" not in out
    assert digest(output) == digest(small_dataset)


def test_a_dry_run_describes_the_slices_and_writes_nothing(
    many_slices: tuple[list[str | Path], Path], tokenize_command: Command, tmp_path: Path
) -> None:
    arguments, _ = many_slices
    done = tokenize_command("run", *arguments, "--output", tmp_path / "out", "--dry_run", "true")
    assert done.returncode == 0
    assert re.search(r"github: 8 sources, \d+ slices, 4.3 MB", done.stdout)
    assert "github/00001  github/copy_0/filtered_0.sampled.jsonl [60,000, 120,000)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def broken_corpus(root: Path) -> Path:
    """Make a good, a bad and a truncated file."""
    good = b"".join(json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(40))
    for name, data in {
        "c4/good.jsonl": good,
        "c4/ugly.jsonl": good + b"no json\n" * 10,
        "c4/bad.jsonl": good + b"no json\n" * 11,
        "cc/cut.jsonl.zst": b"\x28\xb5\x2f\xfd\x00",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_failing_slices_are_all_reported_and_stop_no_other(
    small_tokenizer: Path, tokenize_command: Command, tmp_path: Path
) -> None:
    root, output = broken_corpus(tmp_path / "corpus"), tmp_path / "out"
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", root, "--output", output]
    done = tokenize_command("run", *arguments, "--workers", 2)
    assert done.returncode == 2
    error = done.stderr[done.stderr.index("mobilellama: error:") :]
    assert "2 of 4 slices failed. The other buckets are kept" in error
    assert "c4/00000: c4/bad.jsonl: 11 of 51 records are bad, more than the 10" in error
    assert "(at 950: not JSON (Expecting value at character 0 of it); at 958: not JSON" in error
    assert "cut.jsonl.zst: truncated" in error
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in (output / "c4").glob("*.json")) == ["00001.json", "00002.json"]
    assert not (output / "dataset.json").exists()
    again = tokenize_command("run", *arguments, "--max_bad_share", "0.5")
    assert "1 of 2 slices failed" in again.stderr


def test_bad_records_reach_the_manifest_and_the_table(
    small_tokenizer: Path, tokenize_command: Command, tmp_path: Path
) -> None:
    root, output = broken_corpus(tmp_path / "corpus"), tmp_path / "out"
    (root / "cc/cut.jsonl.zst").write_bytes(
        zstandard.compress(b'{"text": "half a pair: \\ud83d"}\n')
    )
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", root, "--output", output]
    done = tokenize_command("run", *arguments, "--max_bad_share", "0.5", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert [row["bad_records"] for row in TokenDataset(output).manifest] == [11, 0, 10, 0]
    total = done.stdout.splitlines()[3].split()
    assert total[0] == "total" and total[1:3] == ["4", "121"] and total[-3:] == ["21", "0", "1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--sources.root", "/nowhere"], "sources.root = /nowhere: is not a folder. Give the"),
        (["--tokenizer", "/nowhere"], "tokenizer = /nowhere: is neither a file nor a folder. G"),
        (["--sources.rot", "x"], "--sources.rot = x: is not a field."),
        (["--heldout_share", "1.5"], "heldout_share = 1.5: must be at least 0 and below 1."),
        (["--workers", "0"], "workers = 0: must be at least 1. Give 1 or more."),
        (["--slice_bytes", "0"], "slice_bytes = 0: must be at least 1"),
        (["--task_index", "2", "--task_count", "2"], "task_index = 2: must be at least 0 and bel"),
        (["--sources.dataset", "x"], "exactly one of sources.root and sources.dataset must be"),
        (["--seed", "7"], "seed = 7: the plan in"),
        (["--slice_bytes", "50000"], "slice_bytes = 50000: the plan in"),
    ],
)
def test_what_a_user_can_mend_is_one_message_and_exit_code_2(
    many_slices: tuple[list[str | Path], Path],
    tokenize_command: Command,
    changes: list[str],
    message: str,
) -> None:
    arguments, folder = many_slices
    done = tokenize_command("run", *arguments, "--output", folder, *changes)
    assert done.returncode == 2
    assert done.stderr.startswith("mobilellama: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_an_output_within_the_corpus_is_refused(
    small_corpus: Path, small_tokenizer: Path, tokenize_command: Command
) -> None:
    """Its receipts would be taken for corpus files by the next run."""
    arguments = ["--tokenizer", small_tokenizer, "--sources.root", small_corpus]
    done = tokenize_command("run", *arguments, "--output", small_corpus / "out")
    assert done.returncode == 2
    assert "lies within sources.root" in done.stderr
    assert not (small_corpus / "out").exists()


def test_a_config_file_gives_the_fields(
    many_slices: tuple[list[str | Path], Path], tokenize_command: Command, tmp_path: Path
) -> None:
    arguments, folder = many_slices
    values = dict(zip(map(str, arguments[::2]), arguments[1::2], strict=True))
    (tmp_path / "run.yaml").write_text(
        f"tokenizer: {values['--tokenizer']}\nsources:\n  root: {values['--sources.root']}\n"
        f"output: {folder}\nslice_bytes: 60000\nheldout_share: 0.02\n"
    )
    done = tokenize_command("run", "--config", tmp_path / "run.yaml")
    assert "is finished already" in done.stdout, done.stderr


def test_files_behind_a_url_make_the_dataset_of_the_local_files(
    many_slices: tuple[list[str | Path], Path], tokenize_command: Command, tmp_path: Path
) -> None:
    """Two workers read them while the server breaks off some answers; done again, it compares."""
    arguments, expected = many_slices
    place = arguments.index("--sources.root") + 1
    corpus = tmp_path / "corpus"
    shutil.copytree(arguments[place], corpus)
    with serving(corpus) as server:
        server.cut = 5
        away = [*arguments[:place], server.url, *arguments[place + 1 :]]
        for said in ("fingerprint", "finished already"):
            done = tokenize_command("run", *away, "--output", tmp_path / "out", "--workers", 2)
            assert done.returncode == 0, done.stderr
            assert said in done.stdout
        assert server.cut == 0
        one, other = (read_json(folder / "dataset.json") for folder in (tmp_path / "out", expected))
        assert one["fingerprint"] == other["fingerprint"]
        file = next(corpus.rglob("*.jsonl"))
        size, content = file.stat().st_size, file.read_bytes()
        file.write_bytes(content.replace(b"a", b"b", 1))
        assert file.stat().st_size == size
        os.utime(file, (1, 1))
        done = tokenize_command("run", *away, "--output", tmp_path / "out", "--workers", 2)
        assert done.returncode == 2
        assert f"{server.url}/{file.relative_to(corpus)}" in done.stderr
        assert "has changed since" in done.stderr


def test_a_folder_of_texts_makes_a_dataset_and_a_changed_text_is_refused(
    small_tokenizer: Path, tokenize_command: Command, tmp_path: Path
) -> None:
    for number in range(300):
        file = tmp_path / f"texts/{number % 5}/{number:03}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"Document number {number}.\n" * (number + 1))
    arguments = ["--tokenizer", small_tokenizer, "--sources.dataset", tmp_path / "texts"]
    arguments += ["--output", tmp_path / "out", "--slice_bytes", 100_000, "--workers", 2]
    done = tokenize_command("run", *arguments)
    assert done.returncode == 0, done.stderr
    dataset = TokenDataset(tmp_path / "out")
    assert len(dataset.manifest) > 5
    assert sum(row["documents"] for row in dataset.manifest) == 300
    sources = [row["source"] for row in dataset.manifest]
    assert sources == sorted(sources) and sources[0] == "0/000.md"
    changed = tmp_path / "texts/3/003.md"
    changed.write_text(changed.read_text().replace("D", "d"))
    done = tokenize_command("run", *arguments)
    assert done.returncode == 2 and "has changed since" in done.stderr
