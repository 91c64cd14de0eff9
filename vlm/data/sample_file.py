"""LLaVA-format records -> a file of tokenised samples, made once a run.

A file whose receipt names other records, tokenizer, template or lengths is made again; a receipt is
written last, so that no half file counts.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import (
    fsync_path,
    sha256_of_file,
    sha256_of_json,
)
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.files.temporary import remove_abandoned, temporaries, temporary_path
from mobilellama.pool import Workers
from mobilellama.progress import Progress, format_count
from mobilellama.sft.data.clean import CLEANING_VERSION
from mobilellama.sft.data.reasons import Drop, count_names, excerpt, most_first
from mobilellama.sft.data.records import READING_VERSION
from mobilellama.sft.data.sources import find_slices, source_sha256
from mobilellama.sft.data.template import Template
from mobilellama.tokenizers.opening import open_known_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.vlm.data.labels import IMAGE, encode
from mobilellama.vlm.data.records import MEANING, ImageTextConfig, Record, Refused, read_vlm_records

log = logging.getLogger(__name__)

FORMAT = 1
READING = "reading_version"
"""Where a receipt has the rules by which the records were read; absent: 1."""

_RECORDS_AT_ONCE = 512
_NAMES_SHOWN = 12
_FEW = 5  # places of each reason that are kept
_ABANDONED_S = 86_400.0  # of another host's temporary file


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the samples of a file of records."""

    data: ImageTextConfig
    tokenizer: str
    """Its path."""
    tokenizer_sha256: str
    template: Template
    image_tokens: int
    seq_len: int
    """Tokens of a sample at most, its images' included; what is longer is cut at its end."""
    leave_out: frozenset[str] = frozenset()
    """Places of records that are not taken."""

    def fingerprint(self) -> str:
        """Return a sha256 of all that decides the samples; no paths."""
        sources = [source_sha256(slice_, self.data) for slice_ in find_slices(self.data)]
        return sha256_of_json(
            {
                "format": FORMAT,
                "cleaning": CLEANING_VERSION,
                "sources": sources,
                "tokenizer": self.tokenizer_sha256,
                "template": self.template.sha256,
                "image_tokens": self.image_tokens,
                "seq_len": self.seq_len,
                "leave_out": sorted(self.leave_out),
            }
        )


