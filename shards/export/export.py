"""Write a dataset's ids in the files of another trainer or library.

  mobilellama shards export DATASET --format megatron --output FOLDER

Formats:

  megatron  .bin and .idx, Megatron-LM's indexed dataset, with blend.json for its argument
            --per-split-data-args-path. --mixture gives the weights in it.
  numpy     .npy arrays: ids, and where each document ends, for numpy.load(..., mmap_mode="r")
  hf        Parquet files for datasets.load_dataset(FOLDER, SUBSET, split="train")

Training and held-out documents are in separate files: SUBSET/train-00000, SUBSET/heldout-00000.
Documents keep their order and their EOS. A file ends with the bucket in which it reaches
--part_tokens. Each bucket is compared with its sha256 before it is used.

You may stop the command at any time. The same command then writes the files that are missing.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilellama import log as logs
from mobilellama.config import (
    ConfigError,
    MachineError,
    did_you_mean,
    require_at_least,
)
from mobilellama.progress import Progress, format_amount, format_count
from mobilellama.shards.export.arrays import ArrayFormat
from mobilellama.shards.export.folder import ExportFolder, ExportRecord
from mobilellama.shards.export.megatron import MegatronFormat
from mobilellama.shards.export.parquet import ParquetFormat
from mobilellama.shards.export.parts import (
    ExportPart,
    PartFormat,
    Portion,
    PortionReader,
    split_into_parts,
)
from mobilellama.shards.order import DEFAULT_SEED, mix_samples
from mobilellama.shards.reader import TokenDataset
from mobilellama.table import aligned

log = logging.getLogger(__name__)

Format = Literal["megatron", "numpy", "hf"]

_PART_TOKENS: dict[Format, float] = {"megatron": 5e10, "numpy": 5e8, "hf": 5e8}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'shards export'."""

    dataset: str
    """The dataset folder."""
    format: Format
    """Whose files to write."""
    output: str
    """The folder to write. It must be new, or hold the same export that was interrupted."""
    subsets: list[str] | None = None
    """Names of the subsets to export. None: all."""
    mixture: str | None = None
    """For megatron: a preset, or a YAML file of weights or epochs, for blend.json. None: in
    proportion to the tokens."""
    part_tokens: float | None = None
    """A file ends with the bucket in which it reaches so many tokens. None: 5e10 for megatron (it
    builds its indexes for each file), 5e8 for the others."""
    dry_run: bool = False
    """Print the files and their sizes, and write nothing."""

    def __post_init__(self) -> None:
        if self.part_tokens is not None:
            require_at_least("part_tokens", self.part_tokens, 1)
        if self.mixture is not None and self.format != "megatron":
            rule = f"belongs to megatron's blend.json; {self.format} has no weights"
            raise ConfigError("mixture", self.mixture, rule, "Leave it out")


def main(config: Config) -> int:
    """Write the files that are missing."""
    logs.configure()
    dataset = TokenDataset(config.dataset, field="dataset")
    subsets = _subsets(config, dataset)
    kind = _open_format(config, dataset, subsets)
    part_tokens = config.part_tokens or _PART_TOKENS[config.format]
    parts = split_into_parts(dataset.manifest, subsets, part_tokens)
    if config.dry_run:
        print(_describe(parts, kind))
        return 0
    record = ExportRecord(
        format=config.format,
        fingerprint=dataset.fingerprint,
        subsets=list(subsets),
        part_tokens=part_tokens,
    )
    folder = ExportFolder(_output(config, dataset), record)
    missing = [part for part in parts if folder.lacks(_files(part, kind))]
    _require_space(folder.path, _about_bytes(missing, kind))
    if len(missing) < len(parts):
        done = len(parts) - len(missing)
        log.info("written before: %d of %s", done, format_count(len(parts), "part"))
    folder.prepare()
    _write_parts(folder, kind, PortionReader(dataset), missing)
    folder.note(kind.write_around(folder.path, parts))
    folder.copy_tokenizer(dataset)
    folder.finish()
    print(_told(folder, kind, parts))
    return 0


