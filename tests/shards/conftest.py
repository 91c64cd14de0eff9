"""Datasets of made-up ids, for what does not need text."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mobilellama.shards.dataset import Identity, Receipt, bucket_name
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset
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
