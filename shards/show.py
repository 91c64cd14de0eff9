"""Print the sample at a position of the training order as text, and its source files.

1. The mixture and the seed decide the subset, the epoch and the sample of a position (order.py).
2. The sample is a range of tokens of a bucket. The index of the bucket says which documents are in
   the range. The manifest says from which source file or range the bucket was made.
3. A bucket has its documents in shuffled order. Place p has the document number
   ``permute(p; dataset seed, subset, bucket)`` of the source. Empty texts and bad records have no
   number.

In a dataset of packed rows, the sample is a row. Its conversations are printed one by one, with
the supervised text in \u27e6 \u27e7.

With ``--split heldout``, the position is the number of a validation sample, subset after subset.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilellama import log as logs
from mobilellama.config import ConfigError, require_at_least
from mobilellama.shards.order import DEFAULT_SEED, open_order, require_seq_len, resolve_seq_len
from mobilellama.shards.permute import Permutation
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.rows import Rows
from mobilellama.shards.windows import Span, Split, View
from mobilellama.terminal import without_controls
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

_LARGEST_POSITION = 1 << 53  # beyond any run; keeps the arithmetic inside 64 bits
_RULE_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'shards show'."""

    dataset: str
    """The dataset folder."""
    position: int
    """Number of samples before it in the run, at least 0."""
    seq_len: int | None = None
    """Tokens that a sample predicts: the run's train.seq_len. None: the length of the dataset's
    packed rows, else 2048."""
    mixture: str | None = None
    """The run's data.mixture: a preset, or a YAML file of weights or epochs. None: in proportion
    to the samples."""
    seed: int = DEFAULT_SEED
    """The run's data.seed."""
    split: Split = "train"
    """Training samples or held-out samples."""
    tokenizer: str | None = None
    """The dataset's tokenizer, for decoding. None: the copy in the dataset."""

    def __post_init__(self) -> None:
        require_at_least("position", self.position, 0)
        require_seq_len("seq_len", self.seq_len)
        if self.position > _LARGEST_POSITION:
            rule = f"must be at most {_LARGEST_POSITION:,}"
            raise ConfigError(
                "position", self.position, rule, "Give the number of a sample in the run"
            )
        if self.split == "heldout" and self.mixture is not None:
            rule = "does not apply to the held-out samples, which are taken in order"
            raise ConfigError("mixture", self.mixture, rule, "Leave it out")


def main(config: Config) -> int:
    """Print the sample."""
    logs.configure()
    dataset = TokenDataset(config.dataset, field="dataset")
    tokenizer = dataset.open_tokenizer(config.tokenizer)
    if config.split == "train":
        view, sample, epoch = _train_sample(dataset, config)
        where = f"position {config.position:,} (seed {config.seed}), epoch {epoch:,}"
    else:
        view, sample = _heldout_sample(dataset, config)
        where = f"held-out position {config.position:,}"
    print(f"{where}\n{render(describe_sample(dataset, view, sample, tokenizer=tokenizer))}")
    return 0


def _train_sample(dataset: TokenDataset, config: Config) -> tuple[View, int, int]:
    mixture, views = open_order(
        dataset,
        seq_len=resolve_seq_len(dataset, config.seq_len),
        mixture=config.mixture,
        seed=config.seed,
        mixture_field="mixture",
        seq_len_field="seq_len",
    )
    located = mixture.locate(config.position)
    subset = mixture.subsets[int(located.subset)]
    return views[subset], int(located.sample), int(located.epoch)


def _heldout_sample(dataset: TokenDataset, config: Config) -> tuple[View, int]:
    left, seq_len = config.position, resolve_seq_len(dataset, config.seq_len)
    for subset in dataset.subsets:
        view = dataset.view(subset, seq_len, "heldout")
        if left < len(view):
            return view, left
        left -= len(view)
    count = config.position - left
    rule = f"the dataset has {count:,} held-out samples of seq_len {seq_len}"
    remedy = f"Give 0 to {count - 1}" if count else "Lower seq_len"
    raise ConfigError("position", config.position, rule, remedy)


