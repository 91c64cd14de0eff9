r"""Run any stage as SLURM jobs that survive preemption, time limits and dead nodes.

    mobilellama launch pretrain --config mobilellama_1_4b --data.path DATASET \
        --run.folder RUN --slurm.nodes 20 --slurm.time 48:00:00 \
        [--slurm.partition p ...] [--dry-run | --local]

Give the stage's own fields as without 'launch'. --slurm.FIELD says where the stage runs. Its
defaults for a site are in ~/.config/mobilellama/slurm.yaml.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from mobilellama import log as logs
from mobilellama.cli import Verb, run_stage
from mobilellama.commandline.help_text import WIDTH
from mobilellama.commandline.parser import parse_config
from mobilellama.commandline.prose import filled, listed
from mobilellama.config import ConfigError, did_you_mean
from mobilellama.launch.config import HowConfig, read_options, split_options, take_site_file
from mobilellama.launch.steps import STEPS, Step, find_step

VERBS = {
    "pipeline": Verb(
        module="mobilellama.launch.pipeline",
        help="launch a chain of steps; the same command continues it",
    ),
    "status": Verb(
        module="mobilellama.launch.launched.status",
        thing="run",
        help="show jobs and steps: state, nodes, restarts, last step, tokens/s, time left",
    ),
    "logs": Verb(
        module="mobilellama.launch.launched.logs",
        thing="run",
        help="show the output of one process of a run; with --follow, also its new lines",
        interrupted="the job goes on",
    ),
    "cancel": Verb(
        module="mobilellama.launch.launched.cancel",
        thing="run",
        help="end the jobs of a run for good; with --save, write a checkpoint first",
    ),
    "doctor": Verb(
        module="mobilellama.launch.doctor.doctor",
        first=(
            "folder",
            "job",
            "wait_minutes",
            "slurm.partition",
            "slurm.cpu_partition",
            "slurm.account",
            "slurm.nodes",
            "slurm.gpus_per_node",
            "slurm.time",
            "slurm.setup",
        ),
        help="check a cluster for a new user, with a verdict for each check",
    ),
}


def main(argv: Sequence[str]) -> int:
    """Launch a step, or run one verb of the stage."""
    if argv and argv[0] in STEPS:
        return launch_step(argv[0], argv[1:])
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] == "pipeline":
        return launch_pipeline(argv[1:])
    if argv[0] not in VERBS:
        known = [*STEPS, *VERBS]
        raise ConfigError(
            "mobilellama launch STEP",
            argv[0],
            f"must be one of {', '.join(known)}",
            f"See 'mobilellama launch --help'{did_you_mean(argv[0], known)}",
        )
    verb, *rest = argv
    if verb == "doctor":
        mine, theirs = split_options(rest)
        files, mine = take_site_file(mine)
        rest = [*files, *mine, *theirs]
    return run_stage("launch", "", VERBS, [verb, *rest])


def _help() -> str:
    lines = ["usage: mobilellama launch STEP [the stage's fields] [--slurm.FIELD VALUE ...]"]
    lines += ["       mobilellama launch VERB [RUN] [--field VALUE ...]", ""]
    lines += [filled(__doc__ or "", WIDTH), "", "steps:"]
    steps = {f"{name:<13} {' '.join(step.command)}": step.help for name, step in STEPS.items()}
    lines += [*listed(steps, WIDTH), "", "verbs:"]
    lines += listed({f"{name:<13}": verb.help for name, verb in VERBS.items()}, WIDTH)
    return "\n".join([*lines, "", "'mobilellama launch STEP --help' lists SLURM's fields."])


def launch_step(name: str, argv: Sequence[str]) -> int:
    """Print, submit or run one step."""
    step = find_step(name, field="mobilellama launch STEP")
    for word in argv:
        if not word.isprintable() and word != word.encode(errors="replace").decode():
            rule = "is not UTF-8, but a job script must be"
            raise ConfigError(f"mobilellama launch {name}", repr(word), rule, "Rename the file")
    mine, theirs = split_options(argv)
    logs.configure()
    options = read_options(mine, prog=f"mobilellama launch {name}", about=about(name, step))

    # After --help has been answered; local.py alone needs what SLURM does not.
    from mobilellama.launch.submission.check import check_config, check_inputs
    from mobilellama.launch.submission.request import LaunchRequest
    from mobilellama.launch.submission.submit import dry_run, submit

    request = LaunchRequest(
        step_name=name, arguments=list(theirs), slurm=options.slurm, cwd=str(Path.cwd())
    )
    request.folder  # noqa: B018  the arguments must name it
    if options.check:
        check_inputs(request)
        check_config(request)
    if options.local:
        from mobilellama.launch.local import run_locally

        return run_locally(request, processes=options.processes, dry_run=options.dry_run)
    if options.dry_run:
        print(dry_run(request), end="")
        return 0
    launch = submit(request)
    for job in launch.jobs:
        print(f"job {job.id}: {job.part} of {launch.name}; script {job.script}")
    made = os.path.relpath(request.folder.made)
    print(f"See 'mobilellama launch status {shlex.quote(made)}'")
    return 0


def launch_pipeline(argv: Sequence[str]) -> int:
    """Launch a chain of steps."""
    from mobilellama.launch import pipeline, pipeline_file

    mine, rest = split_options(argv)
    overrides = [word for word in mine if word.startswith("--slurm")]
    others = [word for word in mine if not word.startswith("--slurm")]
    file, unknown = take_file(rest)
    how = parse_config(
        HowConfig,
        [*others, *unknown],
        prog="mobilellama launch pipeline",
        about=pipeline.__doc__ or "",
    )
    logs.configure()
    if file is None:
        rule, remedy = "is required", "See 'mobilellama launch pipeline --help'"
        raise ConfigError("--config", "(not given)", rule, remedy)
    config = pipeline_file.Config(**vars(how), **pipeline_file.read_file(file))
    return pipeline.main(config, overrides)


def take_file(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return what --config names, and the other words.

    Raises:
        ConfigError: it is given twice.
    """
    file, others = None, []
    words = iter(argv)
    for word in words:
        flag, inline, value = word.partition("=")
        if flag == "--config":
            second = value if inline else next(words, "")
            if file is not None:
                rule = f"is a second file beside {file}; a pipeline is one file"
                raise ConfigError("--config", second, rule, "Remove one of them")
            file = second
        else:
            others.append(word)
    return file, others


def about(name: str, step: Step) -> str:
    """Return what --help says of a step."""
    command = " ".join(step.command)
    return (
        f"Run 'mobilellama {command}' as a SLURM job ({step.help}).\n\n"
        f"    mobilellama launch {name} FIELDS OF '{command}' [--slurm.FIELD VALUE ...]\n\n"
        f"See 'mobilellama {command} --help' for the stage's own fields. The job is requeued\n"
        "after a preemption, a time limit, a dead node or a crash, and then continues. It ends\n"
        "for good at an error that would occur again. The readable job script is kept beside the\n"
        "output. --slurm.config FILE gives a site's file of the fields below."
    )
