"""Checkpoints: atomic, hashed, by parameter name, loadable at any world size.

    checkpoints/step-N/
      rank-R.safetensors   what rank R owns: NAME:weight, NAME:exp_avg, NAME:exp_avg_sq (flat
                           fp32 fragments) and rng:* (the rank's random generators)
      rank-R.json          receipt: the file's size and sha256, and where each fragment starts
      manifest.json        written last: step, samples consumed, identity, config, counters,
                           the sha256 of every receipt and of the frozen parameters, and its own
    frozen/SHA.safetensors the parameters that do not train, where there are any (frozen.py)

It is written into ``step-N.tmp-ATTEMPT/``; once every rank has fsynced its files, rank 0
writes the manifest and renames the folder. Nothing is ever unpickled.
"""

import bisect
import contextlib
import errno
import itertools
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mobilellama.commandline.old_names import as_stored
from mobilellama.config import DataError, one_line
from mobilellama.distributed import OtherRankError, World
from mobilellama.files.atomic import fsync_path, library_file, read_json, sha256_of_file, write_json
from mobilellama.files.sealed import write_sealed_json
from mobilellama.pretrain.engines.engine import Engine, Fragment
from mobilellama.pretrain.state import rng
from mobilellama.pretrain.state.config import CheckpointConfig
from mobilellama.pretrain.state.frozen import FrozenError, FrozenFile
from mobilellama.pretrain.state.manifest import MANIFEST, Manifest, damaged, read_manifest
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)

KINDS = ("weight", "exp_avg", "exp_avg_sq")


def save(
    run: RunFolder,
    world: World,
    engine: Engine,
    *,
    attempt: int,
    facts: dict[str, Any],
) -> None:
    """Write the checkpoint after ``facts["step"]`` steps, on all ranks; returns when it is whole.

    Args:
        run: the run's folder.
        world: all ranks call this together.
        engine: whose fragments are written.
        attempt: this attempt; a newer one in the folder makes the write fail.
        facts: step, consumed, identity, config, counters and frozen_sha256, as in ``Manifest``.

    Raises:
        FencedError: a newer attempt owns the run.
        OSError: on the rank whose disk failed; RuntimeError on the others.
    """
    final = run.checkpoint(facts["step"])
    folder = final.with_name(f"{final.name}.tmp-{attempt}")

    def prepare() -> None:
        run.require_newest(attempt)
        run.remove_leftovers()
        folder.mkdir()

    def commit() -> None:
        run.require_newest(attempt)  # a newer attempt has removed what was half written
        receipts = {path.name: sha256_of_file(path) for path in sorted(folder.glob("rank-*.json"))}
        assert len(receipts) == world.size
        manifest = Manifest(
            **facts,
            optimizer_step=engine.optimizer_step,
            world_size=world.size,
            attempt=attempt,
            receipts=receipts,
        )
        stored = asdict(manifest) | {"config": as_stored(manifest.config)}
        write_sealed_json(folder / MANIFEST, stored)
        run.require_newest(attempt)
        if final.exists():  # since this attempt began: it is not this attempt's to delete
            _set_aside(final, attempt)
        folder.rename(final)
        fsync_path(run.checkpoints)

    world.run_on_main(prepare)
    error: Exception | None = None
    try:
        _write_rank(folder, world.rank, engine)
    except Exception as raised:
        error = raised
    if world.any(error is not None):
        if world.is_main:
            run.require_newest(attempt)
            # What was written takes room that the next try may need.
            shutil.rmtree(folder, ignore_errors=True)
        raise error or OtherRankError(f"{folder}: another rank could not write its part")
    world.run_on_main(commit)


def _write_rank(folder: Path, rank: int, engine: Engine) -> None:
    """Write this rank's tensors, then their receipt."""
    tensors = {f"rng:{name}": state for name, state in rng.capture().items()}
    starts: dict[str, list[int]] = {}
    for fragment in engine.fragments():
        starts[fragment.name] = [fragment.start, fragment.weight.numel()]
        for kind in KINDS:
            # A fragment is a view into one flat buffer; the file wants tensors of their own.
            tensors[f"{fragment.name}:{kind}"] = (
                getattr(fragment, kind).detach().to("cpu", copy=True)
            )
    path = folder / f"rank-{rank}.safetensors"
    try:
        with library_file(path) as temporary:
            save_file(tensors, temporary)
    except SafetensorError as error:  # what the disk said, in the library's own words
        number = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
        raise OSError(number, one_line(error), str(path)) from None
    receipt = {
        "rank": rank,
        "file": {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of_file(path)},
        "fragments": starts,
    }
    write_json(folder / f"rank-{rank}.json", receipt)


