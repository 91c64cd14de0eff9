"""The beginnings of documents as text, and documents drawn at random."""

from dataclasses import dataclass

import numpy as np

from mobilellama.shards.buckets import Buckets
from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.permute import Permutation
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

_TOKENS = 256  # to decode of a document
_CHARACTERS = 600  # to show of these


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """The beginning of a document, or of a conversation."""

    bucket: str
    """``SUBSET/NNNNN``."""
    document: int
    """Its number in the bucket."""
    tokens: int
    """Of the whole document, EOS included."""
    text: str
    """Its beginning."""
    is_cut: bool
    """Whether the document goes on after `text`."""


def read_excerpt(dataset: Buckets, tokenizer: TextTokenizer, bucket: str, document: int) -> Excerpt:
    """Decode the beginning of a document.

    Args:
        dataset: the document's.
        tokenizer: the dataset's.
        bucket: ``SUBSET/NNNNN``.
        document: its number in the bucket.

    Raises:
        DataError: a file of the bucket is missing or truncated.
    """
    start, tokens = dataset.bucket_index(bucket).span(document)
    stored = dataset.bucket_tokens(bucket, dataset.row(bucket)["tokens"])
    ids = stored[start : start + min(tokens, _TOKENS)].tolist()
    text = tokenizer.decode([i for i in ids if i != dataset.identity.eos_id])
    return Excerpt(
        bucket=bucket,
        document=document,
        tokens=tokens,
        text=text[:_CHARACTERS],
        is_cut=tokens > _TOKENS or len(text) > _CHARACTERS,
    )


def draw_documents_of(
    dataset: Buckets, subset: str, count: int, seed: int
) -> list[tuple[str, int]]:
    """Return (bucket, number in it) of documents drawn at random from a subset.

    Args:
        dataset: the subset's.
        subset: its name.
        count: how many; all are drawn if there are not more.
        seed: another seed draws others.
    """
    rows = [row for row in dataset.manifest if row["subset"] == subset and row["documents"]]
    if not rows or not count:
        return []
    ends = np.cumsum([row["documents"] for row in rows])
    permute = Permutation(int(ends[-1]), seed, subset, "report")
    drawn = []
    for number in np.sort(permute(np.arange(min(count, permute.n)))).tolist():
        i = int(np.searchsorted(ends, number, side="right"))
        first = int(ends[i]) - rows[i]["documents"]
        drawn.append((bucket_name(subset, rows[i]["bucket"]), number - first))
    return drawn
