"""answers.jsonl: the rows with their answers in the input's order, whatever kills the writer.

Beside it stands FILE.meta.json: what the answers depend on. A file is gone on with only where
that is the same. What a killed writer left is whole lines and perhaps a torn last one, which
is cut off; the next row is the one after the last whole line.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import orjson

from mobilellama.config import ConfigError, DataError, UserError, as_given
from mobilellama.files.atomic import fsync_path, lock, read_json, write_json
from mobilellama.files.hub_folder import MODEL
from mobilellama.files.json_lines import parse_exactly

FORMAT = 1
FRESH = "Give another --output, or --overwrite to begin again"
"""What to do where the output cannot be gone on with."""


class Answers:
    """The output file, open for rows that are not in it yet. Use as a context manager.

    Args:
        path: the file.
        settings: what the answers depend on.
        overwrite: begin again, whatever the file holds.
        later: names of settings that files of former versions lack, and that do not tell there.

    Raises:
        ConfigError: the file was made with other settings or by something else, or another
            process is writing it.
        DataError: what it holds are not answers to these rows.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        *,
        overwrite: bool,
        later: Collection[str] = (),
    ) -> None:
        self.path, self.meta = path, path.with_name(f"{path.name}.meta.json")
        self._settings = {"format": FORMAT, **settings}
        if path.is_dir() or not path.parent.is_dir():
            rule = "is a folder" if path.is_dir() else f"{path.parent} is not a folder"
            raise ConfigError("output", str(path), rule, "Give a file in a folder that exists")
        self._file: BinaryIO = open(path, "ab")
        try:
            self._lock()
            if overwrite:
                self._file.truncate(0)
            else:
                self._require_same(later)
            # Before the first row: rows without it would be refused.
            write_json(self.meta, self._settings)
        except BaseException:
            self._file.close()
            raise

    def _require_same(self, later: Collection[str]) -> None:
        """Raise ConfigError unless the file can be gone on with."""
        if self.path.stat().st_size == 0:
            return
        shown = str(self.path)
        if not self.meta.is_file():
            rule = f"exists, but has no {self.meta.name} that says how it was made"
            raise ConfigError("output", shown, rule, FRESH)
        try:
            found = dict(read_json(self.meta))
        except ValueError:
            raise ConfigError("output", shown, f"{self.meta} is damaged", FRESH) from None
        # Where the model was found tells nothing: its sha256 does.
        for name in sorted({*found, *self._settings} - {MODEL}):
            if name in later and name not in found:
                continue
            was, now = found.get(name), self._settings.get(name)
            if was != now:
                rule = f"was made with {name} {_short(was)}, not {_short(now)}"
                raise ConfigError("output", shown, rule, FRESH)

    def _lock(self) -> None:
        if not lock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            rule = "is being written by another process"
            raise ConfigError("output", str(self.path), rule, "Wait for it")

    def __enter__(self) -> "Answers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def keep(
        self, rows: Sequence[Mapping[str, object]], *, added: Sequence[str]
    ) -> list[dict[str, object]]:
        """Cut a torn last line off, and return the answers that are there.

        Args:
            rows: the input's fields, row by row; each answer must repeat its row's.
            added: the fields that every answer has beside these.
        """
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)
        kept: list[dict[str, object]] = []
        for number, line in enumerate(data[:whole].split(b"\n")[:-1]):
            answer = _parse(line)
            if (
                number >= len(rows)
                or answer is None
                or not rows[number].items() <= answer.items()
                or not {*added} <= {*answer}
            ):
                what = f"line {number + 1} is not an answer to row {number + 1} of the input"
                raise DataError(f"{self.path}: {what}. {FRESH}")
            kept.append(answer)
        return kept

    def write(self, answers: Sequence[Mapping[str, object]]) -> None:
        """Append rows, on the disk when this returns."""
        lines = b"".join(_line(answer) for answer in answers)
        try:
            self._file.write(lines)
            self._file.flush()
            fsync_path(self.path)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}). Make room, and give the same "
                "command again: it goes on after the last whole row"
            ) from None


def _line(answer: Mapping[str, object]) -> bytes:
    try:
        return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # an integer of more than 64 bits, copied from the input
        return json.dumps(answer, ensure_ascii=False).encode() + b"\n"


def _parse(line: bytes) -> dict[str, object] | None:
    try:
        value = parse_exactly(line, Counter())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _short(value: object) -> str:
    text = as_given(value)
    return f"{text[:12]}..." if len(text) == 64 else text  # of a sha256, enough to tell apart
