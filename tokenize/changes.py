"""Whether sources still hold what finished buckets were made of.

1. A source whose state (size, times, inode) is the one in its buckets' receipts is the same.
2. Of any other, the bytes that were read are hashed again. Where the hash is the receipt's, the
   source was only touched or copied: this is said, and nothing else follows.
3. Where it is not, the text in the dataset is no longer the source's: this is refused.

Receipts of older versions know neither state nor hash, and are passed over.
"""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, DataError
from mobilellama.cpus import cpu_budget
from mobilellama.progress import Progress
from mobilellama.shards.dataset import Identity, Slice, read_receipt, shown_unit
from mobilellama.shards.source_file import FileState, SourceRange
from mobilellama.shards.sources.located import sha256_of_source
from mobilellama.shards.sources.remote import RemotePath
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.tables import read_rows_again, rows_state
from mobilellama.tokenize.sources.text_files import read_text_files_again, text_files_state

log = logging.getLogger(__name__)

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class _Suspect:
    """A slice whose source has another state than when its bucket was made."""

    slice_: Slice
    known: SourceRange
    state: FileState | None


class SourceChecks:
    """Compares sources with the receipts of their buckets.

    Args:
        folder: the dataset's.
        identity: of its plan.
        sources: the corpus.
    """

    def __init__(self, folder: Path, identity: Identity, sources: SourcesConfig) -> None:
        self._folder, self._identity, self._sources = folder, identity, sources
        self._same: dict[str, FileState | None] = {}  # by bucket: the state of equal bytes

    def require_unchanged(self, slices: Sequence[Slice]) -> None:
        """Refuse slices whose source changed after their bucket was made.

        Args:
            slices: to look at; those without a bucket are passed over.

        Raises:
            ConfigError: the bytes of a source are not those that its bucket was made of.
            DataError: a source cannot be read.
        """
        suspects = self._suspects(slices)
        if not suspects:
            return
        total = sum(suspect.known.end - suspect.known.start for suspect in suspects)
        name, unit = shown_unit(suspect.slice_.unit for suspect in suspects)
        threads = 1 if unit == 1 else cpu_budget().count  # a table is read by one
        with Progress("compare the sources", total=total / unit, unit=name) as progress:
            with ThreadPoolExecutor(threads) as pool:
                changed = []
                for suspect, sha256 in zip(suspects, pool.map(self._hash, suspects), strict=True):
                    progress.advance((suspect.known.end - suspect.known.start) / unit)
                    if sha256 == suspect.known.sha256:
                        self._same[suspect.slice_.name] = suspect.state
                    else:
                        changed.append(suspect.slice_)
        if changed:
            self._refuse(changed)
        names = _few([self._name(suspect.slice_) for suspect in suspects])
        log.info("%s: time or inode have changed since it was tokenised, the bytes have not", names)

    def _suspects(self, slices: Sequence[Slice]) -> list[_Suspect]:
        states: dict[str, FileState | None] = {}
        suspects = []
        for slice_ in slices:
            receipt = read_receipt(self._folder, slice_, self._identity)
            known = SourceRange.from_json(receipt.source_file) if receipt else None
            if known is None:
                continue
            if slice_.source not in states:
                states[slice_.source] = self._state(slice_)
            state = states[slice_.source]
            if state != known.state and self._same.get(slice_.name, known.state) != state:
                suspects.append(_Suspect(slice_=slice_, known=known, state=state))
        return suspects

    def _state(self, slice_: Slice) -> FileState | None:
        if slice_.unit == "rows":
            return rows_state(self._sources)
        if slice_.unit == "files":
            return text_files_state(slice_, self._sources)
        path = self._sources.path_of(slice_)
        if isinstance(path, RemotePath):
            return path.state()
        try:
            return FileState.of([os.stat(path)])
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}). Restore it") from None

    def _hash(self, suspect: _Suspect) -> str | None:
        slice_, known = suspect.slice_, suspect.known
        if slice_.unit == "rows":
            found = read_rows_again(slice_, self._sources)
            return found.sha256 if found else None
        if slice_.unit == "files":
            found = read_text_files_again(slice_, self._sources)
            return found.sha256 if found else None
        path = self._sources.path_of(slice_)
        try:
            return sha256_of_source(path, known.start, known.end)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}). Restore it") from None

    def _name(self, slice_: Slice) -> str:
        return slice_.source if slice_.unit != "bytes" else str(self._sources.path_of(slice_))

    def _refuse(self, changed: Sequence[Slice]) -> None:
        for slice_ in changed:
            where = f"{slice_.unit} {slice_.start:,} to {slice_.end:,}"
            log.warning("changed: %s, %s (bucket %s)", self._name(slice_), where, slice_.name)
        files = _few([f"{self._folder / slice_.name}.*" for slice_ in changed])
        raise ConfigError(
            "sources",
            _few([self._name(slice_) for slice_ in changed]),
            f"has changed since {self._folder} was made of it",
            f"Restore it, or use another output folder, or remove {files} and run the "
            "same command again to write these buckets again",
        )


def _few(names: Sequence[str]) -> str:
    """Return the first few different names, and how many there are."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - _SHOWN:,} more" if len(different) > _SHOWN else ""
    return ", ".join(different[:_SHOWN]) + more
