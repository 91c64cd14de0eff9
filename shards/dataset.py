"""A dataset folder: its files, its plan, and the receipts that manifest.py makes a dataset of.

    DATASET/
      plan.json            identity and slices; written first
      tokenizer.model      the sentencepiece model, so that the folder explains itself; or
      tokenizer/           another tokenizer's Hugging Face files
      template.yaml        in datasets of rows: the chat template
      report.json          in datasets of rows: what was kept, changed and dropped, and why
      SUBSET/NNNNN.bin     ids (shards/format.py)
      SUBSET/NNNNN.idx     where each document starts
      SUBSET/NNNNN.mask    in datasets of rows: which tokens are supervised
      SUBSET/NNNNN.json    receipt; a bucket without one does not count
      manifest.parquet     one row a bucket
      dataset.json         written last; a folder without one is no dataset. It holds the
                           sha256 of every other file that none but it vouches for

dataset.json, the plan and the receipts carry digests of themselves, too (sealed.py).
Everything in these files is a function of the corpus, the tokenizer and the settings in the
identity; no host, path or worker count is in them, and no time but that of the source's last
change, which a receipt holds.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import read_json, sha256_of_json
from mobilellama.files.sealed import SealError, read_sealed_json, write_sealed_json
from mobilellama.files.typed_json import from_json
from mobilellama.shards.packing import Packing
from mobilellama.tokenizers.hf_files import TOKENIZER_FILE
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER, SENTENCEPIECE_FILE

FORMAT_VERSION = 1
PLAN = "plan.json"
MANIFEST = "manifest.parquet"
DATASET = "dataset.json"
TOKENIZER = SENTENCEPIECE_FILE
TEMPLATE = "template.yaml"
REPORT = "report.json"

_MALFORMED = (ValueError, TypeError, KeyError, RecursionError)
"""What reading JSON that is broken, or is of another shape, raises."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides the bytes of the token files, beside the corpus itself."""

    tokenizer_sha256: str
    vocab_size: int
    eos_id: int
    dtype: str
    """"uint16" or "int32"."""
    seed: int
    """The dataset's seed: shuffles documents within their bucket."""
    slice_bytes: int
    """Uncompressed files larger than this are cut into ranges of this many bytes."""
    heldout_share: float
    """Share of each bucket's tokens kept for validation."""
    format_version: int = FORMAT_VERSION
    encoder_version: int
    """Rises when the encoder's output changes."""
    tokenizers_version: str | None = None
    """Of a dataset of text made with a tokenizer.json: the version of ``tokenizers`` that encoded
    it, because another may give other ids. None for others."""
    long_records: str = "fail"
    """"skip": records that are too long to be read are left out. "fail": there is none."""
    packing: Packing | None = None
    """Of a dataset of conversations: what decides its rows; None for one of text."""

    def to_json(self) -> dict[str, object]:
        """Return what is written and hashed. A field that changes nothing is left out."""
        values: dict[str, object] = dict(vars(self))
        if self.tokenizers_version is None:
            del values["tokenizers_version"]
        if self.long_records == "fail":
            del values["long_records"]
        if self.packing is None:
            del values["packing"]
        else:
            values["packing"] = self.packing.to_json()
        return values

    @staticmethod
    def from_json(value: object) -> "Identity":
        """Return what ``to_json`` was made of.

        Raises:
            TypeError: the value is of another shape.
        """
        packing = None
        if isinstance(value, dict) and "packing" in value:
            packing = Packing.from_json(value["packing"])
            value = {name: one for name, one in value.items() if name != "packing"}
        return replace(from_json(Identity, value), packing=packing)

    @property
    def rows(self) -> Packing:
        """What decides the rows, of a dataset that has them."""
        assert self.packing is not None
        return self.packing

    @property
    def sha256(self) -> str:
        """What a receipt says of the identity it was made under."""
        return sha256_of_json(self.to_json())

    def require_same(self, other: "Identity", *, owner: str) -> None:
        """Raise ConfigError naming the first field in which `other` differs from this one."""
        mine, theirs = (
            one.to_json() | (one.packing.to_json() if one.packing else {}) for one in (self, other)
        )
        for name in mine | theirs:
            if name != "packing" and mine.get(name) != theirs.get(name):
                begun, wanted = (
                    its.get(name, getattr(one, name, None))
                    for one, its in ((self, mine), (other, theirs))
                )
                remedy = "Use the same value, or another output folder"
                if name == "tokenizers_version":
                    remedy = f"Install tokenizers=={begun}, or use another output folder"
                rule = f"{owner} was begun with {name} = {begun}"
                raise ConfigError(name, wanted, rule, remedy)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The unit of work: a source file, or a range of it. Slice i of a subset makes bucket i."""

    subset: str
    bucket: int
    source: str
    """Path relative to the corpus root, or the name of a dataset and its split."""
    size: int
    """Size of the whole source, in `unit`."""
    start: int
    end: int
    unit: str = "bytes"
    """"bytes", "rows", or "files" of a folder of texts, of which `source` is the first."""

    @property
    def name(self) -> str:
        """``SUBSET/NNNNN``, the bucket's path without its ending."""
        return bucket_name(self.subset, self.bucket)