@dataclass(frozen=True, kw_only=True)
class DocumentPart:
    """A document, or what of it stands in the sample."""

    document: int
    """Its number in the bucket."""
    number_in_source: int | None
    """Its number among the documents that were kept of the bucket's source, from 0; None in a
    dataset of rows, which is not in the source's order."""
    tokens: int
    """Of the whole document, its EOS included."""
    first: int
    """First and last + 1 of its tokens that stand in the sample."""
    last: int
    text: str
    """Of these tokens; what is supervised in a row stands in \u27e6 \u27e7."""


@dataclass(frozen=True, kw_only=True)
class SampleDescription:
    """A sample and where it comes from."""

    subset: str
    sample: int
    num_samples: int
    """Of the subset in an epoch."""
    span: Span
    source: str
    """Path relative to the corpus root, or the name of a dataset and its split."""
    source_range: tuple[int, int]
    unit: str
    """Of the range: "bytes" (of a compressed file: of the file as it is) or "rows"."""
    parts: tuple[DocumentPart, ...]


def describe_sample(
    dataset: TokenDataset, view: View, sample: int, *, tokenizer: TextTokenizer | None = None
) -> SampleDescription:
    """Find a sample's documents, their text and their source.

    Args:
        dataset: the dataset that the view is of.
        view: of the sample's subset.
        sample: its number in the view.
        tokenizer: to decode with; None: the dataset's own.

    Raises:
        ConfigError: the dataset's tokenizer is missing or another.
        DataError: the bucket's files are missing or truncated.
    """
    tokenizer = tokenizer or dataset.tokenizer
    span = view.span(sample)
    ids = view.tokens(sample)
    mask = view.mask(sample) if isinstance(view, Rows) else None
    row = dataset.row(span.bucket)
    index = dataset.bucket_index(span.bucket)
    permute = Permutation(len(index.lengths), dataset.identity.seed, view.subset, row["bucket"])
    parts = []
    at, end = span.start, span.start + span.length
    while at < end:
        document = index.sequence_at(at)
        start, tokens = index.span(document)
        last = min(end, start + tokens)
        inside = slice(at - span.start, last - span.start)
        parts.append(
            DocumentPart(
                document=document,
                number_in_source=int(permute(document)) if mask is None else None,
                tokens=tokens,
                first=at - start,
                last=last - start,
                text=_text(tokenizer, ids[inside], None if mask is None else mask[inside]),
            )
        )
        at = last
    return SampleDescription(
        subset=view.subset,
        sample=sample,
        num_samples=len(view),
        span=span,
        source=row["source"],
        source_range=(row["start"], row["end"]),
        unit=row["unit"],
        parts=tuple(parts),
    )


def _text(
    tokenizer: TextTokenizer, ids: NDArray[np.integer], mask: NDArray[np.uint8] | None
) -> str:
    """Decode; where there is a mask, mark what is supervised."""
    if mask is None:
        return tokenizer.decode([i for i in ids.tolist() if i != tokenizer.eos_id])
    cuts = np.flatnonzero(np.diff(mask)) + 1
    runs = zip(np.split(ids, cuts), np.split(mask, cuts), strict=True)
    shown = [(tokenizer.decode(run.tolist()), kind.any()) for run, kind in runs]
    return "".join(f"\u27e6{text}\u27e7" if supervised else text for text, supervised in shown)


def render(description: SampleDescription) -> str:
    """Return the sample as text to print; each document begins under a ruled line."""
    span, (start, end) = description.span, description.source_range
    lines = [
        f"subset   {description.subset}, "
        f"sample {description.sample:,} of {description.num_samples:,}",
        f"bucket   {span.bucket}, tokens {_range(span.start, span.start + span.length)} "
        f"of {span.bucket_tokens:,}",
        f"source   {description.source}, {description.unit} {_range(start, end)}",
    ]
    for part in description.parts:
        lines += ["", _rule(part), without_controls(part.text)]
    return "\n".join(lines)


def _range(start: int, end: int) -> str:
    return f"{start:,} to {end - 1:,}"


def _rule(part: DocumentPart) -> str:
    extent = f"{part.tokens:,} tokens"
    if part.first or part.last < part.tokens:
        extent = f"tokens {_range(part.first, part.last)} of {part.tokens:,}"
    title = f"conversation {part.document:,}, {extent}"
    if part.number_in_source is not None:
        number = f"number {part.number_in_source:,} of the source"
        title = f"document {part.document:,}, {number}, {extent}"
    return f"──── {title} ".ljust(_RULE_WIDTH, "─")
