"""Loader throughput: our order and reader beside a bare memmap with a materialised permutation.

Both read the same samples' worth of tokens from a warm page cache and give batches of int64
arrays, as a trainer's loop takes them. The bare loader knows one file and one array of sample
numbers (8 bytes a sample, which the corpus of 1.3T tokens makes 5 GB a process); ours goes
through a mixture of subsets, bucket files and the arithmetic order, and stores nothing.
The tokens are random ids: what they say changes nothing here.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paired
from numpy.typing import NDArray

from mobilellama.shards.dataset import Identity, Receipt, bucket_name, write_dataset
from mobilellama.shards.mixture import PERIOD, Mixture
from mobilellama.shards.order import DEFAULT_SEED, open_order
from mobilellama.shards.reader import TokenDataset, Windows

SUBSETS = {"arxiv": 1, "c4": 2, "common_crawl": 4, "github": 1}  # buckets of each
EOS_ID, DOCUMENT_TOKENS = 2, 1000


def main() -> None:
    options = paired.arguments(
        __doc__, million_tokens=200, seq_len=2048, batch_size=8, batches=12_000, rounds=7
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "dataset", options.million_tokens * 1_000_000)
        flat = join_buckets(dataset, Path(folder) / "flat.bin")
        mixture, windows = open_order(
            dataset, seq_len=options.seq_len, mixture=None, seed=DEFAULT_SEED
        )
        shape = (options.batches, options.batch_size)
        summary = paired.measure(
            {
                "bare_memmap": bare_loader(flat, options.seq_len, shape),
                "ours": our_loader(mixture, windows, options.seq_len, shape),
            },
            rounds=options.rounds,
        )
    tokens = options.batches * options.batch_size * options.seq_len
    for figures in summary.values():
        figures["million_tokens_per_cpu_s"] = round(tokens / figures["median_cpu_s"] / 1e6, 1)
    paired.save(
        "loader_throughput",
        {
            "what": "batches of int64 samples, random ids, page cache warm; the ratio is CPU time",
            "settings": vars(options) | {"buckets": SUBSETS, "tokens_per_round": tokens},
            "results": summary,
        },
    )


def make_dataset(folder: Path, tokens: int) -> TokenDataset:
    """Write a dataset of random ids (without hashes or .idx files, which no loader reads)."""
    identity = Identity(
        tokenizer_sha256="0" * 64, vocab_size=32_000, eos_id=EOS_ID, dtype="uint16", seed=0,
        slice_bytes=1 << 30, heldout_share=0.0, encoder_version=1,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    each = tokens // sum(SUBSETS.values())
    receipts = []
    for subset, buckets in SUBSETS.items():
        (folder / subset).mkdir(parents=True)
        for bucket in range(buckets):
            ids = generator.integers(3, 32_000, each, dtype="<u2")
            ids[DOCUMENT_TOKENS - 1 :: DOCUMENT_TOKENS] = EOS_ID
            ids.tofile(folder / f"{bucket_name(subset, bucket)}.bin")
            receipts.append(
                Receipt(
                    subset=subset, bucket=bucket, source="random", start=0, end=0, unit="rows",
                    documents=each // DOCUMENT_TOKENS, tokens=each, train_tokens=each, bytes_in=0,
                    records=0, bad_records=0, empty_texts=0, replaced_surrogates=0,
                    sha256={"bin": "", "idx": ""}, identity_sha256="",
                )
            )  # fmt: skip
    write_dataset(folder, identity, receipts)
    return TokenDataset(folder)


def join_buckets(dataset: TokenDataset, path: Path) -> NDArray[np.uint16]:
    """Write all buckets into one file, as the bare loader wants them, and map it."""
    with open(path, "wb") as file:
        for row in dataset.rows:
            name = bucket_name(row["subset"], row["bucket"])
            file.write(dataset.bucket_tokens(name, row["tokens"]).tobytes())
    return np.memmap(path, dtype="<u2", mode="r")


def bare_loader(
    flat: NDArray[np.uint16], seq_len: int, shape: tuple[int, int]
) -> Callable[[], None]:
    """Return a pass over `shape` (batches, batch size) samples of one memmap."""
    order = np.random.default_rng(0).permutation((len(flat) - 1) // seq_len)
    steps = np.resize(order, shape)

    def read() -> None:
        batch = np.empty((shape[1], seq_len + 1), np.int64)
        for samples in steps:
            for row, sample in zip(batch, samples.tolist(), strict=True):
                row[:] = flat[sample * seq_len : sample * seq_len + seq_len + 1]

    return read


def our_loader(
    mixture: Mixture, windows: dict[str, Windows], seq_len: int, shape: tuple[int, int]
) -> Callable[[], None]:
    """Return a pass over as many samples, each batch located when it is read."""
    views = [windows[name] for name in mixture.subsets]
    first = 0

    def read() -> None:
        nonlocal first
        batch = np.empty((shape[1], seq_len + 1), np.int64)
        for step in range(shape[0]):
            start = first + step * shape[1]
            located = mixture.locate(np.arange(start, start + shape[1]))
            places = zip(located.subset.tolist(), located.sample.tolist(), strict=True)
            for row, (subset, sample) in zip(batch, places, strict=True):
                row[:] = views[subset].tokens(sample)
        first += PERIOD  # new positions each round: no round profits from the last one's tables

    return read


if __name__ == "__main__":
    main()
