"""lm-evaluation-harness, held at arm's length: its tasks, our way to load a model, one score.

Traps that are kept out of sight here: indexing all of its tasks takes ten seconds, so the
folders of the published ones are read alone where they suffice; a task's overrides are merged
only when it is a group's member; ``add_special_tokens`` adds <s> only where the tokenizer was
loaded to do so; an empty context is scored after <s>, which a base model has never seen.
"""

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from mobilellama.config import ConfigError, DataError, UserError, did_you_mean, one_line
from mobilellama.files import pretrained
from mobilellama.files.foreign_tokenizer import ForeignTokenizer
from mobilellama.pretrain.evaluation.data import Spec
from mobilellama.tokenizers.exact_tokenizer import load_exact_tokenizer

if TYPE_CHECKING:  # they import torch, which --help does without
    from lm_eval.api.task import ConfigurableTask
    from transformers import PretrainedConfig, PreTrainedModel

    from mobilellama.pretrain.evaluation.counting_model import CountingModel

log = logging.getLogger(__name__)

# Folders of the harness that hold the published tasks, so that thousands of others are not read.
_FOLDERS = (
    "arc",
    "super_glue/boolq",
    "glue/rte",
    "winogrande",
    "truthfulqa",
    "hellaswag",
    "piqa",
    "mmlu/default",
)
# The only group whose tasks make one score here: the mean over all of their questions.
_GROUP = "mmlu"
_SEED = 1234  # the harness's own, for the choice of examples
_BOOTSTRAP_ITERATIONS = 1000  # only for metrics whose standard error has no formula

_Found = TypedDict(
    "_Found",
    {
        "results": dict[str, dict[str, object]],
        "n-shot": dict[str, int],
        "n-samples": dict[str, dict[str, int]],
    },
)
"""What is read of the harness's results: each by the name of a task."""


def require_harness() -> str:
    """Return the version of lm_eval.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        rule = "'pretrain evaluate' runs lm-evaluation-harness, an optional dependency"
        remedy = "Install it: pip install 'mobilellama[eval]'"
        raise ConfigError("lm_eval", "(not installed)", rule, remedy) from None


class Tasks:
    """The harness's index of tasks, as far as some names need it.

    Raises:
        ConfigError: a name is no task, or one that stands for several.
    """

    def __init__(self, names: list[str]) -> None:
        import lm_eval.tasks
        from lm_eval.tasks import TaskManager

        root = Path(lm_eval.tasks.__file__).parent
        folders: list[str | Path] = [root / folder for folder in _FOLDERS]
        self.manager = TaskManager(include_defaults=False, include_path=folders)
        if not set(names) <= set(self.manager.all_tasks):
            log.info("reading the index of all tasks ...")
            self.manager = TaskManager()
        for name in names:
            self._require_task(name)

    def _require_task(self, name: str) -> None:
        known = self.manager.all_tasks
        if name not in known:
            near = did_you_mean(name, known)
            remedy = f"'lm_eval ls tasks' lists them all{near}"
            raise ConfigError("tasks", name, "is not a task of the installed harness", remedy)
        if name != _GROUP and name not in self.manager.all_subtasks:
            leaves = self.leaves(name)
            some = ",".join([*leaves][:5]) + (",..." if len(leaves) > 5 else "")
            rule = f"is a group of {len(leaves)} tasks, and a group has no score here"
            raise ConfigError("tasks", name, rule, f"Name its tasks: {some}")

    def is_group(self, name: str) -> bool:
        """Whether the name stands for several tasks that make one score."""
        return name == _GROUP

    def config(self, name: str) -> dict[str, object]:
        """Return a packaged task's or group's config; functions are not resolved."""
        return dict(self.manager.task_index[name].cfg or {})

    def leaves(self, name: str) -> dict[str, dict[str, object]]:
        """Return the configs of the tasks that a name stands for: of itself, unless a group."""
        entry = self.manager.task_index[name]
        if name in self.manager.all_groups:
            listed = entry.cfg["task"] if entry.cfg else []
            members = [m if isinstance(m, str) else m["task"] for m in listed]
        elif name in self.manager.all_tags:
            members = sorted(entry.tags)
        else:
            return {name: self.config(name)}
        return {leaf: config for member in members for leaf, config in self.leaves(member).items()}

    def shots(self, name: str, wanted: int | None) -> int | None:
        """Return the examples in the prompt: 0 where a task allows none; None is its own number.

        TruthfulQA's prompt has its own examples, and the harness ignores other wishes.
        """
        return 0 if self.config(name).get("num_fewshot") == 0 else wanted


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' log lines away; what they warn of, CountingModel counts."""
    import transformers
    from datasets import disable_progress_bars, enable_progress_bars

    names = ("lm_eval", "lm_eval.models.huggingface", "accelerate", "evaluate")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
        enable_progress_bars()


