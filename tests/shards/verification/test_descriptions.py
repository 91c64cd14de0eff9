import json
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verify import verify_dataset
from mobilellama.tokenize.main import main as tokenize_main
from tests.helpers.sealed import edit_sealed
from tests.shards.conftest import Cli, flip


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
