"""What RedPajama v1 is as it was published: its subsets, and the list of its addresses.

The dataset is 2,084 files. A file's path in a local copy is its address without
``https://data.together.xyz/redpajama-data-1T/v1.0.0/`` (dataset card, and the loader beside it).

The tokens of each subset are those of the dataset card, in GPT-NeoX's tokenizer. The sizes are
those that were seen when the files were downloaded; for .zst files that is the compressed size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mobilellama.config import ConfigError, did_you_mean
from mobilellama.progress import format_count

_GB = 10**9
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class PublishedSubset:
    """A subset of RedPajama v1."""

    parts: Mapping[str, tuple[int, int]]
    """Folder of the subset's files -> (number of files, bytes of all of them)."""
    tokens: int
    """By the tokenizer of GPT-NeoX."""
    remark: str = ""

    @property
    def files(self) -> int:
        """Number of files."""
        return sum(files for files, _ in self.parts.values())

    @property
    def file_bytes(self) -> int:
        """Bytes of all files, as they are downloaded."""
        return sum(size for _, size in self.parts.values())

    def size_of(self, path: str) -> float:
        """Return the mean size of the published files in the folder of `path`."""
        for folder, (files, size) in self.parts.items():
            if path.startswith(f"{folder}/"):
                return size / files
        return self.file_bytes / self.files


PUBLISHED: Mapping[str, PublishedSubset] = MappingProxyType(
    {
        "arxiv": PublishedSubset(parts={"arxiv": (100, 88 * _GB)}, tokens=28 * _GB),
        "book": PublishedSubset(
            parts={"book": (1, 100 * _GB)},
            tokens=26 * _GB,
            remark="removed from the published files",
        ),
        "c4": PublishedSubset(parts={"c4": (1024, 806 * _GB)}, tokens=175 * _GB),
        "common_crawl": PublishedSubset(
            parts={
                "common_crawl/2019-30": (153, 237 * _GB),
                "common_crawl/2020-05": (198, 286 * _GB),
                "common_crawl/2021-04": (176, 276 * _GB),
                "common_crawl/2022-05": (157, 251 * _GB),
                "common_crawl/2023-06": (175, 288 * _GB),
            },
            tokens=878 * _GB,
        ),
        "github": PublishedSubset(parts={"github": (98, 212 * _GB)}, tokens=59 * _GB),
        "stackexchange": PublishedSubset(parts={"stackexchange": (1, 74 * _GB)}, tokens=20 * _GB),
        "wikipedia": PublishedSubset(parts={"wikipedia": (1, 111 * _GB)}, tokens=24 * _GB),
    }
)
"""The subsets by name."""


def read_url_list(file: str) -> list[str]:
    """Return the paths of the files that a list of addresses names, each once, in its order.

    A line is an address, or a path. Its path in a local copy begins at the name of a subset.
    Blank lines have no effect.

    Raises:
        ConfigError: there is no such file, it is no list, or a line names no subset.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        remedy = "Give a file with an address on each line, such as RedPajama's urls.txt"
        raise ConfigError("url_list", file, f"cannot be read ({why})", remedy) from None
    paths: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            paths[_local_path(line.strip(), file, number)] = None
    if not paths:
        raise ConfigError("url_list", file, "holds no address", "Give RedPajama's urls.txt")
    return list(paths)


def _local_path(address: str, file: str, number: int) -> str:
    parts = address.partition("://")[2].split("/")[1:] if "://" in address else address.split("/")
    for i, part in enumerate(parts[:-1]):
        if part in PUBLISHED:
            return "/".join(parts[i:])
    rule = f"line {number:,} ({address[:200]}) names no subset of RedPajama v1"
    remedy = f"The subsets are {', '.join(PUBLISHED)}. Remove the line"
    raise ConfigError("url_list", file, rule, remedy)


def unlike_published(files: Mapping[str, int]) -> list[str]:
    """Return what a local copy of RedPajama v1 lacks, and which of its folders are unknown.

    Args:
        files: number of files of each subset that is there.

    Returns:
        Sentences; none if no subset has a name of RedPajama's.
    """
    if not files.keys() & PUBLISHED.keys():
        return []
    found = []
    for name, subset in PUBLISHED.items():
        there = files.get(name, 0)
        if there == subset.files:
            continue
        why = f" ({subset.remark})" if subset.remark and not there else ""
        found.append(f"{name}: {there:,} of {subset.files:,} published files{why}")
    for name in sorted(files.keys() - PUBLISHED.keys()):
        found.append(f"{name}: not a subset of RedPajama v1{did_you_mean(name, PUBLISHED)}")
    return found


@dataclass(frozen=True, kw_only=True)
class ListComparison:
    """A local copy beside the list of what it should hold."""

    missing: tuple[str, ...]
    """Paths of the list that are not there."""
    unexpected: tuple[str, ...]
    """Paths that are there, and not in the list."""
    missing_bytes: int
    """About how large the missing files are."""

    def remarks(self) -> list[str]:
        """Return what is missing and what is unexpected, with the first few names."""
        found = []
        if self.missing:
            found.append(
                f"missing of the list: {format_count(len(self.missing), 'file')} (about "
                f"{self.missing_bytes / _GB:,.0f} GB): {_few(self.missing)}"
            )
        if self.unexpected:
            counted = format_count(len(self.unexpected), "file")
            found.append(f"not in the list: {counted}: {_few(self.unexpected)}")
        return found or ["all files of the list are there, and no others"]


def compare_with_list(listed: list[str], there: set[str]) -> ListComparison:
    """Compare the paths of a list with those of a local copy."""
    missing = tuple(path for path in listed if path not in there)
    return ListComparison(
        missing=missing,
        unexpected=tuple(sorted(there - set(listed))),
        missing_bytes=round(sum(published_size(path) for path in missing)),
    )


def published_size(path: str) -> float:
    """Return about how large a published file is: the mean of its folder."""
    return PUBLISHED[path.split("/")[0]].size_of(path)


def _few(paths: tuple[str, ...]) -> str:
    return ", ".join(paths[:_SHOWN]) + ", ..." * (len(paths) > _SHOWN)
