"""Print a sample of the training order, a document, or the documents that hold a text.

  mobilellama shards show DATASET --position 1000000 --mixture redpajama
  mobilellama shards show DATASET --position 0 --split heldout
  mobilellama shards show DATASET --bucket c4/00003 --document 17
  mobilellama shards show DATASET --file c4/c4-train.00003-of-01024.jsonl --line 18
  mobilellama shards show DATASET --text "a phrase" --subset github --limit 3

With --position:

1. The mixture and the seed decide the subset, the epoch and the sample of a position (order.py).
2. The sample is a range of tokens of a bucket. The index of the bucket says which documents are in
   the range. The manifest says from which source file or range the bucket was made.
3. A bucket has its documents in shuffled order. Place p has the document number
   ``permute(p; dataset seed, subset, bucket)`` of the source. Empty texts and bad records have no
   number.

With --split heldout, the position is the number of a validation sample, subset after subset. In a
dataset of packed rows, the sample is a row. Its conversations are printed one by one, with the
supervised text in \u27e6 \u27e7.

With --text, documents are decoded and searched, bucket after bucket. The search is for the exact
characters, and ends after --limit documents. 1.2T tokens take 30 hours of a core, so give --subset.

In a terminal every second token is coloured, and supervised text is green. Set NO_COLOR=1 for plain
text. A pipe and a file always get plain text.
"""

from dataclasses import dataclass

from mobilellama import log as logs
from mobilellama.config import ConfigError, did_you_mean, require_at_least
from mobilellama.cpus import cpu_budget
from mobilellama.progress import format_count
from mobilellama.shards.order import DEFAULT_SEED, open_order, require_seq_len, resolve_seq_len
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing.document import DocumentPlace, place_in_bucket, place_of_line
from mobilellama.shards.showing.parts import document_part
from mobilellama.shards.showing.render import Page, render, render_document, render_matches
from mobilellama.shards.showing.sample import describe_sample
from mobilellama.shards.showing.search import search_text
from mobilellama.shards.windows import Split, View
from mobilellama.terminal import result_columns, shows_colours

