"""Find the documents that hold a text.

Each document is decoded and searched: the ids of a phrase depend on what stands around it, so they
cannot be searched for. Buckets are cut into stretches of documents, which the workers share. The
matches come in the order of the buckets, for any number of workers, and the search ends when there
are enough. One core searches about 11 M tokens a second.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice

from mobilellama.pool import Workers
from mobilellama.progress import Progress
from mobilellama.shards.buckets import Buckets
from mobilellama.shards.dataset import bucket_name
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

_STRETCH_TOKENS = 2_000_000
_CONTEXT = 200  # characters that are kept on each side of a match
_TOKENS_WORTH_A_WORKER = 20_000_000  # starting a process takes as long as searching some of them


@dataclass(frozen=True, kw_only=True)
class TextMatch:
    """The first place of a text in a document."""

    bucket: str
    document: int
    before: str
    """What stands before it: at most `_CONTEXT` characters."""
    after: str
    count: int
    """Number of places in the document."""
    heldout: bool
    """Whether the document is for validation."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found."""

    matches: list[TextMatch]
    tokens: int
    """That were searched."""
    is_all: bool
    """Whether everything was searched. False: the limit ended the search."""


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """Neighbouring documents of a bucket."""

    bucket: str
    first: int
    last: int
    tokens: int


def search_text(
    dataset: TokenDataset,
    text: str,
    *,
    subset: str | None = None,
    limit: int,
    workers: int,
    tokenizer: str | None = None,
) -> Searched:
    """Return the first documents that hold a text.

    Args:
        dataset: to search.
        text: as it stands in the documents.
        subset: to search. None: all.
        limit: number of documents after which the search ends.
        workers: processes, at most.
        tokenizer: to decode with, as the user gave it; None: the dataset's own.

    Raises:
        DataError: the files of a bucket are missing or truncated.
    """
    rows = [row for row in dataset.manifest if subset in (None, row["subset"])]
    names = [bucket_name(row["subset"], row["bucket"]) for row in rows]
    total = sum(row["tokens"] for row in rows)
    count = min(workers, 1 + total // _TOKENS_WORTH_A_WORKER)
    stretches = (stretch for name in names for stretch in _stretches(dataset, name))
    work = partial(_search_in, str(dataset.folder), tokenizer, text, limit)
    matches: list[TextMatch] = []
    searched = 0
    with Progress("search", total=total, unit="tokens") as progress:
        with Workers(count, doing="searching") as pool:
            for stretch, found in pool.map(work, stretches, near=lambda one: one.bucket):
                searched += stretch.tokens
                progress.advance(stretch.tokens)
                matches += found
                if len(matches) >= limit:
                    break
    return Searched(matches=matches[:limit], tokens=searched, is_all=searched == total)


def _stretches(buckets: Buckets, name: str) -> Iterator[_Stretch]:
    index = buckets.bucket_index(name)
    first, count = 0, len(index.lengths)
    while first < count:
        start, _ = index.span(first)
        last = max(first + 1, index.sequence_at(start + _STRETCH_TOKENS))
        last = min(last, count) if start + _STRETCH_TOKENS < _end(buckets, name) else count
        end = index.span(last)[0] if last < count else _end(buckets, name)
        yield _Stretch(bucket=name, first=first, last=last, tokens=end - start)
        first = last


def _end(buckets: Buckets, name: str) -> int:
    return buckets.row(name)["tokens"]


def _search_in(
    folder: str, tokenizer: str | None, text: str, limit: int, stretch: _Stretch
) -> list[TextMatch]:
    """Return the first matches of a stretch."""
    return list(islice(_matches(*_opened(folder, tokenizer), text, stretch), limit))


@lru_cache(maxsize=1)
def _opened(folder: str, tokenizer: str | None) -> tuple[TokenDataset, TextTokenizer]:
    dataset = TokenDataset(folder, field="dataset")
    return dataset, dataset.open_tokenizer(tokenizer)


def _matches(
    buckets: Buckets, tokenizer: TextTokenizer, text: str, stretch: _Stretch
) -> Iterator[TextMatch]:
    index = buckets.bucket_index(stretch.bucket)
    ids = buckets.bucket_tokens(stretch.bucket, _end(buckets, stretch.bucket))
    for document in range(stretch.first, stretch.last):
        start, tokens = index.span(document)
        found = tokenizer.decode(ids[start : start + tokens].tolist())
        at = found.find(text)
        if at >= 0:
            end = at + len(text)
            yield TextMatch(
                bucket=stretch.bucket,
                document=document,
                before=found[max(at - _CONTEXT, 0) : at],
                after=found[end : end + _CONTEXT],
                count=found.count(text),
                heldout=start >= buckets.row(stretch.bucket)["train_tokens"],
            )
