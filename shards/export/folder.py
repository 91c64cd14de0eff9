"""The folder of an export, which can be continued after a stop.

OUTPUT/
  export.json             what is exported, and size and sha256 of each file that is whole
  SUBSET/SPLIT-NNNNN.*    the parts
  tokenizer.model         the dataset's tokenizer (or the folder tokenizer/)
  SHA256SUMS              for 'sha256sum -c SHA256SUMS'; written last
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_file, whole_file
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.files.temporary import remove_abandoned, temporaries
from mobilellama.files.typed_json import from_json
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER, SENTENCEPIECE_FILE

RECORD = "export.json"
SUMS = "SHA256SUMS"
_ABANDONED_S = 86_400  # no writer on another machine goes so long without a write


@dataclass(frozen=True, kw_only=True)
class WholeFile:
    """A file that was written whole."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """The content of export.json."""

    format: str
    fingerprint: str
    """Of the dataset."""
    subsets: list[str]
    part_tokens: float
    files: dict[str, WholeFile] = field(default_factory=dict)
    """By path within the export."""

    def difference(self, other: "ExportRecord") -> str | None:
        """Return how another export differs from this one in what it exports, or None."""
        for name, mine in asdict(self).items():
            theirs = asdict(other)[name]
            if name != "files" and mine != theirs:
                return f"its {name} is {mine}, and this command's is {theirs}"
        return None


class ExportFolder:
    """Writes the files of an export, and remembers which are whole."""

    def __init__(self, path: Path, record: ExportRecord) -> None:
        """Begin an export, or continue one.

        Raises:
            ConfigError: the folder holds something else.
            DataError: its export.json is damaged.
        """
        self.path, self.record = path, record
        if (path / RECORD).is_file():
            self._continue()
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            rule = f"exists, is not empty and has no {RECORD}"
            raise ConfigError("output", str(path), rule, "Give a new folder")

    def _continue(self) -> None:
        path = self.path / RECORD
        try:
            before = from_json(ExportRecord, read_sealed_json(path, owner=None))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}: is damaged ({error}). Remove {self.path}, or give another output folder"
            ) from None
        if difference := before.difference(self.record):
            rule = f"holds another export: {difference}"
            raise ConfigError("output", str(self.path), rule, "Give another folder")
        self.record = before

    def lacks(self, names: Iterable[str]) -> bool:
        """Return whether one of the files is not there in its whole size."""
        return any(not self._is_whole(name) for name in names)

    def _is_whole(self, name: str) -> bool:
        known, path = self.record.files.get(name), self.path / name
        return known is not None and path.is_file() and path.stat().st_size == known.bytes

    def prepare(self) -> None:
        """Make the folder, and remove what killed writers left in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        found = temporaries(self.path.rglob("*.tmp.*"))
        remove_abandoned(found, others_after_s=_ABANDONED_S)
        self._write_record()

    def note(self, names: Iterable[str]) -> None:
        """Record files that are whole now."""
        for name in names:
            path = self.path / name
            self.record.files[name] = WholeFile(
                bytes=path.stat().st_size, sha256=sha256_of_file(path)
            )
        self._write_record()

    def copy_tokenizer(self, dataset: TokenDataset) -> None:
        """Copy the dataset's tokenizer, whose digests are compared."""
        names = [SENTENCEPIECE_FILE]
        names += sorted(
            f"{HF_FOLDER}/{path.name}" for path in (dataset.folder / HF_FOLDER).glob("*")
        )
        names = [name for name in names if (dataset.folder / name).is_file()]
        for name in names:
            dataset.require_as_described(dataset.folder / name)
            (self.path / name).parent.mkdir(exist_ok=True)
            with whole_file(self.path / name) as file:
                file.write((dataset.folder / name).read_bytes())
        self.note(names)

    def finish(self) -> None:
        """Write SHA256SUMS."""
        lines = [f"{known.sha256}  {name}\n" for name, known in sorted(self.record.files.items())]
        with whole_file(self.path / SUMS) as file:
            file.write("".join(lines).encode())

    def _write_record(self) -> None:
        write_sealed_json(self.path / RECORD, asdict(self.record))
