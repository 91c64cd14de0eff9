"""How much text and how many tokens the sources of a subset give.

With a tokenizer and the corpus at hand, a small sample of each subset is encoded. Without, the
published totals of RedPajama v1 are used, or for another corpus a stated guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mobilellama.config import UserError
from mobilellama.shards.dataset import Slice
from mobilellama.shards.source_file import SourceRange
from mobilellama.tokenize.encoding.hf_encoder import AnyEncoder
from mobilellama.tokenize.planning.amounts import Amount
from mobilellama.tokenize.planning.published import PUBLISHED
from mobilellama.tokenize.sources.config import JSONL, SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents
from mobilellama.tokenize.sources.lines import open_planned, read_blocks

TEXT_PER_PACKED_BYTE = 2.8
"""Bytes of text in a byte of RedPajama's .zst files: its 878 billion tokens of common_crawl, of
about 4.3 bytes each, are 1,338 GB of files. The files are not at hand here, so this is a guess."""
_BYTES_PER_TOKEN = 4.0  # of English text, about; published tokens of c4: 806 GB / 175 billion = 4.6
_TOKENS_PER_DOCUMENT = 1_000
_SAMPLED_SLICES = 4  # of a subset
_MOST_SLICES = 16  # of a subset whose documents are few
FEW_DOCUMENTS = 100
"""A sample of fewer is small: more slices are read, and what is forecast may be far off."""
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
    sampled_slices: int = 0
    sampled_documents: int = 0


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
    found = _SampleSoFar()
    parts: set[tuple[str, int]] = set()
    for number, slice_ in enumerate(_spread(slices)):
        if number >= _SAMPLED_SLICES and found.documents >= FEW_DOCUMENTS:
            break
        try:
            part = _part_of(slice_, sources)
            if (place := (part.source, part.start)) not in parts:  # lines may be longer than slices
                parts.add(place)
                found.add(part, sources, encoder)
        except (UserError, OSError) as error:
            found.failed.append(str(error))
    if not found.read or not found.documents:
        return None
    return Rates(
        text=found.text / found.read,
        tokens=found.tokens / found.read,
        documents=found.documents / found.read,
        basis="sample",
        remark=found.failed[0] if found.failed else "",
        sampled_slices=found.slices,
        sampled_documents=found.documents,
    )


@dataclass
class _SampleSoFar:
    """What was read of a subset so far."""

    read: int = 0
    """Units of the sources."""
    text: int = 0
    tokens: int = 0
    documents: int = 0
    slices: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, part: Slice, sources: SourcesConfig, encoder: AnyEncoder) -> None:
        """Read and encode a part of a slice.

        Raises:
            UserError: it cannot be read. Nothing of it is added.
        """
        counts, tokens, documents = Counts(), 0, 0
        is_plain = _is_plain(part, sources)
        for texts in read_documents(part, sources, counts):
            ids, _ = encoder.encode_batch(texts)
            tokens, documents = tokens + len(ids), documents + len(texts)
            if not is_plain and counts.bytes_in >= _SAMPLE_BYTES and counts.source_read:
                break
        read = counts.source_read
        if is_plain and (lines := SourceRange.from_json(counts.source_file)):
            read = lines.end - part.start  # the last line may end behind the part
        self.read, self.text = self.read + read, self.text + counts.bytes_in
        self.tokens, self.documents = self.tokens + tokens, self.documents + documents
        self.slices += 1


def _spread(slices: Sequence[Slice]) -> list[Slice]:
    """Return slices from all over, a few first, then more between; empty ones tell nothing."""
    full = [slice_ for slice_ in slices if slice_.end > slice_.start]
    chosen = _evenly(full, _MOST_SLICES)
    return list(dict.fromkeys([*_evenly(chosen, _SAMPLED_SLICES), *chosen]))


def _evenly(slices: Sequence[Slice], most: int) -> list[Slice]:
    count = min(len(slices), most)
    return [slices[(2 * i + 1) * len(slices) // (2 * count)] for i in range(count)]


def _is_plain(slice_: Slice, sources: SourcesConfig) -> bool:
    return slice_.unit == "bytes" and sources.unlabelled(slice_.source).endswith(JSONL)


def _part_of(slice_: Slice, sources: SourcesConfig) -> Slice:
    """Return what of a slice is read: of plain lines and of rows the middle, else all.

    Plain lines are read from the beginning of one. So all that is read belongs to the documents
    that are counted, however few they are.

    Raises:
        UserError: the file cannot be read.
    """
    is_plain = _is_plain(slice_, sources)
    if slice_.unit == "bytes" and not is_plain:
        return slice_
    step = _SAMPLE_BYTES if is_plain else 1_000
    start = max(slice_.start, (slice_.start + slice_.end - step) // 2)
    if not is_plain:
        return replace(slice_, start=start, end=min(start + step, slice_.end))
    start = _line_start(slice_, sources, start)
    return replace(slice_, start=start, end=min(start + step, max(slice_.end, start + 1)))


def _line_start(slice_: Slice, sources: SourcesConfig, start: int) -> int:
    """Return where the first line begins at `start` or later; 0 if none does."""
    if start == 0:
        return 0
    path, at = sources.path_of(slice_), start - 1
    with open_planned(path, slice_.size) as file:
        file.seek(at)
        for block in read_blocks(file, path):
            if (end := block.find(b"\n")) >= 0 and at + end + 1 < slice_.size:
                return at + end + 1
            at += len(block)
    return 0


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
