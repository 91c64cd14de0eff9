"""Tokenise a corpus into a dataset folder.

The folder's bytes depend on the corpus, the tokenizer, and the fields seed, slice_bytes,
heldout_share and long_records. They never depend on workers, tasks, restarts or the machine. You
may stop the command at any time. The same command then writes the buckets that are missing.

The receipt of each bucket holds the sha256 of the source bytes that were read. If the time of a
source file has changed, the same command compares the hashes. It refuses a file whose bytes have
changed, and names it. 'shards verify --sources CORPUS' compares all source files.

  mobilellama tokenize run --tokenizer tokenizer.model --sources.root CORPUS --output DATASET

In a job array, each task does its part of the slices. Run 'tokenize finish' after all tasks:

  mobilellama tokenize run ... --task_index $SLURM_ARRAY_TASK_ID --task_count 64
  mobilellama tokenize finish --output DATASET
"""

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mobilellama import launcher
from mobilellama import log as logs
from mobilellama.config import ConfigError, UserError, require_at_least, require_share
from mobilellama.cpus import cpu_budget
from mobilellama.files.hub_folder import find_model
from mobilellama.progress import Progress, format_count
from mobilellama.shards.dataset import DATASET, PLAN, Identity, Plan, Slice, shown_unit
from mobilellama.shards.format import dtype_for_vocabulary
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenize.bucket import Work
from mobilellama.tokenize.bucket_files import is_finished
from mobilellama.tokenize.changes import SourceChecks
from mobilellama.tokenize.encoding.encoder import ENCODER_VERSION, why_plain
from mobilellama.tokenize.encoding.hf_encoder import tokenizers_version
from mobilellama.tokenize.finish import finish_dataset, sweep
from mobilellama.tokenize.plan import as_begun, join_plan
from mobilellama.tokenize.planning.amounts import amounts_found
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenize.workers import write_buckets
from mobilellama.tokenizers.corpus_tokenizer import CorpusTokenizer, open_corpus_tokenizer
from mobilellama.tokenizers.text_tokenizer import HF_FOLDER
from mobilellama.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

