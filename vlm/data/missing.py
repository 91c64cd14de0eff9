"""Which images of the samples are not there: found before the first step, not at step 18.

    RUN/samples/train.images.json    what the check found; sealed, written by rank 0

1. The first attempt stats every image that the samples name, each once, in threads.
2. Where all are there, the file says so, and no later attempt looks again.
3. Where some are not, the run is refused (``data.missing refuse``), or goes on without their
   samples (``skip``), which the file lists.
4. Once the run has a checkpoint, the file alone says which samples are left out: the order of
   samples depends on it. An image that appears later changes nothing.

A run that began before there was this check is not checked: its images may be gone after the
steps that needed them.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from mobilellama.config import ConfigError
from mobilellama.files.atomic import sha256_of_json
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.files.typed_json import from_json
from mobilellama.progress import Progress, format_count
from mobilellama.vlm.data.images import ImageFault, fault_of_path, show_name
from mobilellama.vlm.data.records import image_path
from mobilellama.vlm.data.samples import Samples, written_sha256

log = logging.getLogger(__name__)

Missing = Literal["refuse", "skip"]
"""What becomes of samples whose images are missing."""
IDENTITY = "data.missing"
"""Where a run's identity has which samples are left out; absent: the run was not checked."""

_THREADS = 32  # they wait for the file system, not for a core: a network's stat takes about 1 ms
_NAMES_A_TASK = 256
_NAMES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ImageCheck:
    """What was found of a file of samples and a folder of images."""

    samples_sha256: str
    """Of the file of samples."""
    folder: str
    """Of the images, as the config gives it."""
    samples: int
    """Rows of the file."""
    images: int
    """Different images that the samples name."""
    missing: int
    """How many of them are not there, or are no file with content."""
    faults: dict[str, int]
    """The same by what is wrong."""
    examples: list[str]
    """The first few, with what is wrong."""
    left_out: list[int]
    """Rows of the file that name such an image; ascending."""

    def told(self) -> str:
        """Return the counts and the first names; of none an empty text."""
        if not self.missing:
            return ""
        kinds = "; ".join(f"{fault}: {count:,}" for fault, count in self.faults.items())
        more = self.missing - len(self.examples)
        all_images = format_count(self.images, "image")
        return (
            f"{self.missing:,} of its {all_images} cannot be used ({kinds}), "
            f"needed by {format_count(len(self.left_out), 'sample')}: {'; '.join(self.examples)}"
            + (f"; and {more:,} more" if more else "")
        )

    def digest(self) -> str | None:
        """Return what a run's identity has of the samples left out; None where there is none."""
        return sha256_of_json(self.left_out) if self.left_out else None


def check_images(
    samples: Path,
    folder: str,
    *,
    policy: Missing,
    began: Mapping[str, object] | None,
    are_held_out: bool = False,
) -> ImageCheck:
    """Look for every image of a file of samples where that is not known, and write down the result.

    Args:
        samples: the .arrow file.
        folder: of the images.
        policy: what to do where images are missing: refuse, or skip their samples.
        began: identity of the run's newest checkpoint, from which on the samples must stay those
            they are; None: there is none.
        are_held_out: whether they are data.validation's, of which the identity says nothing.

    Raises:
        ConfigError: images are missing, and `policy` or `began` do not allow it.
    """
    known = read_image_check(samples)
    if known is not None and known.folder == folder and (began is not None or not known.missing):
        found = known
    else:
        found = find_missing(samples, folder)
    if began is not None and known is not None:
        found = _as_it_began(known, found, policy)
    elif found.missing:
        _require_allowed(found, policy, are_held_out=are_held_out)
    if began is not None and not are_held_out and found.digest() != began[IDENTITY]:
        rule = f"{found.told() or 'no image is missing'}, but the run began with other samples"
        remedy = f"Restore {_path_of(samples)} or these images, or use another run.folder"
        raise ConfigError("data.images", folder, rule, remedy)
    if found.missing:
        whose = "of data.validation " if are_held_out else ""
        log.warning("%sleft out by data.missing = skip: %s", whose, found.told())
    if found != known:
        write_sealed_json(_path_of(samples), {"format": 1, **vars(found)})
    return found


