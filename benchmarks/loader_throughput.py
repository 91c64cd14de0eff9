"""Loader throughput: what training reads with, beside a bare memmap and a stored permutation.

Both read as many samples from a warm page cache and give input_ids and labels as contiguous
int64 tensors, micro-batch by micro-batch, on one thread. The bare loader knows one file and
one array of sample numbers (8 bytes a sample, which the corpus of 1.3T tokens makes 5 GB a
process); ours is ``MixedBatches.at``, as the training loop calls it: it locates the samples
in a mixture of subsets by arithmetic, asks the kernel for their pages, and stores nothing.
The tokens are random ids: what they say changes nothing here.

    python benchmarks/loader_throughput.py --output benchmarks/results/loader_throughput.json
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paired
import torch
from numpy.typing import NDArray

from mobilellama.pretrain.data import MixedBatches, WindowInputs
from mobilellama.shards.dataset import Identity, Receipt, bucket_name
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.mixture import PERIOD
from mobilellama.shards.order import DEFAULT_SEED, open_order
from mobilellama.shards.reader import TokenDataset

SUBSETS = {"arxiv": 1, "c4": 2, "common_crawl": 4, "github": 1}  # buckets of each
EOS_ID, DOCUMENT_TOKENS = 2, 1000


def main() -> None:
    options = paired.arguments(
        __doc__, million_tokens=200, seq_len=2048, global_batch_size=32, micro_batch_size=8,
        steps=3000, rounds=7,
    )  # fmt: skip
    torch.set_num_threads(1)
    samples = options.steps * options.global_batch_size
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "dataset", options.million_tokens * 1_000_000)
        flat = join_buckets(dataset, Path(folder) / "flat.bin")
        mixture, windows = open_order(
            dataset, seq_len=options.seq_len, mixture=None, seed=DEFAULT_SEED
        )
        batches = MixedBatches(
            mixture, windows, WindowInputs(per_document=False),
            global_batch_size=options.global_batch_size,
            micro_batch_size=options.micro_batch_size, rank=0, world_size=1,
        )  # fmt: skip
        summary = paired.measure(
            {
                "bare_memmap": bare_loader(
                    flat, options.seq_len, samples, options.micro_batch_size
                ),
                "ours": our_loader(batches, options.steps, options.global_batch_size),
            },
            rounds=options.rounds,
        )
    tokens = samples * options.seq_len
    for figures in summary.values():
        figures["million_tokens_per_cpu_s"] = round(tokens / figures["median_cpu_s"] / 1e6, 1)
    paired.save(
        {
            "what": "int64 input_ids and labels of random ids, page cache warm; CPU time",
            "settings": paired.settings(options) | {"buckets": SUBSETS, "tokens_per_round": tokens},
            "results": summary,
        },
        options,
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
        for row in dataset.manifest:
            name = bucket_name(row["subset"], row["bucket"])
            file.write(dataset.bucket_tokens(name, row["tokens"]).tobytes())
    return np.memmap(path, dtype="<u2", mode="r")


def bare_loader(
    flat: NDArray[np.uint16], seq_len: int, samples: int, micro_batch_size: int
) -> Callable[[], None]:
    """Return a pass over so many samples of one memmap, in a stored order."""
    order = np.random.default_rng(0).permutation((len(flat) - 1) // seq_len)
    starts = np.resize(order * seq_len, (samples // micro_batch_size, micro_batch_size))

    def read() -> None:
        for micro in starts:
            inputs_of([flat[start : start + seq_len + 1] for start in micro.tolist()])

    return read


def inputs_of(rows: list[NDArray[np.uint16]]) -> dict[str, torch.Tensor]:
    """Return input_ids and labels, (samples, seq_len) int64, as training wants them."""
    ids = torch.from_numpy(np.stack(rows).astype(np.int64))
    return {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}


def our_loader(batches: MixedBatches, steps: int, global_batch_size: int) -> Callable[[], None]:
    """Return a pass over so many steps."""
    first = 0

    def read() -> None:
        nonlocal first
        for step in range(steps):
            batches.at(first + step * global_batch_size)
        first += 2 * PERIOD  # new positions each round: no round profits from the last's tables

    return read


if __name__ == "__main__":
    main()
