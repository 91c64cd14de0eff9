"""Checkpoints: written atomically, hashed, stored by parameter name, loadable at any world size.

    checkpoints/step-N/
      rank-R.safetensors   the state that rank R owns: NAME:weight and the optimizer's tensors, such
                           as NAME:exp_avg (flat fp32 fragments), and rng:* (the rank's random
                           generators)
      rank-R.json          receipt: the file's size and sha256, and the start of each fragment
      manifest.json        written last: step, samples consumed, identity, record, config, counters,
                           the optimizer's kind and the names of its tensors, the sha256 of every
                           receipt, of the frozen parameters and of itself
    frozen/SHA.safetensors the parameters that do not train, if there are any (frozen.py)

How a checkpoint is written:
1. Every rank writes its files into ``step-N.tmp-ATTEMPT/`` and fsyncs them.
2. When all ranks are done, rank 0 writes the manifest and fsyncs it.
3. Rank 0 renames the folder to ``step-N/`` and fsyncs its parent.
A kill before the rename leaves a folder that no reader takes for a checkpoint. No file is ever
unpickled.
"""

import bisect
import contextlib
import errno
import itertools
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
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
from mobilellama.config import DataError, UserError, one_line
from mobilellama.distributed import OtherRankError, World
from mobilellama.files.atomic import fsync_path, library_file, read_json, sha256_of_file, write_json
from mobilellama.files.sealed import write_sealed_json
from mobilellama.pretrain.engines.engine import Engine, Fragment
from mobilellama.pretrain.state import rng
from mobilellama.pretrain.state.config import CheckpointConfig
from mobilellama.pretrain.state.frozen import FrozenError, FrozenFile
from mobilellama.pretrain.state.manifest import (
    MANIFEST,
    Manifest,
    StoredOptimizer,
    damaged,
    read_manifest,
)
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)


def save(
    run: RunFolder,
    world: World,
    engine: Engine,
    *,
    attempt: int,
    facts: dict[str, Any],
) -> None:
    """Write the checkpoint of step ``facts["step"]``, and return when it is complete.

    Args:
        run: the run's folder.
        world: all ranks call this together.
        engine: gives the fragments of the state.
        attempt: this attempt. The write fails if the folder has a newer one.
        facts: step, consumed, identity, record, config, counters and frozen_sha256, as in
            ``Manifest``.

    Raises:
        FencedError: a newer attempt owns the run.
        OSError: on the rank whose disk failed; OtherRankError on the others.
    """
    final = run.checkpoint(facts["step"])
    folder = final.with_name(f"{final.name}.tmp-{attempt}")

    def prepare() -> None:
        # Leftovers are of attempts that were killed while they wrote: the check says that none of
        # them may write now.
        run.require_newest(attempt)
        run.remove_leftovers()
        folder.mkdir()

    def commit() -> None:
        run.require_newest(attempt)  # a newer attempt has removed this half-written folder
        receipts = {path.name: sha256_of_file(path) for path in sorted(folder.glob("rank-*.json"))}
        assert len(receipts) == world.size
        manifest = Manifest(
            **facts,
            optimizer_step=engine.optimizer_step,
            optimizer=StoredOptimizer(
                kind=engine.optimizer.config.kind, state=engine.optimizer.state_names
            ),
            world_size=world.size,
            attempt=attempt,
            receipts=receipts,
        )
        stored = asdict(manifest) | {"config": as_stored(manifest.config)}
        write_sealed_json(folder / MANIFEST, stored)
        # Again, as late as possible: a newer attempt may have started since the check above, and
        # the rename is what makes this checkpoint count.
        run.require_newest(attempt)
        if final.exists():  # another start wrote it: keep it under another name, delete nothing
            _set_aside(final, attempt)
        folder.rename(final)
        # Without it a power cut can undo the rename although save has returned.
        fsync_path(run.checkpoints)

    # Collective: no rank writes before rank 0 has made the folder.
    world.run_on_main(prepare)
    error: Exception | None = None
    try:
        _write_rank(folder, world.rank, engine)
    except Exception as raised:
        # Raised later: this rank must reach the collective below, or the others wait there.
        error = raised
    # Collective, and the barrier before the commit: when it returns, every rank has fsynced.
    failed, failed_here = world.any_and_here(error is not None)
    if failed:
        if world.is_main:
            run.require_newest(attempt)
            # The half-written files take space that the next try may need.
            shutil.rmtree(folder, ignore_errors=True)
        what = f"{folder}: another rank could not write its part"
        raise error or OtherRankError(what, told_here=failed_here)
    world.run_on_main(commit)


