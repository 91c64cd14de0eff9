"""Write one page about a dataset: tables, pictures and texts, to look at and to pass on.

The page is a single HTML file. It needs no network and no script, fits a phone, and can be printed.

  mobilellama shards report DATASET --output report.html
  mobilellama shards report DATASET --output report.html --sources CORPUS --budget_tokens 1.3e12

It shows, for each subset:

1. documents, tokens, and the share of each beside its share of a recipe (--mixture). The preset
   'redpajama' is compared if it names all subsets of the dataset.
2. how long documents are, and how many tokens a byte of text becomes.
3. bad records: reasons, counts, and the places of some. With --sources, also what stands there.
4. documents that occur more than once, id for id, and the most frequent ones.
5. the beginnings of some documents, drawn at random.

Lengths are of all documents. Equal documents are looked for in all, if the dataset has no more than
--max_tokens. If it has more, documents of some lengths are drawn at random, with all their copies,
and the shares are estimates. A billion tokens take about a minute.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mobilellama import log as logs
from mobilellama.config import ConfigError, require_at_least
from mobilellama.files.atomic import whole_file
from mobilellama.shards.order import DEFAULT_SEED, require_budget
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.gather import ReportOptions, gather
from mobilellama.shards.report.page import render_page

_MOST_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'shards report'."""

    dataset: str
    """The dataset folder."""
    output: str
    """The .html file to write. An existing file is replaced."""
    mixture: str | None = None
    """The recipe to compare with: a preset, or a YAML file of weights or epochs. None: the preset
    'redpajama', if it names all subsets of the dataset; else no recipe."""
    budget_tokens: float | None = None
    """Tokens of a run with the recipe, such as 1.3e12. None: as many as the dataset has, or what
    the epochs of the mixture come to."""
    sources: str | None = None
    """The corpus that the dataset was made of, a folder or a URL, to show what bad records hold.
    None: their places and reasons alone."""
    samples: int = 2
    """Documents of each subset to show."""
    max_tokens: float = 1e9
    """Tokens to read at most when equal documents are looked for."""
    seed: int = DEFAULT_SEED
    """Another seed draws other documents, and other lengths if not all are compared."""
    tokenizer: str | None = None
    """The dataset's tokenizer, for decoding. None: the copy in the dataset."""

    def __post_init__(self) -> None:
        require_html("output", self.output)
        require_budget("budget_tokens", self.budget_tokens)
        require_at_least("max_tokens", self.max_tokens, 1)
        require_at_least("samples", self.samples, 0)
        if self.samples > _MOST_SAMPLES:
            rule = f"must be at most {_MOST_SAMPLES:,}"
            raise ConfigError("samples", self.samples, rule, "Give fewer: a page must be readable")


def require_html(field: str, path: str) -> None:
    """Raise ConfigError unless `path` names an .html file in a folder that exists."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(field, path, "must end in .html", "Name an .html file")
    if not Path(path).absolute().parent.is_dir():
        rule = "lies in a folder that does not exist"
        raise ConfigError(field, path, rule, "Make the folder first")
    if Path(path).is_dir():
        raise ConfigError(field, path, "is a folder", "Name an .html file")


def main(config: Config) -> int:
    """Write the page."""
    logs.configure()
    dataset = TokenDataset(config.dataset, field="dataset")
    options = ReportOptions(
        mixture=config.mixture,
        budget_tokens=config.budget_tokens,
        sources=config.sources,
        samples=config.samples,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )
    content = gather(dataset, dataset.open_tokenizer(config.tokenizer), options)
    page = render_page(content, date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    with whole_file(Path(config.output)) as file:
        file.write(page.encode())
    print(f"wrote {config.output}")
    return 0
