"""Peers' loaders on the ids of loader_throughput.py, each through its own class, without workers.

Each function writes the ids in the peer's format and returns what begins an epoch: an iterator of
samples, (input_ids, labels) as int64. The peers are not among the project's dependencies. Install
the ones to measure beside the project, without their dependencies, which would replace torch:

    pip install --no-deps litdata megatron-core mosaicml-streaming

TinyLlama's PackedDataset is one file of its repository, lit_gpt/packed_dataset.py; name a copy
with --packed_dataset.
"""

import importlib.util
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilellama.shards.format import write_index

Ids = NDArray[np.uint16]
Epoch = Callable[[], Iterator[tuple[Tensor, Tensor]]]
VOCAB_SIZE, EOS_ID, DOCUMENT_TOKENS = 32_000, 2, 1000
CHUNKS = 8
"""Files that a peer's copy of the ids has, as many as our buckets."""


def litdata(flat: Ids, folder: Path, seq_len: int) -> Epoch:
    """Read by litdata's StreamingDataset with its loader of tokens, shuffled."""
    from litdata.streaming import StreamingDataset, TokensLoader  # pyright: ignore[reportMissingImports]
    from litdata.streaming.writer import BinaryWriter  # pyright: ignore[reportMissingImports]

    loader = TokensLoader(block_size=seq_len + 1)
    writer = BinaryWriter(str(folder), chunk_bytes=2 * len(flat) // CHUNKS, item_loader=loader)
    for i, part in enumerate(np.split(flat, range(seq_len + 1, len(flat), seq_len + 1))[:-1]):
        writer[i] = torch.from_numpy(part.copy())
    writer.done()
    writer.merge()
    dataset = StreamingDataset(str(folder), item_loader=loader, shuffle=True)
    return lambda: (shifted(row) for row in dataset)


def megatron(flat: Ids, folder: Path, seq_len: int) -> Epoch:
    """Read by Megatron-LM's GPTDataset, which takes our format."""
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig  # pyright: ignore[reportMissingImports]
    from megatron.core.datasets.indexed_dataset import IndexedDataset  # pyright: ignore[reportMissingImports]
    from megatron.core.datasets.utils import Split  # pyright: ignore[reportMissingImports]

    logging.getLogger("megatron").setLevel(logging.WARNING)
    flat.tofile(folder / "flat.bin")
    documents = len(flat) // DOCUMENT_TOKENS
    with open(folder / "flat.idx", "wb") as file:
        write_index(file, np.full(documents, DOCUMENT_TOKENS), "uint16")
    prefix, tokenizer = str(folder / "flat"), SimpleNamespace(
        vocab_size=VOCAB_SIZE, eod=EOS_ID, pad=-1, unique_identifiers={}
    )  # fmt: skip
    config = GPTDatasetConfig(
        random_seed=1, sequence_length=seq_len, blend=([prefix], None), split="1,0,0",
        path_to_cache=str(folder), tokenizer=tokenizer, reset_position_ids=False,
        reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False,
    )  # fmt: skip
    dataset = GPTDataset(
        IndexedDataset(prefix), prefix, np.arange(documents, dtype=np.int32), None, Split.train,
        config,
    )  # fmt: skip
    samples = (dataset[i] for _ in itertools.count() for i in range(len(dataset)))
    return lambda: ((sample["tokens"], sample["labels"]) for sample in samples)


def mosaicml(flat: Ids, folder: Path, seq_len: int) -> Epoch:
    """Read by MosaicML's StreamingDataset, from whole samples, shuffled."""
    from streaming import MDSWriter, StreamingDataset  # pyright: ignore[reportMissingImports]

    columns = {"ids": f"ndarray:uint16:{seq_len + 1}"}
    limit = 2 * len(flat) // CHUNKS
    with MDSWriter(out=str(folder), columns=columns, size_limit=limit) as writer:
        for part in np.split(flat, range(seq_len + 1, len(flat), seq_len + 1))[:-1]:
            writer.write({"ids": np.array(part)})
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=8)
    return lambda: (shifted(torch.from_numpy(sample["ids"])) for sample in dataset)


def packed_dataset(file: str) -> Callable[[Ids, Path, int], Epoch]:
    """Read by TinyLlama's PackedDataset, of a copy of its file."""
    spec = importlib.util.spec_from_file_location("packed_dataset", file)
    assert spec and spec.loader, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(flat: Ids, folder: Path, seq_len: int) -> Epoch:
        tokens = len(flat) // CHUNKS
        builder = module.PackedDatasetBuilder(str(folder), "ids", tokens, EOS_ID, dtype=np.uint16)
        for chunk in np.split(flat[: CHUNKS * tokens], CHUNKS):
            builder.add_array(np.array(chunk))
        builder.write_reminder()
        names = builder.filenames[:CHUNKS]
        dataset = module.PackedDataset(names, CHUNKS, seq_len + 1, shuffle=True, wrap=True)
        return lambda: (shifted(row) for row in dataset)

    return make


def shifted(row: Tensor) -> tuple[Tensor, Tensor]:
    """Return input_ids and labels of a sample's seq_len + 1 ids."""
    ids = row.to(torch.int64)
    return ids[:-1], ids[1:]


def loader(epoch: Epoch, num_samples: int, micro_batch_size: int) -> Callable[[], None]:
    """Return a pass over so many samples, epoch after epoch, in micro-batches."""
    stream = itertools.chain.from_iterable(epoch() for _ in itertools.count())

    def read() -> None:
        for _ in range(num_samples // micro_batch_size):
            inputs, labels = zip(*itertools.islice(stream, micro_batch_size), strict=True)
            torch.stack(inputs)
            torch.stack(labels)

    return read


PEERS: dict[str, Callable[[Ids, Path, int], Epoch]] = {
    "litdata": litdata,
    "megatron_gpt_dataset": megatron,
    "mosaicml_streaming": mosaicml,
}
"""What a package has; TinyLlama's is a file."""
