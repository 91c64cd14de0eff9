"""Write one source file's bucket: rows of conversations, and which tokens are supervised.

1. Records are read, cleaned and encoded in their order; ids and masks are spooled into two
   unnamed files of the output folder, which a kill cannot leave behind.
2. Conversations are held out by a permutation keyed by (seed, "heldout", subset, bucket); all
   parts of one are on the same side. Each side is packed into rows by itself, and its rows are
   put into a drawn order.
3. ``.bin``, ``.mask`` and ``.idx`` hold the training rows, then the held-out ones. They are
   written beside their places, fsynced and renamed; last comes the receipt, which alone makes
   the bucket count.
"""

import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import DataError
from mobilellama.files.atomic import sha256_of_file, whole_file
from mobilellama.sft.data.clean import Cleaned, read_conversation
from mobilellama.sft.data.packing import pack
from mobilellama.sft.data.reasons import Drop, DropError, Fix, ReasonTally, excerpt, most_first
from mobilellama.sft.data.records import READING_VERSION
from mobilellama.sft.data.sources import (
    ConversationsConfig,
    SourceRecord,
    read_records,
    source_sha256,
)
from mobilellama.sft.data.template import Template
from mobilellama.sft.data.workers import Batch, EncodedBatch
from mobilellama.shards.dataset import Identity, Receipt, Slice
from mobilellama.shards.format import little_endian, write_index
from mobilellama.shards.permute import Permutation
from mobilellama.tokenize.bucket_files import gather, naming_refused_writes

Encode = Callable[[Iterator[Batch]], Iterator[tuple[Batch, EncodedBatch]]]
"""Gives batches back, encoded, in their order."""

READING = "reading_version"
"""Where a receipt's counts have the rules by which its records were read; absent: 1."""

_MEDIUM = re.compile(r"\A<(image|video|audio)>(\n|\Z)|\n<(image|video|audio)>\Z")
"""What stands in a turn for a medium whose field was lost; elsewhere such words may be HTML."""

_BATCH_CHARACTERS = 1 << 18


@dataclass(frozen=True, kw_only=True)
class PackingWork:
    """What is the same for every bucket of a run."""

    folder: Path
    """The dataset folder."""
    identity: Identity
    data: ConversationsConfig
    template: Template
    max_bad_share: float


@dataclass(kw_only=True)
class Spooled:
    """The encoded parts of a source's conversations, in source order."""

    ids: BinaryIO
    mask: BinaryIO
    tally: ReasonTally = field(default_factory=ReasonTally)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    """Tokens of each part."""
    part_counts: list[NDArray[np.int64]] = field(default_factory=list)
    """Parts of each conversation; 0 where it was dropped after all."""
    bytes_in: int = 0
    """UTF-8 bytes of the conversations' texts."""
    supervised_tokens: int = 0
    longest_tokens: int = 0
    """Of the longest conversation, before anything was split or cut."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which part stands where in the bucket."""

    order: NDArray[np.int64]
    """Numbers of the parts as they are stored, row after row."""
    documents: NDArray[np.int64]
    """(rows + 1,) the first of ``order`` in each row, then the number of parts."""
    train_rows: int
    train_tokens: int
    conversations: int
    """That are kept, whatever their parts."""
    heldout_conversations: int


def write_bucket(
    work: PackingWork,
    slice_: Slice,
    encode: Encode,
    advance: Callable[[int, int, int], None],
    conversations_before: int,
) -> Receipt:
    """Make the slice's bucket.

    Args:
        work: the run.
        slice_: the slice.
        encode: see ``Encode``.
        advance: told of each batch: (source bytes or rows read, tokens, conversations).
        conversations_before: conversations kept of the slices before this one.

    Raises:
        DataError: the source is corrupt, or too many of its records were dropped.
        RefusedWriteError: nothing of this bucket counts.
    """
    stem = work.folder / slice_.name
    with naming_refused_writes(stem.with_name(f"{stem.name}.bin")):
        stem.parent.mkdir(exist_ok=True)
        with (
            tempfile.TemporaryFile(dir=stem.parent, prefix=f"{stem.name}.tmp.") as ids,
            tempfile.TemporaryFile(dir=stem.parent, prefix=f"{stem.name}.tmp.") as mask,
        ):
            spooled = Spooled(ids=ids, mask=mask)
            spool(spooled, read_records(slice_, work.data), work, encode, advance)
            spooled.tally.require_few_dropped(slice_.source, work.max_bad_share)
            _require_unchanged(work, slice_)
            layout = lay_out(spooled, slice_, work.identity, conversations_before)
            hashes = _write_files(stem, spooled, layout, work.identity.dtype)
        receipt = make_receipt(spooled, layout, slice_, work.identity, hashes)
        receipt.write(work.folder)
    return receipt


