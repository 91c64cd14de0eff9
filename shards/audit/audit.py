"""Compare documents of the corpus, drawn at random, with what the dataset holds, id for id.

1. The same number of documents is drawn of each subset. --seed decides which.
2. Each is read from its source file and encoded by the library of the dataset's tokenizer itself:
   sentencepiece with tokenizer.model, or tokenizers with tokenizer.json. The encoders and the
   reader of 'tokenize run' are not used, so they need no trust.
3. The place of a document in its bucket is arithmetic: the permutation within a bucket has an
   inverse. The ids there must be those of the library, followed by EOS.

The cost grows with the sample, not with the corpus: one bucket is opened for 50 documents. Its
source is read from the beginning of the bucket's byte range to the last drawn document, since only
this tells its number. A .zst file must be unpacked from its beginning. A .json file that holds a
list is read as a whole.

  mobilellama shards audit DATASET --sources CORPUS --sample 1000

The command prints how many documents of each subset were compared, and which records on the way
gave no document, and why. If a document differs, it is named, and the exit code is 1.
'shards verify' finds damaged files. This command finds wrong ones.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mobilellama import log as logs
from mobilellama.config import ConfigError, DataError, require_at_least
from mobilellama.progress import Progress, format_count
from mobilellama.shards.audit.comparison import AuditMismatch, BucketAudit, compare_bucket
from mobilellama.shards.audit.library import library_encoder
from mobilellama.shards.audit.sample import draw_documents
from mobilellama.shards.dataset import PLAN, Plan, Slice, shown_unit
from mobilellama.shards.reader import TokenDataset
from mobilellama.table import aligned

_MISMATCHES_SHOWN = 20
_REASONS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'shards audit'."""

    dataset: str
    """The dataset folder."""
    sources: str
    """The corpus that the dataset was made of: the folder that 'tokenize run' was given as
    sources.root or sources.dataset, wherever it is now, or its URL; or the dataset's
    name on the Hub."""
    sample: int = 1000
    """Number of documents to compare. All are compared if there are not more."""
    seed: int = 1337
    """Another seed compares other documents."""
    json: bool = False
    """Print JSON, not a table."""

    def __post_init__(self) -> None:
        require_at_least("sample", self.sample, 1)