_LARGEST_POSITION = 1 << 53  # beyond any run; keeps the arithmetic inside 64 bits
_WHAT = ("position", "document", "line", "text")
# Fields that mean something only beside another one.
_BESIDE = {
    "bucket": "document", "document": "bucket", "file": "line", "line": "file",
    "sources": "line", "subset": "text", "mixture": "position", "seq_len": "position",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'shards show'."""

    dataset: str
    """The dataset folder."""
    position: int | None = None
    """Show a sample: the number of samples before it in the run, at least 0."""
    document: int | None = None
    """Show a document of --bucket: its number there, from 0."""
    bucket: str | None = None
    """The bucket of --document: SUBSET/NNNNN."""
    line: int | None = None
    """Show the document that a line of --file gave: the number of the line, or of the record of a
    table, from 1."""
    file: str | None = None
    """The source file of --line, as the other outputs of this command name it."""
    text: str | None = None
    """Show the documents that hold this text, with what stands around it."""
    limit: int = 10
    """End the search for --text after so many documents."""
    subset: str | None = None
    """Search only this subset for --text."""
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
    sources: str | None = None
    """The corpus, for --line: it is needed if some lines of the file gave no document."""
    workers: int | None = None
    """Processes that search for --text. None: one for each CPU that this process may use."""
    tokenizer: str | None = None
    """The dataset's tokenizer, for decoding. None: the copy in the dataset."""

    def __post_init__(self) -> None:
        self._require_one_thing()
        for name, least in (("position", 0), ("document", 0), ("line", 1), ("workers", 1)):
            if (value := getattr(self, name)) is not None:
                require_at_least(name, value, least)
        require_at_least("limit", self.limit, 1)
        require_seq_len("seq_len", self.seq_len)
        if self.position is not None and self.position > _LARGEST_POSITION:
            rule = f"must be at most {_LARGEST_POSITION:,}"
            raise ConfigError(
                "position", self.position, rule, "Give the number of a sample in the run"
            )
        if self.split == "heldout" and self.mixture is not None:
            rule = "does not apply to the held-out samples, which are taken in order"
            raise ConfigError("mixture", self.mixture, rule, "Leave it out")

    def _require_one_thing(self) -> None:
        given = [name for name in _WHAT if getattr(self, name) is not None]
        for name, other in _BESIDE.items():
            if getattr(self, name) is not None and getattr(self, other) is None:
                rule = f"is used only with --{other}"
                raise ConfigError(name, getattr(self, name), rule, f"Give --{other}, too")
        if self.split == "heldout" and self.position is None:
            rule = "is used only with --position"
            raise ConfigError("split", self.split, rule, "Give --position, too")
        if not given:
            rule = "it, --document, --line or --text says what to show"
            raise ConfigError("position", None, rule, "Give one of them, such as --position 0")
        if len(given) > 1:
            rule = f"is given beside --{given[0]}, but one thing is shown at a time"
            raise ConfigError(given[1], getattr(self, given[1]), rule, "Leave one out")


def main(config: Config) -> int:
    """Print what was asked for."""
    logs.configure()
    dataset = TokenDataset(config.dataset, field="dataset")
    columns = result_columns()
    page = Page(is_coloured=shows_colours(), **({"width": columns} if columns else {}))
    if config.text is not None:
        print(_search(dataset, config, config.text, page))
    elif config.document is not None:
        place = place_in_bucket(dataset, config.bucket or "", config.document)
        print(_document(dataset, config, place, page))
    elif config.line is not None:
        place = place_of_line(dataset, config.file or "", config.line, config.sources)
        print(_document(dataset, config, place, page))
    else:
        print(_sample(dataset, config, config.position or 0, page))
    return 0


def _search(dataset: TokenDataset, config: Config, text: str, page: Page) -> str:
    if config.subset not in (None, *dataset.subsets):
        rule = f"must be one of {', '.join(dataset.subsets)}"
        remedy = f"Give one of them{did_you_mean(config.subset, dataset.subsets)}"
        raise ConfigError("subset", config.subset, rule, remedy)
    searched = search_text(
        dataset, text, subset=config.subset, limit=config.limit,
        workers=cpu_budget(config.workers).count, tokenizer=config.tokenizer,
    )  # fmt: skip
    found = format_count(len(searched.matches), "document")
    if not searched.matches:
        return f"no document holds this text. Searched: {searched.tokens:,} tokens, all"
    first = searched.matches[0]
    extent = "all" if searched.is_all else "then --limit ended the search"
    return (
        f"{render_matches(text, searched, page)}\n\n"
        f"{found}. Searched: {searched.tokens:,} tokens, {extent}\n"
        f"the first as a whole: mobilellama shards show {config.dataset} --bucket {first.bucket} "
        f"--document {first.document}"
    )


def _document(dataset: TokenDataset, config: Config, place: DocumentPlace, page: Page) -> str:
    tokenizer = dataset.open_tokenizer(config.tokenizer)
    part = document_part(
        dataset, tokenizer, place.bucket, place.document, by_token=page.is_coloured
    )
    return render_document(place.bucket, dataset.row(place.bucket), part, page)


def _sample(dataset: TokenDataset, config: Config, position: int, page: Page) -> str:
    tokenizer = dataset.open_tokenizer(config.tokenizer)
    if config.split == "train":
        view, sample, epoch = _train_sample(dataset, config, position)
        where = f"position {position:,} (seed {config.seed}), epoch {epoch:,}"
    else:
        view, sample = _heldout_sample(dataset, config, position)
        where = f"held-out position {position:,}"
    described = describe_sample(
        dataset, view, sample, tokenizer=tokenizer, by_token=page.is_coloured
    )
    return f"{where}\n{render(described, page)}"


def _train_sample(dataset: TokenDataset, config: Config, position: int) -> tuple[View, int, int]:
    mixture, views = open_order(
        dataset,
        seq_len=resolve_seq_len(dataset, config.seq_len),
        mixture=config.mixture,
        seed=config.seed,
        mixture_field="mixture",
        seq_len_field="seq_len",
    )
    located = mixture.locate(position)
    subset = mixture.subsets[int(located.subset)]
    return views[subset], int(located.sample), int(located.epoch)


def _heldout_sample(dataset: TokenDataset, config: Config, position: int) -> tuple[View, int]:
    left, seq_len = position, resolve_seq_len(dataset, config.seq_len)
    for subset in dataset.subsets:
        view = dataset.view(subset, seq_len, "heldout")
        if left < len(view):
            return view, left
        left -= len(view)
    count = position - left
    rule = f"the dataset has {count:,} held-out samples of seq_len {seq_len}"
    remedy = f"Give 0 to {count - 1}" if count else "Lower seq_len"
    raise ConfigError("position", position, rule, remedy)