def _require_unchanged(work: PackingWork, slice_: Slice) -> None:
    """Raise DataError if the source is no longer what the identity says: it was hashed earlier."""
    hashed = work.identity.rows.sources_sha256 or {}
    if source_sha256(slice_, work.data) != hashed[slice_.source]:
        raise DataError(
            f"{slice_.source}: has changed since this command hashed it at its start. Run the same "
            "command again when no process writes to it"
        )


def spool(
    spooled: Spooled,
    records: Iterator[SourceRecord],
    work: PackingWork,
    encode: Encode,
    advance: Callable[[int, int, int], None],
) -> None:
    """Clean and encode records, and append their tokens, masks and counts to `spooled`."""
    tally = spooled.tally
    for batch, encoded in encode(_batches(records, work, spooled)):
        spooled.ids.write(encoded.ids.data)
        spooled.mask.write(encoded.mask.data)
        spooled.lengths.append(encoded.lengths)
        spooled.part_counts.append(encoded.part_counts)
        spooled.supervised_tokens += int(encoded.mask.sum(dtype=np.int64))
        outcomes = zip(batch.conversations, encoded.part_counts, encoded.outcomes, strict=True)
        for cleaned, parts, outcome in outcomes:
            spooled.longest_tokens = max(spooled.longest_tokens, outcome.tokens)
            shown = f"{outcome.tokens:,} tokens"
            if not parts:
                tally.add(Drop.NOTHING_SUPERVISED, cleaned.place, shown)
                continue
            spooled.bytes_in += sum(len(turn.content.encode()) for turn in cleaned.turns)
            done = {
                Fix.SPLIT: outcome.split,
                Fix.TRUNCATED: outcome.truncated,
                Fix.CUT_AWAY: outcome.cut_away,
                Fix.CONTEXT_ALONE: outcome.context_alone,
            }
            tally.add_unread(cleaned.unread)
            for fix in (*cleaned.fixes, *(fix for fix, times in done.items() if times)):
                detail = shown if fix in done else excerpt(cleaned.turns[0].content)
                tally.add(fix, cleaned.place, detail)
        kept = int(np.count_nonzero(encoded.part_counts))
        advance(batch.source_read, len(encoded.ids), kept)
    spooled.ids.flush()
    spooled.mask.flush()


def _batches(
    records: Iterator[SourceRecord], work: PackingWork, spooled: Spooled
) -> Iterator[Batch]:
    """Yield cleaned conversations in batches of about 256,000 characters."""
    batch: list[Cleaned] = []
    characters = before = source_read = 0
    for record in records:
        source_read = record.source_read
        spooled.tally.records += 1
        try:
            cleaned = _clean(record, work)
        except DropError as dropped:
            spooled.tally.add(dropped.reason, record.place, dropped.detail)
            continue
        batch.append(cleaned)
        characters += sum(len(turn.content) for turn in cleaned.turns)
        if characters >= _BATCH_CHARACTERS:
            yield Batch(conversations=batch, source_read=source_read - before)
            batch, characters, before = [], 0, source_read
    yield Batch(conversations=batch, source_read=source_read - before)


def _clean(record: SourceRecord, work: PackingWork) -> Cleaned:
    cleaned = read_conversation(record.place, record.parsed(), work.data.format)
    if shown := next((turn for turn in cleaned.turns if _MEDIUM.search(turn.content)), None):
        raise DropError(Drop.MEDIA, f"a turn shows one: {excerpt(shown.content)}")
    template, first = work.template, cleaned.turns[0]
    if first.role == "system" and template.system is None and template.folded_system is None:
        raise DropError(Drop.UNPLACED_SYSTEM, excerpt(first.content))
    return cleaned


