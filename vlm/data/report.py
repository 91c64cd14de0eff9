"""What 'vlm check-data' found: as a table, and as a file that 'vlm run' reads what to leave out of.

The file's ``leave_out`` holds the places of the records that cannot be trained on, in their
order; places count within the data, so the file belongs to just these sources.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mobilellama.config import ConfigError
from mobilellama.files.atomic import read_json
from mobilellama.sft.data import reasons
from mobilellama.sft.data.reasons import Fix
from mobilellama.sft.data.report import lines_of_unread
from mobilellama.sft.data.sources import ConversationsConfig, find_slices
from mobilellama.shards.dataset import Slice
from mobilellama.table import below_remarks, counted
from mobilellama.vlm.data.orientation import MEANING as MEANING_OF_MARK
from mobilellama.vlm.data.orientation import UPRIGHT
from mobilellama.vlm.data.records import MEANING, Record, Refused
from mobilellama.vlm.data.report_content import DataReport, ImageCounts, RecordCounts, Spread

KIND = "mobilellama vlm check-data"
FORMAT = 1

_EXAMPLES = 5  # kept of each reason
_EXAMPLES_SHOWN = 2


@dataclass
class RecordTally:
    """The records read so far."""

    by_images: Counter[int] = field(default_factory=Counter)
    """Good records by their number of images; 0 are text only."""
    refused: Counter[str] = field(default_factory=Counter)
    fixes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    """Good records by the name of a field that was not read."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Of each reason to refuse, the first few records."""

    def add(self, found: Record | Refused) -> None:
        """Count a record."""
        if isinstance(found, Record):
            self.by_images[len(found.images)] += 1
            self.fixes.update(fix.value for fix in found.fixes)
            reasons.count_names(self.unread, found.unread)
            return
        self.refused[found.reason.value] += 1
        examples = self.examples.setdefault(found.reason.value, [])
        if len(examples) < _EXAMPLES:
            examples.append({"place": found.place, "id": found.id, "detail": found.detail})

    @property
    def records(self) -> int:
        """All records, the refused ones too."""
        return self.by_images.total() + self.refused.total()

    def report(self) -> RecordCounts:
        """Return the counts for the file."""
        return {
            "records": self.records,
            "records_by_images": {str(n): self.by_images[n] for n in sorted(self.by_images)},
            "refused_records": self.refused.total(),
            "refused": {
                reason: {
                    "count": count,
                    "meaning": MEANING[reason],
                    "examples": self.examples[reason],
                }
                for reason, count in sorted(self.refused.items())
            },
            "mended": {
                fix.value: {"count": self.fixes[fix], "meaning": reasons.MEANING[fix]}
                for fix in Fix
                if self.fixes[fix]
            },
            "unread_fields": reasons.most_first(self.unread),
        }


@dataclass
class ImageTally:
    """The images decoded so far."""

    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    """PIL's, as the files have them: RGB, L, CMYK, ..."""
    marks: Counter[int] = field(default_factory=Counter)
    """Good images by EXIF's orientation, those that lie upright left out."""
    marked: dict[int, list[str]] = field(default_factory=dict)
    """The first few images of each."""
    broken_marks: int = 0
    """Good images whose EXIF cannot be read, or has an orientation that is none."""
    with_broken_marks: list[str] = field(default_factory=list)
    """The first few of these."""
    broken: dict[str, str] = field(default_factory=dict)
    """Kind of fault by name."""
    meanings: dict[str, str] = field(default_factory=dict)
    """What each kind says of an image."""
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def add_good(self, width: int, height: int, mode: str) -> None:
        """Count an image that was decoded; sizes in pixels."""
        self.widths[width] += 1
        self.heights[height] += 1
        self.modes[mode] += 1

    def add_mark(self, name: str, mark: int, *, is_broken: bool) -> None:
        """Count how a good image lies."""
        if mark != UPRIGHT:
            self.marks[mark] += 1
            _keep(self.marked.setdefault(mark, []), name)
        if is_broken:
            self.broken_marks += 1
            _keep(self.with_broken_marks, name)

    def add_broken(self, name: str, kind: str, meaning: str, detail: str) -> None:
        """Count an image that cannot be trained on."""
        self.broken[name] = kind
        self.meanings[kind] = meaning
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append({"image": name, "detail": detail})

    def report(self) -> ImageCounts:
        """Return the counts for the file."""
        good = self.modes.total()
        kinds: dict[str, list[str]] = {}
        for name, kind in self.broken.items():
            kinds.setdefault(kind, []).append(name)
        return {
            "images": good + len(self.broken),
            "width": spread(self.widths),
            "height": spread(self.heights),
            "modes": dict(self.modes.most_common()),
            "turned_images": self.marks.total(),
            "turned": {
                str(mark): {
                    "count": self.marks[mark],
                    "meaning": MEANING_OF_MARK[mark],
                    "examples": self.marked[mark],
                }
                for mark in sorted(self.marks)
            },
            "broken_exif": {"count": self.broken_marks, "examples": self.with_broken_marks},
            "broken_images": len(self.broken),
            "broken": {
                kind: {
                    "count": len(names),
                    "meaning": self.meanings[kind],
                    "examples": self.examples[kind],
                    "images": names,
                }
                for kind, names in sorted(kinds.items())
            },
        }


def _keep(examples: list[str], name: str) -> None:
    if len(examples) < _EXAMPLES:
        examples.append(name)


