"""Packed rows: places, masks and conversation starts, over buckets and both splits."""

import os

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.shards.dataset import Identity
from mobilellama.shards.info import summarise
from mobilellama.shards.packing import Packing
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.rows import Rows
from tests.helpers import format_page as page
from tests.shards.conftest import PACKED_ENDINGS, PACKED_IDENTITY


def test_rows_are_numbered_through_the_buckets_of_each_split(packed_dataset: TokenDataset) -> None:
    training, heldout = packed_dataset.view("chat", 6), packed_dataset.view("chat", 6, "heldout")
    assert isinstance(training, Rows) and isinstance(heldout, Rows)
    assert (len(training), len(heldout)) == (3, 2)
    found = [(s.bucket[-1], s.start, s.length) for s in map(training.span, range(3))]
    assert found == [("0", 0, 5), ("0", 5, 6), ("1", 0, 5)]
    found = [(s.bucket[-1], s.start, s.length) for s in map(heldout.span, range(2))]
    assert found == [("0", 11, 4), ("1", 5, 6)]
    assert training.tokens(2).tolist() == [50, 51, 52, 53, 54]
    assert heldout.tokens(0).tolist() == [11, 12, 13, 14]


def test_a_row_tells_its_mask_and_where_its_conversations_start(
    packed_dataset: TokenDataset,
) -> None:
    training, heldout = (
        Rows(packed_dataset, "chat", "train"),
        Rows(packed_dataset, "chat", "heldout"),
    )
    assert training.mask(0).tolist() == [0, 1, 1, 0, 1]
    assert training.boundaries(0).tolist() == [3]
    assert training.boundaries(1).tolist() == []
    assert heldout.boundaries(0).tolist() == [1, 2]
    assert [training.supervised(i) for i in range(3)] == [3, 5, 4]


def test_a_reader_written_from_the_page_of_the_format_finds_the_rows(
    packed_dataset: TokenDataset,
) -> None:
    sequences, documents = page.read_bucket(packed_dataset.folder / "chat/00000", "uint16")
    assert sequences == [[0, 1, 2], [3, 4], [5, 6, 7, 8, 9, 10], [11], [12], [13, 14]]
    assert documents == [[0, 1], [2], [3, 4, 5]]
    assert page.read_mask(packed_dataset.folder / "chat/00001") == [0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1]
    assert page.samples(packed_dataset.folder, "chat", 6) == [(0, 0), (0, 1), (1, 0)]


def test_bytes_a_token_are_not_told_of_rows_which_hold_the_template_too(
    packed_dataset: TokenDataset,
) -> None:
    summary = summarise(packed_dataset, seq_len=6, mixture=None, budget_tokens=None)
    assert (summary.total.tokens, summary.total.bytes_per_token) == (26, None)


def test_another_length_than_the_packed_one_is_refused(packed_dataset: TokenDataset) -> None:
    with pytest.raises(ConfigError, match=r"train.seq_len = 7: .* holds rows packed to 6 tokens"):
        packed_dataset.view("chat", 7)


def test_a_truncated_mask_is_found_when_it_is_read(packed_dataset: TokenDataset) -> None:
    path = packed_dataset.folder / "chat/00001.mask"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"00001.mask: 10 bytes, but the manifest says 11 bytes"):
        Rows(packed_dataset, "chat", "train").mask(2)


def test_what_makes_the_rows_is_part_of_the_identity() -> None:
    other = Identity(**{**vars(PACKED_IDENTITY), "packing": Packing(seq_len=8)})
    assert PACKED_IDENTITY.sha256 != other.sha256
    with pytest.raises(ConfigError, match=r"seq_len = 8: it was begun with seq_len = 6"):
        PACKED_IDENTITY.require_same(other, owner="it")
    windows = Identity(**{**vars(PACKED_IDENTITY), "packing": None})
    assert "packing" not in windows.to_json()


@pytest.mark.parametrize("ending", PACKED_ENDINGS)
def test_a_bucket_that_is_cut_while_it_is_read_is_named(
    packed_dataset: TokenDataset, ending: str
) -> None:
    rows = Rows(packed_dataset, "chat", "train")
    assert len(rows.tokens(0)) == len(rows.mask(0))
    path = packed_dataset.folder / f"chat/00000.{ending}"
    os.truncate(path, 1)
    with pytest.raises(DataError, match=rf"chat/00000.{ending}: was cut from [0-9]+ to 1 bytes"):
        rows.tokens(0)
        rows.mask(0)