@dataclass(frozen=True, kw_only=True)
class SubsetAudit:
    """What was found in a subset."""

    documents: int
    """In the subset."""
    buckets: int
    """Of which documents were compared."""
    compared: int
    mismatches: int
    skipped: dict[str, int]
    """Records that were read and gave no document, by reason."""


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What ``shards audit`` prints."""

    path: str
    fingerprint: str
    library: str
    """The library that encoded the documents anew."""
    sample: int
    seed: int
    compared: int
    subsets: dict[str, SubsetAudit]
    mismatches: list[AuditMismatch]


def main(config: Config) -> int:
    """Compare the documents; return 1 if one differs."""
    logs.configure()
    result = audit(config)
    if config.json:
        print(json.dumps(asdict(result), indent=2, ensure_ascii=False))
    else:
        print(_text(result))
    return 1 if result.mismatches else 0


def audit(config: Config) -> AuditResult:
    """Draw and compare the documents.

    Raises:
        ConfigError: the dataset is one of conversations, or the corpus is not the dataset's.
        DataError: the plan, the tokenizer, a source or a bucket is missing or damaged.
    """
    dataset = TokenDataset(config.dataset, field="dataset")
    slices = _planned(dataset)
    library, encode = library_encoder(dataset)
    drawn = draw_documents(dataset.manifest, config.sample, config.seed)
    chosen = [slices[name] for name in sorted(drawn)]
    name, unit = shown_unit(slice_.unit for slice_ in chosen)
    total = sum(slice_.end - slice_.start for slice_ in chosen) / unit
    found: list[BucketAudit] = []
    with Progress("audit", total=total, unit=name) as progress:
        for slice_ in chosen:
            found.append(
                compare_bucket(
                    dataset,
                    slice_,
                    config.sources,
                    drawn[slice_.name],
                    encode,
                    lambda read: progress.advance(read / unit),
                )
            )
    return AuditResult(
        path=str(dataset.folder),
        fingerprint=dataset.fingerprint,
        library=library,
        sample=config.sample,
        seed=config.seed,
        compared=sum(one.compared for one in found),
        subsets={
            subset: _sum(total["documents"], [one for one in found if one.subset == subset])
            for subset, total in sorted(dataset.totals.items())
        },
        mismatches=[mismatch for one in found for mismatch in one.mismatches],
    )


def _planned(dataset: TokenDataset) -> dict[str, Slice]:
    """Return the slice of each bucket."""
    if dataset.identity.packing is not None:
        rule = "holds packed conversations, which 'sft prepare' made"
        remedy = "Give a dataset that 'tokenize run' made"
        raise ConfigError("dataset", str(dataset.folder), rule, remedy)
    path = dataset.folder / PLAN
    if not path.is_file():
        raise DataError(f"{path}: missing, but it is needed to find the sources. Restore it")
    plan = Plan.read(dataset.folder)
    slices = {slice_.name: slice_ for slice_ in plan.slices}
    named = {f"{row['subset']}/{row['bucket']:05}" for row in dataset.manifest}
    if plan.identity != dataset.identity or named != set(slices):
        raise DataError(f"{path}: does not belong to this dataset. Restore it from a copy")
    return slices


def _sum(documents: int, found: Sequence[BucketAudit]) -> SubsetAudit:
    skipped = sum((one.skipped for one in found), Counter[str]())
    return SubsetAudit(
        documents=documents,
        buckets=len(found),
        compared=sum(one.compared for one in found),
        mismatches=sum(len(one.mismatches) for one in found),
        skipped=dict(skipped.most_common()),
    )


def _text(result: AuditResult) -> str:
    """Return the table, the mismatches, and a last line that says the verdict."""
    headings = ("documents", "buckets", "compared", "mismatches", "skipped")
    rows: list[tuple[str, ...]] = [("subset", *headings)]
    for name, subset in result.subsets.items():
        counts = (subset.documents, subset.buckets, subset.compared, subset.mismatches)
        skipped = sum(subset.skipped.values())
        rows.append((name, *(f"{count:,}" for count in (*counts, skipped))))
    lines = [aligned(rows), ""]
    for name, subset in result.subsets.items():
        if subset.skipped:
            lines.append(f"{name}: skipped {_reasons(subset.skipped)}")
    lines += [_mismatch(one) for one in result.mismatches[:_MISMATCHES_SHOWN]]
    if more := len(result.mismatches) - _MISMATCHES_SHOWN:
        lines += [f"and {more:,} more"] * (more > 0)
    compared = format_count(result.compared, "document")
    if result.mismatches:
        wrong = format_count(len(result.mismatches), "mismatch")
        return "\n".join([*lines, f"{result.path}: bad. {compared} compared, {wrong}. {_REMEDY}"])
    end = f"{result.path}: good. {compared} compared with {result.library}'s ids, 0 mismatches"
    return "\n".join([*lines, f"{end}; fingerprint {result.fingerprint}"])


_REMEDY = (
    "Run 'mobilellama shards verify' with --sources to see whether a file was changed. If none "
    "was, the bucket was made wrong: report it, with these lines"
)


def _reasons(skipped: dict[str, int]) -> str:
    shown = [f"{count:,} ({reason})" for reason, count in list(skipped.items())[:_REASONS_SHOWN]]
    others = sum(list(skipped.values())[_REASONS_SHOWN:])
    return ", ".join([*shown, *([f"{others:,} (other reasons)"] if others else [])])


def _mismatch(one: AuditMismatch) -> str:
    document = "" if one.document is None else f", document {one.document:,}"
    return f"mismatch: bucket {one.bucket}{document}, {one.source}: {one.fault}"
