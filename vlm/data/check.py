"""Read all records and images as training does, and list those that training cannot use.

The command prints the numbers of records and images. It also prints the numbers of refused and
broken ones, with reasons and the first places. It changes no file. With --output it writes the
whole list to a file. 'vlm run --data.leave_out FILE' then trains on the rest.

The exit code is 0 if training can use every record, 1 if it cannot use some or there is none, and
2 if the data cannot be checked.

  mobilellama vlm check-data FILE.json --images DIR --output report.json
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama import log as logs
from mobilellama.config import ConfigError, one_line, require_at_least
from mobilellama.cpus import cpu_budget
from mobilellama.files.atomic import write_json
from mobilellama.files.temporary import temporary_path
from mobilellama.pool import Workers
from mobilellama.progress import Progress
from mobilellama.sft.data.sources import find_slices
from mobilellama.shards.dataset import Slice
from mobilellama.vlm.data.images import AspectRatio, ImageError, ImageProcessor, read_image
from mobilellama.vlm.data.orientation import Orientation, has_broken_mark, stored_mark
from mobilellama.vlm.data.records import (
    Record,
    RecordsConfig,
    Refused,
    image_path,
    read_vlm_records,
    require_folder,
)
from mobilellama.vlm.data.report import (
    FORMAT,
    KIND,
    ImageTally,
    RecordTally,
    describe,
    read_report,
    sources_of,
)
from mobilellama.vlm.data.report_content import DataReport

log = logging.getLogger(__name__)

_IMAGES_A_TASK = 8
_PROBED = 1_000  # images looked for before any is decoded


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'vlm check-data'."""

    data: RecordsConfig
    """The records."""
    images: str
    """Folder that the records' image paths start from. An absolute path must lie inside it."""
    plain: bool = False
    """Check the records for the first stage's template 'plain': one image and a caption each."""
    aspect_ratio: AspectRatio = "pad"
    """How training makes images square. It decides how long and thin an image may be."""
    orientation: Orientation = "as_shown"
    """Whether training turns images as their EXIF orientation says: images.orientation of
    'vlm run'. Images that are marked as turned are counted either way."""
    size_pixels: int = 336
    """Side of the square that the vision tower takes."""
    output: str | None = None
    """File for the report and the list of bad records. It is overwritten. None: no file."""
    workers: int | None = None
    """Number of processes that decode. None: one for each CPU that this process may use."""

    def __post_init__(self) -> None:
        require_at_least("size_pixels", self.size_pixels, 1)
        if self.workers is not None:
            require_at_least("workers", self.workers, 1)
        if self.output is not None:
            self.data.require_outside(self.output)


def main(config: Config) -> int:
    """Check the records, then their images; print and write the report."""
    logs.configure()
    config.data.require_path()
    folder = require_folder(config.images, field="images")
    if config.output is not None:
        _require_writable(Path(config.output))
    report = check(config, folder)
    print(describe(report))
    if config.output is not None:
        write_json(Path(config.output), report)
        print(f"\nreport  {config.output}")
    return 1 if report["leave_out"] or not report["records"] else 0


def _require_writable(path: Path) -> None:
    """Refuse an output that could not be written after hours, or that is something else's."""
    if path.is_dir() or not path.parent.is_dir():
        rule = "is a folder" if path.is_dir() else f"{path.parent} is not a folder"
        raise ConfigError("output", str(path), rule, "Give a file in a folder that exists")
    if path.exists():
        try:
            read_report(path, field="output")
        except ConfigError:
            rule = "exists, but is not a report of this command"
            raise ConfigError("output", str(path), rule, "Give another file") from None
    trial = temporary_path(path)
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        rule = f"cannot be written ({error.strerror})"
        remedy = "Give a file in a folder that can be written to"
        raise ConfigError("output", str(path), rule, remedy) from None


def check(config: Config, folder: Path) -> DataReport:
    """Return the report on the data.

    Args:
        config: what to check, and with how many processes.
        folder: of the images.

    Raises:
        ConfigError: no data, or not one image is in the folder.
        DataError: a source file is corrupt.
        UserError: a worker was killed.
    """
    slices = find_slices(config.data)  # once: a file that changes meanwhile is refused
    records, left_out, names = _check_records(config, slices)
    _require_some(folder, names)
    images = _check_images(config, folder, names)
    if images.broken:
        left_out = _unfit(config, slices, images)
    return {
        "kind": KIND,
        "format": FORMAT,
        "path": config.data.path,
        "images_folder": config.images,
        "plain": config.plain,
        "sources": sources_of(slices),
        **records.report(),
        **images.report(),
        "leave_out": left_out,
    }