def _write_rank(folder: Path, rank: int, engine: Engine) -> None:
    """Write this rank's tensors, then the receipt: a receipt means that the tensors are whole."""
    tensors = {f"rng:{name}": state for name, state in rng.capture().items()}
    starts: dict[str, list[int]] = {}
    for fragment in engine.fragments():
        starts[fragment.name] = [fragment.start, fragment.weight.numel()]
        for kind, tensor in {"weight": fragment.weight, **fragment.state}.items():
            # A fragment is a view into one flat buffer, and safetensors refuses tensors that
            # share memory. The copy to the CPU is also a host-device sync.
            tensors[f"{fragment.name}:{kind}"] = tensor.detach().to("cpu", copy=True)
    path = folder / f"rank-{rank}.safetensors"
    try:
        with library_file(path) as temporary:
            save_file(tensors, temporary)
    except SafetensorError as error:  # the library gives a disk error only as text
        number = errno.ENOSPC if f"os error {errno.ENOSPC}" in str(error) else errno.EIO
        raise OSError(number, one_line(error), str(path)) from None
    # The hash reads the file again: save_file gives no bytes to hash as it writes.
    receipt = {
        "rank": rank,
        "file": {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of_file(path)},
        "fragments": starts,
    }
    write_json(folder / f"rank-{rank}.json", receipt)


class Checkpoint:
    """A complete checkpoint, open for reading. It is a ``StateSource`` for an engine's ``load``.

    Raises:
        DataError: the manifest or a receipt is missing, damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.optimizer_step = self.manifest.optimizer_step
        self.receipts = [self._receipt(name) for name in sorted(self.manifest.receipts)]
        # name -> fragments (start, count, file), sorted by start. This map is why a checkpoint
        # loads at any world size: a reader asks for elements, not for ranks.
        self._places: dict[str, list[tuple[int, int, str]]] = {}
        for receipt in self.receipts:
            for name, (start, count) in receipt["fragments"].items():
                place = (start, count, receipt["file"]["name"])
                bisect.insort(self._places.setdefault(name, []), place)
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        self._frozen: FrozenFile | None = None
        if sha256 := self.manifest.frozen_sha256:
            # The frozen file lies in the run, so a link to the checkpoint must be followed first.
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
        """Check the sha256 of every `shares`-th file, starting with file number `share`.

        Raises:
            DataError: the bytes of a file have changed since it was written.
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

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the tensors of every parameter that trains."""
        return ("weight", *self.manifest.optimizer.state)

    def numel(self, name: str) -> int:
        """Return the number of elements of a parameter."""
        if self._frozen and name in self._frozen.names():
            return self._frozen.shape(name).numel()
        return sum(count for _, count, _ in self._places[name])

    def read(self, fragment: Fragment) -> None:
        """Fill a fragment's tensors from the saved fragments that overlap it.

        Raises:
            UserError: the optimizer keeps tensors of other names than the checkpoint has.
        """
        stored = self.manifest.optimizer
        if fragment.state.keys() != {*stored.state}:
            raise UserError(
                f"{self.folder}: it holds {_listed(stored.state)} of optimizer '{stored.kind}', "
                f"but this version's optimizer keeps {_listed(fragment.state)}. Resume with the "
                "version that wrote it, or begin a new run with its weights (--init)"
            )
        for kind, target in {"weight": fragment.weight, **fragment.state}.items():
            for offset, part in self._parts(kind, fragment.name, fragment.start, len(target)):
                target[offset : offset + len(part)].copy_(part)

    def parameter(self, name: str, shape: torch.Size, kind: str = "weight") -> Tensor:
        """Return a whole parameter in fp32, or one of ``kinds`` if it trains."""
        if self._frozen and kind == "weight" and name in self._frozen.names():
            return self._frozen.parameter(name).view(shape)
        flat = torch.empty(shape.numel(), dtype=torch.float32)
        for offset, part in self._parts(kind, name, 0, len(flat)):
            flat[offset : offset + len(part)] = part
        return flat.view(shape)

    def rng(self, rank: int) -> dict[str, Tensor] | None:
        """Return a rank's generator states, or None if the checkpoint had fewer ranks."""
        if rank >= self.manifest.world_size:
            return None
        file = self._file(f"rank-{rank}.safetensors")
        keys = [key for key in file.keys() if key.startswith("rng:")]
        return {key.removeprefix("rng:"): file.get_tensor(key) for key in keys}

    def _parts(self, kind: str, name: str, start: int, count: int) -> Iterator[tuple[int, Tensor]]:
        """Yield pairs (offset from `start`, elements) that cover the whole range."""
        if name not in self._places:
            raise damaged(self.folder, f"it has no parameter '{name}'")
        end = start + count
        covered = start
        for place_start, place_count, file in self._places[name]:
            first, last = max(covered, place_start), min(end, place_start + place_count)
            if first >= last:
                continue  # outside the range, or covered already
            if first != covered:
                break  # a gap: an error below, because zeros would train on without a sign
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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "no tensors"


