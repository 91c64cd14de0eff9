"""Launch a chain of steps, each after those before it have succeeded.

    mobilellama launch pipeline --config pipeline.yaml [--slurm.FIELD VALUE ...] [--dry-run]

    slurm: {account: my-project}          # over the site's file, for all steps
    steps:
      - step: tokenize
        args: {tokenizer: tokenizer.model, sources: {root: RedPajama-Data-1T}, output: data}
        slurm: {tasks: 64, cpus_per_task: 16}
      - step: pretrain
        args: {config: mobilellama_1_4b, data: {path: data}, run: {folder: runs/1_4b}}
        slurm: {nodes: 20}
      - step: export
        args: {checkpoint: runs/1_4b, output: MobileLLaMA-1.4B}

args are the fields of the stage's command, steps those of 'launch --help'. A step waits for the one
above it, or for those that its 'after' names (by 'name', which is the step's where none is given).
Where one fails, what waits for it stays held. Run again, it does what is not done: finished steps
are left, those in the queue stay there.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mobilellama.config import ConfigError, UserError, did_you_mean, one_line
from mobilellama.files.yaml_file import read_yaml
from mobilellama.launch import slurm
from mobilellama.launch.config import HowConfig, SlurmConfig, as_arguments, read_options
from mobilellama.launch.folder import LaunchFolder, current_jobs, parts_of
from mobilellama.launch.local import run_locally
from mobilellama.launch.steps import find_step
from mobilellama.launch.submit import Order, check_inputs, check_order, dry_run, submit
from mobilellama.table import aligned

log = logging.getLogger(__name__)

_CHECKS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """One step of the chain."""

    step: str
    """What, as in 'launch STEP'."""
    name: str | None = None
    """What other steps call it; None is the step's own name."""
    args: dict[str, Any] | None = None
    """The fields of the stage's command."""
    slurm: dict[str, Any] | None = None
    """Where and how it runs, over what holds for all."""
    after: list[str] | None = None
    """Names of the steps that must have succeeded; None is the one above, [] is none."""


@dataclass(frozen=True, kw_only=True)
class Config(HowConfig):
    """Fields of 'launch pipeline'."""

    steps: list[StepConfig]
    """The steps, in order."""
    slurm: dict[str, Any] | None = None
    """Where and how all steps run, over the site's file."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A step of the chain, ready to be launched."""

    name: str
    order: Order
    after: list[str]

    @property
    def is_done(self) -> bool:
        """Whether this very step was finished."""
        folder, launch = self.order.folder, self.order.launch()
        return folder.made.exists() and folder.is_finished(parts_of(launch)[-1], launch.signature)


def main(config: Config, overrides: Sequence[str] = ()) -> int:
    """Launch what is not done, and show what becomes of every step.

    Args:
        config: the chain.
        overrides: ``--slurm.FIELD`` words of the command line, for all steps.
    """
    links = read_links(config, overrides)
    todo = remaining(links)
    if config.check:
        check_all_inputs(links, todo)
    if config.dry_run:
        for link in todo:
            print(f"##### {link.name}")
            if config.local:
                run_locally(link.order, processes=config.processes, check=False, dry_run=True)
            else:
                print(dry_run(link.order))
        return 0
    if config.check:
        check_all(todo)
    if config.local:
        return run_all(links, todo, processes=config.processes)
    rows = [("step", "job", "what", "after"), *launch_all(links, todo)]
    print(aligned(rows, left=(0, 1, 2, 3)))
    return 0


_KINDS: dict[str, tuple[type, str]] = {
    "step": (str, "a name, as pretrain"),
    "name": (str, "a name in quotes"),
    "args": (dict, "'field: value' lines"),
    "slurm": (dict, "'field: value' lines"),
    "after": (list, "a list, as [export]"),
    "steps": (list, "a list of steps"),
}


