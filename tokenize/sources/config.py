"""Where the text comes from; slices.py cuts it into slices."""

from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, require_at_least
from mobilellama.shards.dataset import Slice
from mobilellama.shards.sources.places import path_below
from mobilellama.shards.sources.remote import SourcePath, is_url
from mobilellama.tokenize.sources.hub_dataset import url_and_path

JSONL, ZSTD = ".jsonl", ".jsonl.zst"
LINES = (JSONL, ZSTD, ".jsonl.gz", ".json.gz", ".json.zst")
"""Endings of files of an object a line: the first is cut into ranges, the others are packed."""

LARGEST_PLAN = 1_000_000
"""Slices: each is three files and an entry of the plan."""


@dataclass(frozen=True, kw_only=True)
class SourcesConfig:
    """The corpus: either `root` or `dataset`."""

    root: str | None = None
    """Folder in RedPajama's layout: a folder for each subset, with .jsonl and .jsonl.zst files (or
    .jsonl.gz, .json.gz). It may be a URL: https://HOST/FOLDER/, hf://datasets/OWNER/NAME,
    s3://BUCKET/FOLDER (install s3fs) or gs://BUCKET/FOLDER (install gcsfs)."""
    dataset: str | None = None
    """In place of `root`: a folder (or URL) of .parquet, .csv, .json or .jsonl files, a folder of
    .txt and .md files with nothing else (each is a document), a folder written by save_to_disk, or
    the name of a dataset on the Hugging Face Hub (OWNER/NAME or OWNER/NAME@REVISION).
    Bad lines and rows are counted and skipped, as under `root`. A parquet column may hold the text
    as bytes in UTF-8."""
    name: str | None = None
    """Configuration of a dataset on the Hub. None: its only or default one."""
    download: bool = False
    """Of a dataset on the Hub: let the library datasets download and convert the whole split.
    false: if its files are parquet, CSV or JSON, read them from the Hub, and store none of them."""
    split: str = "train"
    """Split of a dataset on the Hub, or of a save_to_disk folder."""
    subset: str | None = None
    """Name of the subset that `dataset` becomes. None: the last part of the dataset's name."""
    text_column: str = "text"
    """Field of a record with the text."""
    rows_per_slice: int = 100_000
    """Rows of each bucket, if a dataset is split into ranges of rows and not by data file."""

    def __post_init__(self) -> None:
        if (self.root is None) == (self.dataset is None):
            shown = "(not given)" if self.root is None else self.root
            rule = "exactly one of sources.root and sources.dataset must be given"
            raise ConfigError("sources.root", shown, rule, "Give one of them")
        if self.root is not None and (self.name or self.subset):
            field = "sources.name" if self.name else "sources.subset"
            rule = "belongs to sources.dataset. Under sources.root the folders are the subsets"
            raise ConfigError(field, self.name or self.subset, rule, "Leave it out")
        if self.subset is not None and (Path(self.subset).name != self.subset):
            rule = "must be a plain folder name"
            raise ConfigError("sources.subset", self.subset, rule, "Leave out '/' and '..'")
        require_at_least("sources.rows_per_slice", self.rows_per_slice, 1)

    @property
    def is_hub_name(self) -> bool:
        """Whether `dataset` is the name of a dataset on the Hub."""
        dataset = self.dataset
        return dataset is not None and not is_url(dataset) and not Path(dataset).exists()

    def require_outside(self, output: str) -> None:
        """Raise ConfigError if `output` lies within the corpus, whose next reader would find it."""
        for field, folder in (("root", self.root), ("dataset", self.dataset)):
            # A dataset's name on the hub is no folder.
            if folder is None or not Path(folder).is_dir():
                continue
            if Path(output).resolve().is_relative_to(Path(folder).resolve()):
                rule = f"lies within sources.{field} = {folder}"
                raise ConfigError("output", output, rule, "Put it beside the corpus")

    def labelled(self, source: str) -> str:
        """Return a source's name in the plan, which tells another text column apart."""
        return source if self.text_column == "text" else f"{source}#{self.text_column}"

    def path_of(self, slice_: Slice) -> SourcePath:
        """Return the file that a slice of bytes is of."""
        source = self.unlabelled(slice_.source)
        if self.is_hub_name and (there := url_and_path(source)):
            return path_below(*there)
        return path_below(self.root or self.dataset or "", source)

    def unlabelled(self, source: str) -> str:
        """Return the source of which `labelled` made a slice's."""
        return source if self.text_column == "text" else source.removesuffix(f"#{self.text_column}")


def is_packed(path: str) -> bool:
    """Return whether a file is compressed, so that it is read as a whole."""
    return path.endswith((".zst", ".gz"))


def require_few_slices(count: int, field: str, value: int) -> None:
    """Raise ConfigError if a plan would have too many slices, before they are listed."""
    if count > LARGEST_PLAN:
        rule = f"splits the corpus into {count:,} slices or more, above {LARGEST_PLAN:,}"
        raise ConfigError(field, value, rule, "Give a larger number")
