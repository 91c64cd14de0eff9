import json
import shutil
from pathlib import Path

from mobilellama.shards.compare.compare import compare
from mobilellama.shards.dataset import Plan, read_receipt
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.reader import TokenDataset
from tests.helpers.sealed import edit_sealed
from tests.shards.compare.conftest import TEXTS, Tokenise, write_corpus


def causes(first: Path, second: Path) -> list[str]:
    return compare(TokenDataset(first), TokenDataset(second)).causes


def test_another_seed_is_another_order_of_the_same_documents(
    plain: Path, tokenise: Tokenise
) -> None:
    found = causes(plain, tokenise("b", "--seed", 5))
    assert found == [
        "documents are shuffled into another order within each bucket (seed)",
        "all counts are the same: most likely only the order of the documents differs",
    ]


def test_a_changed_corpus_is_told_by_what_the_receipts_say_was_read(
    plain: Path, tokenise: Tokenise, corpus: Path
) -> None:
    write_corpus(corpus, [*TEXTS[:-1], "Another last text."], ("wikipedia",))
    second = tokenise("b")
    assert causes(plain, second) == ["the corpus was changed: wikipedia/a.jsonl had other bytes"]
    (corpus / "c4/a.jsonl").unlink()
    write_corpus(corpus, TEXTS[1:], ("c4",), name="b.jsonl")
    (renamed,) = causes(second, tokenise("c"))
    assert renamed == (
        "other files were tokenised: only the first has c4/a.jsonl; only the second has c4/b.jsonl"
    )


def test_another_held_out_share_leaves_the_token_files_the_same(
    plain: Path, tokenise: Tokenise
) -> None:
    found = causes(plain, tokenise("b", "--heldout_share", 0.2))
    assert found == [
        "another part of each bucket is held out; the ids are the same (heldout_share)",
        "the token files are the same",
    ]
    assert causes(plain, plain) == []


def test_other_records_that_were_left_out_are_told_with_an_example(
    plain: Path, tokenise: Tokenise, tmp_path: Path
) -> None:
    """As versions differ in what they take for bad, which the hash of the source does not show."""
    second = shutil.copytree(plain, tmp_path / "b")
    path = second / "c4/00000.json"
    receipt = json.loads(path.read_text())
    places = [[17, "too long (its line has more than 67,108,864 bytes)"]]
    hashes = receipt["sha256"] | {"bin": "0" * 64}
    edit_sealed(path, sha256=hashes, bad_records=1, bad_places=places)
    plan = Plan.read(second)
    receipts = [read_receipt(second, slice_, plan.identity) for slice_ in plan.slices]
    write_dataset(second, plan.identity, [one for one in receipts if one is not None])
    (found,) = causes(plain, second)
    assert found == (
        "other records were left out as bad: c4/00000 has 0 and 1, such as the one at 17: "
        "too long (its line has more than 67,108,864 bytes)"
    )


def test_what_nothing_explains_is_to_be_verified(plain: Path, tmp_path: Path) -> None:
    """A bucket whose manifest has another hash, though all that it was made of is the same."""
    second = shutil.copytree(plain, tmp_path / "b")
    path = second / "c4/00000.json"
    hashes = json.loads(path.read_text())["sha256"]
    edit_sealed(path, sha256=hashes | {"bin": "0" * 64})
    plan = Plan.read(second)
    receipts = [read_receipt(second, slice_, plan.identity) for slice_ in plan.slices]
    write_dataset(second, plan.identity, [one for one in receipts if one is not None])
    (found,) = causes(plain, second)
    assert found.startswith("the settings and the sources' names are the same")
    assert "'shards verify'" in found and "'shards audit'" in found
