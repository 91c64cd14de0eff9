"""Launch a chain of steps. Each step starts when the steps before it have succeeded.

    mobilellama launch pipeline --config pipeline.yaml [--slurm.FIELD VALUE ...] [--dry-run]

    slurm: {account: my-project}    # for all steps, before the site's file
    steps:
      - step: tokenize
        args: {tokenizer: tokenizer.model, sources: {root: RedPajama-Data-1T},
               output: data}
        slurm: {tasks: 64, cpus_per_task: 16}
      - step: pretrain
        args: {config: mobilellama_1_4b, data: {path: data},
               run: {folder: runs/1_4b}}
        slurm: {nodes: 20}
      - step: export
        args: {checkpoint: runs/1_4b, output: MobileLLaMA-1.4B}

'step' is one of the steps in 'launch --help'. 'args' are the fields of its command. A step waits
for the step above it, or for the steps in its list 'after'. That list holds their 'name'; a step
without 'name' has the name in 'step'. If a step fails, the steps that wait for it stay held. Run
the same command again to launch what is not done. Steps that are finished or in the queue are not
launched again.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

from mobilellama.config import ConfigError, UserError
from mobilellama.launch import slurm
from mobilellama.launch.folder import LaunchFolder, current_jobs
from mobilellama.launch.local import FAILED, run_locally
from mobilellama.launch.pipeline_file import Config, Link, read_links
from mobilellama.launch.submission.check import (
    check_config,
    check_inputs,
    require_array_fits,
)
from mobilellama.launch.submission.request import LaunchRequest
from mobilellama.launch.submission.submit import dry_run, submit
from mobilellama.table import aligned

log = logging.getLogger(__name__)
_CHECKS_AT_ONCE = 4


def main(config: Config, overrides: Sequence[str] = ()) -> int:
    """Launch what is not done, and print a line about every step.

    Args:
        config: the chain.
        overrides: ``--slurm.FIELD`` words of the command line, for all steps.
    """
    links = read_links(config, overrides)
    todo = remaining(links)
    if config.check:
        check_all_inputs(links, todo)
        check_all_configs(todo)
    if config.dry_run:
        for link in todo:
            print(f"##### {link.name}")
            if config.local:
                run_locally(link.request, processes=config.processes, dry_run=True)
            else:
                print(dry_run(link.request))
        return 0
    if config.local:
        return run_all(links, todo, processes=config.processes)
    rows = [("step", "job", "what", "after"), *launch_all(links, todo)]
    print(aligned(rows, left=(0, 1, 2, 3)))
    return 0


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
    outputs = [link.request.folder.made for link in links]
    for link in todo:
        made = outputs[: links.index(link)]
        wrong.append(_complaint(link, partial(check_inputs, made=made, beside=outputs)))
    _require_none(wrong)


def check_all_configs(links: Sequence[Link]) -> None:
    """Read every step's config.

    Raises:
        UserError: some are wrong; the message has all of them.
    """
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
        _require_none(list(pool.map(lambda link: _complaint(link, check_config), links)))


def _complaint(link: Link, check: Callable[[LaunchRequest], None]) -> str | None:
    """Return what a check says against a step, if it does."""
    try:
        check(link.request)
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
        UserError: SLURM refuses a step; those before it are in the queue. Or an array is larger
            than the cluster's may be; then none is.
    """
    _require_none([_complaint(link, require_array_fits) for link in todo])
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
        launch = submit(link.request, after=after)
        submitted.add(link.name)
        last_job[link.name] = launch.jobs[-1].id
        ids = ", ".join(job.id for job in launch.jobs)
        rows.append((link.name, ids, "submitted", shown))
    return rows


def queue_state(link: Link) -> tuple[State, list[str]]:
    """Return whether a step is in the queue, and its jobs there, the first part's first.

    One that can never start, since what it waits for has failed, is absent.

    Raises:
        ConfigError: it is there with other settings.
    """
    folder: LaunchFolder = link.request.folder
    launch = folder.read()
    if launch is None:
        return "absent", []
    numbers = [job for jobs in current_jobs(folder, launch).values() for job in jobs]
    states = {number: slurm.states(number) for number in numbers}
    active = [n for n in numbers if any(state.is_active for state in states[n])]
    if not active:
        return "absent", []
    if launch.signature not in link.request.launch().signatures:
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
        log.info("%s: %s", link.name, " ".join(link.request.step.command))
        code = run_locally(link.request, processes=processes, dry_run=False)
        if code == FAILED:  # the step has said why
            return code
        if code or not link.is_done:
            log.info("%s: stopped; the same command goes on from there", link.name)
            return code
    return 0
