"""Datasets of made-up ids, and of made-up packed rows, for what does not need text."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mobilellama.files.atomic import sha256_of_file
from mobilellama.shards.dataset import Identity, Receipt, bucket_name
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.packing import Packing
from mobilellama.shards.reader import TokenDataset

EOS_ID = 2
IDENTITY = Identity(
    tokenizer_sha256="0" * 64,
    vocab_size=32_000,
    eos_id=EOS_ID,
    dtype="uint16",
    seed=1,
    slice_bytes=1 << 30,
    heldout_share=0.0,
    encoder_version=1,
)

# Two buckets of packed rows; each row is a list of conversations' lengths. The last row of each
# bucket is held out. The ids of a bucket count up, from 0 and from 50.
PACKED_ROWS = [[[3, 2], [6], [1, 1, 2]], [[5], [2, 4]]]
PACKED_ENDINGS = ("bin", "idx", "mask")
PACKED_IDENTITY = Identity(
    tokenizer_sha256="0" * 64, vocab_size=100, eos_id=2, dtype="uint16", seed=1, slice_bytes=0,
    heldout_share=0.1, encoder_version=1, packing=Packing(seq_len=6),
)  # fmt: skip

MakeDataset = Callable[[Mapping[str, Sequence[Sequence[int]]]], TokenDataset]


def receipt(subset: str, bucket: int, lengths: Sequence[int], heldout: int = 0) -> Receipt:
    """A receipt of documents of these lengths, the last `heldout` of them held out."""
    train = lengths[: len(lengths) - heldout]
    return Receipt(
        subset=subset, bucket=bucket, source=f"{subset}/{bucket}.jsonl", start=0, end=100,
        unit="bytes", documents=len(lengths), tokens=sum(lengths), train_tokens=sum(train),
        bytes_in=4 * sum(lengths), records=len(lengths), bad_records=0, empty_texts=0,
        replaced_surrogates=0, sha256={"bin": "b" * 64, "idx": "i" * 64}, identity_sha256="",
    )  # fmt: skip


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Write {subset: [document lengths of each bucket]}, ids counting up within a bucket."""

    def make(buckets: Mapping[str, Sequence[Sequence[int]]]) -> TokenDataset:
        folder = tmp_path / "made"
        receipts = []
        for subset, each in buckets.items():
            (folder / subset).mkdir(parents=True)
            for bucket, lengths in enumerate(each):
                ids = np.arange(3, 3 + sum(lengths), dtype="<u2")
                ids[np.cumsum(lengths, dtype=int) - 1] = EOS_ID
                path = folder / bucket_name(subset, bucket)
                ids.tofile(path.with_suffix(".bin"))
                with open(path.with_suffix(".idx"), "wb") as file:
                    write_index(file, np.array(lengths, dtype=int), "uint16")
                receipts.append(receipt(subset, bucket, lengths))
        write_dataset(folder, IDENTITY, receipts)
        return TokenDataset(folder)

    return make


@pytest.fixture
def packed_dataset(tmp_path: Path) -> TokenDataset:
    """``PACKED_ROWS``. All but each conversation's first token is supervised."""
    (tmp_path / "chat").mkdir()
    receipts = []
    for bucket, rows in enumerate(PACKED_ROWS):
        lengths = [n for row in rows for n in row]
        path = tmp_path / f"chat/{bucket:05}"
        (np.arange(sum(lengths), dtype="<u2") + 50 * bucket).tofile(path.with_suffix(".bin"))
        mask = np.concatenate([np.arange(n) > 0 for n in lengths]).astype(np.uint8)
        mask.tofile(path.with_suffix(".mask"))
        documents = np.cumsum([0, *(len(row) for row in rows)])
        with open(path.with_suffix(".idx"), "wb") as file:
            write_index(file, np.array(lengths), "uint16", documents)
        receipts.append(
            Receipt(
                subset="chat", bucket=bucket, source=f"{bucket}.json", start=0, end=9,
                unit="records", documents=len(lengths), tokens=sum(lengths),
                train_tokens=sum(sum(row) for row in rows[:-1]), bytes_in=0, records=0,
                bad_records=0, empty_texts=0, replaced_surrogates=0,
                sha256={end: sha256_of_file(Path(f"{path}.{end}")) for end in PACKED_ENDINGS},
                identity_sha256=PACKED_IDENTITY.sha256,
                counts={"rows": len(rows), "train_rows": len(rows) - 1},
            )
        )  # fmt: skip
    write_dataset(tmp_path, PACKED_IDENTITY, receipts)
    return TokenDataset(tmp_path)


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``mobilellama ARGUMENTS`` through its real entry; return (exit code, stdout, stderr)."""
    from mobilellama.__main__ import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mobilellama", *map(str, arguments)])
        capfd.readouterr()
        code = main()
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def copy(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the small dataset, to damage."""
    return Path(shutil.copytree(small_dataset, tmp_path / "copy"))


def flip(path: Path, offset: int = -5) -> None:
    """Flip one bit of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