class Checkpoint:
    """A whole checkpoint, opened for reading; a ``StateSource`` for an engine's ``load``.

    Raises:
        DataError: its manifest or a receipt is missing, broken or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.optimizer_step = self.manifest.optimizer_step
        self.receipts = [self._receipt(name) for name in sorted(self.manifest.receipts)]
        # name -> fragments (start, count, file), ascending by start
        self._places: dict[str, list[tuple[int, int, str]]] = {}
        for receipt in self.receipts:
            for name, (start, count) in receipt["fragments"].items():
                place = (start, count, receipt["file"]["name"])
                bisect.insort(self._places.setdefault(name, []), place)
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        self._frozen: FrozenFile | None = None
        if sha256 := self.manifest.frozen_sha256:
            run = RunFolder(folder.resolve().parent.parent)
            self._frozen = self._open.enter_context(FrozenFile(run, sha256))

    def _receipt(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file() or sha256_of_file(path) != self.manifest.receipts[name]:
            raise damaged(path, "missing, or not the receipt that the manifest names")
        receipt = read_json(path)
        file = self.folder / receipt["file"]["name"]
        if not file.is_file() or file.stat().st_size != receipt["file"]["bytes"]:
            raise damaged(file, f"missing, or not of {receipt['file']['bytes']} bytes")
        return receipt

    def verify(self, *, share: int = 0, shares: int = 1) -> None:
        """Check the sha256 of every `shares`-th file, from the `share`-th.

        Raises:
            DataError: a file's bytes are not those that were written.
        """
        for receipt in self.receipts[share::shares]:
            file = self.folder / receipt["file"]["name"]
            if sha256_of_file(file) != receipt["file"]["sha256"]:
                raise damaged(file, "its sha256 is not the one in its receipt")
        if self._frozen and share == 0:
            self._frozen.verify()

    def names(self) -> list[str]:
        """Return the names of the parameters, frozen ones included, sorted."""
        return sorted([*self._places, *(self._frozen.names() if self._frozen else [])])

    def numel(self, name: str) -> int:
        """Return the number of elements of a parameter."""
        if self._frozen and name in self._frozen.names():
            return self._frozen.shape(name).numel()
        return sum(count for _, count, _ in self._places[name])

    def read(self, fragment: Fragment) -> None:
        """Fill a fragment's tensors from whatever fragments were saved."""
        for kind in KINDS:
            target: Tensor = getattr(fragment, kind)
            for offset, piece in self._pieces(kind, fragment.name, fragment.start, len(target)):
                target[offset : offset + len(piece)].copy_(piece)

    def parameter(self, name: str, shape: torch.Size, kind: str = "weight") -> Tensor:
        """Return a whole parameter (or, of one that trains, a moment), fp32."""
        if self._frozen and kind == "weight" and name in self._frozen.names():
            return self._frozen.parameter(name).view(shape)
        flat = torch.empty(shape.numel(), dtype=torch.float32)
        for offset, piece in self._pieces(kind, name, 0, len(flat)):
            flat[offset : offset + len(piece)] = piece
        return flat.view(shape)

    def rng(self, rank: int) -> dict[str, Tensor] | None:
        """Return a rank's generator states, None where the checkpoint had fewer ranks."""
        if rank >= self.manifest.world_size:
            return None
        file = self._file(f"rank-{rank}.safetensors")
        keys = [key for key in file.keys() if key.startswith("rng:")]
        return {key.removeprefix("rng:"): file.get_tensor(key) for key in keys}

    def _pieces(self, kind: str, name: str, start: int, count: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (offset from `start`, elements) that together cover the range."""
        if name not in self._places:
            raise damaged(self.folder, f"it has no parameter '{name}'")
        end = start + count
        covered = start
        for place_start, place_count, file in self._places[name]:
            first, last = max(covered, place_start), min(end, place_start + place_count)
            if first >= last:
                continue
            if first != covered:
                break
            stored = self._file(file).get_slice(f"{name}:{kind}")
            yield first - start, stored[first - place_start : last - place_start]
            covered = last
        if covered != end:
            raise damaged(self.folder, f"elements {covered} to {end} of '{name}' are missing")

    def _file(self, name: str) -> Any:
        if name not in self._files:
            try:
                opened = safe_open(self.folder / name, framework="pt")
                self._files[name] = self._open.enter_context(opened)
            except (SafetensorError, OSError) as error:
                raise damaged(self.folder / name, f"cannot be read ({error})") from None
        return self._files[name]

    def close(self) -> None:
        """Close the files."""
        self._frozen = None
        self._open.close()
        self._files.clear()


def newest_readable(run: RunFolder) -> tuple[Path, Manifest] | None:
    """Return the newest checkpoint whose manifest is good, and that; None where there is none.

    Nothing is said of others: opening them will.

    Raises:
        UserError: another version wrote it.
    """
    for step in reversed(run.checkpoint_steps()):
        with contextlib.suppress(DataError):
            return run.checkpoint(step), read_manifest(run.checkpoint(step))
    return None


def open_newest(run: RunFolder, world: World, *, attempt: int) -> Checkpoint | None:
    """Open the newest checkpoint whose every byte is right, on all ranks; None where none is.

    Rank 0 chooses, every rank verifies a share. One that fails is named in a warning and set
    aside as ``step-N.bad-ATTEMPT``.

    Raises:
        DataError: there were checkpoints, and none is left: starting over must be asked for.
        OSError: on the rank that could not read; OtherRankError on the others.
        FrozenError: the file of the parameters that do not train is missing or damaged.
    """
    while True:
        steps = run.checkpoint_steps() if world.is_main else []
        step = world.broadcast(steps[-1] if steps else -1)
        if step < 0:
            _require_none_set_aside(run)
            return None
        folder = run.checkpoint(step)
        checkpoint, problem = None, None
        try:
            checkpoint = Checkpoint(folder)
            checkpoint.verify(share=world.rank, shares=world.size)
        except (DataError, FrozenError, OSError) as error:
            problem = error
        bad = isinstance(problem, DataError)
        is_bad, unreadable = world.sum([float(bad), float(problem is not None and not bad)])
        if problem and not bad:  # the disk's trouble, or the frozen file's, is not the checkpoint's
            raise problem
        if unreadable:
            raise OtherRankError(f"{folder}: another rank could not read it")
        if not is_bad:
            return checkpoint
        if problem:
            log.warning("checkpoint passed over: %s", problem)
        world.run_on_main(partial(_set_aside, folder, attempt))


def _set_aside(folder: Path, attempt: int) -> None:
    """Give a checkpoint that cannot be used a name that no checkpoint has."""
    names = (f"{folder.name}.bad-{attempt}{'+' * again}" for again in itertools.count())
    aside = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    folder.rename(aside)
    log.warning("%s is set aside as %s", folder, aside.name)


def _require_none_set_aside(run: RunFolder) -> None:
    bad = sorted(path.name for path in run.checkpoints.glob("step-*.bad-*"))
    if bad:
        raise DataError(
            f"{run.checkpoints}: no whole checkpoint is left, but {', '.join(bad)}. To start "
            "over, use another run.folder or remove these; to try one again, rename it to step-N"
        )


def prune(run: RunFolder, config: CheckpointConfig, *, attempt: int, written: int) -> None:
    """Delete old checkpoints: all but the last few and every n-th (rank 0 only).

    Args:
        run: the run's folder.
        config: what to keep.
        attempt: this attempt.
        written: the step that was just written. It is kept, and so is every later one: none of
            them is this attempt's.
    """
    steps = run.checkpoint_steps()
    if later := [step for step in steps if step > written]:
        names = ", ".join(f"step-{step}" for step in later)
        log.warning("%s: %s is not of this start; it is kept", run.checkpoints, names)
    for step in [step for step in steps if step <= written][: -config.keep_last]:
        if not config.keep_every_steps or step % config.keep_every_steps:
            run.remove_checkpoint(step, attempt)
