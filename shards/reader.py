"""Open a dataset: the checked folder, whose buckets are read as ``buckets.py`` says.

Opening reads one row a bucket; nothing grows with the number of tokens. Samples are cut from
the buckets in windows.py, or are the packed rows of rows.py.
"""

from functools import cached_property
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.files.hub_folder import find_model
from mobilellama.files.sealed import SealError, read_sealed_json
from mobilellama.shards.buckets import Buckets
from mobilellama.shards.dataset import (
    DATASET,
    FORMAT_VERSION,
    MANIFEST,
    PLAN,
    TEMPLATE,
    Identity,
    maker,
    tokenizer_file,
)
from mobilellama.shards.manifest import rebuild_manifest, totals_of_rows
from mobilellama.shards.rows import Rows
from mobilellama.shards.windows import Split, View, Windows
from mobilellama.tokenizers.opening import open_known_tokenizer
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER, TextTokenizer


class _Description(TypedDict):
    """The content of dataset.json that opening reads."""

    fingerprint: str
    files: NotRequired[dict[str, str]]
    manifest_sha256: str
    subsets: dict[str, dict[str, int]]


class TokenDataset(Buckets):
    """A finished dataset folder.

    Raises:
        ConfigError: the folder is missing, or is no finished dataset.
        DataError: the manifest is not the one that dataset.json was written with.
    """

    def __init__(self, folder: str | Path, *, field: str = "data.path") -> None:
        path = Path(folder)
        if not (path / DATASET).is_file():
            raise ConfigError(field, str(folder), *_why_no_dataset(path))
        description, identity = _read_description(path / DATASET)
        super().__init__(path, identity)
        self.template = self.folder / TEMPLATE
        """The chat template that a dataset of rows was made with; other datasets have none."""
        self.fingerprint: str = description["fingerprint"]
        self.described_files: dict[str, str] = description.get("files", {})
        """sha256 by path of the files that dataset.json alone vouches for; older ones have none."""
        self.described_totals: dict[str, dict[str, int]] = description["subsets"]
        """What dataset.json says of the subsets, for people; ``totals`` are the manifest's."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file() or sha256_of_file(manifest) != description["manifest_sha256"]:
            raise DataError(
                f"{manifest}: {'not the one' if manifest.is_file() else 'missing; the one'} that "
                f"{DATASET} was written with. {rebuild_manifest(self.folder)}"
            )

    @cached_property
    def totals(self) -> dict[str, dict[str, int]]:
        """Sums of the manifest's counts, by subset."""
        return totals_of_rows(self.manifest)

    def require_as_described(self, path: Path) -> None:
        """Raise DataError unless a file has the sha256 that dataset.json names, if it does."""
        expected = self.described_files.get(str(path.relative_to(self.folder)))
        if expected and (not path.is_file() or sha256_of_file(path) != expected):
            raise DataError(
                f"{path}: missing, or not as it was written. Restore it from a copy, or run the "
                f"same 'mobilellama {maker(self.folder)}' again, which writes it anew"
            )

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the subsets, sorted."""
        return tuple(sorted(self.totals))

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that the dataset was made with."""
        own = tokenizer_file(self.folder)
        for name in self.described_files:  # the identity has the sha256 of the one that decides
            if name.startswith(f"{HF_FOLDER}/") and self.folder / name != own:
                self.require_as_described(self.folder / name)
        return open_known_tokenizer(own, self.identity.tokenizer_sha256, owner=str(self.folder))

    def open_tokenizer(self, given: str | None) -> TextTokenizer:
        """Return the tokenizer to decode with: the one that a user gives, or the dataset's own.

        Args:
            given: a file, a folder, or a name on the Hub; None: the copy in the dataset.

        Raises:
            ConfigError: there is no tokenizer, or it is not the one the dataset was made with.
        """
        if given is None:
            return self.tokenizer
        found = find_model(given, field="tokenizer", weights=False)
        with found.errors_by_name():
            return open_known_tokenizer(
                found.path, self.identity.tokenizer_sha256, owner=str(self.folder)
            )

    def windows(self, subset: str, seq_len: int, split: Split = "train") -> Windows:
        """Return the subset's samples of `seq_len` tokens to predict."""
        return Windows(self, subset, seq_len, split)

    def view(self, subset: str, seq_len: int, split: Split = "train") -> View:
        """Return the subset's samples: packed rows where the dataset has them, else windows.

        Raises:
            ConfigError: the rows were packed to another length.
        """
        if self.identity.packing is None:
            return self.windows(subset, seq_len, split)
        packed = self.identity.packing.seq_len
        if seq_len != packed:
            rule = f"{self.folder} holds rows packed to {packed} tokens"
            raise ConfigError("train.seq_len", seq_len, rule, f"Use {packed}, or prepare again")
        return Rows(self, subset, split)


def _read_description(path: Path) -> tuple[_Description, Identity]:
    """Return the content of dataset.json, checked for what opening needs, and its identity."""
    remedy = rebuild_manifest(path.parent)
    try:
        description = read_sealed_json(path, owner=path.parent)
        version = description["identity"]["format_version"]
        missing = {"fingerprint", "manifest_sha256", "subsets"} - description.keys()
        if version == FORMAT_VERSION and not missing:
            return cast(_Description, description), Identity.from_json(description["identity"])
    except SealError as error:
        raise DataError(f"{path}: is damaged ({error}). {remedy}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: not the description of a dataset. {remedy}") from None
    if missing:
        raise DataError(f"{path}: lacks {', '.join(sorted(missing))}. {remedy}")
    raise DataError(
        f"{path}: format version {version}, but this program reads {FORMAT_VERSION}. "
        "Use the version of mobilellama that wrote it, or tokenise again"
    )


def _why_no_dataset(folder: Path) -> tuple[str, str]:
    """Return (rule, remedy) for a folder without dataset.json."""
    remedy = "Give the --output of 'mobilellama tokenize run', or of 'mobilellama sft prepare'"
    if not folder.is_dir():
        return "is not a folder", remedy
    if (folder / PLAN).is_file():
        return (
            "holds buckets that are not finished",
            f"Run 'mobilellama {maker(folder)}' again; it does only what is missing",
        )
    return f"holds no {DATASET}", remedy