def load_tokenizer(
    model: str, add_bos: bool | None, *, as_is: bool = False
) -> tuple[ForeignTokenizer, bool]:
    """Return the tokenizer, and whether it puts <s> first.

    Args:
        model: its folder.
        add_bos: None takes what the tokenizer's files say.
        as_is: whether the ids of its tokenizer.json are wanted, whatever its model has learnt.

    Raises:
        ConfigError: there is none, or it cannot be told to.
    """
    try:
        tokenizer = load_exact_tokenizer(model, as_is=as_is, add_bos_token=add_bos)
    except UserError:
        raise
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        rule = f"has no tokenizer that transformers can load ({one_line(error).rstrip('.')})"
        raise ConfigError("model", model, rule, "Export it with its tokenizer") from None
    start = tokenizer.encode("a")[:1]
    puts_bos = tokenizer.bos_token_id is not None and start == [tokenizer.bos_token_id]
    if add_bos and not puts_bos:
        rule = f"the tokenizer of {model} begins texts with {start}, even so"
        raise ConfigError("add_bos", "true", rule, "Leave add_bos away")
    # Told to add none, it is never asked for special tokens at all.
    return tokenizer, puts_bos if add_bos is None else add_bos


def read_config(model: str) -> "PretrainedConfig":
    """Return transformers' config of a model.

    Args:
        model: its folder.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return pretrained.load_config(model)
    except UserError:
        raise
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        rule = f"has no config.json that transformers can load ({one_line(error).rstrip('.')})"
        raise ConfigError("model", model, rule, "Give an exported folder") from None


def counting_model(
    model: "PreTrainedModel",
    tokenizer: ForeignTokenizer,
    *,
    add_bos: bool,
    batch_size: int | str,
) -> "CountingModel":
    """Return the harness's model.

    Args:
        model: on its device.
        tokenizer: from ``load_tokenizer``.
        add_bos: whether every prompt begins with <s>. Without it an empty context is </s>, the
            end of a former document.
        batch_size: requests a forward pass, or "auto".
    """
    from mobilellama.pretrain.evaluation.counting_model import CountingModel

    return CountingModel(
        pretrained=model,
        tokenizer=tokenizer,
        add_bos_token=add_bos,
        prefix_token_id=tokenizer.bos_token_id if add_bos else tokenizer.eos_token_id,
        batch_size=batch_size,
    )


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one task gave."""

    version: str
    """The packaged task's."""
    shots: int
    """Examples in the prompt."""
    num_samples: int
    """Questions that were scored."""
    metrics: dict[str, float]
    """By the harness's name; ``NAME_stderr`` is a standard error."""
    leaves: dict[str, dict[str, float]]
    """The same of each task of a group; empty for a single task."""
    answers: dict[str, int | None]
    """How many requests the model had, and how many of its answers are incomplete, by kind."""