def spread(values: Counter[int]) -> Spread | None:
    """Return the least, the (lower) median and the greatest of counted values; None of none."""
    if not values:
        return None
    middle = (values.total() - 1) // 2
    seen = 0
    for value in sorted(values):
        seen += values[value]
        if seen > middle:
            return {"min": min(values), "median": value, "max": max(values)}
    raise AssertionError("unreachable: all values were counted")


def sources_of(slices: Sequence[Slice]) -> list[dict[str, str | int]]:
    """Return the name and the size of each source, which a report belongs to."""
    return [{"source": one.source, "size": one.size, "unit": one.unit} for one in slices]


def read_leave_out(path: str | Path, data: ConversationsConfig | None = None) -> frozenset[str]:
    """Return the places of the records that a report says to leave out.

    Args:
        path: the file that 'vlm check-data' wrote.
        data: what it is to be used with; None: not compared.

    Raises:
        ConfigError: the file is missing or no such report, or it was made of other data.
    """
    report = read_report(Path(path), field="data.leave_out")
    if data is not None and sources_of(find_slices(data)) != report["sources"]:
        rule = f"is of other files, or other sizes of files, than {data.path} holds now"
        raise ConfigError("data.leave_out", str(path), rule, f"Run '{KIND}' on these again")
    return frozenset(report["leave_out"])


def read_report(path: Path, *, field: str) -> DataReport:
    """Return the value of a report's file.

    Raises:
        ConfigError: it is missing, or no report of ours; names `field`.
    """
    remedy = f"Give the file that '{KIND}' wrote"
    if not path.is_file():
        raise ConfigError(field, str(path), "is not a file", remedy)
    try:
        report = read_json(path)
    except ValueError:
        raise ConfigError(field, str(path), "is not JSON", remedy) from None
    if not isinstance(report, dict) or report.get("kind") != KIND:
        raise ConfigError(field, str(path), "is not a report of the data", remedy)
    if report["format"] != FORMAT:
        rule = f"is of format {report['format']}, but this version reads {FORMAT}"
        raise ConfigError(field, str(path), rule, f"Run '{KIND}' again")
    return cast(DataReport, report)


def describe(report: DataReport) -> str:
    """Return the report as text for a terminal."""
    by_images = report["records_by_images"]
    sources, refused = len(report["sources"]), report["refused_records"]
    lines = [
        counted("records read", report["records"], f"in {sources:,} source{'s' * (sources != 1)}"),
        *(counted(_with(int(count)), records) for count, records in by_images.items()),
        *(counted("  changed", found["count"], found["meaning"])
          for found in report["mended"].values()),
        counted("records refused", refused, _share(refused, report["records"])),
    ]  # fmt: skip
    for found in report["refused"].values():
        lines.append(counted("  refused", found["count"], found["meaning"]))
        for example in found["examples"][:_EXAMPLES_SHOWN]:
            lines.append(below_remarks(f"{_named(example)}  {example['detail']}"))
    lines += lines_of_unread(report["unread_fields"])
    lines.append(counted("images", report["images"], _modes(report["modes"])))
    for side in ("width", "height"):
        if sizes := report[side]:
            low, middle, high = sizes["min"], sizes["median"], sizes["max"]
            lines.append(counted(f"  {side}", middle, f"pixels, the median of {low:,} to {high:,}"))
    lines += _lines_of_marks(report)
    lines.append(counted("images broken", report["broken_images"]))
    for found in report["broken"].values():
        lines.append(counted("  broken", found["count"], found["meaning"]))
        for example in found["examples"][:_EXAMPLES_SHOWN]:
            lines.append(below_remarks(f"{example['image']}  {example['detail']}"))
    left_out = len(report["leave_out"])
    remark = "cannot be trained on" if left_out else "every record can be trained on"
    if not report["records"]:
        remark = "there is no record to train on"
    lines.append(counted("records to leave out", left_out, remark))
    # Half a surrogate pair, of an image's name, cannot be printed.
    return "\n".join(lines).encode(errors="backslashreplace").decode()


def _lines_of_marks(report: DataReport) -> list[str]:
    """Return what is said of EXIF's orientation."""
    turned, broken = report["turned_images"], report["broken_exif"]
    remark = "marked so by EXIF: see images.orientation of 'vlm run'" if turned else ""
    lines = [counted("images turned", turned, remark)]
    for mark, found in report["turned"].items():
        lines.append(
            counted("  turned", found["count"], f"{found['meaning']} (orientation {mark})")
        )
        lines += [below_remarks(name) for name in found["examples"][:_EXAMPLES_SHOWN]]
    if broken["count"]:
        meaning = "have an EXIF orientation that cannot be read, and are not turned"
        lines.append(counted("  unreadable", broken["count"], meaning))
        lines += [below_remarks(name) for name in broken["examples"][:_EXAMPLES_SHOWN]]
    return lines


def _with(images: int) -> str:
    return f"  with {images:,} image{'s' * (images != 1)}" if images else "  text only"


def _named(example: Mapping[str, str]) -> str:
    place, record_id = example["place"], example["id"]
    return place if record_id == place else f"{place} (id {reasons.excerpt(record_id)})"


def _modes(modes: Mapping[str, int]) -> str:
    return ", ".join(f"{mode} {count:,}" for mode, count in modes.items())


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else ""
