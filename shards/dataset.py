"""A dataset folder: its plan, receipts, manifest, and the fingerprint that names its content.

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
from typing import Literal, TypedDict, cast, get_args

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import (
    read_json,
    sha256_of_file,
    sha256_of_json,
    whole_file,
)
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

_HASH_SUFFIX = "_sha256"
_Count = Literal[
    "documents",
    "tokens",
    "train_tokens",
    "bytes_in",
    "records",
    "bad_records",
    "empty_texts",
    "replaced_surrogates",
]
_COUNTED: tuple[_Count, ...] = get_args(_Count)


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
    packing: Packing | None = None
    """Of a dataset of conversations: what decides its rows; None for one of text."""

    def to_json(self) -> dict[str, object]:
        """Return what is written and hashed; `packing` is left out where there is none."""
        values: dict[str, object] = dict(vars(self))
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
                raise ConfigError(
                    name,
                    theirs.get(name),
                    f"{owner} was begun with {name} = {mine.get(name)}",
                    "Use the same value, or another output folder",
                )


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
    """"bytes" or "rows"."""

    @property
    def name(self) -> str:
        """``SUBSET/NNNNN``, the bucket's path without its ending."""
        return bucket_name(self.subset, self.bucket)


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


class ManifestRow(TypedDict):
    """A bucket's row in the manifest; columns of hashes and of other counts stand beside these."""

    subset: str
    bucket: int
    source: str
    start: int
    end: int
    unit: str
    documents: int
    tokens: int
    train_tokens: int
    bytes_in: int
    records: int
    bad_records: int
    empty_texts: int
    replaced_surrogates: int


class PackedManifestRow(ManifestRow):
    """The row of a bucket of packed rows."""

    rows: int
    train_rows: int


def _why(error: Exception) -> str:
    return f" ({error})" if isinstance(error, SealError) else ""


def fingerprint(identity: Identity, receipts: Iterable[Receipt]) -> str:
    """Return the sha256 that names the dataset's content: no paths, no worker counts."""
    return _fingerprint(identity, ((r.subset, r.bucket, r.sha256) for r in receipts))


def fingerprint_of_rows(identity: Identity, rows: Iterable[ManifestRow]) -> str:
    """Return the same sha256 from the manifest's rows."""
    return _fingerprint(identity, ((r["subset"], r["bucket"], row_hashes(r)) for r in rows))


def _fingerprint(identity: Identity, buckets: Iterable[tuple[str, int, dict[str, str]]]) -> str:
    hashed = sorted((subset, bucket, sorted(files.items())) for subset, bucket, files in buckets)
    return sha256_of_json({"identity": identity.to_json(), "buckets": hashed})


def row_hashes(row: ManifestRow) -> dict[str, str]:
    """Return the sha256 of each of a bucket's files, by its ending, from its manifest row."""
    return {
        column.removesuffix(_HASH_SUFFIX): value
        for column, value in row.items()
        if column.endswith(_HASH_SUFFIX) and isinstance(value, str)
    }


def maker(folder: Path) -> str:
    """Return the command that makes such a dataset and redoes what is missing of it."""
    try:
        packed = "packing" in read_json(folder / PLAN)["identity"]
    except (OSError, *_MALFORMED):
        packed = False
    return "sft prepare" if packed else "tokenize run"


def rebuild_manifest(folder: Path) -> str:
    """Return what to do about a bad manifest.parquet or dataset.json."""
    if maker(folder) == "sft prepare":
        return f"Remove {folder / DATASET} and run the same 'mobilellama sft prepare' again"
    return f"Run 'mobilellama tokenize finish --output {folder}': it writes both from the receipts"


def write_dataset(folder: Path, identity: Identity, receipts: Iterable[Receipt]) -> str:
    """Write manifest.parquet and, last, dataset.json; return the fingerprint.

    The rows stand in order of subset, then bucket, whatever the order of the receipts: samples
    are numbered in this order.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    receipts = sorted(receipts, key=lambda receipt: (receipt.subset, receipt.bucket))
    rows = []
    for receipt in receipts:
        row = asdict(receipt)
        hashes, counts = row.pop("sha256"), row.pop("counts")
        del row["bad_places"], row["identity_sha256"], row["source_file"], row["unread_fields"]
        row |= {f"{ending}{_HASH_SUFFIX}": value for ending, value in hashes.items()}
        rows.append(row | counts)
    with whole_file(folder / MANIFEST) as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    name = fingerprint(identity, receipts)
    write_sealed_json(
        folder / DATASET,
        {
            "fingerprint": name,
            "identity": identity.to_json(),
            "manifest_sha256": sha256_of_file(folder / MANIFEST),
            "files": _digests(folder, receipts),
            "subsets": totals_of_rows(cast(list[ManifestRow], rows)),
        },
    )
    return name


def _digests(folder: Path, receipts: Iterable[Receipt]) -> dict[str, str]:
    """Return the sha256 of the files for which only dataset.json vouches, by relative path."""
    names = [PLAN, TEMPLATE, REPORT, TOKENIZER]
    names += sorted(f"{HF_FOLDER}/{path.name}" for path in (folder / HF_FOLDER).glob("*"))
    names += [f"{receipt.name}.json" for receipt in receipts]
    return {name: sha256_of_file(folder / name) for name in names if (folder / name).is_file()}


def totals_of_rows(rows: Iterable[ManifestRow]) -> dict[str, dict[str, int]]:
    """Return the sums of the rows' counts, by subset."""
    totals: dict[str, dict[str, int]] = {}
    for row in rows:
        total = totals.setdefault(row["subset"], {"buckets": 0} | dict.fromkeys(_COUNTED, 0))
        total["buckets"] += 1
        for name in _COUNTED:
            total[name] += row[name]
    return totals
