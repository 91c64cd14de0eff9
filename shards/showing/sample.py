"""A sample of the training order: its documents, and where it comes from."""

from dataclasses import dataclass

from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing.parts import DocumentPart, document_part
from mobilellama.shards.windows import Span, View
from mobilellama.tokenizers.text_tokenizer import TextTokenizer


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
    dataset: TokenDataset,
    view: View,
    sample: int,
    *,
    tokenizer: TextTokenizer | None = None,
    by_token: bool = False,
) -> SampleDescription:
    """Find a sample's documents, their text and their source.

    Args:
        dataset: the dataset that the view is of.
        view: of the sample's subset.
        sample: its number in the view.
        tokenizer: to decode with; None: the dataset's own.
        by_token: also return the text token by token.

    Raises:
        ConfigError: the dataset's tokenizer is missing or another.
        DataError: the bucket's files are missing or truncated.
    """
    tokenizer = tokenizer or dataset.tokenizer
    span = view.span(sample)
    row, index = dataset.row(span.bucket), dataset.bucket_index(span.bucket)
    parts = []
    at, end = span.start, span.start + span.length
    while at < end:
        document = index.sequence_at(at)
        start, tokens = index.span(document)
        last = min(end, start + tokens)
        parts.append(
            document_part(
                dataset, tokenizer, span.bucket, document,
                first=at - start, last=last - start, by_token=by_token,
            )
        )  # fmt: skip
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
