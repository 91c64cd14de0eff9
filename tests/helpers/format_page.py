"""Reads and checks a dataset folder, written from the page format.md alone."""

import hashlib
import itertools
import json
import struct
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

PERIOD = 65536
DTYPES = {"uint16": (8, "<u2"), "int32": (4, "<i4")}
FIELDS = """subset bucket source start end unit documents tokens train_tokens records
    bad_records empty_texts bytes_in replaced_surrogates""".split()
Object = dict[str, Any]


def _expect(where: object, **checks: object) -> None:
    """Raises ValueError that names the first check that does not hold."""
    for what, holds in checks.items():
        if not holds:
            raise ValueError(f"{where}: wrong {what}")


def _sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, empty if there is no such file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""


def _json_sha256(content: object, ascii_only: bool = False) -> str:
    """The sha256 of JSON with sorted keys and no blanks."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only)
    return hashlib.sha256(text.encode()).hexdigest()


def read_sealed(path: Path) -> dict[str, object]:
    """The content of a JSON file, without the two fields of its digest, which is checked."""
    _expect(path, presence=path.is_file())
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    if content.keys() & {"sealed", "content_sha256"}:
        seal = content.pop("sealed", None), content.pop("content_sha256", None)
        _expect(path, content_sha256=seal == (1, _json_sha256(content, True)))
    return content


def _stem(part: Object) -> str:
    """The path of a bucket's files in the dataset, without their ending."""
    return f"{part['subset']}/{part['bucket']:05d}"


