"""A document of a bucket, or a part of it, as text.

The text of a document is decoded in runs. A run is a stretch of equal supervision, or a token, so
that the output can colour them. A character may be made of several tokens (the bytes of a rare
one): then these tokens are one run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilellama.shards.buckets import Buckets
from mobilellama.shards.permute import Permutation
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

_LONGEST_CHARACTER_TOKENS = 8  # no character has more bytes of UTF-8 than 4
_MOST_COLOURED_TOKENS = 100_000  # decoding them one by one takes some seconds


@dataclass(frozen=True, kw_only=True)
class TextRun:
    """Text that is shown in one colour."""

    text: str
    supervised: bool = False


@dataclass(frozen=True, kw_only=True)
class DocumentPart:
    """A document, or a part of it."""

    document: int
    """Its number in the bucket."""
    number_in_source: int | None
    """Its number among the documents that were kept of the bucket's source, from 0; None in a
    dataset of rows, which is not in the source's order."""
    tokens: int
    """Of the whole document, its EOS included."""
    first: int
    """The first token that is shown."""
    last: int
    """The last one + 1."""
    heldout: bool = False
    """Whether it is for validation."""
    text: str
    """Of these tokens; what is supervised in a row stands in \u27e6 \u27e7."""
    runs: tuple[TextRun, ...] = ()
    """The same text token by token. Empty: it was not asked for, or is too long for it."""


def document_part(
    buckets: Buckets,
    tokenizer: TextTokenizer,
    bucket: str,
    document: int,
    *,
    first: int = 0,
    last: int | None = None,
    by_token: bool = False,
) -> DocumentPart:
    """Decode a document of a bucket.

    Args:
        buckets: the dataset's.
        tokenizer: the one that the dataset was made with.
        bucket: ``SUBSET/NNNNN``.
        document: its number in the bucket.
        first: its first token to show.
        last: its last token to show, + 1. None: all.
        by_token: also return the text token by token.

    Raises:
        DataError: the bucket's files are missing or truncated.
    """
    row, index = buckets.row(bucket), buckets.bucket_index(bucket)
    start, tokens = index.span(document)
    last = tokens if last is None else last
    inside = slice(start + first, start + last)
    ids = buckets.bucket_tokens(bucket, row["tokens"])[inside]
    mask, number = None, None
    if buckets.identity.packing is not None:
        mask = buckets.bucket_mask(bucket, row["tokens"])[inside]
    else:
        key = (buckets.identity.seed, row["subset"], row["bucket"])
        number = int(Permutation(len(index.lengths), *key)(document))
    coloured = by_token and last - first <= _MOST_COLOURED_TOKENS
    return DocumentPart(
        document=document,
        number_in_source=number,
        tokens=tokens,
        first=first,
        last=last,
        heldout=start >= row["train_tokens"],
        text=_text(tokenizer, ids, mask),
        runs=tuple(_runs(tokenizer, ids, mask)) if coloured else (),
    )


def _text(
    tokenizer: TextTokenizer, ids: NDArray[np.integer], mask: NDArray[np.uint8] | None
) -> str:
    """Decode; where there is a mask, mark what is supervised."""
    if mask is None:
        return tokenizer.decode([i for i in ids.tolist() if i != tokenizer.eos_id])
    shown = [(tokenizer.decode(run.tolist()), supervised) for run, supervised in _cut(ids, mask)]
    return "".join(f"\u27e6{text}\u27e7" if supervised else text for text, supervised in shown)


def _cut(
    ids: NDArray[np.integer], mask: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.integer], bool]]:
    """Yield stretches of equal supervision."""
    cuts = np.flatnonzero(np.diff(mask)) + 1
    for run, kind in zip(np.split(ids, cuts), np.split(mask, cuts), strict=True):
        yield run, bool(kind.any())


def _runs(
    tokenizer: TextTokenizer, ids: NDArray[np.integer], mask: NDArray[np.uint8] | None
) -> Iterator[TextRun]:
    if mask is None:
        kept = ids[ids != tokenizer.eos_id]
        yield from (TextRun(text=text) for text in token_texts(tokenizer, kept.tolist()))
        return
    for run, supervised in _cut(ids, mask):
        for text in token_texts(tokenizer, run.tolist()):
            yield TextRun(text=text, supervised=supervised)


def token_texts(tokenizer: TextTokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text of each token. Together they are the text of all.

    The text of a token depends on the one before it: decoding drops a space at the beginning. So
    each is decoded behind the last one.
    """
    texts: list[str] = []
    before: list[int] = []
    at = 0
    while at < len(ids):
        known = len(tokenizer.decode(before)) if before else 0
        for end in range(at + 1, min(len(ids), at + _LONGEST_CHARACTER_TOKENS) + 1):
            group = list(ids[at:end])
            text = tokenizer.decode([*before, *group])[known:]
            if "\N{REPLACEMENT CHARACTER}" not in text:
                break
        else:  # the text itself has this character, or the part ends within a character
            group = [ids[at]]
            text = tokenizer.decode([*before, *group])[known:]
        texts.append(text)
        before, at = group, at + len(group)
    whole = tokenizer.decode(list(ids))
    return texts if "".join(texts) == whole else [whole]
