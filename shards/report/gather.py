"""Collect what a report shows of a dataset."""

from dataclasses import dataclass

from mobilellama.progress import Progress
from mobilellama.shards.dataset import Identity
from mobilellama.shards.lengths import Lengths, count_lengths
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.bad_records import BadReason, bad_records
from mobilellama.shards.report.duplicates import Duplicates, find_duplicates
from mobilellama.shards.report.excerpts import Excerpt, draw_documents_of, read_excerpt
from mobilellama.shards.report.recipe import RecipeComparison, compare_with_recipe
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

_REPEATED = 10  # texts that are shown of those that occur most often


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a user chooses of a report."""

    mixture: str | None
    budget_tokens: float | None
    sources: str | None
    samples: int
    max_tokens: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """All that a report shows."""

    path: str
    fingerprint: str
    identity: Identity
    tokenizer: str
    """The name of its file, such as "tokenizer.model"."""
    totals: dict[str, dict[str, int]]
    """Sums of the manifest's counts, by subset."""
    recipe: RecipeComparison | None
    lengths: dict[str, Lengths]
    bad: list[BadReason]
    has_sources: bool
    """Whether the corpus was there to show bad records from."""
    duplicates: Duplicates
    repeated: list[Excerpt]
    """The beginnings of ``duplicates.repeated``."""
    samples: list[Excerpt]
    options: ReportOptions

    def total(self, name: str) -> int:
        """Return the sum of a count over all subsets."""
        return sum(total[name] for total in self.totals.values())


def gather(
    dataset: TokenDataset, tokenizer: TextTokenizer, options: ReportOptions
) -> ReportContent:
    """Collect the content.

    What may be wrong in the options is looked at before the long work.

    Raises:
        ConfigError: an option does not fit.
        DataError: a file of the dataset is missing or damaged.
    """
    train_tokens = {name: total["train_tokens"] for name, total in sorted(dataset.totals.items())}
    recipe = compare_with_recipe(train_tokens, options.mixture, options.budget_tokens)
    bad = bad_records(dataset, options.sources)
    documents = sum(total["documents"] for total in dataset.totals.values())
    with Progress("document lengths", total=documents, unit="documents") as progress:
        lengths = count_lengths(dataset, progress.advance)
    tokens = sum(total["tokens"] for total in dataset.totals.values())
    with Progress("equal documents", total=tokens, unit="tokens") as progress:
        duplicates = find_duplicates(
            dataset,
            max_tokens=options.max_tokens,
            seed=options.seed,
            most=_REPEATED,
            advance=progress.advance,
        )
    places = [
        place
        for subset in dataset.subsets
        for place in draw_documents_of(dataset, subset, options.samples, options.seed)
    ]
    return ReportContent(
        path=str(dataset.folder),
        fingerprint=dataset.fingerprint,
        identity=dataset.identity,
        tokenizer=tokenizer.path.name,
        totals=dict(sorted(dataset.totals.items())),
        recipe=recipe,
        lengths=lengths,
        bad=bad,
        has_sources=options.sources is not None,
        duplicates=duplicates,
        repeated=[
            read_excerpt(dataset, tokenizer, one.bucket, one.document)
            for one in duplicates.repeated
        ],
        samples=[read_excerpt(dataset, tokenizer, *place) for place in places],
        options=options,
    )