def evaluate(
    lm: "CountingModel",
    tasks: Tasks,
    name: str,
    *,
    specs: list[Spec] | None,
    shots: int | None,
    limit: int | None,
) -> Score:
    """Run one task, or the tasks of a group.

    Args:
        lm: from ``counting_model``.
        tasks: the index.
        name: the task.
        specs: overrides that bring local data; None lets the harness fetch.
        shots: examples in the prompt; None is the task's own number.
        limit: first questions of each task; None is all.

    Raises:
        UserError: the data cannot be fetched, or the task can make no question of a local row.
    """
    from datasets.exceptions import DatasetsError
    from lm_eval import evaluator

    # A bare dict would be taken for a new task; only a group's members are merged.
    wanted = [name] if specs is None else [{"group": "local_data", "task": specs}]
    try:
        built = tasks.manager.load(wanted)
    except (OSError, DatasetsError) as error:
        raise UserError(
            f"task '{name}': its data cannot be fetched ({one_line(error).rstrip('.')}); give "
            "--data DIR with local files, see 'mobilellama pretrain evaluate --help'"
        ) from None
    if specs is not None:
        for leaf, task in built["tasks"].items():
            # Every task that is read from a file is of this class.
            _require_questions(leaf, cast("ConfigurableTask", task))
    lm.take_counts()
    # The harness's decorator hides the type.
    run = cast(Callable[..., _Found], evaluator.simple_evaluate)
    with _explained(name):
        found = run(
            model=lm,
            # Flat: a group beside its own sub-groups is refused as a duplicate.
            tasks=[*built["tasks"].values()],
            task_manager=tasks.manager,
            num_fewshot=shots,
            limit=limit,
            bootstrap_iters=_BOOTSTRAP_ITERATIONS,
            log_samples=False,
            fewshot_random_seed=_SEED,
        )
    counts = {leaf: int(found["n-samples"][leaf]["effective"]) for leaf in built["tasks"]}
    by_leaf = {leaf: _numbers(found["results"][leaf]) for leaf in counts}
    described = tasks.config(name).get("metadata")
    version = described.get("version", "unknown") if isinstance(described, dict) else "unknown"
    return Score(
        version=str(version),
        shots=max(int(found["n-shot"][leaf]) for leaf in counts),
        num_samples=sum(counts.values()),
        metrics=_aggregate(by_leaf, counts) if tasks.is_group(name) else by_leaf[name],
        leaves=by_leaf if tasks.is_group(name) else {},
        answers=lm.take_counts().to_json(),
    )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Tell what the harness asserts of a request as the user's to fix."""
    try:
        yield
    except AssertionError as error:
        why = one_line(error) if str(error) else "an answer has no tokens, or more than the context"
        raise UserError(
            f"task '{name}': the harness cannot run it on this model ({why.rstrip('.')}). "
            "Name other --tasks, or score a model with a longer context"
        ) from None


def _require_questions(leaf: str, task: "ConfigurableTask") -> None:
    """Raise DataError naming the first local row of which the task can make no question."""
    documents = cast(Iterable[dict[str, object]], task.eval_docs)
    for number, document in enumerate(documents, start=1):
        try:
            task.doc_to_text(document)
            task.doc_to_target(document)
            if task.config.doc_to_choice is not None:
                task.doc_to_choice(document)
        except Exception as error:  # whatever a packaged task's own code meets
            row = repr({key: document[key] for key in list(document)[:6]})[:300]
            raise DataError(
                f"task '{leaf}': it cannot make a question of row {number} of its test data "
                f"({type(error).__name__}: {one_line(error)}): {row}. Fix the row"
            ) from None


def _numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return ``{"acc": ..., "acc_stderr": ...}`` of the harness's ``{"acc,none": ...}``."""
    return {
        key.removesuffix(",none"): float(value)
        for key, value in metrics.items()
        if "," in key and isinstance(value, int | float) and value == value
    }


def _aggregate(
    leaves: Mapping[str, Mapping[str, float]], counts: Mapping[str, int]
) -> dict[str, float]:
    """Return what all tasks of a group have: means over questions, pooled standard errors."""
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr

    sizes = [counts[leaf] for leaf in leaves]
    shared = set.intersection(*(set(metrics) for metrics in leaves.values()))
    mean: dict[str, float] = {}
    for metric in sorted(shared):
        values = [metrics[metric] for metrics in leaves.values()]
        if metric.endswith("_stderr"):
            mean[metric] = float(pooled_sample_stderr(values, sizes))
        else:
            mean[metric] = float(aggregate_subtask_metrics(values, sizes))
    return mean
