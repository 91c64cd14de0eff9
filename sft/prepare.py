"""Turn conversations into a dataset of packed, masked rows.

Records are cleaned, written in a chat template, split if they are longer than seq_len, and packed
into rows of seq_len tokens. report.json says what was kept, changed and dropped, and why.
A record is dropped if it has a field that changes its meaning and cannot be used: preference data,
tools, reasoning, images, a second question. Unknown fields are counted by name.
The folder's bytes depend on the data, the tokenizer, the template, and the fields seq_len, seed,
heldout_share and data.format. They do not depend on workers or restarts. You can stop it at any
time: the same command continues. If no bucket is finished yet, you can start again in the same
folder with other settings or data. A folder with finished buckets refuses them.

  mobilellama sft prepare sharegpt.json --tokenizer DIR --output DATASET
"""

import itertools
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path

from mobilellama import log as logs
from mobilellama.config import (
    ConfigError,
    DataError,
    UserError,
    require_at_least,
    require_share,
)
from mobilellama.cpus import cpu_budget
from mobilellama.files.atomic import whole_file, write_json
from mobilellama.files.hub_folder import find_model
from mobilellama.files.temporary import remove_abandoned, temporaries
from mobilellama.progress import Progress
from mobilellama.sft.data.bucket import (
    Encode,
    PackingWork,
    Spooled,
    lay_out,
    make_receipt,
    spool,
    write_bucket,
)
from mobilellama.sft.data.clean import CLEANING_VERSION
from mobilellama.sft.data.labels import special_tokens
from mobilellama.sft.data.packing import PACKING_VERSION
from mobilellama.sft.data.plan import is_alone, join_plan, require_same_reading, sharing
from mobilellama.sft.data.reasons import Drop, describe_example
from mobilellama.sft.data.records import READING_VERSION
from mobilellama.sft.data.report import describe, make_report
from mobilellama.sft.data.sources import (
    ConversationsConfig,
    find_slices,
    read_records,
    source_sha256,
)
from mobilellama.sft.data.split import ENCODING_VERSION
from mobilellama.sft.data.template import Template, read_template
from mobilellama.sft.data.workers import EncodeSettings, encoding
from mobilellama.shards.dataset import (
    DATASET,
    REPORT,
    TEMPLATE,
    Identity,
    Plan,
    Receipt,
    Slice,
    read_receipt,
)
from mobilellama.shards.format import dtype_for_vocabulary
from mobilellama.shards.manifest import write_dataset
from mobilellama.shards.packing import Packing
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenize.bucket_files import is_finished, naming_refused_writes
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)

_LARGEST_SEQ_LEN = 1 << 20  # a row is held in memory, and no model reads so many
_DRY_RECORDS = 1_000
_FIRST_PLACES = 3


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'sft prepare'."""

    data: ConversationsConfig
    """The conversations."""
    tokenizer: str
    """A sentencepiece .model file, a tokenizer.json, a model's or dataset's folder, or a model's
    name on the Hub: OWNER/NAME or OWNER/NAME@REVISION."""
    tokenizer_as_is: bool = False
    """Use the ids of the folder's tokenizer.json even if they differ from its sentencepiece
    model's. false: correct or refuse such a folder (docs/finetuning.md)."""
    output: str
    """Dataset folder. It is created, or continued if it has the same settings and data."""
    template: str = "vicuna_v1"
    """Chat template: a preset's name, or a YAML file."""
    seq_len: int = 2048
    """Tokens per row, at most 1,048,576. Longer conversations are split between exchanges."""
    heldout_share: float = 0.01
    """Share of the conversations that is kept for validation. At least one, unless the share is
    0."""
    seed: int = 1337
    """Seed for the choice of the held-out conversations."""
    workers: int | None = None
    """Number of processes that encode. None: one for each CPU that this process may use. That is
    OMP_NUM_THREADS, else the smallest number that SLURM, a container's quota and the CPU affinity
    allow."""
    max_bad_share: float = 0.1
    """The file fails if more than this share of its records is dropped. 10 records are always
    allowed."""
    dry_run: bool = False
    """Read, clean and encode only the first thousand records, and report. Nothing is written."""

    def __post_init__(self) -> None:
        require_at_least("seq_len", self.seq_len, 2)
        if self.seq_len > _LARGEST_SEQ_LEN:
            rule = f"must be at most {_LARGEST_SEQ_LEN:,}"
            raise ConfigError("seq_len", self.seq_len, rule, "Give the tokens of a training row")
        require_share("heldout_share", self.heldout_share)
        require_share("max_bad_share", self.max_bad_share)
        if self.workers is not None:
            require_at_least("workers", self.workers, 1)
        self.data.require_outside(self.output)