def _open_format(config: Config, dataset: TokenDataset, subsets: Sequence[str]) -> PartFormat:
    dtype, is_packed = dataset.identity.dtype, dataset.identity.packing is not None
    if config.format == "numpy":
        return ArrayFormat(dtype=dtype, is_packed=is_packed)
    if config.format == "hf":
        return ParquetFormat(dtype=dtype, is_packed=is_packed, fingerprint=dataset.fingerprint)
    if is_packed:
        rule = "cannot hold which tokens are supervised, and the dataset has packed rows"
        raise ConfigError("format", config.format, rule, "Give numpy or hf")
    return MegatronFormat(dtype=dtype, shares=_shares(config, dataset, subsets))


def _files(part: ExportPart, kind: PartFormat) -> list[str]:
    return [f"{part.name}.{ending}" for ending in kind.endings]


def _about_bytes(parts: Iterable[ExportPart], kind: PartFormat) -> int:
    return round(sum(part.tokens for part in parts) * kind.bytes_a_token)


def _write_parts(
    folder: ExportFolder, kind: PartFormat, reader: PortionReader, missing: Sequence[ExportPart]
) -> None:
    total = sum(part.tokens for part in missing)
    with Progress("export", total=total, unit="tokens") as progress:
        for part in missing:
            stem = folder.path / part.name
            stem.parent.mkdir(exist_ok=True)
            kind.write_part(stem, part, _counted(reader.read(part), progress))
            folder.note(_files(part, kind))


def _counted(portions: Iterable[Portion], progress: Progress) -> Iterator[Portion]:
    for portion in portions:
        yield portion
        progress.advance(len(portion.ids))


def _subsets(config: Config, dataset: TokenDataset) -> tuple[str, ...]:
    if config.subsets is None:
        return dataset.subsets
    for name in config.subsets:
        if name not in dataset.subsets:
            rule = f"is no subset of the dataset (it has {', '.join(dataset.subsets)})"
            remedy = f"Name its subsets{did_you_mean(name, dataset.subsets)}"
            raise ConfigError("subsets", name, rule, remedy)
    return tuple(sorted(set(config.subsets)))


def _shares(config: Config, dataset: TokenDataset, subsets: Sequence[str]) -> dict[str, int]:
    """Return the weights of the subsets in blend.json."""
    tokens = {name: dataset.totals[name]["train_tokens"] for name in subsets}
    if config.mixture is None:
        return tokens
    mixed, remarks = mix_samples(tokens, mixture=config.mixture, seed=DEFAULT_SEED, field="mixture")
    for name in sorted(set(subsets) - set(mixed.subsets)):
        remarks.append(f"subset '{name}' is exported, but is not in blend.json")
    for remark in remarks:
        log.info("%s", remark)
    return mixed.identity()


def _output(config: Config, dataset: TokenDataset) -> Path:
    path = Path(config.output)
    if path.resolve().is_relative_to(dataset.folder.resolve()):
        rule = f"lies within the dataset {dataset.folder}"
        raise ConfigError("output", config.output, rule, "Put it beside the dataset")
    return path


def _require_space(folder: Path, needed_bytes: int) -> None:
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed_bytes > free:
        needed, left = (format_amount(size / 1e6, "MB") for size in (needed_bytes, free))
        raise MachineError(
            f"{folder}: needs about {needed}, but {left} are free there. Free some space, or give "
            "another --output"
        )


def _describe(parts: Sequence[ExportPart], kind: PartFormat) -> str:
    rows = [("files", "buckets", "tokens", "about")]
    for part in parts:
        size = format_amount(_about_bytes([part], kind) / 1e6, "MB")
        rows.append((f"{part.name}.*", f"{len(part.rows):,}", f"{part.tokens:,}", size))
    total = format_amount(_about_bytes(parts, kind) / 1e6, "MB")
    return f"{aligned(rows)}\nin all about {total}; nothing was written"


def _told(folder: ExportFolder, kind: PartFormat, parts: Sequence[ExportPart]) -> str:
    size = sum(known.bytes for known in folder.record.files.values())
    files = format_count(len(folder.record.files), "file")
    lines = [f"wrote {folder.path}: {files}, {format_amount(size / 1e6, 'MB')}"]
    if parts:
        lines.append(kind.how_to_read(folder.path, parts[0]))
    return "\n".join(lines)
