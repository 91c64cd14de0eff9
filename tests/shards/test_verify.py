import os
from pathlib import Path

from mobilellama.shards.reader import TokenDataset
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
    def state() -> dict[str, tuple[bytes, int]]:
        files = [path for path in copy.rglob("*") if path.is_file()]
        return {str(p.relative_to(copy)): (p.read_bytes(), p.stat().st_ino) for p in files}

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
    assert cli("shards", "verify", copy)[0] == 0


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