def main(config: Config) -> int:
    """Write the buckets that are missing, then finish the dataset and report."""
    logs.configure()
    template = read_template(config.template)
    found = find_model(config.tokenizer, field="tokenizer", weights=False)
    config = replace(config, tokenizer=found.path)
    with found.errors_by_name():
        tokenizer = open_tokenizer(
            found.path, as_is=config.tokenizer_as_is, trained=found.is_from_hub
        )
    special_tokens(template, tokenizer)  # refuses a template that the tokenizer cannot write
    plan = make_plan(config, template, tokenizer)
    work = PackingWork(
        folder=Path(config.output),
        identity=plan.identity,
        data=config.data,
        template=template,
        max_bad_share=config.max_bad_share,
    )
    if config.dry_run:
        return _dry_run(config, work, plan, tokenizer)
    with naming_refused_writes(work.folder), sharing(work.folder) as lock:
        join_plan(work.folder, plan, tokenizer, lock)
        require_same_reading(work.folder, plan, READING_VERSION)
        try:
            receipts = _write_missing(config, work, plan, tokenizer)
        except KeyboardInterrupt:
            there = sum(is_finished(work.folder, slice_, plan.identity) for slice_ in plan.slices)
            print(
                f"mobilellama: interrupted with {there:,} of {len(plan.slices):,} buckets "
                "finished; run the same command again to continue",
                file=sys.stderr,
            )
            return 130
        print(_finish(work, tokenizer, receipts, lock))
    return 0


def make_plan(config: Config, template: Template, tokenizer: TextTokenizer) -> Plan:
    """Return the plan that the config, the tokenizer, the template and the data make.

    A dry run's, which is compared with no other, knows the sizes of the sources alone.
    """
    slices = find_slices(config.data)
    identity = Identity(
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        eos_id=-1 if tokenizer.eos_id is None else tokenizer.eos_id,
        dtype=dtype_for_vocabulary(tokenizer.vocab_size),
        seed=config.seed,
        slice_bytes=0,  # a file is never cut
        heldout_share=config.heldout_share,
        encoder_version=ENCODING_VERSION,
        packing=Packing(
            seq_len=config.seq_len,
            template=template.name,
            template_sha256=template.sha256,
            data_format=config.data.format,
            cleaning_version=CLEANING_VERSION,
            packing_version=PACKING_VERSION,
            sources_sha256={} if config.dry_run else _hash_sources(slices, config.data),
        ),
    )
    return Plan(identity=identity, slices=slices)


def _hash_sources(slices: Sequence[Slice], data: ConversationsConfig) -> dict[str, str]:
    """Return each source's sha256, by its name."""
    hashes = {}
    name, unit = _unit(slices)
    total = sum(slice_.size for slice_ in slices) / unit
    with Progress("sha256 of the data", total=total, unit=name) as progress:
        for slice_ in slices:
            hashes[slice_.source] = source_sha256(slice_, data)
            progress.advance(slice_.size / unit)
    return hashes


def _unit(slices: Sequence[Slice]) -> tuple[str, float]:
    """Return what progress is counted in: its name, and how much of a slice's unit it is."""
    return ("rows", 1.0) if slices[0].unit == "rows" else ("MB", 1e6)


def _write_missing(
    config: Config, work: PackingWork, plan: Plan, tokenizer: TextTokenizer
) -> list[Receipt]:
    """Write the buckets that are missing, in their order; return all receipts."""
    folder, identity = work.folder, plan.identity
    missing = {slice_.name for slice_ in plan.slices if not is_finished(folder, slice_, identity)}
    if missing and len(missing) < len(plan.slices):
        there = len(plan.slices) - len(missing)
        log.info("%s buckets are there already", f"{there:,} of {len(plan.slices):,}")
    name, unit = _unit(plan.slices)
    total = sum(slice_.size for slice_ in plan.slices if slice_.name in missing) / unit
    workers = 1
    if missing:
        budget = cpu_budget(config.workers)
        workers = budget.count
        log.info("%s", budget.describe("worker process"))
    receipts: list[Receipt] = []
    with encoding(_job(config, work), tokenizer, workers) as encode:
        with Progress("prepare", total=total, unit=name) as progress:

            def advance(source_read: int, tokens: int, conversations: int) -> None:
                progress.advance(source_read / unit, tokens=tokens, conversations=conversations)

            for slice_ in plan.slices:
                receipt = read_receipt(folder, slice_, identity)
                # Another process may have finished it by now.
                if receipt is None or not is_finished(folder, slice_, identity):
                    before = sum(receipt.counts["conversations"] for receipt in receipts)
                    receipt = write_bucket(work, slice_, encode, advance, before)
                receipts.append(receipt)
    return receipts


