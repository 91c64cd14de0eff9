r"""Loader throughput: what training reads with, beside a memmap in a stored order, and peers.

All read as many samples from a warm page cache and give input_ids and labels as contiguous int64
tensors, on one thread. The tokens are random ids: what they say changes nothing here.

    bare_memmap         one file, one array of sample numbers (8 bytes a sample, which the corpus of
                        1.3T tokens makes 5 GB a process), micro-batches made as most code does
    bare_one_array      the same, but converted as ours: the floor of what can be read this way
    ours                MixedBatches.at, as the training loop calls it: samples located in a mixture
                        of subsets by arithmetic, their pages asked for ahead, nothing stored
    ours_per_document   the same, and where documents begin in each micro-batch (cu_seqlens)
    ours_rank_of_160    one rank of a run with a global batch of 2560. It locates its own 16 samples
                        of each step and no others, but deals out every period of 65,536 positions:
                        2 ms for 400 samples, 5 us each
    boundaries_in_ids   the bounds of the documents in a micro-batch of ids that were read, as
                        ours_per_document finds them: the ids are compared with EOS
    boundaries_in_idx   the same lengths from the .idx: a bisection for each sample
    litdata, megatron_gpt_dataset, mosaicml_streaming, tinyllama_packed_dataset
                        through their own classes (loader_peers.py), where they are installed;
                        "not_run" in the result says which were not, and why

Where ours spends more than bare_one_array, a sample: the order (0.5 us: two Feistel
networks, a share of a period's deal), the pages asked for ahead (1.8 us, a system call that only a
cold disk or a network folder pays back), the file's length checked before its map is read (0.5 us,
a system call: a map of a file that was cut would end the process), slices and tuples. TinyLlama's
PackedDataset does none of these: it opens so many files, permutes the blocks of these alone, and
reads them to the end before it opens the next; a run cannot begin elsewhere than at the start.

    python benchmarks/loader_throughput.py --packed_dataset lit_gpt/packed_dataset.py \
        --output benchmarks/results/loader_throughput.json
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import paired
import torch
from loader_peers import DOCUMENT_TOKENS, EOS_ID, PEERS, VOCAB_SIZE, loader, packed_dataset
from numpy.typing import NDArray

from mobilellama.pretrain.data import MixedBatches, WindowInputs, document_bounds
from mobilellama.shards.dataset import Identity, Receipt, bucket_name
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.order import DEFAULT_SEED, open_order
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.windows import Span

SUBSETS = {"arxiv": 1, "c4": 2, "common_crawl": 4, "github": 1}  # buckets of each


def main() -> None:
    options = paired.arguments(
        __doc__, million_tokens=200, seq_len=2048, global_batch_size=32, micro_batch_size=8,
        steps=600, rounds=7, packed_dataset="",
    )  # fmt: skip
    torch.set_num_threads(1)
    num_samples = options.steps * options.global_batch_size
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "dataset", options.million_tokens * 1_000_000)
        flat = join_buckets(dataset, Path(folder) / "flat.bin")
        candidates = bare_loaders(flat, options.seq_len, num_samples, options.micro_batch_size)
        candidates |= our_loaders(dataset, num_samples, options)
        candidates |= boundary_readers(dataset, num_samples, options)
        peers, not_run = peer_loaders(flat, Path(folder), num_samples, options)
        summary = paired.measure(candidates | peers, rounds=options.rounds)
    for figures in summary.values():
        figures["us_per_sample"] = round(figures["median_cpu_s"] / num_samples * 1e6, 2)
    paired.save(
        {
            "what": "int64 input_ids and labels of random ids, page cache warm; CPU time",
            "settings": paired.settings(options) | {"buckets": SUBSETS, "samples": num_samples},
            "results": summary,
            "ratio_of_per_document_to_ours": round(
                summary["ours_per_document"]["us_per_sample"] / summary["ours"]["us_per_sample"], 3
            ),
            "not_run": not_run,
        },
        options,
    )


def make_dataset(folder: Path, tokens: int) -> TokenDataset:
    """Write a dataset of random ids (without hashes, which no loader reads)."""
    identity = Identity(
        tokenizer_sha256="0" * 64, vocab_size=VOCAB_SIZE, eos_id=EOS_ID, dtype="uint16", seed=0,
        slice_bytes=1 << 30, heldout_share=0.0, encoder_version=1,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    each = tokens // sum(SUBSETS.values())
    receipts = []
    for subset, buckets in SUBSETS.items():
        (folder / subset).mkdir(parents=True)
        for bucket in range(buckets):
            ids = generator.integers(3, VOCAB_SIZE, each, dtype="<u2")
            ids[DOCUMENT_TOKENS - 1 :: DOCUMENT_TOKENS] = EOS_ID
            ids.tofile(folder / f"{bucket_name(subset, bucket)}.bin")
            with open(folder / f"{bucket_name(subset, bucket)}.idx", "wb") as file:
                write_index(file, np.full(each // DOCUMENT_TOKENS, DOCUMENT_TOKENS), "uint16")
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


def bare_loaders(
    flat: NDArray[np.uint16], seq_len: int, num_samples: int, micro_batch_size: int
) -> dict[str, Callable[[], None]]:
    """Return passes over so many samples of one memmap, in a stored order."""
    order = np.random.default_rng(0).permutation((len(flat) - 1) // seq_len)
    starts = np.resize(order * seq_len, (num_samples // micro_batch_size, micro_batch_size))

    def read(convert: Callable[[list[NDArray[np.uint16]]], object]) -> None:
        for micro in starts:
            convert([flat[start : start + seq_len + 1] for start in micro.tolist()])

    return {"bare_memmap": partial(read, stacked), "bare_one_array": partial(read, joined)}


def stacked(rows: list[NDArray[np.uint16]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input_ids and labels, (samples, seq_len) int64, as most code makes them."""
    ids = torch.from_numpy(np.stack(rows).astype(np.int64))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def joined(rows: list[NDArray[np.uint16]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same, copied into one array and converted once, as ours does."""
    ids = np.concatenate(rows).reshape(len(rows), -1)
    inputs, labels = ids[:, :-1].astype(np.int64), ids[:, 1:].astype(np.int64)
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def our_loaders(
    dataset: TokenDataset, num_samples: int, options: argparse.Namespace
) -> dict[str, Callable[[], None]]:
    """Return passes over so many samples of a rank, as training reads them."""
    mixture, windows = open_order(dataset, seq_len=options.seq_len, mixture=None, seed=DEFAULT_SEED)

    def loader(global_batch_size: int, world_size: int, eos_id: int | None) -> Callable[[], None]:
        batches = MixedBatches(
            mixture, windows, WindowInputs(seq_len=options.seq_len, eos_id=eos_id),
            global_batch_size=global_batch_size, micro_batch_size=options.micro_batch_size,
            rank=world_size // 2, world_size=world_size,
        )  # fmt: skip
        steps = num_samples * world_size // global_batch_size
        first = itertools.count(step=steps * global_batch_size)  # no round has read it before

        def read() -> None:
            start = next(first)
            for step in range(steps):
                batches.at(start + step * global_batch_size)

        return read

    return {
        "ours": loader(options.global_batch_size, 1, None),
        "ours_per_document": loader(options.global_batch_size, 1, EOS_ID),
        "ours_rank_of_160": loader(2560, 160, None),
    }


def boundary_readers(
    dataset: TokenDataset, num_samples: int, options: argparse.Namespace
) -> dict[str, Callable[[], None]]:
    """Return two ways to find the lengths of the documents in so many samples."""
    subset = max(SUBSETS, key=lambda name: SUBSETS[name])
    windows, size = dataset.windows(subset, options.seq_len), options.micro_batch_size
    shape = num_samples // size, size
    chosen = np.random.default_rng(1).integers(len(windows), size=shape).tolist()
    ids = np.stack([windows.tokens(i) for i in chosen[0]])

    def in_ids() -> None:
        for _ in chosen:
            document_bounds(ids == EOS_ID)

    def in_idx() -> None:
        for micro in chosen:
            np.concatenate([lengths_in_idx(windows.span(i), dataset) for i in micro])

    expected = np.diff(document_bounds(ids == EOS_ID))
    found = np.concatenate([lengths_in_idx(windows.span(i), dataset) for i in chosen[0]])
    assert np.array_equal(found, expected)
    return {"boundaries_in_ids": in_ids, "boundaries_in_idx": in_idx}


def lengths_in_idx(span: Span, dataset: TokenDataset) -> NDArray[np.int64]:
    """Return the tokens of each document, or part of one, in a sample's inputs."""
    index, end = dataset.bucket_index(span.bucket), span.start + span.length - 1
    first, last = index.sequence_at(span.start), index.sequence_at(end - 1)
    starts = index.byte_offsets[first + 1 : last + 1] // 2
    return np.diff(starts, prepend=span.start, append=end)


def peer_loaders(
    flat: NDArray[np.uint16], scratch: Path, num_samples: int, options: argparse.Namespace
) -> tuple[dict[str, Callable[[], None]], dict[str, str]]:
    """Return passes over so many samples by each peer, and why others are missing."""
    peers, not_run = dict(PEERS), {}
    if options.packed_dataset:
        peers["tinyllama_packed_dataset"] = packed_dataset(options.packed_dataset)
    else:
        not_run["tinyllama_packed_dataset"] = "--packed_dataset is not given"
    passes = {}
    for name, make in peers.items():
        folder = scratch / name
        folder.mkdir()
        try:
            epoch = make(flat, folder, options.seq_len)
        except ImportError as error:
            not_run[name] = str(error)
            continue
        passes[name] = loader(epoch, num_samples, options.micro_batch_size)
    return passes, not_run


if __name__ == "__main__":
    main()
