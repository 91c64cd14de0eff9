"""How much text and how many tokens the sources of a subset give.

With a tokenizer and the corpus at hand, a small sample of each subset is encoded. Without, the
published totals of RedPajama v1 are used, or for another corpus a stated guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mobilellama.config import UserError
from mobilellama.shards.dataset import Slice
from mobilellama.tokenize.encoding.hf_encoder import AnyEncoder
from mobilellama.tokenize.planning.amounts import Amount
from mobilellama.tokenize.planning.published import PUBLISHED
from mobilellama.tokenize.sources.config import JSONL, SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents

TEXT_PER_PACKED_BYTE = 2.8
"""Bytes of text in a byte of RedPajama's .zst files: its 878 billion tokens of common_crawl, of
about 4.3 bytes each, are 1,338 GB of files. The files are not at hand here, so this is a guess."""
_BYTES_PER_TOKEN = 4.0  # of English text, about; published tokens of c4: 806 GB / 175 billion = 4.6
_TOKENS_PER_DOCUMENT = 1_000
_SAMPLED_SLICES = 4  # of a subset
_SAMPLE_BYTES = 4 << 20  # of a slice: some documents are longer than a megabyte


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a unit of a subset's sources gives."""

    text: float
    """Bytes of UTF-8 text in a unit (a byte of a file, or a row)."""
    tokens: float
    """Tokens in a unit, EOS included."""
    documents: float
    basis: str
    """"sample", "published" or "guess"."""
    remark: str = ""
    """What the sample could not tell."""


def stated_rates(subset: str, amount: Amount, *, packed: bool) -> Rates:
    """Return the rates of a subset that is not sampled.

    Args:
        subset: its name.
        amount: what it holds.
        packed: whether its files are compressed.
    """
    text = TEXT_PER_PACKED_BYTE if packed else 1.0
    known = PUBLISHED.get(subset)
    if known is None or amount.unit != "bytes":
        tokens = text / _BYTES_PER_TOKEN
        if amount.unit != "bytes":  # rows and files have no known size
            text, tokens = _BYTES_PER_TOKEN * _TOKENS_PER_DOCUMENT, float(_TOKENS_PER_DOCUMENT)
        documents = tokens / _TOKENS_PER_DOCUMENT
        return Rates(text=text, tokens=tokens, documents=documents, basis="guess")
    tokens = known.tokens / known.file_bytes
    documents = tokens / _TOKENS_PER_DOCUMENT
    return Rates(text=text, tokens=tokens, documents=documents, basis="published")


def sampled_rates(
    slices: Sequence[Slice], sources: SourcesConfig, encoder: AnyEncoder
) -> Rates | None:
    """Return the rates of a subset, from a sample of a few slices; None if it gives no text.

    Args:
        slices: of the subset.
        sources: the corpus.
        encoder: of the tokenizer.

    Returns:
        The rates. A source that cannot be read is named in their remark, and left out.
    """
    read = text = tokens = documents = 0
    failed = []
    for slice_ in _spread(slices):
        counts = Counts()
        try:
            for texts in read_documents(_part_of(slice_, sources), sources, counts):
                ids, _ = encoder.encode_batch(texts)
                tokens, documents = tokens + len(ids), documents + len(texts)
                if counts.bytes_in >= _SAMPLE_BYTES and counts.source_read:
                    break
        except (UserError, OSError) as error:
            failed.append(str(error))
            continue
        read, text = read + counts.source_read, text + counts.bytes_in
    if not read or not documents:
        return None
    return Rates(
        text=text / read,
        tokens=tokens / read,
        documents=documents / read,
        basis="sample",
        remark=failed[0] if failed else "",
    )


def _spread(slices: Sequence[Slice]) -> list[Slice]:
    """Return a few of the slices, from all over them; empty ones tell nothing."""
    full = [slice_ for slice_ in slices if slice_.end > slice_.start]
    count = min(len(full), _SAMPLED_SLICES)
    return [full[(2 * i + 1) * len(full) // (2 * count)] for i in range(count)]


def _part_of(slice_: Slice, sources: SourcesConfig) -> Slice:
    """Return what of a slice is read: of plain lines and of rows the middle, else all."""
    if slice_.unit != "bytes":
        step = 1_000
    elif sources.unlabelled(slice_.source).endswith(JSONL):
        step = _SAMPLE_BYTES
    else:
        return slice_
    start = max(slice_.start, (slice_.start + slice_.end - step) // 2)
    return replace(slice_, start=start, end=min(start + step, slice_.end))


def rates_of(
    amounts: Mapping[str, Amount],
    slices: Sequence[Slice],
    sources: SourcesConfig,
    encoder: AnyEncoder | None,
    packed: Mapping[str, bool],
) -> dict[str, Rates]:
    """Return the rates of all subsets: sampled where that can be, else stated."""
    found: dict[str, Rates] = {}
    for subset, amount in amounts.items():
        mine = [slice_ for slice_ in slices if slice_.subset == subset]
        sampled = sampled_rates(mine, sources, encoder) if encoder and mine else None
        found[subset] = sampled or stated_rates(subset, amount, packed=packed[subset])
    return found
