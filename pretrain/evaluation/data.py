"""Data of the harness's tasks from local files, for machines that reach no network.

    DIR/TASK/SPLIT.jsonl              one JSON object a line, with the fields of the dataset that
                                      the task was written for
    DIR/TASK/SPLIT.parquet            or SPLIT-*.parquet, as the hub has them
    DIR/truthfulqa/validation.jsonl   serves truthfulqa_mc1 and truthfulqa_mc2
    DIR/mmlu/{dev,test}.jsonl         all subjects, told apart by the field ``subject``, or
    DIR/mmlu/SUBJECT/SPLIT.jsonl      a folder for each subject

Everything else of a task (prompt, choices, metric) is the packaged task's own. A split other
than the one that is scored is read only where the prompt has examples.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mobilellama.config import ConfigError, DataError, did_you_mean, one_line
from mobilellama.files.atomic import sha256_of_file
from mobilellama.files.json_lines import read_json_lines

if TYPE_CHECKING:  # it is imported where it is used
    from datasets import DatasetDict

ROW_FIELDS: dict[str, tuple[str, ...]] = {
    "arc_easy": ("question", "choices.text", "choices.label", "answerKey"),
    "arc_challenge": ("question", "choices.text", "choices.label", "answerKey"),
    "boolq": ("passage", "question", "label"),
    "rte": ("sentence1", "sentence2", "label"),
    "winogrande": ("sentence", "option1", "option2", "answer"),
    "truthfulqa_mc1": ("question", "mc1_targets.choices", "mc1_targets.labels"),
    "truthfulqa_mc2": ("question", "mc2_targets.choices", "mc2_targets.labels"),
    "hellaswag": ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    "piqa": ("goal", "sol1", "sol2", "label"),
    "mmlu": ("question", "choices", "answer"),
}
_SHARED_FOLDERS = {"truthfulqa_mc1": "truthfulqa", "truthfulqa_mc2": "truthfulqa"}

Rows = list[dict[str, object]]


class Spec(TypedDict):
    """What a group's member overrides of a packaged task. A split is None where it has no rows."""

    task: str
    training_split: str | None
    validation_split: str | None
    test_split: str | None
    fewshot_split: str | None
    custom_dataset: "Callable[..., DatasetDict]"


class LocalData:
    """Rows of one task and what they came from.

    Args:
        folder: holds a folder for each task.
        task: a task, or ``mmlu``.
        leaves: the packaged config of the task, by its name; of every subject for mmlu.
        shots: examples in the prompt.

    Raises:
        ConfigError: a file is missing.
        DataError: a row is broken.
    """

    def __init__(
        self, folder: Path, task: str, leaves: Mapping[str, Mapping[str, object]], shots: int
    ) -> None:
        self.folder, self.task, self.shots = folder, task, shots
        self._files: dict[Path, Rows] = {}
        self.specs: list[Spec] = []
        """Overrides of the packaged configs, for a group of the harness's task manager."""
        subjects = {leaf: str(config.get("dataset_name")) for leaf, config in leaves.items()}
        for leaf, config in leaves.items():
            scored, examples = _splits(config, shots)
            rows: dict[str, Rows] = {}
            for split in dict.fromkeys([scored, *examples]):
                if task == "mmlu":
                    rows[split] = self._subject_rows(split, subjects[leaf], subjects.values())
                else:
                    rows[split] = self._task_rows(split)
            if rows[scored]:
                self.specs.append(_spec(leaf, config, rows))
        if not self.specs:
            raise DataError(f"{folder / task}: holds no row of any subject of {task}")

    @property
    def sha256(self) -> str:
        """sha256 of the files that were read, as 64 hexadecimal digits."""
        digests = [sha256_of_file(path) for path in sorted(self._files)]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def _task_rows(self, split: str) -> Rows:
        names = [self.task, *filter(None, [_SHARED_FOLDERS.get(self.task)])]
        for name in names:
            if paths := _files_of(self.folder / name, split):
                return self._read(paths, ROW_FIELDS.get(self.task, ()))
        raise self._missing(" nor ".join(f"{name}/{split}.jsonl" for name in names))

    def _subject_rows(self, split: str, subject: str, subjects: Iterable[str]) -> Rows:
        """Return one subject's rows: none if the data leaves the subject out.

        A subject that is scored must have its examples too.
        """
        folder = self.folder / "mmlu"
        fields = ROW_FIELDS["mmlu"]
        if paths := _files_of(folder, split):
            rows = self._read(paths, (*fields, "subject"))
            self._require_known({str(row["subject"]) for row in rows}, subjects, paths[0])
            found = [row for row in rows if row["subject"] == subject]
        elif any((folder / name).is_dir() for name in subjects):
            self._require_known((p.name for p in folder.iterdir() if p.is_dir()), subjects, folder)
            paths = _files_of(folder / subject, split)
            found = self._read(paths, fields) if paths else []
            if not paths and (folder / subject).is_dir():
                raise self._missing(f"mmlu/{subject}/{split}.jsonl")
        else:
            raise self._missing(f"mmlu/{split}.jsonl nor mmlu/SUBJECT/{split}.jsonl")
        return found

    def _require_known(self, found: Iterable[str], known: Iterable[str], where: Path) -> None:
        known = set(known)
        for name in sorted(set(map(str, found)) - known):
            near = did_you_mean(name, known)
            raise DataError(f"{where}: '{name}' is not a subject of MMLU{near}")

    def _missing(self, what: str) -> ConfigError:
        fields = ROW_FIELDS.get(self.task, ())
        if self.task == "mmlu":
            fields = (*fields, "subject")
        wanted = ", ".join(fields) if fields else "the fields of the dataset it was written for"
        rule = f"has no {what} (or .parquet) for the task '{self.task}'"
        return ConfigError(
            "data", str(self.folder), rule, f"A row of it is a JSON object with {wanted}"
        )

    def _read(self, paths: list[Path], fields: tuple[str, ...]) -> Rows:
        rows: Rows = []
        for path in paths:
            if path not in self._files:
                self._files[path] = _read_file(path, fields)
            rows += self._files[path]
        return rows


