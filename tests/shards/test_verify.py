import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.shards import verify
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verify import bucket_names, verify_dataset
from mobilellama.tokenize.main import main as tokenize_main
from tests.helpers.sealed import edit_sealed
from tests.shards.conftest import Cli


@pytest.fixture
def copy(small_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_dataset, tmp_path / "copy"))


def flip(path: Path, offset: int = -5) -> None:
    """Flip one bit of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


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


def test_a_file_that_cannot_be_read_is_one_of_the_bad_ones(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk with a bad block, and then without the file: the others are still compared."""
    flip(copy / "wikipedia/00000.bin")

    def hashed(path: Path) -> str:
        if path.name == "00000.idx" and path.parent.name == "github":
            path.unlink()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sha256_of_file(path)

    monkeypatch.setattr(verify, "sha256_of_file", hashed)
    with pytest.raises(DataError) as caught:
        verify_dataset(TokenDataset(copy))
    assert f"{copy}/github/00000.idx: cannot be read (Input/output error) (and 1 m" in str(
        caught.value
    )
    assert "Bad buckets: github/00000, wikipedia/00000. Run " in str(caught.value)


def test_a_truncated_and_a_missing_file_are_named_with_their_sizes(copy: Path) -> None:
    path = copy / "github/00000.bin"
    size = path.stat().st_size
    os.truncate(path, size - 4096)
    with pytest.raises(DataError) as caught:
        verify_dataset(TokenDataset(copy))
    assert (
        f"{path}: {size - 4096:,} bytes, expected {size:,}. Bad buckets: github/00000. Run"
        in str(caught.value)
    )
    path.unlink()
    with pytest.raises(
        DataError, match=r"github/00000\.bin: missing\. Bad buckets: github/00000\. Run"
    ):
        verify_dataset(TokenDataset(copy))


def test_the_first_bad_file_in_the_manifest_s_order_is_named_and_the_others_counted(
    copy: Path,
) -> None:
    flip(copy / "wikipedia/00000.bin")
    flip(copy / "github/00001.idx")
    flip(copy / "github/00001.bin")
    with pytest.raises(DataError, match=r"github/00001\.bin: sha256 .* \(and 2 more bad\)\. Bad"):
        verify_dataset(TokenDataset(copy), workers=3)


def test_ranks_that_share_the_buckets_find_what_is_in_their_share(copy: Path) -> None:
    flip(copy / "github/00000.bin")
    dataset = TokenDataset(copy)
    names = bucket_names(dataset)
    assert names.index("github/00000") % 2 == 0
    with pytest.raises(DataError, match=r"github/00000\.bin"):
        verify_dataset(dataset, buckets=names[0::2])
    assert verify_dataset(dataset, buckets=names[1::2]).files == 2 * len(names[1::2])


@pytest.mark.parametrize("name", ["manifest.parquet", "dataset.json"])
def test_a_flipped_bit_in_the_descriptions_is_found_and_mended(
    name: str, copy: Path, cli: Cli
) -> None:
    content = (copy / name).read_bytes()
    for offset in range(20, len(content) - 1, len(content) // 12):
        (copy / name).write_bytes(content)
        flip(copy / name, offset)
        code, _, err = cli("shards", "verify", copy)
        assert code == 2, (offset, content[offset - 20 : offset + 20])
        assert str(copy) in err and "Traceback" not in err
    assert tokenize_main(["finish", "--output", str(copy)]) == 0
    assert (copy / name).read_bytes() == content
    assert cli("shards", "verify", copy)[0] == 0


def test_descriptions_that_disagree_are_told_apart(copy: Path) -> None:
    path = copy / "dataset.json"
    good = path.read_bytes()
    identity = json.loads(good)["identity"]
    for change, message in (
        ({"fingerprint": "f" * 64}, "its fingerprint is ffffffffffff..., but its identity and"),
        ({"identity": identity | {"seed": 5}}, "its identity and the manifest give"),
        ({"subsets": {}}, "its totals are not the manifest's. Run 'mobilellama tokenize finish"),
    ):
        path.write_bytes(good)
        edit_sealed(path, **change)
        with pytest.raises(DataError) as caught:
            verify_dataset(TokenDataset(copy))
        assert message in str(caught.value)


def test_another_tokenizer_and_another_plan_are_found(copy: Path) -> None:
    tokenizer, plan = copy / "tokenizer.model", copy / "plan.json"
    content = tokenizer.read_bytes()
    flip(tokenizer)
    with pytest.raises(DataError, match=r"tokenizer\.model: sha256 .*\. Copy the tokenizer"):
        verify_dataset(TokenDataset(copy))
    tokenizer.write_bytes(content)
    identity = json.loads(plan.read_text())["identity"]
    edit_sealed(plan, identity=identity | {"seed": identity["seed"] + 1})
    with pytest.raises(DataError, match=r"plan\.json: its identity is not that of dataset\.json"):
        verify_dataset(TokenDataset(copy))
    plan.write_text("{")
    with pytest.raises(DataError, match=r"plan\.json: not a plan"):
        verify_dataset(TokenDataset(copy))


def test_a_broken_receipt_is_found_with_a_remedy_and_a_missing_one_is_let_be(copy: Path) -> None:
    (copy / "github/00000.json").unlink()
    verify_dataset(TokenDataset(copy))
    (copy / "github/00000.json").write_text('{"subset"')
    with pytest.raises(
        DataError, match=r"github/00000.json: not a receipt. Bad buckets: github/00000. Run"
    ):
        verify_dataset(TokenDataset(copy))


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