DEFAULT_DATASET_SEED = 1337
"""The default seed of a dataset. ``data.seed``, for the order of samples, is another seed."""
_ABANDONED_S = 86_400  # no worker of another machine goes so long without a write


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'tokenize run'."""

    tokenizer: str
    """A sentencepiece .model file, a tokenizer.json, a folder with tokenizer.model or
    tokenizer.json, or the name on the Hub of a model that has one: OWNER/NAME or
    OWNER/NAME@REVISION. If a folder has both files, tokenizer.model is used.
    Special tokens that a text spells stay text. Added tokens that are not special, such as <think>
    of Qwen, are pieces of text, as in transformers."""
    eos_token: str | None = None
    """The token that ends documents, as Llama 3's <|end_of_text|>. null: the one that the files of
    a tokenizer.json name, if it ends documents and not turns; </s> of a sentencepiece model."""
    tokenizer_as_is: bool = False
    """Use the ids of the folder's tokenizer.json even if they differ from its sentencepiece
    model's. false: correct or refuse such a folder (docs/finetuning.md)."""
    sources: SourcesConfig
    """The corpus."""
    output: str
    """Dataset folder. It is made if it is missing. An existing one must have the same plan."""
    workers: int | None = None
    """Number of processes. None: one for each CPU that this process may use. That is
    OMP_NUM_THREADS, else the smallest number that SLURM, a container's quota and the CPU affinity
    allow."""
    seed: int = DEFAULT_DATASET_SEED
    """Seed of the order of documents within each bucket."""
    slice_bytes: int = 1 << 30
    """A larger uncompressed file is split into ranges of so many bytes."""
    heldout_share: float = 0.0005
    """Share of each bucket's tokens that is kept for validation."""
    max_bad_share: float = 0.001
    """A slice fails if a larger share of its records is bad. 10 bad records are always allowed.
    A record of more than 64 MiB is none of these: see long_records."""
    long_records: Literal["fail", "skip"] = "fail"
    """What to do with a record of more than 64 MiB, which is too long to be read. fail: its slice
    fails, and the message names its place. skip: leave it out and count it as a bad record."""
    task_index: int = 0
    """Number of this task in a job array, from 0."""
    task_count: int = 1
    """Number of tasks in the job array. If it is above 1, run 'tokenize finish' after all tasks."""
    encoder: Literal["fast", "sentencepiece"] = "fast"
    """Of a sentencepiece model. Both give the same ids. 'sentencepiece' takes about 30 times as
    long. It is for a model or a document with which the fast encoder is suspected of a fault."""
    dry_run: bool = False
    """Print the subsets and their slices, and write nothing."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            require_at_least("workers", self.workers, 1)
        require_at_least("slice_bytes", self.slice_bytes, 1)
        require_share("heldout_share", self.heldout_share)
        require_share("max_bad_share", self.max_bad_share)
        require_at_least("task_count", self.task_count, 1)
        if not 0 <= self.task_index < self.task_count:
            rule = f"must be at least 0 and below task_count = {self.task_count}"
            raise ConfigError("task_index", self.task_index, rule, "Number the tasks from 0")
        self.sources.require_outside(self.output)


def main(config: Config) -> int:
    """Write the buckets that are missing, then finish the dataset."""
    logs.configure()
    found = find_model(config.tokenizer, field="tokenizer", weights=False)
    with found.errors_by_name():
        tokenizer = open_corpus_tokenizer(
            found.path,
            eos_token=config.eos_token,
            as_is=config.tokenizer_as_is,
            trained=found.is_from_hub,
        )
    if config.encoder == "sentencepiece" and not isinstance(tokenizer, Tokenizer):
        rule = f"cannot encode with {tokenizer.path}, which is no sentencepiece model"
        raise ConfigError("encoder", config.encoder, rule, "Leave it out")
    folder = Path(config.output)
    config = replace(config, sources=as_begun(folder, config.sources))
    plan = make_plan(config, tokenizer)
    if config.dry_run:
        print(_describe(plan))
        return 0
    join_plan(folder, plan, tokenizer)
    mine = plan.slices[config.task_index :: config.task_count]
    missing = [slice_ for slice_ in mine if not is_finished(folder, slice_, plan.identity)]
    launcher.tell_progress(len(mine) - len(missing))
    absent = set(missing)
    checks = SourceChecks(folder, plan.identity, config.sources)
    checks.require_unchanged([slice_ for slice_ in mine if slice_ not in absent])
    # Of a finished dataset, too: another run may have been killed after this one's end.
    sweep(folder, plan.slices, others_after_s=_ABANDONED_S)
    if not missing and (fingerprint := _finished_fingerprint(folder, plan)):
        print(f"{folder} is finished already, there is nothing to do\nfingerprint {fingerprint}")
        return 0
    if len(missing) < len(mine):
        done = len(mine) - len(missing)
        log.info("finished before: %d of %s", done, format_count(len(mine), "bucket"))
    try:
        _write(config, plan, missing, tokenizer)
        checks.require_unchanged(mine)  # against a change in the midst of the run
    except KeyboardInterrupt:
        there = sum(is_finished(folder, slice_, plan.identity) for slice_ in mine)
        buckets = format_count(len(mine), "bucket")
        print(
            f"mobilellama: interrupted with {there:,} of {buckets} finished; "
            "run the same command again to continue",
            file=sys.stderr,
        )
        return 130
    if config.task_count > 1:
        buckets = format_count(len(mine), "bucket")
        print(
            f"task {config.task_index} of {config.task_count}: finished {buckets}. "
            f"After all tasks: mobilellama tokenize finish --output {folder}"
        )
        return 0
    print(finish_dataset(folder))
    return 0


def make_plan(config: Config, tokenizer: CorpusTokenizer) -> Plan:
    """Return the plan that the config, the tokenizer and the corpus make.

    Raises:
        ConfigError: see ``find_slices``; or a subset has the name of the tokenizer's folder.
    """
    assert tokenizer.eos_id is not None  # open_corpus_tokenizer found it
    of_sentencepiece = isinstance(tokenizer, Tokenizer)
    identity = Identity(
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        dtype=dtype_for_vocabulary(tokenizer.vocab_size),
        seed=config.seed,
        slice_bytes=config.slice_bytes,
        heldout_share=config.heldout_share,
        encoder_version=ENCODER_VERSION,
        long_records=config.long_records,
        tokenizers_version=None if of_sentencepiece else tokenizers_version(),
    )
    slices = find_slices(config.sources, config.slice_bytes)
    if not of_sentencepiece and any(slice_.subset == HF_FOLDER for slice_ in slices):
        rule = "is the name of the tokenizer's folder in this dataset"
        raise ConfigError("sources", HF_FOLDER, rule, "Rename the subset")
    return Plan(identity=identity, slices=slices)


def _finished_fingerprint(folder: Path, plan: Plan) -> str | None:
    """Return the dataset's fingerprint; None where it is to be finished (again)."""
    if not (folder / DATASET).is_file():
        return None
    try:
        dataset = TokenDataset(folder)
    except UserError as error:
        log.warning("%s. All buckets are there; finishing again", str(error).partition(". ")[0])
        return None
    if dataset.identity != plan.identity:
        log.warning("%s does not belong to %s; finishing again", folder / DATASET, PLAN)
        return None
    return dataset.fingerprint


def _write(config: Config, plan: Plan, missing: list[Slice], tokenizer: CorpusTokenizer) -> None:
    work = Work(
        folder=Path(config.output),
        identity=plan.identity,
        sources=config.sources,
        max_bad_share=config.max_bad_share,
        plain=config.encoder == "sentencepiece",
    )
    obstacle = None
    if isinstance(tokenizer, Tokenizer) and not work.plain:
        obstacle = why_plain(tokenizer)
    if obstacle is not None:
        log.info("%s: sentencepiece encodes, slower than usual: %s", config.tokenizer, obstacle)
    budget = cpu_budget(config.workers)
    if missing:
        log.info("%s", budget.describe("worker process"))
    name, unit = shown_unit(slice_.unit for slice_ in missing)
    total = sum(slice_.end - slice_.start for slice_ in missing) / unit
    with Progress("tokenize", total=total, unit=name) as progress:
        failures = write_buckets(work, missing, budget.count, progress, unit=unit)
    if failures:
        listed = "\n".join(f"  {failure}" for failure in failures)
        slices = format_count(len(missing), "slice")
        raise UserError(
            f"{len(failures):,} of {slices} failed. The other buckets are kept:\n"
            f"{listed}\nFix these and run the same command again"
        )


def _describe(plan: Plan) -> str:
    lines = []
    for subset, amount in amounts_found(plan.slices).items():
        lines.append(amount.line(subset))
        mine = [slice_ for slice_ in plan.slices if slice_.subset == subset]
        lines += [f"  {part.name}  {part.source} [{part.start:,}, {part.end:,})" for part in mine]
    return "\n".join(lines)
