"""What can be launched: one line a step. A new stage joins here.

A step is a command of a stage and the way in which it is run:

    train   one process a GPU over all nodes; a run folder whose verdict.json says how it ended
    array   a SLURM job array, each task does its share, and a last job runs ``finish``
    task    one process on one node; exit code 0 is its success
"""

import hashlib
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mobilellama
from mobilellama.commandline.old_names import as_current, current_name
from mobilellama.config import ConfigError, did_you_mean
from mobilellama.files.presets import read_layers

PACKAGE = Path(mobilellama.__file__).parent


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of a stage, and how it is run."""

    command: tuple[str, str]
    """Stage and verb."""
    kind: Literal["train", "array", "task"]
    folder: str
    """The field that names what it makes: a run's folder, or its output."""
    help: str
    gpus: int = 0
    """GPUs of a task; training has one a process."""
    makes_buckets: bool = False
    """Whether it writes bucket files; a new start does those that are missing."""
    finish: tuple[str, str] | None = None
    """The command that follows an array's tasks; it takes `folder` alone."""

    @property
    def presets(self) -> Path:
        """The folder of the stage's presets; not every stage has one."""
        return PACKAGE / self.command[0] / "presets"

    @property
    def uses_gpus(self) -> bool:
        """Whether it belongs into a partition with GPUs."""
        return self.kind == "train" or self.gpus > 0


STEPS = {
    "tokenize": Step(
        command=("tokenize", "run"), kind="array", folder="output",
        makes_buckets=True, finish=("tokenize", "finish"),
        help="tokenise a corpus as a job array, then 'tokenize finish'",
    ),
    "pretrain": Step(
        command=("pretrain", "run"), kind="train", folder="run.folder",
        help="train a language model",
    ),
    "export": Step(
        command=("pretrain", "export"), kind="task", folder="output",
        help="write its Hugging Face folder",
    ),
    "evaluate": Step(
        command=("pretrain", "evaluate"), kind="task", folder="output", gpus=1,
        help="score it on benchmarks",
    ),
    "prepare": Step(
        command=("sft", "prepare"), kind="task", folder="output", makes_buckets=True,
        help="pack conversations into rows",
    ),
    "sft": Step(
        command=("sft", "run"), kind="train", folder="run.folder",
        help="train a chat model",
    ),
    "sft-export": Step(
        command=("sft", "export"), kind="task", folder="output",
        help="write its Hugging Face folder",
    ),
    "sft-merge": Step(
        command=("sft", "merge"), kind="task", folder="output",
        help="merge a LoRA adapter into its base",
    ),
    "vlm": Step(
        command=("vlm", "run"), kind="train", folder="run.folder",
        help="train a vision-language model",
    ),
    "vlm-export": Step(
        command=("vlm", "export"), kind="task", folder="output", help="write its folder",
    ),
    "vlm-evaluate": Step(
        command=("vlm", "evaluate"), kind="task", folder="output", gpus=1,
        help="score it on benchmarks",
    ),
}  # fmt: skip


def find_step(name: str, *, field: str) -> Step:
    """Return a step by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in STEPS:
        rule = f"must be one of {', '.join(STEPS)}"
        remedy = f"See 'mobilellama launch --help'{did_you_mean(name, STEPS)}"
        raise ConfigError(field, name, rule, remedy)
    return STEPS[name]


def given(step: Step, arguments: Sequence[str], field: str) -> object:
    """Return the value that a stage's arguments give to a field; None if they do not.

    As on the stage's command line, the last option counts; without one, the last --config file
    that has the field.
    A run or a model without a flag is found where it comes before all flags: only the stage knows
    which flag takes the word that follows it.

    Args:
        step: whose command it is.
        arguments: the stage's.
        field: its dotted name.
    """
    stage, verb = step.command
    value = of_files = None
    if arguments and not arguments[0].startswith("-") and _thing(stage, verb) == field:
        value = arguments[0]
    for i, word in enumerate(arguments):
        flag, inline, rest = word.partition("=")
        if not flag.startswith("--"):
            continue
        name = current_name(flag[2:].replace("-", "_"), f"{stage} {verb}")
        said = rest if inline else next(iter(arguments[i + 1 : i + 2]), None)
        if name == field:
            value = said
        elif name == "config":
            in_file = _in_file(said or "", field, step.presets)
            of_files = of_files if in_file is None else in_file
    return of_files if value is None else value


def _thing(stage: str, verb: str) -> str | None:
    """Return the field that a word without a flag gives; None where no word does."""
    return importlib.import_module(f"mobilellama.{stage}.main").VERBS[verb].thing


def _in_file(name: str, field: str, presets: Path) -> object:
    """Return a field of a YAML file; None where it has none, or `name` is a preset's."""
    if not Path(name).is_file():
        return None
    try:
        layers = read_layers(Path(name), presets)
    except ConfigError:
        return None  # the stage says what is wrong with it
    found = None
    for layer in layers:
        value: object = as_current({str(key): one for key, one in layer.values.items()})
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found = found if value is None else value
    return found


def folder_of(step: Step, arguments: Sequence[str]) -> Path:
    """Return the absolute path of what a step makes.

    Raises:
        ConfigError: the arguments do not name it.
    """
    value = given(step, arguments, step.folder)
    if not isinstance(value, str) or not value:
        rule, remedy = "is required", f"Give --{step.folder} FOLDER"
        raise ConfigError(f"--{step.folder}", "(not given)", rule, remedy)
    if not value.isprintable() or set('"%') & set(value):
        rule = "has a character that a job script cannot hold"
        raise ConfigError(f"--{step.folder}", repr(value), rule, "Give another name")
    made = Path(os.path.abspath(value))
    if made.name == "" or Path.cwd().is_relative_to(made):
        rule, remedy = "is the current folder or one above it", "Give a folder of its own"
        raise ConfigError(f"--{step.folder}", value, rule, remedy)
    return made


def with_frozen_configs(
    arguments: Sequence[str], folder: Path, presets: Path
) -> tuple[list[str], dict[Path, bytes]]:
    """Let ``--config FILE`` name copies that a later edit of the file does not change.

    A file that builds on others becomes several copies, the lowest first.

    Args:
        arguments: the stage's.
        folder: where the copies will be, named for their content.
        presets: the folder of the presets that a file may build on.

    Returns:
        The arguments, and the copies to write. Names of presets stay as they are.

    Raises:
        ConfigError: a file builds on what is not there, or on itself.
    """
    frozen: list[str] = []
    copies: dict[Path, bytes] = {}
    words = iter(arguments)
    for word in words:
        flag, inline, name = word.partition("=")
        if flag != "--config":
            frozen.append(word)
            continue
        if not inline and (name := next(words, "")) == "":
            frozen.append(word)  # the stage says that it has no value
            continue
        found = [name]
        if Path(name).is_file():
            found = []
            for layer in read_layers(Path(name), presets):
                content = layer.path.read_bytes() if layer.text is None else layer.text.encode()
                copy = folder / f"config-{hashlib.sha256(content).hexdigest()[:12]}.yaml"
                copies[copy] = content
                found.append(str(copy))
        for one in found:
            # As it was given: another spelling would be another launch's signature.
            frozen += [f"--config={one}"] if inline else ["--config", one]
    return frozen, copies
