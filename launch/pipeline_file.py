"""The file of a pipeline, and the chain of steps that it means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from mobilellama.config import ConfigError, UserError, did_you_mean, one_line
from mobilellama.files.yaml_file import read_yaml
from mobilellama.launch.config import HowConfig, SlurmConfig, as_arguments, read_options
from mobilellama.launch.folder import parts_of
from mobilellama.launch.steps import find_step
from mobilellama.launch.submission.request import LaunchRequest


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """One step of the chain."""

    step: str
    """What, as in 'launch STEP'."""
    name: str | None = None
    """What other steps call it; None is the step's own name."""
    args: dict[str, object] | None = None
    """The fields of the stage's command."""
    slurm: dict[str, object] | None = None
    """Where and how it runs, over what holds for all."""
    after: list[str] | None = None
    """Names of the steps that must have succeeded; None is the one above, [] is none."""


@dataclass(frozen=True, kw_only=True)
class Config(HowConfig):
    """Fields of 'launch pipeline'."""

    steps: list[StepConfig]
    """The steps, the first one first."""
    slurm: dict[str, object] | None = None
    """Where and how all steps run, over the site's file."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A step of the chain, ready to be launched."""

    name: str
    request: LaunchRequest
    after: list[str]

    @property
    def is_done(self) -> bool:
        """Whether this very step was finished."""
        folder, launch = self.request.folder, self.request.launch()
        return folder.made.exists() and folder.is_finished(parts_of(launch)[-1], launch.signatures)


_KINDS: dict[str, tuple[type, str]] = {
    "step": (str, "a name, as pretrain"),
    "name": (str, "a name in quotes"),
    "args": (dict, "'field: value' lines"),
    "slurm": (dict, "'field: value' lines"),
    "after": (list, "a list, as [export]"),
    "steps": (list, "a list of steps"),
}


class StepFields(TypedDict):
    """What a file may say of a step, once it is checked."""

    step: str
    name: NotRequired[str | None]
    args: NotRequired[dict[str, object] | None]
    slurm: NotRequired[dict[str, object] | None]
    after: NotRequired[list[str] | None]


class FileFields(TypedDict):
    """What a file holds."""

    steps: list[StepConfig]
    slurm: dict[str, object] | None


def read_file(path: str) -> FileFields:
    """Return the steps and SLURM's fields of a pipeline's file, as they are written there.

    The command line's parser would make numbers of quoted texts, and a minute's limit of "90".

    Raises:
        ConfigError: it is no file, no YAML, or not of this shape; the message names the place.
    """
    try:
        text: object = read_yaml(Path(path))
    except OSError as error:
        rule, remedy = f"cannot be read ({error.strerror})", "Give a YAML file of steps"
        raise ConfigError("--config", path, rule, remedy) from None
    except ValueError as error:
        rule = f"is not YAML ({one_line(error)})"
        raise ConfigError("--config", path, rule, "Fix the file") from None
    values = _checked(text, path, ("steps", "slurm"))
    names = [field.name for field in fields(StepConfig)]
    steps = cast("list[object]", values.get("steps") or [])
    found = [_checked(step, f"steps[{i}]", names) for i, step in enumerate(steps)]
    made = cast("list[StepFields]", found)  # _checked knows the kind of each field
    for i, step in enumerate(made):
        if not step.get("step"):
            rule, remedy = "is required", "See 'mobilellama launch --help' for the steps"
            raise ConfigError(f"steps[{i}].step", "(not given)", rule, remedy)
        if not all(isinstance(name, str) for name in step.get("after") or []):
            rule = "must be names of steps"
            raise ConfigError(f"steps[{i}].after", step.get("after"), rule, "Put them in quotes")
    slurm = cast("dict[str, object] | None", values.get("slurm"))
    return {"steps": [StepConfig(**step) for step in made], "slurm": slurm}


def _checked(values: object, place: str, names: Sequence[str]) -> dict[str, object]:
    """Return a mapping whose fields are known and of the right kind.

    Raises:
        ConfigError: it is not so.
    """
    remedy = "See 'mobilellama launch pipeline --help'"
    if not isinstance(values, dict):
        raise ConfigError(place, values, "must hold 'field: value' lines", remedy)
    for name, value in values.items():
        if name not in names:
            near = did_you_mean(str(name), names)
            raise ConfigError(f"{place}.{name}", value, "is not a field", remedy + near)
        kind, words = _KINDS[name]
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{place}.{name}", value, f"must be {words}", remedy)
    return values


def read_links(config: Config, overrides: Sequence[str]) -> list[Link]:
    """Return the chain's links.

    Raises:
        ConfigError: a step, a name or a field of it is wrong; the message names the step.
    """
    if not config.steps:
        rule, remedy = "holds no step", "See 'mobilellama launch pipeline --help'"
        raise ConfigError("steps", "[]", rule, remedy)
    links: list[Link] = []
    for i, step in enumerate(config.steps):
        known = [link.name for link in links]
        place = f"steps[{i}]"
        find_step(step.step, field=f"{place}.step")
        name = step.name or step.step
        if name in known:
            rule = "is the name of two steps"
            raise ConfigError(f"{place}.name", name, rule, "Give one of them another 'name'")
        after = known[-1:] if step.after is None else step.after
        for other in after:
            if other not in known:
                rule = "is not a step above this one"
                remedy = f"Above are {', '.join(known) or 'none'}{did_you_mean(other, known)}"
                raise ConfigError(f"{place}.after", other, rule, remedy)
        try:
            request = read_request(config, step, overrides)
        except ConfigError as error:
            raise UserError(f"{place} ({name}): {error}") from None
        links.append(Link(name=name, request=request, after=after))
    require_apart(links)
    return links


def require_apart(links: Sequence[Link]) -> None:
    """Raise ConfigError if two steps make the same folder, or their jobs have one name."""
    for i, link in enumerate(links):
        for other in links[:i]:
            mine, theirs = link.request.folder, other.request.folder
            if {mine.made, mine.root} & {theirs.made, theirs.root}:
                rule = f"is also the output of step {other.name}"
                remedy = "Give each step a folder of its own"
                raise ConfigError(f"step {link.name}", str(mine.made), rule, remedy)
            names = {script.name for script in link.request.scripts(mine.code)}
            if taken := names & {script.name for script in other.request.scripts(theirs.code)}:
                rule = f"would also be the name of a job of step {other.name}"
                remedy = "Give one of them another slurm.job_name, or folders of other names"
                raise ConfigError(f"step {link.name}", taken.pop(), rule, remedy)


def read_request(config: Config, step: StepConfig, overrides: Sequence[str]) -> LaunchRequest:
    """Return a step as it is to be launched."""
    words = [*_slurm_words(config.slurm or {}), *_slurm_words(step.slurm or {}), *overrides]
    options = read_options(words, prog="mobilellama launch pipeline", about="")
    request = LaunchRequest(
        step_name=step.step,
        arguments=as_arguments(step.args or {}),
        slurm=options.slurm,
        cwd=str(Path.cwd()),
    )
    request.folder  # noqa: B018  the arguments must name it
    return request


def _slurm_words(values: Mapping[str, object]) -> list[str]:
    if isinstance(time := values.get("time"), int):
        SlurmConfig(time=time)  # refuses it; as text, 86400 would pass for minutes
    if isinstance(env := values.get("env"), Mapping):
        SlurmConfig(env=dict(env))
    return as_arguments({"slurm": values}, whole=("slurm.env",))
