"""Conversations -> tokens, by several processes, in the order in which they came."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError
from mobilellama.pool import Workers
from mobilellama.sft.data.batch_labels import BatchLabels
from mobilellama.sft.data.clean import Cleaned
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.split import Parts, split_conversation
from mobilellama.sft.data.template import Template
from mobilellama.shards.format import dtype_for_vocabulary, little_endian
from mobilellama.tokenizers.opening import open_known_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """What is the same for every conversation; small, and sent with each batch."""

    tokenizer: str
    """Its path, from which each process opens it."""
    tokenizer_sha256: str
    template: Template
    seq_len: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Conversations that are encoded together."""

    conversations: Sequence[Cleaned]
    source_read: int
    """Bytes (or rows) of the source that were read since the batch before."""


@dataclass(frozen=True, kw_only=True)
class EncodedBatch:
    """The parts of a batch's conversations, one after another."""

    ids: NDArray[np.integer]
    """All parts' ids, in the dtype of the bucket."""
    mask: NDArray[np.uint8]
    """1 where the token is supervised."""
    lengths: NDArray[np.int64]
    """Tokens of each part."""
    outcomes: tuple[Parts, ...]
    """What became of each conversation; the parts' arrays are left out."""
    part_counts: NDArray[np.int64]
    """Parts of each conversation."""


@contextlib.contextmanager
def encoding(
    job: EncodeSettings, tokenizer: TextTokenizer, workers: int
) -> Iterator[Callable[[Iterator[Batch]], Iterator[tuple[Batch, EncodedBatch]]]]:
    """Give a function that encodes batches in their order.

    Args:
        job: what the batches have in common.
        tokenizer: the job's, for this process.
        workers: processes; 1 encodes in this one.

    Raises:
        UserError: (by that function) a worker was killed.
    """
    if workers == 1:
        labels = BatchLabels(job.template, tokenizer)
        yield lambda batches: (
            (batch, encode_batch(job, labels, _turns_of(batch))) for batch in batches
        )
        return
    remedy = "Finished buckets stay: run the same command again, with fewer --workers"
    with Workers(workers, doing="encoding", remedy=remedy) as pool:
        yield lambda batches: pool.map(partial(_encode_there, job), batches)


def _turns_of(batch: Batch) -> list[tuple[Turn, ...]]:
    return [conversation.turns for conversation in batch.conversations]


def _encode_there(job: EncodeSettings, batch: Batch) -> EncodedBatch:
    return encode_batch(job, _open_once(job), _turns_of(batch))


@lru_cache(maxsize=1)
def _open_once(job: EncodeSettings) -> BatchLabels:
    tokenizer = open_known_tokenizer(job.tokenizer, job.tokenizer_sha256, owner="the plan")
    return BatchLabels(job.template, tokenizer)


def encode_batch(
    job: EncodeSettings, labels: BatchLabels, conversations: Sequence[tuple[Turn, ...]]
) -> EncodedBatch:
    """Encode cleaned conversations.

    Raises:
        DataError: the tokenizer gave an id outside its vocabulary.
    """
    tokenizer = labels.tokenizer
    dtype = little_endian(dtype_for_vocabulary(tokenizer.vocab_size))
    made = [
        split_conversation(job.template, tokenizer, turns, job.seq_len, whole=whole)
        for turns, whole in zip(conversations, labels.encode(conversations), strict=True)
    ]
    parts = [part for outcome in made for part in outcome.parts]
    ids = np.concatenate([np.empty(0, np.int32), *(part.ids for part in parts)])
    if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
        raise DataError(
            f"{tokenizer.path}: gave the id {ids.max()}, outside its vocabulary of "
            f"{tokenizer.vocab_size:,}. Use another tokenizer"
        )
    supervised = np.concatenate([np.empty(0, np.bool_), *(part.supervised for part in parts)])
    return EncodedBatch(
        ids=ids.astype(dtype),
        mask=supervised.astype(np.uint8),
        lengths=np.array([len(part.ids) for part in parts], np.int64),
        outcomes=tuple(replace(outcome, parts=()) for outcome in made),
        part_counts=np.array([len(outcome.parts) for outcome in made], np.int64),
    )
