"""Score a model on language benchmarks with lm-evaluation-harness, beside the published scores.

    mobilellama pretrain evaluate MODEL --output results.json [--data DIR]

MODEL is a run of 'pretrain run' (its folder, or the folder of one checkpoint), what 'pretrain
export' or 'sft export' wrote, or any causal language model of transformers. The tasks are the ten
of MobileLLaMA's table by default, with its number of examples in the prompt. You can name any other
task of the harness. Results are written after each task, and a second call with the same --output
continues where the first one ended.

Without a network, give --data DIR: then nothing is fetched. DIR holds one folder for each task,
with one JSON object a line (or .parquet files, as on the Hub):

    task            shots  file under DIR                   fields of a row
    arc_easy            0  arc_easy/test.jsonl              question, choices.text,
                                                            choices.label, answerKey
    arc_challenge       0  arc_challenge/test.jsonl         as arc_easy
    boolq               0  boolq/validation.jsonl           passage, question, label
    rte                 0  rte/validation.jsonl             sentence1, sentence2, label
    winogrande          0  winogrande/validation.jsonl      sentence, option1, option2, answer
    truthfulqa_mc1      0  truthfulqa/validation.jsonl      question, mc1_targets.choices,
                                                            mc1_targets.labels
    truthfulqa_mc2      0  truthfulqa/validation.jsonl      question, mc2_targets.choices,
                                                            mc2_targets.labels
    hellaswag           0  hellaswag/validation.jsonl       activity_label, ctx_a, ctx_b,
                                                            endings, label
    piqa                0  piqa/validation.jsonl            goal, sol1, sol2, label
    mmlu                5  mmlu/test.jsonl, mmlu/dev.jsonl  question, choices, answer, subject

The table and the results count for each task: prompts that were longer than the model's context
and have lost their beginning, empty answers, answers that were cut off at the most tokens, and
likelihoods that are not numbers. If these are over 1 % of the requests, the score is marked with *
and a line below says why. If they are over 10 %, the score is withheld (null in the results),
unless --show_withheld asks for it.

MMLU's 57 subjects may also lie in folders, mmlu/SUBJECT/test.jsonl and dev.jsonl. With examples
in the prompt other tasks need their training split too, TASK/train.jsonl.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilellama import log as logs
from mobilellama.config import ConfigError, require_at_least
from mobilellama.cpus import use_cpu_budget
from mobilellama.files.hub_folder import ModelFolder, find_model
from mobilellama.pretrain.evaluation import harness
from mobilellama.pretrain.evaluation.data import LocalData
from mobilellama.pretrain.evaluation.published_scores import PUBLISHED
from mobilellama.pretrain.evaluation.results import Results, TaskPlan
from mobilellama.pretrain.evaluation.score_table import score_table
from mobilellama.pretrain.evaluation.scored_model import ScoredModel, open_scored_model
from mobilellama.pretrain.hf.device import choose_dtype, find_device

if TYPE_CHECKING:  # it imports torch, which --help does without
    from mobilellama.pretrain.evaluation.counting_model import CountingModel

log = logging.getLogger(__name__)

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'pretrain evaluate'."""

    model: str
    """A Hugging Face folder, such as 'pretrain export' and 'sft export' write, a name on the Hub
    (OWNER/NAME or OWNER/NAME@REVISION), the folder of a 'pretrain run', for its newest checkpoint,
    or the folder of one checkpoint. With --data, a name must have been downloaded before."""
    tokenizer_as_is: bool = False
    """Use the ids of the folder's tokenizer.json even if they differ from those of its
    sentencepiece model. false: correct or refuse such a folder (docs/finetuning.md)."""
    tasks: list[str] = field(default_factory=lambda: list(PUBLISHED))
    """Names of the harness's tasks."""
    data: str | None = None
    """Folder of local task files; None lets the harness fetch the tasks' data."""
    fewshot: int | None = None
    """Examples in the prompt, for all tasks. null: the numbers of the paper (MMLU 5, the others 0);
    for any other task its own number."""
    add_bos: bool | None = None
    """Whether every prompt begins with <s>. null: as the folder's tokenizer says. A base
    model of 'pretrain export' has never seen <s>; harness versions of the paper's time added
    none."""
    batch_size: int | Literal["auto"] = 8
    """Requests in one forward pass. auto: on a GPU, find how many fit."""
    limit: int | None = None
    """Score only so many first questions of each task or subject. null: all. For trials only."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ... auto: a GPU if there is one."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Dtype of the weights. auto: on a GPU the folder's own, for a run bf16; on a CPU fp32."""
    output: str | None = None
    """JSON file of the results. Tasks in it are not run again. null: only print the results."""

    show_withheld: bool = False
    """Show a score although over 10 % of its answers are incomplete."""

    def __post_init__(self) -> None:
        if not self.tasks or not all(self.tasks) or len(set(self.tasks)) < len(self.tasks):
            rule = "must name each task once, with commas between"
            raise ConfigError("tasks", ",".join(self.tasks) or "(empty)", rule, "Fix the list")
        if self.fewshot is not None:
            require_at_least("fewshot", self.fewshot, 0)
        if self.limit is not None:
            require_at_least("limit", self.limit, 1)
        if self.batch_size != "auto":
            require_at_least("batch_size", self.batch_size, 1)
        if self.data is not None and not Path(self.data).is_dir():
            remedy = "See 'mobilellama pretrain evaluate --help' for its layout"
            raise ConfigError("data", self.data, "is not a folder", remedy)


