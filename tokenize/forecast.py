"""Say what tokenising a corpus will take, and what of it is missing. Nothing is written.

  mobilellama tokenize plan --sources.root CORPUS --tokenizer tokenizer.model --output DATASET
  mobilellama tokenize plan --url_list urls.txt

The table has the files, bytes and slices of each subset, its tokens, the disk space of its
buckets, and the core hours. With --tokenizer, a few megabytes of the corpus are encoded to measure
how many tokens it has. Without, the published totals of RedPajama v1 are used.

--url_list is RedPajama's published list of addresses, a file that you have: nothing is downloaded.
Alone, it is planned for, with the published sizes. With --sources.root, the two are compared.
"""

import json
import logging
from dataclasses import asdict, dataclass, field

from mobilellama import log as logs
from mobilellama.config import ConfigError, require_at_least
from mobilellama.cpus import cpu_budget
from mobilellama.files.hub_folder import find_model
from mobilellama.progress import format_count
from mobilellama.shards.dataset import Slice
from mobilellama.shards.format import dtype_for_vocabulary, little_endian
from mobilellama.shards.mixture import read_weights, share_among_present
from mobilellama.tokenize.encoding.encoder import Encoder
from mobilellama.tokenize.encoding.hf_encoder import AnyEncoder, make_encoder
from mobilellama.tokenize.planning.amounts import Amount, amounts_found, amounts_listed
from mobilellama.tokenize.planning.arrays import (
    MAX_ARRAY_SIZE,
    array_advice,
    suitable_task_count,
)
from mobilellama.tokenize.planning.outlook import (
    JSON_MB_PER_S,
    MB_PER_S,
    PLAIN_MB_PER_S,
    Outlook,
    look_ahead,
)
from mobilellama.tokenize.planning.published import (
    compare_with_list,
    read_url_list,
    unlike_published,
)
from mobilellama.tokenize.planning.rates import FEW_DOCUMENTS, Rates, rates_of
from mobilellama.tokenize.planning.shown import Forecast, shown, size_text
from mobilellama.tokenize.sources.config import SourcesConfig, is_packed
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenizers.corpus_tokenizer import open_corpus_tokenizer

log = logging.getLogger(__name__)

_MIXTURE = "redpajama"


