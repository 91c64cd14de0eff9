"""A dataset folder: its plan, receipts, manifest, and the fingerprint that names its content.

    DATASET/
      plan.json            identity and slices; written first
      tokenizer.model      the sentencepiece model, so that the folder explains itself
      SUBSET/NNNNN.bin     ids (shards/format.py)
      SUBSET/NNNNN.idx     where each document starts
      SUBSET/NNNNN.json    receipt; a bucket without one does not count
      manifest.parquet     one row a bucket
      dataset.json         written last; a folder without one is no dataset

Everything in these files is a function of the corpus, the tokenizer and the settings in the
identity; no host, path, time or worker count is in them.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mobilellama.config import ConfigError, DataError
from mobilellama.files import read_json, sha256_of_json, write_json

FORMAT_VERSION = 1
PLAN, MANIFEST, DATASET, TOKENIZER = (
    "plan.json",
    "manifest.parquet",
    "dataset.json",
    "tokenizer.model",
)


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

    def require_same(self, other: "Identity", *, owner: str) -> None:
        """Raise ConfigError naming the first field in which `other` differs from this one."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if mine != theirs:
                raise ConfigError(
                    item.name,
                    theirs,
                    f"{owner} was begun with {item.name} = {mine}",
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


def bucket_name(subset: str, bucket: int) -> str:
    """Return ``SUBSET/NNNNN``."""
    return f"{subset}/{bucket:05}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The identity and the slices, in order of subset, then bucket."""

    identity: Identity
    slices: tuple[Slice, ...]

    def write(self, folder: Path) -> None:
        """Write plan.json."""
        write_json(
            folder / PLAN,
            {"identity": asdict(self.identity), "slices": [asdict(piece) for piece in self.slices]},
        )

    @staticmethod
    def read(folder: Path) -> "Plan":
        """Read plan.json."""
        value = read_json(folder / PLAN)
        return Plan(
            identity=Identity(**value["identity"]),
            slices=tuple(Slice(**piece) for piece in value["slices"]),
        )


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
    tokens: int
    """EOS included."""
    train_tokens: int
    """Tokens before the held-out documents; always a document boundary."""
    bytes_in: int
    """UTF-8 bytes of the texts."""
    records: int
    """Lines or rows read, good or bad."""
    bad_records: int
    empty_texts: int
    replaced_surrogates: int
    """Texts in which lone surrogates became U+FFFD."""
    sha256: dict[str, str]
    """Of each file, by its ending: "bin", "idx"."""
    identity_sha256: str
    bad_places: list[list[Any]] = field(default_factory=list)
    """[place, reason] of the bad records: byte offset in the uncompressed file, or row."""

    @property
    def name(self) -> str:
        """``SUBSET/NNNNN``."""
        return bucket_name(self.subset, self.bucket)

    def write(self, folder: Path) -> None:
        """Write the receipt, which makes the bucket count."""
        write_json(folder / f"{self.name}.json", asdict(self))


def read_receipt(folder: Path, piece: Slice, identity: Identity) -> Receipt | None:
    """Return the slice's receipt, or None where there is none yet.

    Raises:
        DataError: the receipt belongs to another plan.
    """
    path = folder / f"{piece.name}.json"
    if not path.exists():
        return None
    receipt = Receipt(**read_json(path))
    same_source = (receipt.source, receipt.start, receipt.end) == (
        piece.source,
        piece.start,
        piece.end,
    )
    if receipt.identity_sha256 != sha256_of_json(asdict(identity)) or not same_source:
        raise DataError(
            f"{path}: the receipt of {receipt.source} [{receipt.start}, {receipt.end}) does not "
            f"belong to the plan beside it. Remove {piece.name}.* and run again"
        )
    return receipt


def fingerprint(identity: Identity, receipts: list[Receipt]) -> str:
    """Return the sha256 that names the dataset's content: no paths, no worker counts."""
    buckets = sorted((r.subset, r.bucket, sorted(r.sha256.items())) for r in receipts)
    return sha256_of_json({"identity": asdict(identity), "buckets": buckets})


def write_dataset(folder: Path, identity: Identity, receipts: list[Receipt]) -> str:
    """Write manifest.parquet and, last, dataset.json; return the fingerprint."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mobilellama.files import sha256_of_file, whole_file

    rows = []
    for receipt in receipts:
        row = asdict(receipt)
        hashes = row.pop("sha256")
        del row["bad_places"], row["identity_sha256"]
        rows.append(row | {f"{ending}_sha256": value for ending, value in hashes.items()})
    with whole_file(folder / MANIFEST) as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    name = fingerprint(identity, receipts)
    write_json(
        folder / DATASET,
        {
            "fingerprint": name,
            "identity": asdict(identity),
            "manifest_sha256": sha256_of_file(folder / MANIFEST),
            "subsets": _totals(receipts),
        },
    )
    return name


def _totals(receipts: list[Receipt]) -> dict[str, dict[str, int]]:
    counted = (
        "documents", "tokens", "train_tokens", "bytes_in", "records", "bad_records",
        "empty_texts", "replaced_surrogates",
    )  # fmt: skip
    totals: dict[str, dict[str, int]] = {}
    for receipt in receipts:
        row = totals.setdefault(receipt.subset, {"buckets": 0} | dict.fromkeys(counted, 0))
        row["buckets"] += 1
        for name in counted:
            row[name] += getattr(receipt, name)
    return totals