def _job(config: Config, work: PackingWork) -> EncodeSettings:
    return EncodeSettings(
        tokenizer=config.tokenizer,
        tokenizer_sha256=work.identity.tokenizer_sha256,
        template=work.template,
        seq_len=config.seq_len,
    )


def _finish(
    work: PackingWork, tokenizer: TextTokenizer, receipts: Sequence[Receipt], lock: int
) -> str:
    """Sweep, write what describes the dataset, dataset.json last; return what to print.

    `lock` is what ``sharing`` gave.
    """
    folder, identity = work.folder, work.identity
    report = make_report(identity, receipts)
    if not report.conversations:
        raise DataError(f"{work.data.path}: {_nothing_left(receipts)}")
    if not _is_described(work):
        if is_alone(lock):  # else another's temporaries are among them, and it sweeps after us
            _sweep(folder)
        tokenizer.save(folder)
        with whole_file(folder / TEMPLATE) as file:
            file.write(work.template.to_yaml().encode())
        write_json(folder / REPORT, asdict(report))
        write_dataset(folder, identity, receipts)
    fingerprint = TokenDataset(folder).fingerprint
    return f"{describe(report)}\n\nfingerprint {fingerprint}\ndataset     {folder}"


def _nothing_left(receipts: Sequence[Receipt]) -> str:
    records = sum(receipt.records for receipt in receipts)
    places = [
        describe_example(*map(str, example))
        for receipt in receipts
        for example in receipt.bad_places
        if example[1] in set(Drop)
    ]
    why = f" ({'; '.join(places[:_FIRST_PLACES])})" if places else ""
    return (
        f"no conversation is left of {records:,} records{why}. "
        "Give a file of conversations, or see --data.format and --seq_len"
    )


def _is_described(work: PackingWork) -> bool:
    """Return whether the folder is a finished dataset with all that belongs to it."""
    names = (DATASET, TEMPLATE, REPORT)
    if not all((work.folder / name).is_file() for name in names):
        return False
    try:
        return TokenDataset(work.folder).identity == work.identity
    except UserError:
        return False


def _sweep(folder: Path) -> None:
    """Remove what killed writers left: every bucket counts, so no temporary is needed.

    Where the file system has no locks, a process of this machine may still write one.
    """
    remove_abandoned(temporaries(folder.rglob("*")), others_after_s=0)


def _dry_run(config: Config, work: PackingWork, plan: Plan, tokenizer: TextTokenizer) -> int:
    """Report on the first thousand records."""
    receipts: list[Receipt] = []
    left = _DRY_RECORDS
    with encoding(_job(config, work), tokenizer, 1) as encode:
        for slice_ in plan.slices:
            if left:
                receipt = _try(work, slice_, encode, left, receipts)
                left -= receipt.records
                receipts.append(receipt)
    print(describe(make_report(plan.identity, receipts)))
    print(f"\ndry run: the first {_DRY_RECORDS - left:,} records, nothing was written")
    return 0


def _try(
    work: PackingWork, slice_: Slice, encode: Encode, limit: int, receipts: Sequence[Receipt]
) -> Receipt:
    """Make a slice's bucket of so many records in memory; return its receipt."""
    spooled = Spooled(ids=BytesIO(), mask=BytesIO())
    records = itertools.islice(read_records(slice_, work.data), limit)
    spool(spooled, records, work, encode, lambda *_: None)
    if spooled.tally.too_many(work.max_bad_share):
        log.warning(
            "%s: with this share of dropped records it would fail as a whole", slice_.source
        )
    before = sum(receipt.counts["conversations"] for receipt in receipts)
    layout = lay_out(spooled, slice_, work.identity, before)
    return make_receipt(spooled, layout, slice_, work.identity, {})
