"""Show the content of a dataset, and how much of each subset a run would see.

The first table has the counts of the manifest. Tokens include the EOS of each document. Held-out
tokens are for validation. Bytes per token are bytes of UTF-8 text. The second table has the order
of samples: whole samples, the rest of tokens at the ends of buckets, and how many times a budget
of tokens goes through each subset (epochs). ``--json`` prints the same as JSON.
"""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mobilellama import log as logs
from mobilellama.shards.manifest import totals_of_rows
from mobilellama.shards.mixture import PERIOD, read_epochs
from mobilellama.shards.order import (
    DEFAULT_SEED,
    mix_samples,
    require_budget,
    require_seq_len,
    resolve_seq_len,
    samples_for_epochs,
)
from mobilellama.shards.reader import TokenDataset

if TYPE_CHECKING:  # imported where it is used: only a terminal's tables need it
    from rich.console import Console
    from rich.table import Table

_MANY_EPOCHS = 100  # of one subset: published mixtures see none more than about 10 times


@dataclass(frozen=True, kw_only=True)
class SummaryConfig:
    """The common fields of 'shards info' and 'shards plot'."""

    dataset: str
    """The dataset folder."""
    seq_len: int | None = None
    """Tokens that a sample predicts. None: the length of the dataset's packed rows, else 2048."""
    mixture: str | None = None
    """A preset, or a YAML file of weights or epochs. None: in proportion to the samples."""
    budget_tokens: float | None = None
    """Tokens of a run, such as 1.3e12. None: the epochs of the mixture, else all samples once."""

    def __post_init__(self) -> None:
        require_seq_len("seq_len", self.seq_len)
        require_budget("budget_tokens", self.budget_tokens)

    def summarise(self, dataset: TokenDataset) -> "Summary":
        """Return the summary of an open dataset."""
        return summarise(
            dataset,
            seq_len=resolve_seq_len(dataset, self.seq_len),
            mixture=self.mixture,
            budget_tokens=self.budget_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Config(SummaryConfig):
    """Fields of 'shards info'."""

    json: bool = False
    """Print JSON, not tables."""


def main(config: Config) -> int:
    """Print the tables, or JSON."""
    logs.configure()
    summary = config.summarise(TokenDataset(config.dataset, field="dataset"))
    if config.json:
        print(json.dumps(asdict(summary), indent=2, ensure_ascii=False))
    else:
        _print_tables(summary)
    return 0


@dataclass(frozen=True, kw_only=True)
class SubsetSummary:
    """A subset, or the sum of all."""

    buckets: int
    documents: int
    tokens: int
    """EOS included."""
    train_tokens: int
    heldout_tokens: int
    bytes_in: int
    """UTF-8 bytes of the texts."""
    bytes_per_token: float | None
    """None where there is no token."""
    records: int
    bad_records: int
    empty_texts: int
    replaced_surrogates: int
    samples: int
    """Whole training samples."""
    tail_tokens: int
    """Training tokens at the ends of buckets that stand in no whole sample."""
    corpus_share: float
    """Share of the training tokens."""
    share: float
    """Share of the mixture; 0 where the subset is not in it."""
    epochs: float
    """How often the budget goes through the subset; of the sum, through all samples."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What ``shards info`` prints."""

    path: str
    fingerprint: str
    tokenizer_sha256: str
    vocab_size: int
    dtype: str
    dataset_seed: int
    seq_len: int
    mixture: str | None
    budget_tokens: float
    remarks: list[str]
    subsets: dict[str, SubsetSummary]
    total: SubsetSummary


def summarise(
    dataset: TokenDataset, *, seq_len: int, mixture: str | None, budget_tokens: float | None
) -> Summary:
    """Count what the dataset holds and what `budget_tokens` of the mixture see of it.

    Raises:
        ConfigError: the mixture does not fit the dataset.
    """
    windows = {subset: dataset.view(subset, seq_len) for subset in dataset.subsets}
    num_samples = {subset: len(view) for subset, view in windows.items()}
    shares, remarks = {}, [f"no subset has a whole sample of seq_len {seq_len}"]
    if mixture is not None or any(num_samples.values()):
        # The seed changes the order alone, none of the counts.
        mixed, remarks = mix_samples(
            num_samples, mixture=mixture, seed=DEFAULT_SEED, field="mixture"
        )
        shares = {name: n / PERIOD for name, n in mixed.identity().items()}
    if budget_tokens is None:
        epochs = None if mixture is None else read_epochs(mixture, field="mixture")
        once = dict.fromkeys(num_samples, 1)
        budget_tokens = samples_for_epochs(num_samples, epochs or once) * seq_len
    counts = totals_of_rows(dataset.manifest)
    for name, view in windows.items():
        counts[name] |= {"samples": len(view), "tail_tokens": view.tail_tokens}
    total = dict.fromkeys(next(iter(counts.values()), {}), 0)
    for count in counts.values():
        total = {name: total[name] + count[name] for name in total}

    def summary_of(count: dict[str, int], share: float) -> SubsetSummary:
        tokens, whole = count["tokens"], count["samples"] * seq_len
        return SubsetSummary(
            **count,
            heldout_tokens=tokens - count["train_tokens"],
            bytes_per_token=count["bytes_in"] / tokens if tokens else None,
            corpus_share=count["train_tokens"] / max(total["train_tokens"], 1),
            share=share,
            epochs=budget_tokens * share / whole if whole else 0.0,
        )

    summaries = {name: summary_of(counts[name], shares.get(name, 0.0)) for name in windows}
    return Summary(
        path=str(dataset.folder),
        fingerprint=dataset.fingerprint,
        tokenizer_sha256=dataset.identity.tokenizer_sha256,
        vocab_size=dataset.identity.vocab_size,
        dtype=dataset.identity.dtype,
        dataset_seed=dataset.identity.seed,
        seq_len=seq_len,
        mixture=mixture,
        budget_tokens=budget_tokens,
        remarks=[*remarks, *_many_epochs(summaries, budget_tokens)],
        subsets=summaries,
        total=summary_of(total, sum(shares.values())),
    )


def _print_tables(summary: Summary) -> None:
    from rich.console import Console

    # Elsewhere than on a terminal rich takes 80 columns and cuts numbers off.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    # Not by rich itself: it ends the process with code 1 where the reader of a pipe has left.
    with console.capture() as text:
        _print_to(console, summary)
    print(text.get(), end="", flush=True)


def _many_epochs(subsets: dict[str, SubsetSummary], budget_tokens: float) -> list[str]:
    """Return what is said of subsets that a budget would repeat more often than can be meant."""
    often = {name: row.epochs for name, row in subsets.items() if row.epochs >= _MANY_EPOCHS}
    if not often:
        return []
    shown = ", ".join(f"{name} {epochs:,.0f} times" for name, epochs in often.items())
    return [
        f"{budget_tokens:,.0f} tokens of this mixture repeat {shown}: give a smaller "
        "budget_tokens, more text of these, or smaller shares"
    ]


def _print_to(console: "Console", summary: Summary) -> None:
    console.print(f"dataset      {summary.path}", markup=False, soft_wrap=True)
    console.print(f"fingerprint  {summary.fingerprint}")
    console.print(
        f"tokenizer    {summary.tokenizer_sha256} (sha256), {summary.vocab_size:,} ids, "
        f"{summary.dtype}",
        soft_wrap=True,
    )
    console.print(_content_table(summary))
    console.print(_order_table(summary))
    for remark in summary.remarks:
        console.print(f"note: {remark}", markup=False, soft_wrap=True)


def _content_table(summary: Summary) -> "Table":
    table = _table("content")
    for heading in (
        "buckets", "documents", "tokens", "training", "held out", "bytes a token", "bad records"
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for name, row in _rows(summary):
        table.add_row(
            name,
            f"{row.buckets:,}",
            f"{row.documents:,}",
            f"{row.tokens:,}",
            f"{row.train_tokens:,}",
            f"{row.heldout_tokens:,}",
            "-" if row.bytes_per_token is None else f"{row.bytes_per_token:.2f}",
            f"{row.bad_records:,}",
        )
    return table


def _order_table(summary: Summary) -> "Table":
    mixture = summary.mixture or "in proportion to the samples"
    table = _table(
        f"order: seq_len {summary.seq_len}, mixture {mixture}, "
        f"budget {summary.budget_tokens:,.0f} tokens"
    )
    for heading in ("samples", "tail tokens", "of corpus", "of mixture", "budget tokens", "epochs"):
        table.add_column(heading, justify="right")
    for name, row in _rows(summary):
        table.add_row(
            name,
            f"{row.samples:,}",
            f"{row.tail_tokens:,}",
            f"{100 * row.corpus_share:.2f} %",
            f"{100 * row.share:.2f} %" if row.share else "-",
            f"{summary.budget_tokens * row.share:,.0f}" if row.share else "-",
            f"{row.epochs:.3f}" if row.share else "-",
        )
    return table


def _table(title: str) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("subset")
    return table


def _rows(summary: Summary) -> list[tuple[str, SubsetSummary]]:
    from rich.markup import escape  # a folder may be called [red]

    rows = [*summary.subsets.items(), ("total", summary.total)]
    return [(escape(name), row) for name, row in rows]