def _splits(config: Mapping[str, object], shots: int) -> tuple[str, list[str]]:
    """Return the split that is scored, and (where there are shots) the one of the examples."""
    scored = config.get("test_split") or config.get("validation_split")
    if not isinstance(scored, str):
        rule = "has neither a test nor a validation split"
        raise ConfigError("tasks", config.get("task"), rule, "Leave it out, or run without --data")
    keys = ("fewshot_split", "training_split", "validation_split")
    examples = next((str(config[key]) for key in keys if config.get(key)), scored)
    return scored, [examples] if shots else []


def _spec(leaf: str, config: Mapping[str, object], rows: Mapping[str, Rows]) -> Spec:
    """Return what a group's member overrides of the packaged task: its rows and its splits."""
    from datasets import Dataset, DatasetDict
    from pyarrow import ArrowException

    for split, its in rows.items():
        if not its:
            raise DataError(f"task '{leaf}': the data has no row for its split '{split}'")
    try:
        made = DatasetDict({split: Dataset.from_list(its) for split, its in rows.items()})
    except (ArrowException, TypeError, ValueError) as error:
        what = f"a field changes its type from row to row ({one_line(error)})"
        raise DataError(f"task '{leaf}': {what}") from None

    def split_of(key: str) -> str | None:
        split = config.get(key)
        return split if isinstance(split, str) and split in rows else None

    return {
        "task": leaf,
        "training_split": split_of("training_split"),
        "validation_split": split_of("validation_split"),
        "test_split": split_of("test_split"),
        "fewshot_split": split_of("fewshot_split"),
        # A function, not a partial: the harness copies a spec deeply.
        "custom_dataset": lambda **_: made,
    }


def _files_of(folder: Path, split: str) -> list[Path]:
    for pattern in (f"{split}.jsonl", f"{split}.parquet", f"{split}-*.parquet"):
        if paths := sorted(folder.glob(pattern)):
            return paths
    return []


def _read_file(path: Path, fields: tuple[str, ...]) -> Rows:
    """Read a file's rows and require their fields.

    Raises:
        DataError: a line is no JSON object, or lacks a field; the file is damaged or empty.
    """
    if path.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            rows = parquet.read_table(path).to_pylist()
        except (ArrowException, OSError, ValueError, OverflowError) as error:  # text not UTF-8
            raise DataError(f"{path}: is damaged ({one_line(error)})") from None
        placed = [(f"{path}:{i}", row) for i, row in enumerate(rows, start=1)]
    else:
        placed = list(read_json_lines(path))
    if not placed:
        raise DataError(f"{path}: is empty")
    for place, row in placed:
        for field in fields:
            value: object = row
            for part in field.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is None:
                raise DataError(f"{place}: the row lacks '{field}'; it needs {', '.join(fields)}")
    return [row for _, row in placed]