def _check_records(
    config: Config, slices: Sequence[Slice]
) -> tuple[RecordTally, list[str], list[str]]:
    """Return the counts, the places of the refused records, and every image's name once."""
    tally, refused = RecordTally(), []
    names: dict[str, None] = {}  # in the order of the records, near which files often lie
    for found in _read(config, slices, "records"):
        tally.add(found)
        if isinstance(found, Refused):
            refused.append(found.place)
        else:
            names.update((os.path.normpath(name), None) for name in found.images)
    return tally, refused, list(names)


def _read(config: Config, slices: Sequence[Slice], title: str) -> Iterator[Record | Refused]:
    unit, amount = ("rows", 1.0) if slices[0].unit == "rows" else ("MB", 1e6)
    total = sum(slice_.size for slice_ in slices) / amount
    with Progress(title, total=total, unit=unit) as progress:
        yield from read_vlm_records(
            config.data,
            folder=Path(config.images),
            plain=config.plain,
            slices=slices,
            on_read=lambda read: progress.advance(read / amount, records=1),
        )


def _require_some(folder: Path, names: Sequence[str]) -> None:
    """Raise ConfigError if of images spread over all of them not one is in the folder."""
    probed = names[:: max(1, len(names) // _PROBED)]
    if probed and not any(os.path.exists(image_path(folder, name)) for name in probed):
        rule = f"holds none of {len(probed):,} images that the records name, such as {probed[0]}"
        remedy = "Give the folder to which these paths are relative"
        raise ConfigError("images", str(folder), rule, remedy)


def _unfit(config: Config, slices: Sequence[Slice], images: ImageTally) -> list[str]:
    """Return the places of the records that are refused or have a broken image.

    The data is read again: to remember every record's images would take as much memory.
    """
    return [
        found.place
        for found in _read(config, slices, "records of broken images")
        if isinstance(found, Refused)
        or any(os.path.normpath(name) in images.broken for name in found.images)
    ]


@dataclass(frozen=True)
class _Good:
    """An image that can be trained on; sizes in pixels."""

    width: int
    height: int
    mode: str
    mark: int
    """EXIF's orientation."""
    is_mark_broken: bool


@dataclass(frozen=True)
class _Broken:
    """An image that cannot be trained on."""

    kind: str
    meaning: str
    detail: str


@dataclass(frozen=True)
class _Look:
    """What is the same for every image; small, and sent with each task."""

    folder: Path
    processor: ImageProcessor

    def at(self, name: str) -> _Good | _Broken:
        """Decode an image wholly and bring it to the tower's size."""
        try:
            image = read_image(image_path(self.folder, name))
            good = _Good(
                image.width, image.height, image.mode, stored_mark(image), has_broken_mark(image)
            )
            self.processor.pixels(image)
        except ImageError as error:
            return _Broken(error.kind.name.lower(), error.kind.value, error.detail)
        except OSError as error:  # a bad block, a loop of links, a name too long, ...
            return _Broken("unreadable", "cannot be read", one_line(error))
        return good

    def at_all(self, names: Sequence[str]) -> list[_Good | _Broken]:
        """Look at one after another."""
        return [self.at(name) for name in names]


def _check_images(config: Config, folder: Path, names: Sequence[str]) -> ImageTally:
    tally = ImageTally()
    size_pixels, aspect_ratio = config.size_pixels, config.aspect_ratio
    processor = ImageProcessor(
        size_pixels=size_pixels, aspect_ratio=aspect_ratio, orientation=config.orientation
    )
    look = _Look(folder, processor)
    tasks = [names[i : i + _IMAGES_A_TASK] for i in range(0, len(names), _IMAGES_A_TASK)]
    budget = cpu_budget(config.workers)
    log.info("%s", budget.describe("worker process"))
    count = min(budget.count, len(tasks))
    remedy = "Run the same command again, with fewer --workers"
    with (
        Workers(count, doing="decoding", remedy=remedy) as workers,
        Progress("images", total=len(names), unit="images") as progress,
    ):
        for task, seen in workers.map(look.at_all, tasks, near=lambda task: f"the image {task[0]}"):
            for name, one in zip(task, seen, strict=True):
                if isinstance(one, _Good):
                    tally.add_good(one.width, one.height, one.mode)
                    tally.add_mark(name, one.mark, is_broken=one.is_mark_broken)
                else:
                    tally.add_broken(name, one.kind, one.meaning, one.detail)
            progress.advance(len(task))
    return tally