def _arrays(stem: Path, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bucket's ids, the token at which each sequence begins, the first sequence of documents."""
    code, id_type = DTYPES[dtype]
    ids = np.frombuffer(Path(f"{stem}.bin").read_bytes(), id_type)
    index = Path(f"{stem}.idx").read_bytes()
    _expect(f"{stem}.idx", head=index[:18] == struct.pack("<9sQB", b"MMIDIDX", 1, code))
    count, borders = struct.unpack_from("<QQ", index.ljust(34, b"\0"), 18)
    _expect(f"{stem}.idx", size=borders and len(index) == 34 + 12 * count + 8 * borders)
    lengths = np.frombuffer(index, "<i4", count, 34)
    offsets = np.frombuffer(index, "<i8", count, 34 + 4 * count)
    first = np.frombuffer(index, "<i8", borders, 34 + 12 * count)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    _expect(
        stem,
        lengths=(lengths > 0).all(),
        size_of_bin=starts[-1] == len(ids),
        offsets=np.array_equal(offsets, starts[:-1] * ids.itemsize),
        documents=first[0] == 0 and first[-1] == count and (np.diff(first) > 0).all(),
    )
    return ids, starts, first


def read_bucket(stem: Path, dtype: str) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of each sequence, and the numbers of each document's sequences."""
    ids, starts, first = _arrays(stem, dtype)
    sequences = [ids[start:end].tolist() for start, end in itertools.pairwise(starts)]
    return sequences, [list(range(*pair)) for pair in itertools.pairwise(first.tolist())]


def read_mask(stem: Path) -> list[int]:
    """1 for each supervised token of a bucket of packed rows, else 0."""
    mask = list(Path(f"{stem}.mask").read_bytes())
    _expect(f"{stem}.mask", values=set(mask) <= {0, 1})
    return mask


def _check_ids(stem: Path, identity: Object, receipt: Object) -> None:
    """What is in a bucket's files, against its receipt and the identity."""
    ids, starts, first = _arrays(stem, identity["dtype"])
    borders, train, last = starts[first], receipt["train_tokens"], starts[1:] - 1
    _expect(
        stem,
        ids=not ids.size or 0 <= ids.min() <= ids.max() < identity["vocab_size"],
        documents=receipt["documents"] == len(last),
        train_tokens=train in borders,
        tokens=receipt["tokens"] == len(ids),
    )
    if "packing" not in identity:
        _expect(
            stem,
            documents=np.array_equal(first, np.arange(len(starts))),
            eos=np.array_equal(np.flatnonzero(ids == identity["eos_id"]), last),
        )
        return
    mask, counts = np.array(read_mask(stem)), receipt["counts"]
    _expect(
        stem,
        size_of_mask=mask.size == ids.size,
        rows=counts["train_rows"] <= counts["rows"] == len(borders) - 1,
        mask=not np.isin(starts[:-1], np.flatnonzero(mask)).any(),
        train_rows=borders[: counts["train_rows"] + 1][-1] == train,
        row_sizes=(np.diff(borders) <= identity["packing"]["seq_len"]).all(),
    )


def _receipts(folder: Path, slices: list[Object]) -> list[Object]:
    """The receipts of the plan's slices, by subset and bucket."""
    receipts: list[Object] = []
    for part in sorted(slices, key=lambda part: (part["subset"], part["bucket"])):
        follows = sum(before["subset"] == part["subset"] for before in receipts)
        receipts.append(read_sealed(folder / f"{_stem(part)}.json"))
        _expect(
            f"{_stem(part)}.json or plan.json",
            number=part["bucket"] == follows,
            **{name: receipts[-1][name] == part[name] for name in FIELDS[:6]},
        )
    return receipts


def _check_files(folder: Path, dataset: Object, receipts: list[Object]) -> None:
    """The sha256 of all files, and of the identity."""
    identity, files = dataset["identity"], dataset.get("files", {})
    model = next((folder / "tokenizer").glob("tokenizer.json"), folder / "tokenizer.model")
    _expect(
        folder,
        manifest=_sha256(folder / "manifest.parquet") == dataset["manifest_sha256"],
        tokenizer=_sha256(model) == identity["tokenizer_sha256"],
        **{name: _sha256(folder / name) == digest for name, digest in files.items()},
    )
    names = {"plan.json", *(f"{_stem(receipt)}.json" for receipt in receipts)}
    _expect("dataset.json", files="files" not in dataset or names <= files.keys())
    for receipt in receipts:
        stem, own = folder / _stem(receipt), receipt["sha256"]
        _expect(
            stem,
            identity_sha256=receipt["identity_sha256"] == _json_sha256(identity),
            endings=own.keys() == {"bin", "idx", "mask" if "packing" in identity else "bin"},
            **{ending: _sha256(f"{stem}.{ending}") == own[ending] for ending in own},
        )


def _check_manifest(folder: Path, subsets: dict[str, Object], receipts: list[Object]) -> None:
    """The manifest's rows against the receipts, and the sums in dataset.json."""
    rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    _expect(
        folder,
        manifest=len(rows) == len(receipts),
        subsets=subsets.keys() == {receipt["subset"] for receipt in receipts},
    )
    for row, receipt in zip(rows, receipts, strict=True):
        expected = {f"{ending}_sha256": value for ending, value in receipt["sha256"].items()}
        expected |= {name: receipt[name] for name in FIELDS} | receipt.get("counts", {})
        same = {name: row.get(name) == value for name, value in expected.items()}
        _expect(f"manifest.parquet: {_stem(receipt)}", **same)
    for subset, sums in subsets.items():
        own = [row | {"buckets": 1} for row in rows if row["subset"] == subset]
        _expect(subset, **{n: sum(row[n] for row in own) == sums[n] for n in sums.keys() & own[0]})


def check_dataset(folder: Path) -> str:
    """Checks all that the page lets one check, and returns the fingerprint it computed."""
    dataset: Object = read_sealed(folder / "dataset.json")
    plan: Object = read_sealed(folder / "plan.json")
    identity = dataset["identity"]
    _expect(folder, format=identity["format_version"] == 1, plan=plan["identity"] == identity)
    receipts = _receipts(folder, plan["slices"])
    _check_files(folder, dataset, receipts)
    for receipt in receipts:
        _check_ids(folder / _stem(receipt), identity, receipt)
    _check_manifest(folder, dataset["subsets"], receipts)
    buckets = [[r["subset"], r["bucket"], sorted(map(list, r["sha256"].items()))] for r in receipts]
    fingerprint = _json_sha256({"identity": identity, "buckets": buckets})
    _expect("dataset.json", fingerprint=fingerprint == dataset["fingerprint"])
    return fingerprint


def permute(n: int, key: tuple[str | int, ...], value: int) -> int:
    """The image of a number below n under the permutation of a key."""
    _expect(value, number=0 <= value < n)
    digest = hashlib.blake2b(ascii(key).encode(), digest_size=64).digest()
    bits = max((n - 1).bit_length(), 2)
    low, high = bits - bits // 2, bits // 2
    while True:
        left, right = value >> low, value & (1 << low) - 1
        for number in range(8):
            x = right + int.from_bytes(digest[8 * number : 8 * number + 8], "little")
            x = (x % 2**64 ^ x % 2**64 >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
            width = low if number % 2 else high
            left, right = right, (left ^ x ^ x >> 31) & (1 << width) - 1
        value = left << low | right
        if value < n:
            return value


def document_at(folder: Path, subset: str, bucket: int, number_in_slice: int) -> list[int]:
    """The ids of a slice's document by its number in the order of the source."""
    identity: Any = read_sealed(folder / "dataset.json")["identity"]
    _expect(f"{folder}: packed rows", order="packing" not in identity)
    stem, key = folder / f"{subset}/{bucket:05d}", (identity["seed"], subset, bucket)
    sequences, _ = read_bucket(stem, identity["dtype"])
    numbers = {permute(len(sequences), key, p): p for p in range(len(sequences))}
    _expect(stem, number_in_slice=number_in_slice in numbers)
    return sequences[numbers[number_in_slice]]


def samples(folder: Path, subset: str, seq_len: int) -> list[tuple[int, int]]:
    """(bucket, first token) of each training sample, or (bucket, row) of packed rows."""
    rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    step = 1 if "train_rows" in rows[0] else seq_len
    counts = {
        row["bucket"]: row.get("train_rows", max(row["train_tokens"] - 1, 0) // seq_len)
        for row in rows
        if row["subset"] == subset
    }
    return [(bucket, i * step) for bucket, count in counts.items() for i in range(count)]


def _shares(weights: list[Fraction]) -> list[int]:
    """Whole numbers that sum to the period, by the largest remainder."""
    quotas = [weight * PERIOD / sum(weights) for weight in weights]
    ranks = sorted(range(len(quotas)), key=lambda i: -(quotas[i] % 1))
    rest = PERIOD - sum(map(int, quotas))
    return [int(quota) + (i in ranks[:rest]) for i, quota in enumerate(quotas)]


@lru_cache
def _period(seed: int, t: int, *shares: int) -> list[tuple[int, int]]:
    """(subset, number k of the position in the subset) of each offset of a period."""
    owners = [i for i, share in enumerate(shares) for _ in range(share)]
    following = [itertools.count(t * share) for share in shares]
    tickets = (permute(PERIOD, (seed, "mixture", t), offset) for offset in range(PERIOD))
    return [(i, next(following[i])) for i in map(owners.__getitem__, tickets)]


def order(
    folder: Path, *, seq_len: int, seed: int, weights: dict[str, str] | None, positions: range
) -> list[tuple[str, int, int]]:
    """(subset, epoch, sample) of positions of a run; without weights, all subsets once an epoch."""
    subsets: Any = read_sealed(folder / "dataset.json")["subsets"]
    sizes = {name: len(samples(folder, name, seq_len)) for name in sorted(weights or subsets)}
    shares = _shares([Fraction(weights[name] if weights else m) for name, m in sizes.items()])
    _expect(folder, subset=all(m or not n for m, n in zip(sizes.values(), shares, strict=True)))
    drawn = (_period(seed, p // PERIOD, *shares)[p % PERIOD] for p in positions)
    return [
        (name, k // m, permute(m, (seed, name, k // m), k % m))
        for i, k in drawn
        for name, m in [list(sizes.items())[i]]
    ]