def read_file(path: str) -> dict[str, Any]:
    """Return the steps and SLURM's fields of a pipeline's file, as they are written there.

    The command line's parser would make numbers of quoted texts, and a minute's limit of "90".

    Raises:
        ConfigError: it is no file, no YAML, or not of this shape; the message names the place.
    """
    try:
        values: Any = read_yaml(Path(path))
    except OSError as error:
        rule, remedy = f"cannot be read ({error.strerror})", "Give a YAML file of steps"
        raise ConfigError("--config", path, rule, remedy) from None
    except ValueError as error:
        rule = f"is not YAML ({one_line(error)})"
        raise ConfigError("--config", path, rule, "Fix the file") from None
    values = _checked(values, path, ("steps", "slurm"))
    steps = values.get("steps") or []
    names = [field.name for field in fields(StepConfig)]
    made = [_checked(step, f"steps[{i}]", names) for i, step in enumerate(steps)]
    for i, step in enumerate(made):
        if not step.get("step"):
            rule, remedy = "is required", "See 'mobilellama launch --help' for the steps"
            raise ConfigError(f"steps[{i}].step", "(not given)", rule, remedy)
        if not all(isinstance(name, str) for name in step.get("after") or []):
            rule = "must be names of steps"
            raise ConfigError(f"steps[{i}].after", step["after"], rule, "Put them in quotes")
    return {"steps": [StepConfig(**step) for step in made], "slurm": values.get("slurm")}


def _checked(values: Any, place: str, names: Sequence[str]) -> dict[str, Any]:
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
                rule = "is no step above this one"
                remedy = f"Above are {', '.join(known) or 'none'}{did_you_mean(other, known)}"
                raise ConfigError(f"{place}.after", other, rule, remedy)
        try:
            order = read_order(config, step, overrides)
        except ConfigError as error:
            raise UserError(f"{place} ({name}): {error}") from None
        links.append(Link(name=name, order=order, after=after))
    require_apart(links)
    return links


def require_apart(links: Sequence[Link]) -> None:
    """Raise ConfigError if two steps make the same folder, or their jobs have one name."""
    for i, link in enumerate(links):
        for other in links[:i]:
            mine, theirs = link.order.folder, other.order.folder
            if {mine.made, mine.root} & {theirs.made, theirs.root}:
                rule = f"is what step {other.name} makes too"
                remedy = "Give each step a folder of its own"
                raise ConfigError(f"step {link.name}", str(mine.made), rule, remedy)
            names = {script.name for script in link.order.scripts(mine.code)}
            if taken := names & {script.name for script in other.order.scripts(theirs.code)}:
                rule = f"would be the name of a job of step {other.name} too"
                remedy = "Give one of them another slurm.job_name, or folders of other names"
                raise ConfigError(f"step {link.name}", taken.pop(), rule, remedy)


def read_order(config: Config, step: StepConfig, overrides: Sequence[str]) -> Order:
    """Return a step as it is to be launched."""
    words = [*_slurm_words(config.slurm or {}), *_slurm_words(step.slurm or {}), *overrides]
    options = read_options(words, prog="mobilellama launch pipeline", about="")
    order = Order(
        step_name=step.step,
        arguments=as_arguments(step.args or {}),
        slurm=options.slurm,
        cwd=str(Path.cwd()),
    )
    order.folder  # noqa: B018  the arguments must name it
    return order


def _slurm_words(values: Mapping[str, Any]) -> list[str]:
    if isinstance(values.get("time"), int):
        SlurmConfig(time=values["time"])  # refuses it; as text, 86400 would pass for minutes
    if isinstance(env := values.get("env"), Mapping):
        SlurmConfig(env=dict(env))
    return as_arguments({"slurm": values}, whole=("slurm.env",))


def remaining(links: Sequence[Link]) -> list[Link]:
    """Return what is to be done: what is not finished, and what follows it."""
    todo: list[Link] = []
    for link in links:
        if not link.is_done or {other.name for other in todo} & set(link.after):
            todo.append(link)
    return todo