def shown_unit(units: Iterable[str]) -> tuple[str, float]:
    """Return what the progress of slices of these units counts, and how much of theirs one is."""
    others = set(units) - {"bytes"}
    return (min(others), 1.0) if others else ("MB", 1e6)


def tokenizer_file(folder: Path) -> Path:
    """Return the file that decides a dataset's ids, of whichever kind its tokenizer is."""
    other = folder / HF_FOLDER / TOKENIZER_FILE
    return other if other.is_file() else folder / TOKENIZER


def bucket_name(subset: str, bucket: int) -> str:
    """Return ``SUBSET/NNNNN``."""
    return f"{subset}/{bucket:05}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The identity and the slices, in order of subset, then bucket."""

    identity: Identity
    slices: tuple[Slice, ...]

    def write(self, folder: Path, name: str = PLAN) -> None:
        """Write plan.json, or a file of another name."""
        write_sealed_json(
            folder / name,
            {
                "identity": self.identity.to_json(),
                "slices": [asdict(slice_) for slice_ in self.slices],
            },
        )

    @staticmethod
    def read(folder: Path) -> "Plan":
        """Read plan.json.

        Raises:
            DataError: it is not a plan.
        """
        try:
            value = read_sealed_json(folder / PLAN, owner=folder)
            return Plan(
                identity=Identity.from_json(value["identity"]),
                slices=tuple(from_json(Slice, slice_) for slice_ in value["slices"]),
            )
        except _MALFORMED as error:
            raise DataError(
                f"{folder / PLAN}: not a plan{_why(error)}. Restore it from a copy, or remove "
                f"{folder} and run 'mobilellama {maker(folder)}' again"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a finished bucket holds; the manifest's row."""

    subset: str
    bucket: int
    source: str
    start: int
    end: int
    unit: str
    documents: int
    """The bucket's sequences: documents, or in a dataset of rows conversations."""
    tokens: int
    """EOS included."""
    train_tokens: int
    """Tokens before the held-out documents (or rows); always a document (or row) boundary."""
    bytes_in: int
    """UTF-8 bytes of the texts."""
    records: int
    """Lines or rows read, good or bad."""
    bad_records: int
    empty_texts: int
    replaced_surrogates: int
    """Texts in which lone surrogates became U+FFFD."""
    sha256: dict[str, str]
    """Of each file, by its ending: "bin", "idx", and in a dataset of rows "mask"."""
    identity_sha256: str
    counts: dict[str, int] = field(default_factory=dict)
    """Of a bucket of rows: "rows", "train_rows", and what else its maker counts; columns of the
    manifest too."""
    bad_places: list[list[int | str]] = field(default_factory=list)
    """[place, reason] of the bad records: byte offset in the uncompressed file, or row."""
    source_file: dict[str, object] = field(default_factory=dict)
    """What was read, as ``SourceRange.to_json`` writes it; empty where it is not known."""
    unread_fields: dict[str, int] = field(default_factory=dict)
    """Records by the name of a field that was not read; left out of the file where it is empty."""

    @property
    def name(self) -> str:
        """``SUBSET/NNNNN``."""
        return bucket_name(self.subset, self.bucket)

    def write(self, folder: Path) -> None:
        """Write the receipt, which makes the bucket count."""
        values = asdict(self)
        if not self.unread_fields:
            del values["unread_fields"]
        write_sealed_json(folder / f"{self.name}.json", values)


def read_receipt(folder: Path, slice_: Slice, identity: Identity) -> Receipt | None:
    """Return the slice's receipt, or None where there is none yet.

    Raises:
        DataError: it is not a receipt, or belongs to another plan.
    """
    path = folder / f"{slice_.name}.json"
    if not path.exists():
        return None
    remedy = f"Remove {folder / slice_.name}.* and run again"
    try:
        receipt = from_json(Receipt, read_sealed_json(path, owner=folder))
        if sorted(receipt.sha256) != ["bin", "idx"] + ["mask"] * (identity.packing is not None):
            raise TypeError("sha256")
    except _MALFORMED as error:
        raise DataError(f"{path}: not a receipt{_why(error)}. {remedy}") from None
    origin = (receipt.name, receipt.source, receipt.start, receipt.end, receipt.unit)
    if receipt.identity_sha256 != identity.sha256 or origin != (
        slice_.name,
        slice_.source,
        slice_.start,
        slice_.end,
        slice_.unit,
    ):
        raise DataError(
            f"{path}: the receipt of {receipt.source} [{receipt.start}, {receipt.end}) does not "
            f"belong to the plan beside it. {remedy}"
        )
    return receipt


def _why(error: Exception) -> str:
    return f" ({error})" if isinstance(error, SealError) else ""


def maker(folder: Path) -> str:
    """Return the command that makes such a dataset and redoes what is missing of it."""
    try:
        packed = "packing" in read_json(folder / PLAN)["identity"]
    except (OSError, *_MALFORMED):
        packed = False
    return "sft prepare" if packed else "tokenize run"
