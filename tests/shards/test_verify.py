import json
import os
import shutil
from pathlib import Path

import pytest

from mobilellama.config import DataError
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


def remove_and_tokenize_again(copy: Path, bucket: str, corpus: Path, tokenizer: Path) -> None:
    """Do what the message says."""
    for path in copy.glob(f"{bucket}.*"):
        path.unlink()
    arguments = ["--tokenizer", str(tokenizer), "--sources.root", str(corpus)]
    arguments += ["--output", str(copy), "--heldout_share", "0.02", "--workers", "1"]
    assert tokenize_main(["run", *arguments]) == 0


def test_a_good_dataset_passes_and_says_what_was_checked(small_dataset: Path, cli: Cli) -> None:
    code, out, _ = cli("shards", "verify", small_dataset, "--workers", 2)
    dataset = TokenDataset(small_dataset)
    assert code == 0
    assert f"{small_dataset}: good. {2 * len(dataset.manifest) + 1} files" in out
    assert f"fingerprint {dataset.fingerprint}" in out


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_a_flipped_bit_is_found_and_the_named_remedy_restores_the_dataset(
    ending: str, copy: Path, cli: Cli, small_corpus: Path, small_tokenizer: Path
) -> None:
    before = TokenDataset(copy).fingerprint
    content = (copy / f"common_crawl/00001.{ending}").read_bytes()
    flip(copy / f"common_crawl/00001.{ending}")
    code, _, err = cli("shards", "verify", copy)
    assert code == 2 and "Traceback" not in err
    stem = copy / "common_crawl/00001"
    assert f"mobilellama: error: {stem}.{ending}: sha256 " in err
    assert f"remove {stem}.* and run the same 'mobilellama tokenize run' again" in err
    remove_and_tokenize_again(copy, "common_crawl/00001", small_corpus, small_tokenizer)
    assert (copy / f"common_crawl/00001.{ending}").read_bytes() == content
    assert TokenDataset(copy).fingerprint == before
    assert cli("shards", "verify", copy)[0] == 0


def test_a_truncated_and_a_missing_file_are_named_with_their_sizes(copy: Path) -> None:
    path = copy / "github/00000.bin"
    size = path.stat().st_size
    os.truncate(path, size - 4096)
    with pytest.raises(DataError) as caught:
        verify_dataset(TokenDataset(copy))
    assert f"{path}: {size - 4096:,} bytes, expected {size:,}. To rebuild:" in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match=r"github/00000\.bin: missing\. To rebuild:"):
        verify_dataset(TokenDataset(copy))


def test_the_first_bad_file_in_the_manifest_s_order_is_named_and_the_others_counted(
    copy: Path,
) -> None:
    flip(copy / "wikipedia/00000.bin")
    flip(copy / "github/00001.idx")
    flip(copy / "github/00001.bin")
    with pytest.raises(DataError, match=r"github/00001\.bin: sha256 .* \(and 2 more bad\)\. To"):
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
    with pytest.raises(DataError, match=r"github/00000.json: not a receipt. Remove .* run again"):
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