def lay_out(
    spooled: Spooled, slice_: Slice, identity: Identity, conversations_before: int
) -> Layout:
    """Choose the held-out conversations and pack each side's parts into rows."""
    lengths = np.concatenate([np.empty(0, np.int64), *spooled.lengths])
    counts = np.concatenate([np.empty(0, np.int64), *spooled.part_counts])
    counts = counts[counts > 0]
    total = conversations_before + len(counts)
    share = identity.heldout_share
    heldout = heldout_of(total, share) - heldout_of(conversations_before, share)
    is_heldout = np.zeros(len(counts), np.bool_)
    if heldout:
        key = (identity.seed, "heldout", slice_.subset, slice_.bucket)
        is_heldout[Permutation(len(counts), *key)(np.arange(heldout))] = True
    side_of_part = np.repeat(is_heldout, counts)
    rows: list[list[int]] = []
    train_rows = 0
    for side in (False, True):
        parts = np.flatnonzero(side_of_part == side)
        packed = pack(lengths[parts], identity.rows.seq_len)
        # Packing goes from the longest to the shortest, and whoever reads some rows of a side
        # is to see all kinds.
        key = (identity.seed, "rows", slice_.subset, slice_.bucket, int(side))
        order = Permutation(len(packed), *key)(np.arange(len(packed))) if packed else ()
        rows += [parts[packed[i]].tolist() for i in order]
        train_rows = train_rows if side else len(rows)
    return Layout(
        order=np.array(list(itertools.chain(*rows)), np.int64),
        documents=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        train_rows=train_rows,
        train_tokens=int(lengths[~side_of_part].sum()),
        conversations=len(counts),
        heldout_conversations=heldout,
    )


def heldout_of(conversations: int, share: float) -> int:
    """Return how many of the first so many conversations are held out.

    That is the share of them, to the nearest; at least one if the share is not 0, and never all.
    It grows by at most one a conversation, so that a bucket's number is a difference of two.
    """
    if not share or not conversations:
        return 0
    nearest = int(Fraction(str(share)) * conversations + Fraction(1, 2))
    return min(max(nearest, 1), conversations - 1)


def _write_files(stem: Path, spooled: Spooled, layout: Layout, dtype: str) -> dict[str, str]:
    """Write the bucket's three files; return the sha256 of each by its ending."""
    lengths = np.concatenate([np.empty(0, np.int64), *spooled.lengths])
    paths = {ending: stem.with_name(f"{stem.name}.{ending}") for ending in ("bin", "mask", "idx")}
    for ending, source, kind in (
        ("bin", spooled.ids, little_endian(dtype)),
        ("mask", spooled.mask, np.dtype(np.uint8)),
    ):
        with whole_file(paths[ending]) as file:
            for block in gather(source, kind, lengths, layout.order):
                file.write(block.data)
    with whole_file(paths["idx"]) as file:
        write_index(file, lengths[layout.order], dtype, layout.documents)
    return {ending: sha256_of_file(path) for ending, path in paths.items()}


def make_receipt(
    spooled: Spooled, layout: Layout, slice_: Slice, identity: Identity, hashes: dict[str, str]
) -> Receipt:
    """Return what a bucket holds, and what was dropped and fixed on the way."""
    tally = spooled.tally
    return Receipt(
        subset=slice_.subset,
        bucket=slice_.bucket,
        source=slice_.source,
        start=slice_.start,
        end=slice_.end,
        unit=slice_.unit,
        documents=len(layout.order),
        tokens=sum(int(lengths.sum()) for lengths in spooled.lengths),
        train_tokens=layout.train_tokens,
        bytes_in=spooled.bytes_in,
        records=tally.records,
        bad_records=tally.dropped,
        empty_texts=0,
        replaced_surrogates=tally.counts[Fix.SURROGATES.value],
        sha256=hashes,
        identity_sha256=identity.sha256,
        counts={
            "rows": len(layout.documents) - 1,
            "train_rows": layout.train_rows,
            "conversations": layout.conversations,
            "heldout_conversations": layout.heldout_conversations,
            "supervised_tokens": spooled.supervised_tokens,
            "longest_tokens": spooled.longest_tokens,
            READING: READING_VERSION,
            **tally.columns(),
        },
        bad_places=[list(example) for example in tally.examples_by_reason()],
        unread_fields=most_first(tally.unread),
    )