def _require_allowed(found: ImageCheck, policy: Missing, *, are_held_out: bool) -> None:
    told = f"for data.validation, {found.told()}" if are_held_out else found.told()
    if found.missing == found.images or len(found.left_out) == found.samples:
        left = "no image is left" if found.missing == found.images else "no sample is left"
        remedy = "Give the folder to which these paths are relative"
        raise ConfigError("data.images", found.folder, f"{told}: {left}", remedy)
    if policy == "refuse":
        remedy = "Put them there; or set data.missing to skip, which goes on without these samples"
        if not are_held_out:  # data.leave_out lists records of data.path
            remedy += "; or give data.leave_out what 'mobilellama vlm check-data' wrote"
        raise ConfigError("data.images", found.folder, told, remedy)


def _as_it_began(known: ImageCheck, found: ImageCheck, policy: Missing) -> ImageCheck:
    """Return what the run began with; `found` is of this attempt's folder of images.

    Raises:
        ConfigError: images are missing of samples that the run trains on, or the policy is not
            the one that it began with.
    """
    if more := set(found.left_out) - set(known.left_out):
        rule = f"{found.told()}; the run began with {len(more):,} of these samples"
        raise ConfigError("data.images", found.folder, rule, "Put their images there")
    if known.left_out and policy == "refuse":
        left_out = format_count(len(known.left_out), "sample")
        rule = f"the run began without {left_out}, for missing images"
        raise ConfigError("data.missing", policy, rule, "Give skip, or another run.folder")
    return replace(known, folder=found.folder)


def find_missing(samples: Path, folder: str) -> ImageCheck:
    """Stat every image that a file of samples names, once."""
    opened = Samples(samples, image_tokens=1)
    faults: dict[str, ImageFault | None] = {}
    total = int(opened.has_images.sum())
    with (
        ThreadPoolExecutor(_THREADS) as threads,
        Progress("look for images", total=total, unit="samples") as progress,
    ):
        for rows, names in _new_names(opened, faults):
            tasks = [names[i : i + _NAMES_A_TASK] for i in range(0, len(names), _NAMES_A_TASK)]
            for seen in threads.map(partial(_look, Path(folder)), tasks):
                faults.update(seen)
            progress.advance(rows)
    bad = {name: fault for name, fault in faults.items() if fault}
    first = list(bad.items())[:_NAMES_SHOWN]
    return ImageCheck(
        samples_sha256=written_sha256(samples),
        folder=folder,
        samples=len(opened),
        images=len(faults),
        missing=len(bad),
        faults=dict(Counter(fault.value for fault in bad.values()).most_common()),
        examples=[f"{show_name(name)} {fault.value}" for name, fault in first],
        left_out=_rows_of(opened, bad.keys()) if bad else [],
    )


def _rows_of(samples: Samples, bad: Set[str]) -> list[int]:
    """Return the rows that name one of these images."""
    rows = (names for batch in samples.image_names() for names in batch)
    return [row for row, names in enumerate(rows) if any(_normal(name) in bad for name in names)]


def _new_names(
    samples: Samples, known: dict[str, ImageFault | None]
) -> Iterator[tuple[int, list[str]]]:
    """Yield a number of samples with images, and the names of theirs that were not yielded yet.

    A name that is yielded is put into `known` at once.
    """
    rows, names = 0, []
    for batch in samples.image_names():
        for row in batch:
            rows += bool(row)
            for name in map(_normal, row):
                if name not in known:
                    known[name] = None
                    names.append(name)
        if len(names) >= _THREADS * _NAMES_A_TASK:
            yield rows, names
            rows, names = 0, []
    yield rows, names


def _normal(name: bytes) -> str:
    return os.path.normpath(os.fsdecode(name))


def _look(folder: Path, names: Sequence[str]) -> list[tuple[str, ImageFault | None]]:
    return [(name, fault_of_path(image_path(folder, name))) for name in names]


def read_image_check(samples: Path) -> ImageCheck | None:
    """Return what was found of a file of samples; None where nothing whole is written of it."""
    try:
        held = read_sealed_json(_path_of(samples), owner=None)
        del held["format"]
        found = from_json(ImageCheck, held)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.samples_sha256 == written_sha256(samples) else None


def open_samples(path: Path, *, image_tokens: int) -> Samples:
    """Open a file of samples without those that are left out for want of images."""
    found = read_image_check(path)
    left_out = found.left_out if found is not None else []
    return Samples(path, image_tokens=image_tokens, leave_out=left_out)


def _path_of(samples: Path) -> Path:
    return samples.with_suffix(".images.json")