def main(config: Config) -> int:
    """Score the model on every task, print the table."""
    return score(config, open_scored_model)


def score(
    config: Config, opened: Callable[[ModelFolder], AbstractContextManager[ScoredModel]]
) -> int:
    """Score the model that a config names on every task, print the table.

    Args:
        config: what to do.
        opened: gives the model of a folder or a run, until the block ends.
    """
    logs.configure()
    version = harness.require_harness()
    with environment(offline=config.data is not None), harness.quiet():
        offline_by = None if config.data is None else "--data"
        found = find_model(config.model, field="model", offline_by=offline_by)
        with found.errors_by_name(), opened(found) as model:
            return _score_opened(config, model, version)


def _score_opened(config: Config, model: ScoredModel, version: str) -> int:
    """Score a model on every task, print the table.

    Args:
        config: what to do.
        model: what is scored.
        version: of the harness.
    """
    tasks = harness.Tasks(config.tasks)
    plans = [make_plan(config, tasks, name, version) for name in config.tasks]
    tokenizer, add_bos = harness.load_tokenizer(
        model.folder, config.add_bos, as_is=config.tokenizer_as_is
    )
    use_cpu_budget()
    device = find_device(config.device)
    dtype = choose_dtype(
        config.dtype, device, lambda: harness.read_config(model.folder), prefer="precision"
    )
    results = Results.open(
        config.output, model, add_bos=add_bos, dtype=dtype,
        show_withheld=config.show_withheld,
    )  # fmt: skip
    missing = [plan for plan in plans if not results.has(plan)]
    lm: CountingModel | None = None
    for plan in missing:
        if lm is None:
            lm = harness.counting_model(
                model.load(str(device), dtype), tokenizer,
                add_bos=add_bos, batch_size=config.batch_size,
            )  # fmt: skip
        log.info("%s ...", plan.name)
        started_s = time.monotonic()
        result = harness.evaluate(
            lm, tasks, plan.name, specs=plan.specs, shots=plan.shots, limit=config.limit
        )
        results.add(plan, result, time.monotonic() - started_s, device=str(device))
    print(score_table(results.tasks_of(config.tasks), model.name, limit=config.limit))
    if config.output:
        print(f"written to {config.output}")
    return 0


@contextmanager
def environment(*, offline: bool) -> Iterator[None]:
    """Set what the libraries read when they are imported, until the block ends.

    Args:
        offline: forbid them to ask the Hub.
    """
    wanted: dict[str, str] = {name: "1" for name in _OFFLINE if offline}
    if not sys.stderr.isatty():
        wanted["TQDM_MININTERVAL"] = "60"  # a line a minute, where a bar would fill the log
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def make_plan(config: Config, tasks: harness.Tasks, name: str, version: str) -> TaskPlan:
    """Decide a task's shots and read its local data, before any model is loaded.

    Raises:
        ConfigError: data is missing.
        DataError: a row is broken.
    """
    wanted = config.fewshot
    if wanted is None and name in PUBLISHED:
        wanted = PUBLISHED[name].shots
    shots = tasks.shots(name, wanted)
    settings: dict[str, object] = {"lm_eval": version, "shots": shots, "limit": config.limit}
    if config.data is None:
        return TaskPlan(name=name, shots=shots, specs=None, settings={**settings, "data": "hub"})
    leaves = tasks.leaves(name)
    if shots is None:
        own = next(iter(leaves.values())).get("num_fewshot")
        shots_of_data = own if isinstance(own, int) else 0
    else:
        shots_of_data = shots
    data = LocalData(Path(config.data), name, leaves, shots_of_data)
    if len(data.specs) < len(leaves):
        log.warning("%s: the data has %d of %d subjects", name, len(data.specs), len(leaves))
    settings["data"] = data.sha256
    return TaskPlan(name=name, shots=shots, specs=data.specs, settings=settings)