def newest_readable(run: RunFolder) -> tuple[Path, Manifest] | None:
    """Return the newest checkpoint whose manifest is good, and the manifest; None if none is good.

    It logs nothing about damaged ones: ``open_newest`` does.

    Raises:
        UserError: another version wrote it.
    """
    for step in reversed(run.checkpoint_steps()):
        with contextlib.suppress(DataError):
            return run.checkpoint(step), read_manifest(run.checkpoint(step))
    return None


def open_newest(run: RunFolder, world: World, *, attempt: int) -> Checkpoint | None:
    """Open the newest checkpoint that is whole, on all ranks; None if the run has none.

    Rank 0 chooses, and every rank verifies a share of the files. A damaged checkpoint is named in
    a warning and renamed to ``step-N.bad-ATTEMPT``; then the next older one is tried.

    Raises:
        DataError: the run had checkpoints, and all are damaged. The user must ask to start over.
        OSError: on the rank that could not read; OtherRankError on the others.
        FrozenError: the file of the parameters that do not train is missing or damaged.
    """
    while True:
        # Rank 0 alone lists the folder: on a network disk ranks may see different listings, and
        # would then resume from different checkpoints.
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
        # Collective: all ranks must take the same checkpoint, so one rank's finding is all ranks'.
        is_bad = world.any(bad)
        unreadable, unreadable_here = world.any_and_here(problem is not None and not bad)
        if problem and not bad:  # the disk or the frozen file failed: the checkpoint may be good
            raise problem
        if unreadable:
            what = f"{folder}: another rank could not read it"
            raise OtherRankError(what, told_here=unreadable_here)
        if not is_bad:
            return checkpoint
        if problem:
            log.warning("damaged checkpoint: %s", problem)
        world.run_on_main(partial(_set_aside, folder, attempt))


def _set_aside(folder: Path, attempt: int) -> None:
    """Rename a checkpoint that cannot be used, so that no reader takes it for one."""
    names = (f"{folder.name}.bad-{attempt}{'+' * again}" for again in itertools.count())
    aside = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    folder.rename(aside)
    log.warning("%s is renamed to %s", folder, aside.name)


def _require_none_set_aside(run: RunFolder) -> None:
    bad = sorted(path.name for path in run.checkpoints.glob("step-*.bad-*"))
    if bad:
        raise DataError(
            f"{run.checkpoints}: all checkpoints are damaged: {', '.join(bad)}. To start over, "
            "use another run.folder or remove these. To try one again, rename it to step-N"
        )


def prune(run: RunFolder, config: CheckpointConfig, *, attempt: int, written: int) -> None:
    """Delete all checkpoints but the newest and every n-th (rank 0 only).

    Args:
        run: the run's folder.
        config: which to keep.
        attempt: this attempt.
        written: the step that was just written. It is kept. Later ones are kept too, because
            another start of the run wrote them.
    """
    steps = run.checkpoint_steps()
    if later := [step for step in steps if step > written]:
        names = ", ".join(f"step-{step}" for step in later)
        log.warning("%s: another start of the run wrote %s; they are kept", run.checkpoints, names)
    for step in [step for step in steps if step <= written][: -config.keep_last]:
        if not config.keep_every_steps or step % config.keep_every_steps:
            run.remove_checkpoint(step, attempt)