@dataclass
class SampleReport:
    """What became of the records."""

    records: int = 0
    samples: int = 0
    images: int = 0
    text_only: int = 0
    tokens: int = 0
    """The images' included."""
    supervised: int = 0
    cut: int = 0
    """Samples that were cut to seq_len."""
    left_out: int = 0
    """Records that --data.leave_out names."""
    refused: dict[str, int] = field(default_factory=dict)
    """Records of each reason."""
    places: dict[str, list[str]] = field(default_factory=dict)
    """The first of each reason."""
    unread_fields: dict[str, int] = field(default_factory=dict)
    """Records that are taken, by the name of a field that was not read."""

    def refuse(self, reason: str, description: str) -> None:
        """Count a record that cannot be trained on."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        shown = self.places.setdefault(reason, [])
        if len(shown) < _FEW:
            shown.append(description)

    def line(self) -> str:
        """Return the counts as one line."""
        refused = sum(self.refused.values())
        return (
            f"{format_count(self.samples, 'sample')} of {format_count(self.records, 'record')} "
            f"({self.text_only:,} text only, {format_count(self.images, 'image')}), "
            f"{format_count(self.tokens, 'token')}, {self.supervised:,} supervised; "
            f"{self.cut:,} cut, {self.left_out:,} left out, {refused:,} refused"
        )


@dataclass(frozen=True)
class _Encoded:
    """What a process makes of some records."""

    rows: bytes
    """An Arrow record batch, serialised."""
    samples: int
    images: int
    text_only: int
    tokens: int
    supervised: int
    cut: int
    refused: list[tuple[str, str]]


def build_samples(path: Path, recipe: Recipe, *, fingerprint: str, workers: int) -> SampleReport:
    """Tokenise the records into a file and its receipt; where both are there already, do nothing.

    Args:
        path: of the .arrow file; its folder is made.
        recipe: what to make.
        fingerprint: the recipe's.
        workers: processes that encode.

    Raises:
        ConfigError: no record can be trained on, or the template does not fit the tokenizer.
        DataError: the records cannot be read, or are no longer those of the fingerprint.
    """
    receipt = path.with_suffix(".json")
    if path.is_file() and (held := _read_receipt(receipt, fingerprint)):
        return held[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    receipt.unlink(missing_ok=True)
    left = (one for one in temporaries(path.parent.iterdir()) if one.final == path.name)
    remove_abandoned(left, others_after_s=_ABANDONED_S)
    report = SampleReport()
    temporary = temporary_path(path)
    try:
        _write(temporary, recipe, report, workers)
        if not report.samples:
            counts = [f"{MEANING.get(r, r)}: {count:,}" for r, count in report.refused.items()]
            if report.left_out:
                counts.append(f"is listed in data.leave_out: {report.left_out:,}")
            why = f" ({'; '.join(counts)})" if counts else ""
            rule = f"has {format_count(report.records, 'record')}, and none can be trained on{why}"
            remedy = "Raise train.seq_len if it is the reason; otherwise see 'vlm check-data'"
            raise ConfigError("data.path", recipe.data.path, rule, remedy)
        if recipe.fingerprint() != fingerprint:
            raise DataError(
                f"{recipe.data.path}: has changed while it was tokenised. Run the same command "
                "again when no process writes to it"
            )
        fsync_path(temporary)  # the receipt must not outlive it in a power cut
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    facts = {"fingerprint": fingerprint, "sha256": sha256_of_file(path), "report": asdict(report)}
    write_sealed_json(receipt, facts | {READING: READING_VERSION})
    return report


def _read_receipt(receipt: Path, fingerprint: str) -> tuple[SampleReport, int] | None:
    """Return a file's report and the rules that its records were read by, as its receipt has them.

    None where there is no receipt, or it is another's or damaged.
    """
    try:
        held = read_sealed_json(receipt, owner=None)
        report = SampleReport(**held["report"])
        return (report, held.get(READING, 1)) if held["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reading_of(path: Path, fingerprint: str) -> int:
    """Return by which rules the records of a file were read, or will be where it must be made."""
    held = _read_receipt(path.with_suffix(".json"), fingerprint) if path.is_file() else None
    return READING_VERSION if held is None else held[1]


def _write(path: Path, recipe: Recipe, report: SampleReport, workers: int) -> None:
    import pyarrow as pa

    schema = _schema()
    slices = find_slices(recipe.data)
    unit, amount = ("rows", 1.0) if slices[0].unit == "rows" else ("MB", 1e6)
    total = sum(slice_.size for slice_ in slices) / amount
    remedy = "Run the same command again, with fewer --data.workers"
    with (
        Workers(workers, doing="tokenising", remedy=remedy) as pool,
        Progress("tokenise", total=total, unit=unit) as progress,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        batches = _batches(recipe, report, lambda read: progress.advance(read / amount))
        # Sent with each batch, without what may be long.
        encode_all = partial(_encode, replace(recipe, leave_out=frozenset()))
        for _, made in pool.map(encode_all, batches):
            for reason, description in made.refused:
                report.refuse(reason, description)
            for name in ("samples", "images", "text_only", "tokens", "supervised", "cut"):
                setattr(report, name, getattr(report, name) + getattr(made, name))
            if made.samples:
                writer.write_batch(pa.ipc.read_record_batch(pa.py_buffer(made.rows), schema))


def _schema() -> object:
    import pyarrow as pa

    return pa.schema(
        {
            "id": pa.string(),
            "place": pa.string(),
            "images": pa.list_(pa.binary()),  # paths may be what UTF-8 cannot hold
            "input_ids": pa.list_(pa.int32()),
            "supervised": pa.list_(pa.bool_()),
        }
    )


def _batches(
    recipe: Recipe, report: SampleReport, on_read: Callable[[int], None]
) -> Iterator[list[Record]]:
    """Yield the records that are to be encoded, some at a time; count the others."""
    batch: list[Record] = []
    has_system = (recipe.template.system or recipe.template.folded_system) is not None
    folder, plain = Path(recipe.data.images), recipe.template.is_caption
    for record in read_vlm_records(recipe.data, folder=folder, plain=plain, on_read=on_read):
        report.records += 1
        if record.place in recipe.leave_out:
            report.left_out += 1
        elif isinstance(record, Refused):
            report.refuse(str(record.reason), record.describe())
        elif record.turns[0].role == "system" and not has_system:
            system, reason = excerpt(record.turns[0].content), Drop.UNPLACED_SYSTEM
            refused = Refused(place=record.place, id=record.id, reason=reason, detail=system)
            report.refuse(str(reason), refused.describe())
        else:
            count_names(report.unread_fields, record.unread)
            batch.append(record)
            if len(batch) == _RECORDS_AT_ONCE:
                yield batch
                batch = []
    if batch:
        yield batch


@lru_cache(maxsize=1)
def _tokenizer(path: str, sha256: str) -> TextTokenizer:
    return open_known_tokenizer(path, sha256, owner="the run")


def _encode(recipe: Recipe, records: Sequence[Record]) -> _Encoded:
    """Tokenise records; a sample too long is cut at its end."""
    import pyarrow as pa

    tokenizer = _tokenizer(recipe.tokenizer, recipe.tokenizer_sha256)
    rows: list[dict[str, object]] = []
    names: list[int] = []  # of images, by row
    refused: list[tuple[str, str]] = []
    cut = tokens = supervised_tokens = 0
    for record in records:
        encoded = encode(recipe.template, tokenizer, record.turns)
        ids, supervised = encoded.ids, encoded.supervised
        lengths = np.where(ids == IMAGE, recipe.image_tokens, 1).cumsum()
        kept = int(np.searchsorted(lengths, recipe.seq_len, side="right"))
        if kept < len(ids):
            where = f"{record.place} (id {record.id}): {lengths[-1]:,} tokens"
            if (ids[kept:] == IMAGE).any():
                reason = f"an image lies beyond train.seq_len = {recipe.seq_len}"
                refused.append((reason, where))
                continue
            ids, supervised = ids[:kept], supervised[:kept]
        if not supervised.any():
            reason = f"no token of an answer lies within train.seq_len = {recipe.seq_len}"
            refused.append((reason, f"{record.place} (id {record.id})"))
            continue
        cut += kept < len(encoded.ids)
        tokens += int(lengths[len(ids) - 1])
        supervised_tokens += int(supervised.sum())
        names.append(len(record.images))
        rows.append(
            {
                "id": _utf8(record.id),
                "place": _utf8(record.place),
                "images": [os.fsencode(name) for name in record.images],
                "input_ids": ids,
                "supervised": supervised,
            }
        )
    batch = pa.RecordBatch.from_pylist(rows, schema=_schema())
    return _Encoded(
        rows=batch.serialize().to_pybytes(),
        samples=len(rows),
        images=sum(names),
        text_only=names.count(0),
        tokens=tokens,
        supervised=supervised_tokens,
        cut=cut,
        refused=refused,
    )


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def report_refusals(report: SampleReport) -> None:
    """Log what was left aside, with the first places of each reason."""
    log.info("%s", report.line())
    for reason, count in Counter(report.refused).most_common():
        log.warning("%s refused: %s", f"{count:,}", "; ".join(report.places[reason]))
    if names := most_first(report.unread_fields):
        shown = [f"{excerpt(name)} ({count:,})" for name, count in names.items()]
        more = f" and {len(shown) - _NAMES_SHOWN:,} more" if len(shown) > _NAMES_SHOWN else ""
        named = ", ".join(shown[:_NAMES_SHOWN])
        log.warning("fields not read, with the records that have them: %s%s", named, more)
