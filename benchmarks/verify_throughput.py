r"""Speed of 'shards verify' beside the disk's own, and of the hash beside others.

A dataset of random ids is written. Each candidate then reads all of its files:

- ``cat``: reads, and does nothing with the bytes. Without the page cache, this is the disk's speed.
- ``sha256sum``: coreutils, one file after another.
- ``verify, 1 worker``, ``verify, 2 workers``: ours, as the command does it, with its journal.

CPU seconds are measured with the files in the page cache, and related to those of 'verify, 1
worker'. Times on the clock are measured with the cache and without (the files' pages are dropped
before each). They depend on what else the machine does. The hashes work on a buffer of 1 MB.

    python benchmarks/verify_throughput.py --output benchmarks/results/verify_throughput.json
"""

import contextlib
import hashlib
import io
import os
import statistics
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import paired
import xxhash

from mobilellama.files.atomic import sha256_of_file
from mobilellama.shards import verify
from mobilellama.shards.dataset import TOKENIZER, Identity, Receipt, bucket_name
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset

_DOCUMENT_TOKENS = 1000


def write_random_dataset(folder: Path, buckets: int, megabytes: int) -> list[Path]:
    """Write a dataset of random ids; return its files."""
    (folder / "made").mkdir(parents=True)
    (folder / TOKENIZER).write_bytes(os.urandom(500_000))
    identity = Identity(
        tokenizer_sha256=sha256_of_file(folder / TOKENIZER), vocab_size=32_000, eos_id=2,
        dtype="uint16", seed=1, slice_bytes=1 << 30, heldout_share=0.0, encoder_version=1,
    )  # fmt: skip
    lengths = np.full(megabytes * 1_000_000 // 2 // _DOCUMENT_TOKENS, _DOCUMENT_TOKENS)
    random = np.random.default_rng(1)
    receipts = []
    for bucket in range(buckets):
        paths = {end: folder / f"{bucket_name('made', bucket)}.{end}" for end in ("bin", "idx")}
        random.integers(0, 32_000, int(lengths.sum()), dtype="<u2").tofile(paths["bin"])
        with open(paths["idx"], "wb") as file:
            write_index(file, lengths, "uint16")
        tokens = int(lengths.sum())
        receipt = Receipt(
            subset="made", bucket=bucket, source=f"{bucket}", start=0, end=1, unit="bytes",
            documents=len(lengths), tokens=tokens, train_tokens=tokens, bytes_in=1,
            records=len(lengths), bad_records=0, empty_texts=0, replaced_surrogates=0,
            sha256={end: sha256_of_file(path) for end, path in paths.items()},
            identity_sha256=identity.sha256,
        )  # fmt: skip
        receipts.append(receipt)
    write_dataset(folder, identity, receipts)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def readers(folder: Path, files: list[Path]) -> Mapping[str, Callable[[], object]]:
    def ours(workers: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert verify.main(verify.Config(dataset=str(folder), workers=workers)) == 0

    def program(name: str) -> None:
        subprocess.run([name, *map(str, files)], stdout=subprocess.DEVNULL, check=True)

    return {
        "verify, 1 worker": lambda: ours(1),
        "verify, 2 workers": lambda: ours(2),
        "sha256sum": lambda: program("sha256sum"),
        "cat": lambda: program("cat"),
    }


def drop_pages(files: list[Path]) -> None:
    """Make the next reader of the files wait for the disk."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def clocked(
    candidates: Mapping[str, Callable[[], object]], rounds: int, before: Callable[[], object]
) -> dict[str, list[float]]:
    """Return the seconds on the clock of each candidate, round by round, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds):
        for name in list(candidates)[:: -1 if i % 2 else 1]:
            before()
            started_s = time.monotonic()
            candidates[name]()
            seconds[name].append(time.monotonic() - started_s)
    return seconds


def rates(seconds: Mapping[str, list[float]], gigabytes: float) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median": round(gigabytes / statistics.median(mine), 2),
            "least": round(gigabytes / max(mine), 2),
            "most": round(gigabytes / min(mine), 2),
        }
        for name, mine in seconds.items()
    }


def hashes(rounds: int) -> dict[str, float]:
    """Return the GB a second of CPU of each hash."""
    block, count = os.urandom(1 << 20), 200
    makers = {
        "sha256": hashlib.sha256,
        "blake2b": hashlib.blake2b,
        "md5": hashlib.md5,
        "xxh3_128": xxhash.xxh3_128,
    }

    def run(name: str) -> None:
        digest = makers[name]()
        for _ in range(count):
            digest.update(block)

    def crc32() -> None:
        value = 0
        for _ in range(count):
            value = zlib.crc32(block, value)

    candidates = {name: lambda name=name: run(name) for name in makers} | {"crc32": crc32}
    measured = paired.measure(candidates, rounds=rounds)
    gigabytes = count * len(block) / 1e9
    return {name: round(gigabytes / row["median_cpu_s"], 2) for name, row in measured.items()}


def main() -> None:
    options = paired.arguments(__doc__, buckets=8, megabytes=128, rounds=5, folder="")
    with tempfile.TemporaryDirectory(dir=options.folder or None) as temporary:
        folder = Path(temporary) / "dataset"
        files = write_random_dataset(folder, options.buckets, options.megabytes)
        gigabytes = sum(path.stat().st_size for path in files) / 1e9
        candidates = readers(folder, files)
        cpu = paired.measure(candidates, rounds=options.rounds)
        cached = clocked(candidates, options.rounds, lambda: None)
        cold = clocked(candidates, options.rounds, lambda: drop_pages(files))
    for row in cpu.values():
        row["gb_per_cpu_s"] = round(gigabytes / row["median_cpu_s"], 2)
    paired.save(
        {
            "gigabytes": round(gigabytes, 3),
            "cpu": cpu,
            "gb_per_s_cached": rates(cached, gigabytes),
            "gb_per_s_from_disk": rates(cold, gigabytes),
            "hash_gb_per_cpu_s": hashes(options.rounds),
        },
        options,
    )


if __name__ == "__main__":
    main()