def check_all_inputs(links: Sequence[Link], todo: Sequence[Link]) -> None:
    """Look at what the steps read, but for what a step above makes.

    Raises:
        UserError: something is not there; the message has all of it.
    """
    wrong: list[str | None] = []
    for link in todo:
        made = [other.order.folder.made for other in links[: links.index(link)]]
        wrong.append(_complaint(link, partial(check_inputs, made=made)))
    _require_none(wrong)


def check_all(links: Sequence[Link]) -> None:
    """Read every step's config.

    Raises:
        UserError: some are wrong; the message has all of them.
    """
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
        _require_none(list(pool.map(lambda link: _complaint(link, check_order), links)))


def _complaint(link: Link, check: Callable[[Order], None]) -> str | None:
    """Return what a check says against a step, if it does."""
    try:
        check(link.order)
    except UserError as error:
        return f"{link.name}: {error}"
    return None


def _require_none(complaints: Sequence[str | None]) -> None:
    """Raise UserError if a step is wrong."""
    if wrong := [text for text in complaints if text]:
        raise UserError("\n".join(["nothing was submitted:", *wrong]))


State = Literal["absent", "waiting", "running"]


def launch_all(links: Sequence[Link], todo: Sequence[Link]) -> list[tuple[str, str, str, str]]:
    """Submit what is to be done and not in the queue; return a row a step.

    Raises:
        UserError: SLURM refuses a step; those before it are in the queue.
    """
    rows: list[tuple[str, str, str, str]] = []
    last_job: dict[str, str] = {}  # of the steps that are not done
    submitted: set[str] = set()
    for link in links:
        if link not in todo:
            rows.append((link.name, "", "done", ""))
            continue
        after = [last_job[name] for name in link.after if name in last_job]
        shown = ", ".join(name for name in link.after if name in last_job)
        state, jobs = queue_state(link)
        moved = bool(submitted & set(link.after))
        if state == "running" or (state == "waiting" and not moved):
            rows.append((link.name, jobs[-1], "in the queue already", shown))
            last_job[link.name] = jobs[-1]
            continue
        if state == "waiting" or jobs:
            slurm.cancel(jobs)  # it waits for a job that failed, or that another took over from
        launch = submit(link.order, after=after)
        submitted.add(link.name)
        last_job[link.name] = launch.jobs[-1].id
        ids = ", ".join(job.id for job in launch.jobs)
        rows.append((link.name, ids, "submitted", shown))
    return rows


def queue_state(link: Link) -> tuple[State, list[str]]:
    """Return whether a step is in the queue, and its jobs there, in order.

    One that can never start, since what it waits for has failed, is absent.

    Raises:
        ConfigError: it is there with other settings.
    """
    folder: LaunchFolder = link.order.folder
    launch = folder.read()
    if launch is None:
        return "absent", []
    numbers = [job for jobs in current_jobs(folder, launch).values() for job in jobs]
    states = {number: slurm.states(number) for number in numbers}
    active = [n for n in numbers if any(state.is_active for state in states[n])]
    if not active:
        return "absent", []
    if launch.signature != link.order.launch().signature:
        rule = f"is in the queue with other settings (job {active[0]})"
        remedy = f"End it first: mobilellama launch cancel {folder.made}"
        raise ConfigError(f"step {link.name}", str(folder.made), rule, remedy)
    every = [state for number in active for state in states[number] if state.is_active]
    if any(state.reason == slurm.NEVER for state in every):
        return "absent", active
    running = any(state.state != "PENDING" for state in every)
    return ("running" if running else "waiting"), active


def run_all(links: Sequence[Link], todo: Sequence[Link], *, processes: int | None) -> int:
    """Run the steps on this machine, one after another, up to one that does not end well."""
    for link in links:
        if link not in todo:
            log.info("%s: done", link.name)
            continue
        log.info("%s: %s", link.name, " ".join(link.order.step.command))
        code = run_locally(link.order, processes=processes, check=False, dry_run=False)
        if code or not link.is_done:
            log.info("%s: stopped; the same command goes on from there", link.name)
            return code
    return 0
