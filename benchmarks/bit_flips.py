"""Flip single bits in every kind of file of a checkpoint and of datasets: is each one found?

    python benchmarks/bit_flips.py --flips 3000 --runs RUN ... --datasets DATASET ...

Works on copies. Each bit is flipped by itself; then the reader opens the checkpoint or the dataset
and all of it is verified, as at the start of a run and by 'shards verify'. A flip is

  found      refused, with a message to the user
  harmless   what was loaded is equal to what the whole files hold (white space of JSON)
  silent     anything else: loaded, and different
  crash      an error that is no message
"""

import argparse
import logging
import random
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mobilellama.config import UserError
from mobilellama.pretrain.hf.export_folder import run_of
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder
from mobilellama.shards.dataset import Plan, read_receipt
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.verify import verify_dataset
from mobilellama.table import aligned

KINDS = ("found", "harmless", "silent", "crash")


def load_checkpoint(folder: Path) -> str:
    """Open and verify the newest checkpoint of a run; return all that was loaded."""
    run = RunFolder(folder)
    checkpoint = Checkpoint(run.checkpoint(run.checkpoint_steps()[-1]))
    checkpoint.verify()
    run_of(checkpoint)
    # The bytes of tensors, tokenizer and template have been compared.
    loaded = [asdict(checkpoint.manifest), checkpoint.receipts]
    loaded += [run.read_attempt(number) for number in run.attempt_numbers()]
    checkpoint.close()
    if not all(loaded[2:]) or run.read_verdict() is None:
        raise UserError("an attempt or the verdict is damaged")  # which a warning has told
    return repr([*loaded, run.read_verdict()])


def load_dataset(folder: Path) -> str:
    """Open and verify a dataset; return all that was loaded."""
    dataset = TokenDataset(folder)
    verify_dataset(dataset, workers=1)
    plan = Plan.read(folder)
    receipts = [read_receipt(folder, slice_, plan.identity) for slice_ in plan.slices]
    described = [dataset.fingerprint, dataset.identity, dataset.described_totals]
    return repr([*described, dataset.described_files, dataset.manifest, plan, receipts])


def files_of_run(folder: Path) -> list[Path]:
    """Return the files of a run's newest checkpoint, and those of the run that decide."""
    run = RunFolder(folder)
    step = run.checkpoint(run.checkpoint_steps()[-1])
    own = [run.verdict, run.digests, run.tokenizer, run.template]
    places = (step, run.frozen, run.attempts, folder / "tokenizer")
    return [path for path in (*own, *(p for place in places for p in place.glob("*")))
            if path.is_file()]  # fmt: skip


def kind_of(path: Path, folder: Path) -> str:
    """Return the kind of a file: its name, with numbers and hashes left out."""
    name = path.name
    if name.startswith("rank-"):
        name = f"rank-R{path.suffix}"
    elif path.parent.name == "frozen":
        name = "frozen/SHA.safetensors"
    elif path.parent.name == "attempts":
        name = "attempts/NNNN.json"
    elif path.stem.isdigit():
        name = f"NNNNN{path.suffix}"
    return f"{folder.name}: {name}"


def judge(load: Callable[[Path], str], folder: Path, whole: str) -> str:
    """Return what became of a flip in a folder, whose whole files give `whole`."""
    try:
        return "harmless" if load(folder) == whole else "silent"
    except (UserError, OSError):
        return "found"
    except Exception:
        return "crash"


def drill(
    folder: Path, load: Callable[[Path], str], paths: Sequence[Path], flips: int, rng: random.Random
) -> dict[str, Counter[str]]:
    """Flip so many bits, shared out evenly among the kinds of files; return outcomes by kind."""
    whole = load(folder)
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if path.stat().st_size:
            by_kind[kind_of(path, folder)].append(path)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in sorted(by_kind)}
    for i in range(flips):
        kind = sorted(by_kind)[i % len(by_kind)]
        path = rng.choice(sorted(by_kind[kind]))
        good = path.read_bytes()
        bad = bytearray(good)
        bit = rng.randrange(8 * len(good))
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        outcome = judge(load, folder, whole)
        if outcome in ("silent", "crash"):
            print(f"{outcome}: {path}, byte {bit // 8}, bit {bit % 8}")
        outcomes[kind][outcome] += 1
        path.write_bytes(good)
    return outcomes


def table(outcomes: dict[str, Counter[str]]) -> str:
    """Return the outcomes as a table, a kind of file a line."""
    rows: list[tuple[str, ...]] = [("file", "flips", *KINDS)]
    total = sum(outcomes.values(), Counter())
    for kind, counts in [*outcomes.items(), ("total", total)]:
        rows.append((kind, f"{counts.total():,}", *(f"{counts[name]:,}" for name in KINDS)))
    return aligned(rows)


def run_drill(
    runs: Sequence[Path], datasets: Sequence[Path], flips: int, seed: int
) -> dict[str, Counter[str]]:
    """Copy the folders, flip so many bits in all, and return the outcomes by kind of file."""
    rng = random.Random(seed)
    outcomes: dict[str, Counter[str]] = {}
    share = flips // (len(runs) + len(datasets))
    logging.disable(logging.WARNING)  # one for each flip that is found
    with tempfile.TemporaryDirectory() as temporary:
        for source in (*runs, *datasets):
            copy = Path(shutil.copytree(source, Path(temporary) / source.name))
            if source in runs:
                outcomes |= drill(copy, load_checkpoint, files_of_run(copy), share, rng)
            else:
                paths = [path for path in copy.rglob("*") if path.is_file()]
                outcomes |= drill(copy, load_dataset, paths, share, rng)
    logging.disable(logging.NOTSET)
    return outcomes


def main() -> int:
    """Run the drill, print the table, and return 1 if a flip was silent or a crash."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", nargs="*", type=Path, default=[])
    parser.add_argument("--datasets", nargs="*", type=Path, default=[])
    parser.add_argument("--flips", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    outcomes = run_drill(given.runs, given.datasets, given.flips, given.seed)
    print(table(outcomes))
    return int(any(counts["silent"] or counts["crash"] for counts in outcomes.values()))


if __name__ == "__main__":
    raise SystemExit(main())
