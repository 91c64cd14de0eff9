"""Packed rows: places, masks and conversation starts, over buckets and both splits."""

import os
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.shards.dataset import Identity, Receipt
from mobilellama.shards.format import write_index
from mobilellama.shards.info import summarise
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.packing import Packing
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.rows import Rows

# Two buckets of rows; each row is a list of conversations' lengths. The last row of each bucket
# is held out.
ENDINGS = ("bin", "idx", "mask")
BUCKETS = [[[3, 2], [6], [1, 1, 2]], [[5], [2, 4]]]
IDENTITY = Identity(
    tokenizer_sha256="0" * 64, vocab_size=100, eos_id=2, dtype="uint16", seed=1, slice_bytes=0,
    heldout_share=0.1, encoder_version=1, packing=Packing(seq_len=6),
)  # fmt: skip


def ids_of(bucket: int, tokens: int) -> np.ndarray:
    return np.arange(tokens, dtype="<u2") + 50 * bucket


def mask_of(lengths: list[int]) -> np.ndarray:
    """All but each conversation's first token is supervised."""
    return np.concatenate([np.arange(n) > 0 for n in lengths]).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path: Path) -> TokenDataset:
    (tmp_path / "chat").mkdir()
    receipts = []
    for bucket, rows in enumerate(BUCKETS):
        lengths = [n for row in rows for n in row]
        path = tmp_path / f"chat/{bucket:05}"
        ids_of(bucket, sum(lengths)).tofile(path.with_suffix(".bin"))
        mask_of(lengths).tofile(path.with_suffix(".mask"))
        documents = np.cumsum([0, *(len(row) for row in rows)])
        with open(path.with_suffix(".idx"), "wb") as file:
            write_index(file, np.array(lengths), "uint16", documents)
        receipts.append(
            Receipt(
                subset="chat", bucket=bucket, source=f"{bucket}.json", start=0, end=9,
                unit="records", documents=len(lengths), tokens=sum(lengths),
                train_tokens=sum(sum(row) for row in rows[:-1]), bytes_in=0, records=0,
                bad_records=0, empty_texts=0, replaced_surrogates=0,
                sha256={end: sha256_of_file(Path(f"{path}.{end}")) for end in ENDINGS},
                identity_sha256=IDENTITY.sha256,
                counts={"rows": len(rows), "train_rows": len(rows) - 1},
            )
        )  # fmt: skip
    write_dataset(tmp_path, IDENTITY, receipts)
    return TokenDataset(tmp_path)


def test_rows_are_numbered_through_the_buckets_of_each_split(dataset: TokenDataset) -> None:
    training, heldout = dataset.view("chat", 6), dataset.view("chat", 6, "heldout")
    assert isinstance(training, Rows) and isinstance(heldout, Rows)
    assert (len(training), len(heldout)) == (3, 2)
    found = [(s.bucket[-1], s.start, s.length) for s in map(training.span, range(3))]
    assert found == [("0", 0, 5), ("0", 5, 6), ("1", 0, 5)]
    found = [(s.bucket[-1], s.start, s.length) for s in map(heldout.span, range(2))]
    assert found == [("0", 11, 4), ("1", 5, 6)]
    assert training.tokens(2).tolist() == [50, 51, 52, 53, 54]
    assert heldout.tokens(0).tolist() == [11, 12, 13, 14]


def test_a_row_tells_its_mask_and_where_its_conversations_start(dataset: TokenDataset) -> None:
    training, heldout = Rows(dataset, "chat", "train"), Rows(dataset, "chat", "heldout")
    assert training.mask(0).tolist() == [0, 1, 1, 0, 1]
    assert training.boundaries(0).tolist() == [3]
    assert training.boundaries(1).tolist() == []
    assert heldout.boundaries(0).tolist() == [1, 2]
    assert [training.supervised(i) for i in range(3)] == [3, 5, 4]


def test_bytes_a_token_are_not_told_of_rows_which_hold_the_template_too(
    dataset: TokenDataset,
) -> None:
    summary = summarise(dataset, seq_len=6, mixture=None, budget_tokens=None)
    assert (summary.total.tokens, summary.total.bytes_per_token) == (26, None)


def test_another_length_than_the_packed_one_is_refused(dataset: TokenDataset) -> None:
    with pytest.raises(ConfigError, match=r"train.seq_len = 7: .* holds rows packed to 6 tokens"):
        dataset.view("chat", 7)


def test_a_truncated_mask_is_found_when_it_is_read(dataset: TokenDataset) -> None:
    path = dataset.folder / "chat/00001.mask"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"00001.mask: 10 bytes, but the manifest says 11 bytes"):
        Rows(dataset, "chat", "train").mask(2)


def test_what_makes_the_rows_is_part_of_the_identity() -> None:
    other = Identity(**{**vars(IDENTITY), "packing": Packing(seq_len=8)})
    assert IDENTITY.sha256 != other.sha256
    with pytest.raises(ConfigError, match=r"seq_len = 8: it was begun with seq_len = 6"):
        IDENTITY.require_same(other, owner="it")
    windows = Identity(**{**vars(IDENTITY), "packing": None})
    assert "packing" not in windows.to_json()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_bucket_that_is_cut_while_it_is_read_is_named(dataset: TokenDataset, ending: str) -> None:
    rows = Rows(dataset, "chat", "train")
    assert len(rows.tokens(0)) == len(rows.mask(0))
    path = dataset.folder / f"chat/00000.{ending}"
    os.truncate(path, 1)
    with pytest.raises(DataError, match=rf"chat/00000.{ending}: was cut from [0-9]+ to 1 bytes"):
        rows.tokens(0)
        rows.mask(0)
