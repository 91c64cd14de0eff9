"""Show the content of a dataset, and how much of each subset a run would see.

The first table has the counts of the manifest. Tokens include the EOS of each document. Held-out
tokens are for validation. Bytes per token are bytes of UTF-8 text; packed rows have none, because
their tokens include those of the template. The second table has the order of samples: whole
samples, the rest of tokens at the ends of buckets, and how many times a budget of tokens goes
through each subset (epochs). --json prints the same and more counts as JSON. Its keys are listed in
docs/inspecting.md, and stay.

  mobilellama shards info DATASET
  mobilellama shards info DATASET --mixture redpajama --budget_tokens 1.3e12
  mobilellama shards info DATASET --json true | jq '.subsets.c4.epochs'

In a terminal the tables fit its width. Elsewhere their lines have any length, unless COLUMNS is
set.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

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
from mobilellama.table import aligned, narrowed
from mobilellama.terminal import result_columns, wrapped

_SPARE_CONTENT = ("bytes a token", "buckets", "held out", "training")
_SPARE_ORDER = ("tail tokens", "of corpus", "budget tokens", "samples")
"""Columns that a narrow terminal does not show, the first one first."""
_BAD = "bad records"  # left out first where there are none, else last
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
    """None where there is no token, and for packed rows, whose tokens are also the template's."""
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
    is_text = dataset.identity.packing is None  # rows hold the template's tokens too
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
            bytes_per_token=count["bytes_in"] / tokens if tokens and is_text else None,
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
        total=summary_of(total, float(sum(shares.values()))),
    )


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


def _print_tables(summary: Summary) -> None:
    print(f"dataset      {summary.path}")
    print(f"fingerprint  {summary.fingerprint}")
    print(f"tokenizer    {summary.tokenizer_sha256}")
    print(f"vocabulary   {summary.vocab_size:,} ids, stored as {summary.dtype}")
    spare = (*_SPARE_CONTENT, _BAD) if summary.total.bad_records else (_BAD, *_SPARE_CONTENT)
    print(f"\ncontent\n{_table(summary, _CONTENT, spare=spare)}")
    mixture = summary.mixture or "in proportion to the samples"
    print(
        f"\norder: seq_len {summary.seq_len}, mixture {mixture}, "
        f"budget {summary.budget_tokens:,.0f} tokens"
    )
    print(_table(summary, _order(summary.budget_tokens), spare=_SPARE_ORDER))
    if summary.remarks:
        notes = [wrapped(f"note: {remark}", result_columns()) for remark in summary.remarks]
        print("", *notes, sep="\n")


def _table(
    summary: Summary, columns: Mapping[str, Callable[[SubsetSummary], str]], *, spare: Sequence[str]
) -> str:
    """Return a table that fits the result's width, and below it the columns that it leaves out.

    Args:
        summary: of the dataset.
        columns: heading -> what it shows of a subset.
        spare: headings of columns to leave out, the first one first.
    """
    rows = [["subset", *columns]]
    for name, row in (*summary.subsets.items(), ("total", summary.total)):
        rows.append([name, *(show(row) for show in columns.values())])
    shown = narrowed(rows, result_columns(), spare=spare)
    if left_out := [heading for heading in columns if heading not in shown[0]]:
        remark = f"(no room for {', '.join(left_out)}: use a wider terminal, or --json)"
        return f"{aligned(shown)}\n{wrapped(remark, result_columns())}"
    return aligned(shown)


_CONTENT: dict[str, Callable[[SubsetSummary], str]] = {
    "buckets": lambda row: f"{row.buckets:,}",
    "documents": lambda row: f"{row.documents:,}",
    "tokens": lambda row: f"{row.tokens:,}",
    "training": lambda row: f"{row.train_tokens:,}",
    "held out": lambda row: f"{row.heldout_tokens:,}",
    "bytes a token": lambda row: (
        "-" if row.bytes_per_token is None else f"{row.bytes_per_token:.2f}"
    ),
    _BAD: lambda row: f"{row.bad_records:,}",
}


def _order(budget_tokens: float) -> dict[str, Callable[[SubsetSummary], str]]:
    return {
        "samples": lambda row: f"{row.samples:,}",
        "tail tokens": lambda row: f"{row.tail_tokens:,}",
        "of corpus": lambda row: f"{100 * row.corpus_share:.2f} %",
        "of mixture": lambda row: f"{100 * row.share:.2f} %" if row.share else "-",
        "budget tokens": lambda row: f"{budget_tokens * row.share:,.0f}" if row.share else "-",
        "epochs": lambda row: f"{row.epochs:,.3f}" if row.share else "-",
    }
