"""Write one slice's bucket: encode in source order, store in shuffled order, commit.

1. Ids are spooled in source order into an unnamed file of the output folder, which a kill
   cannot leave behind.
2. Position p of the bucket holds the slice's kept document number ``permute(p)``, keyed by
   (dataset seed, subset, bucket); blocks of it are gathered from the mapped spool, so that
   memory is bounded by a block and the largest document.
3. ``.bin`` and ``.idx`` are written beside their places, hashed on the way, fsynced, renamed;
   last comes the receipt, which alone makes the bucket count.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mobilellama.files.atomic import fsync_path
from mobilellama.files.temporary import temporary_path
from mobilellama.shards.dataset import Identity, Receipt, Slice
from mobilellama.shards.format import little_endian, write_index
from mobilellama.shards.permute import Permutation
from mobilellama.tokenize.bucket_files import gather, is_finished, naming_refused_writes
from mobilellama.tokenize.encoding.encoder import Encoder
from mobilellama.tokenize.encoding.hf_encoder import AnyEncoder
from mobilellama.tokenize.encoding.spot_check import SpotCheck
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.counts import Counts
from mobilellama.tokenize.sources.documents import read_documents


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is the same for every bucket of a run."""

    folder: Path
    """The dataset folder."""
    identity: Identity
    sources: SourcesConfig
    max_bad_share: float
    plain: bool = False
    """Whether sentencepiece encodes, although a faster way gives the same ids."""


def write_bucket(
    work: Work,
    slice_: Slice,
    encoder: AnyEncoder,
    advance: Callable[[int, int, int], None],
) -> None:
    """Make the slice's bucket, unless its receipt is there already.

    Args:
        work: the run.
        slice_: the slice.
        encoder: of the identity's tokenizer.
        advance: told of each batch: (source bytes or rows read, tokens, documents).

    Raises:
        DataError: the source is corrupt, has too many bad records, or was encoded wrongly.
        RefusedWriteError: nothing of this bucket counts.
    """
    if is_finished(work.folder, slice_, work.identity):
        return
    target = work.folder / f"{slice_.name}.bin"
    with naming_refused_writes(target):
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent, prefix=f"{target.name}.tmp.") as spool:
            counts = Counts()
            lengths = _spool(spool, work, slice_, encoder, counts, advance)
            if work.identity.long_records == "fail":
                counts.require_none_long(slice_.source)
            counts.require_few_bad(slice_.source, work.max_bad_share)
            _commit(spool, lengths, work, slice_, counts)


def _spool(
    spool: BinaryIO,
    work: Work,
    slice_: Slice,
    encoder: AnyEncoder,
    counts: Counts,
    advance: Callable[[int, int, int], None],
) -> NDArray[np.int64]:
    """Write all ids in source order; return the documents' lengths, EOS included."""
    lengths = [np.empty(0, np.int32)]
    source_read = 0
    spot_check = None
    if isinstance(encoder, Encoder) and encoder.is_fast:
        spot_check = SpotCheck(encoder.tokenizer, slice_)
    for texts in read_documents(slice_, work.sources, counts):
        ids, batch_lengths = encoder.encode_batch(texts)
        if spot_check is not None:
            spot_check.check(texts, ids, batch_lengths)
        spool.write(ids.data)
        lengths.append(batch_lengths)
        advance(counts.source_read - source_read, len(ids), len(texts))
        source_read = counts.source_read
    advance(counts.source_read - source_read, 0, 0)
    spool.flush()
    return np.concatenate(lengths).astype(np.int64)


def _commit(
    spool: BinaryIO, lengths: NDArray[np.int64], work: Work, slice_: Slice, counts: Counts
) -> None:
    identity, stem = work.identity, work.folder / slice_.name
    order = np.arange(0)
    if len(lengths):
        permutation = Permutation(len(lengths), identity.seed, slice_.subset, slice_.bucket)
        order = permutation(np.arange(len(lengths)))
    binary, index = (stem.with_name(f"{stem.name}.{ending}") for ending in ("bin", "idx"))
    temporaries = {path: temporary_path(path) for path in (binary, index)}
    try:
        with _HashedFile(temporaries[binary]) as file:
            for block in gather(spool, little_endian(identity.dtype), lengths, order):
                file.write(block.data)
            file.sync()
        with _HashedFile(temporaries[index]) as index_file:
            write_index(index_file, lengths[order], identity.dtype)
            index_file.sync()
        receipt = Receipt(
            subset=slice_.subset,
            bucket=slice_.bucket,
            source=slice_.source,
            start=slice_.start,
            end=slice_.end,
            unit=slice_.unit,
            documents=len(lengths),
            tokens=int(lengths.sum()),
            train_tokens=train_tokens(lengths[order], identity.heldout_share),
            bytes_in=counts.bytes_in,
            records=counts.records,
            bad_records=counts.bad_records,
            empty_texts=counts.empty_texts,
            replaced_surrogates=counts.replaced_surrogates,
            sha256={"bin": file.sha256, "idx": index_file.sha256},
            identity_sha256=identity.sha256,
            bad_places=counts.bad_places,
            source_file=counts.source_file,
        )
        if is_finished(work.folder, slice_, identity):
            return  # another worker was faster, with the same bytes
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
        fsync_path(stem.parent)
        receipt.write(work.folder)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def train_tokens(lengths: NDArray[np.int64], heldout_share: float) -> int:
    """Return where the held-out documents begin, in tokens.

    That is the document boundary nearest to ``(1 - heldout_share)`` of the tokens, the later
    of two equally near ones; never before the first document's end.
    """
    if not len(lengths):
        return 0
    ends = np.cumsum(lengths)
    # In exact fractions: the last bit of a float must not decide what is held out.
    target = (1 - Fraction(str(heldout_share))) * int(ends[-1])
    after = min(int(np.searchsorted(ends, float(target))), len(ends) - 1)
    near = ends[max(after - 1, 0) : after + 2].tolist()
    return min(near, key=lambda end: (abs(end - target), -end))


class _HashedFile(io.BufferedWriter):
    """A new file, hashed while it is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "x"), 1 << 16)  # larger blocks are not copied
        self._digest = hashlib.sha256()

    def write(self, data, /) -> int:  # pyright: ignore[reportMissingParameterType]
        self._digest.update(data)
        return super().write(data)

    def sync(self) -> None:
        """Hand everything to the disk."""
        self.flush()
        os.fsync(self.fileno())

    @property
    def sha256(self) -> str:
        """Of everything written so far."""
        return self._digest.hexdigest()