@dataclass(frozen=True, kw_only=True)
class PlannedSources(SourcesConfig):
    """The corpus: `root`, `dataset`, or neither (then `url_list` must be given)."""

    def __post_init__(self) -> None:
        if self.root is not None or self.dataset is not None:
            super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'tokenize plan'."""

    sources: PlannedSources = field(default_factory=PlannedSources)
    """The corpus."""
    url_list: str | None = None
    """A file with an address on each line, such as RedPajama's urls.txt. With sources.root: say
    which of its files are missing there, and which are there besides."""
    tokenizer: str | None = None
    """The tokenizer of 'tokenize run', to encode a sample. None: use published totals."""
    eos_token: str | None = None
    """The eos_token of 'tokenize run'."""
    tokenizer_as_is: bool = False
    """The tokenizer_as_is of 'tokenize run'."""
    output: str | None = None
    """The dataset folder of 'tokenize run': say whether its file system has room."""
    workers: int | None = None
    """Number of processes of each task. None: one for each CPU that this process may use."""
    task_count: int | None = None
    """Number of tasks in a job array. None: as many as suit the slices."""
    max_array_size: int = MAX_ARRAY_SIZE
    """MaxArraySize of your cluster ('scontrol show config' prints it). Indices are below it."""
    slice_bytes: int = 1 << 30
    """The slice_bytes of 'tokenize run'."""
    mb_per_s: float | None = None
    """MB of text that one core does in a second. None: the measured 45, or with other sentencepiece
    models than LLaMA's kind 3, or with a tokenizer.json 1.8."""
    json: bool = False
    """Print JSON, not a table."""

    def __post_init__(self) -> None:
        if self.sources.root is None and self.sources.dataset is None and self.url_list is None:
            rule = "one of sources.root, sources.dataset and url_list must be given"
            raise ConfigError("sources.root", "(not given)", rule, "Give what is to be planned")
        if self.sources.dataset is not None and self.url_list is not None:
            rule = "is compared with sources.root, not with sources.dataset"
            raise ConfigError("url_list", self.url_list, rule, "Leave one of the two out")
        for name in ("workers", "task_count"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        require_at_least("max_array_size", self.max_array_size, 1)
        require_at_least("slice_bytes", self.slice_bytes, 1)
        if self.mb_per_s is not None and not 0 < self.mb_per_s < 1e6:
            rule = "must be a number above 0 and below 1,000,000"
            raise ConfigError("mb_per_s", self.mb_per_s, rule, f"{MB_PER_S:g} was measured")


def main(config: Config) -> int:
    """Print the table, or JSON."""
    logs.configure()
    forecast = make_forecast(config)
    if config.json:
        derived = {
            name: getattr(forecast.outlook, name)
            for name in ("tokens", "disk_bytes", "needed_bytes", "core_hours", "hours")
        }
        print(json.dumps(asdict(forecast) | {"total": derived}, indent=2, ensure_ascii=False))
    else:
        print(shown(forecast))
    return 0


def make_forecast(config: Config) -> Forecast:
    """Return the forecast of a corpus, of a list of addresses, or of a corpus beside its list."""
    listed = read_url_list(config.url_list) if config.url_list is not None else []
    slices: tuple[Slice, ...] = ()
    if config.sources.root is None and config.sources.dataset is None:
        amounts = dict(amounts_listed(listed, config.slice_bytes))
        packed = {path.split("/")[0]: is_packed(path) for path in listed}
    else:
        slices = find_slices(config.sources, config.slice_bytes)
        amounts = amounts_found(slices)
        unlabelled = config.sources.unlabelled
        packed = {slice_.subset: is_packed(unlabelled(slice_.source)) for slice_ in slices}
    encoder, token_bytes, mb_per_s = _encoder(config)
    rates = rates_of(amounts, slices, config.sources, encoder if slices else None, packed)
    workers = cpu_budget(config.workers).count
    num_slices = sum(amount.slices for amount in amounts.values())
    suitable = suitable_task_count(num_slices, workers, config.max_array_size)
    outlook = look_ahead(
        amounts,
        rates,
        token_bytes=token_bytes,
        workers=workers,
        task_count=config.task_count or suitable,
        mb_per_s=config.mb_per_s or mb_per_s,
        output=config.output,
    )
    return Forecast(
        outlook=outlook,
        array=array_advice(num_slices, workers, config.task_count, config.max_array_size),
        remarks=[
            *_missing(config, listed, slices, amounts),
            *_mixture(amounts),
            *_basis(rates),
            *_room(outlook, config.output),
        ],
    )


def _encoder(config: Config) -> tuple[AnyEncoder | None, int, float]:
    """Return the encoder, the bytes of an id, and the MB of text that a core does in a second."""
    if config.tokenizer is None:
        return None, 2, MB_PER_S
    found = find_model(config.tokenizer, field="tokenizer", weights=False)
    with found.errors_by_name():
        tokenizer = open_corpus_tokenizer(
            found.path,
            eos_token=config.eos_token,
            as_is=config.tokenizer_as_is,
            trained=found.is_from_hub,
        )
    itemsize = little_endian(dtype_for_vocabulary(tokenizer.vocab_size)).itemsize
    encoder = make_encoder(tokenizer)
    if not isinstance(encoder, Encoder):
        return encoder, itemsize, JSON_MB_PER_S
    return encoder, itemsize, MB_PER_S if encoder.is_fast else PLAIN_MB_PER_S


def _missing(
    config: Config, listed: list[str], slices: tuple[Slice, ...], amounts: dict[str, Amount]
) -> list[str]:
    """Return what the corpus lacks, and what in it is unexpected."""
    remarks = []
    empty = sorted({slice_.source for slice_ in slices if slice_.size == 0})
    if empty:
        remarks.append(f"{len(empty):,} sources are empty, such as {empty[0]}")
    if listed and slices:
        there = {config.sources.unlabelled(slice_.source) for slice_ in slices}
        return [*remarks, *compare_with_list(listed, there).remarks()]
    if config.sources.dataset is None:
        counts = {name: amount.sources for name, amount in amounts.items()}
        remarks += unlike_published(counts)
    return remarks


def _mixture(amounts: dict[str, Amount]) -> list[str]:
    """Return how RedPajama's mixture is divided among the subsets that are there."""
    _, remark = share_among_present(read_weights(_MIXTURE), amounts)
    return [f"mixture {_MIXTURE}: {remark}"] if remark else []


def _basis(rates: dict[str, Rates]) -> list[str]:
    """Return where the numbers of tokens come from."""
    reasons = {
        "sample": "encoding a sample of the subset",
        "published": "the published totals, in tokens of GPT-NeoX's tokenizer. Others give more or "
        "fewer; --tokenizer with the corpus measures it",
        "guess": "a guess: 4 bytes of text in a token. --tokenizer with the corpus measures it",
    }
    remarks = []
    for basis, reason in reasons.items():
        if names := [name for name, rate in rates.items() if rate.basis == basis]:
            remarks.append(f"tokens of {', '.join(names)} are from {reason}")
    stated = [name for name, rate in rates.items() if rate.basis != "sample"]
    if packed := [f"{rates[name].text:g} for {name}" for name in stated if rates[name].text > 1]:
        remarks.append(f"text in a byte of a compressed file is a guess: {', '.join(packed)}")
    small = [
        f"{name} {format_count(rate.sampled_documents, 'document')} of "
        f"{format_count(rate.sampled_slices, 'slice')}"
        for name, rate in rates.items()
        if rate.basis == "sample" and rate.sampled_documents < FEW_DOCUMENTS
    ]
    if small:
        remarks.append(
            f"the sample is small, so that its numbers may be far off: {', '.join(small)}. If "
            "these are not all of a subset, its other documents may be shorter or longer"
        )
    remarks += [f"left out of the sample: {rate.remark}" for rate in rates.values() if rate.remark]
    return remarks


def _room(outlook: Outlook, output: str | None) -> list[str]:
    if outlook.free_bytes is None:
        return []
    free, needed = size_text(outlook.free_bytes), size_text(outlook.needed_bytes)
    if outlook.free_bytes < outlook.needed_bytes:
        return [f"{output} has no room: {free} are free, and {needed} are needed"]
    return [f"{output} has room: {free} are free"]
