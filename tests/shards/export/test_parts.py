from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.shards.export.parts import PortionReader, split_into_parts
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import PACKED_ENDINGS


def test_parts_hold_every_bucket_once_and_end_at_the_wished_size(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    assert dataset.subsets == ("common_crawl", "github", "wikipedia")
    sizes = {name: total["train_tokens"] for name, total in dataset.totals.items()}
    for part_tokens, numbers in ((1, [0, 1]), (1e9, [0])):
        parts = split_into_parts(dataset.manifest, ["github"], part_tokens)
        training = [part for part in parts if part.split == "train"]
        assert [part.number for part in training] == numbers
        assert sum(part.tokens for part in training) == sizes["github"]
        assert [row["bucket"] for part in training for row in part.rows] == [0, 1]
    assert training[0].name == "github/train-00000"


def test_a_split_without_tokens_has_no_part(packed_dataset: TokenDataset) -> None:
    rows = [{**row, "train_tokens": row["tokens"]} for row in packed_dataset.manifest]
    parts = split_into_parts(rows, ["chat"], 1e9)  # pyright: ignore[reportArgumentType]
    assert [(part.split, part.tokens) for part in parts] == [("train", 26)]


def test_a_bucket_is_cut_where_its_held_out_rows_begin(packed_dataset: TokenDataset) -> None:
    train, heldout = split_into_parts(packed_dataset.manifest, ["chat"], 1e9)
    reader = PortionReader(packed_dataset)
    first, second = reader.read(train)
    assert first.ids.tolist() == list(range(11)) and second.ids.tolist() == list(range(50, 55))
    assert first.lengths.tolist() == [3, 2, 6] and second.lengths.tolist() == [5]
    assert first.rows is not None and first.rows.tolist() == [0, 2, 3]
    first, second = reader.read(heldout)
    assert first.ids.tolist() == [11, 12, 13, 14] and second.ids.tolist() == list(range(55, 61))
    assert first.lengths.tolist() == [1, 1, 2] and second.lengths.tolist() == [2, 4]
    assert first.rows is not None and first.rows.tolist() == [0, 3]
    assert first.mask is not None and first.mask.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("ending", PACKED_ENDINGS)
def test_a_flipped_bit_in_a_bucket_stops_the_export(
    packed_dataset: TokenDataset, ending: str
) -> None:
    path = packed_dataset.folder / f"chat/00001.{ending}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (part, _) = split_into_parts(packed_dataset.manifest, ["chat"], 1e9)
    with pytest.raises(DataError, match=rf"00001\.{ending}: sha256 [0-9a-f]{{64}}, expected"):
        list(PortionReader(packed_dataset).read(part))
