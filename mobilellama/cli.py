"""The command line: verbs of a stage (their configs are read in ``commandline/``).

    mobilellama STAGE VERB [--config FILE_OR_PRESET] [--section.field VALUE ...]

A verb is a module with ``main(config) -> int`` and a frozen dataclass ``Config``. If the module
imports torch, ``Config`` is in a separate module without torch. The command line is read before the
verb is imported, so ``--help`` and errors come at once.
"""

import ast
import contextlib
import importlib
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama import launcher, signals
from mobilellama.commandline.help_text import WIDTH
from mobilellama.commandline.parser import parse_config
from mobilellama.commandline.prose import listed
from mobilellama.config import ConfigError, UserError, did_you_mean
from mobilellama.log import (
    has_launcher,
    local_rank_from_environment,
    rank_from_environment,
)
from mobilellama.terminal import folded

_CAUSE_FIRST_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of a stage."""

    module: str
    """Module with ``main(config) -> int``, and ``Config`` unless `config` names another."""
    config: str | None = None
    """Module with ``Config``, without torch. None: the verb's own module has it."""
    help: str
    """One line for the stage's ``--help``."""
    thing: str | None = None
    """The field that takes a word without a flag: ``dataset``, ``run`` or ``model``."""
    second: str | None = None
    """The field that takes a second one, of a verb that compares two things."""
    meant: tuple[str, ...] = ()
    """The fields that a word too many is most likely meant for. Its error names their flags."""
    first: tuple[str, ...] = ()
    """The fields that people set first: --help shows these and those that are required, where the
    verb has too many to show all."""
    presets: Path | None = None
    """Folder of YAML files that ``--config NAME`` may name without path and ending."""
    interrupted: str | None = "nothing was changed"
    """The message after Ctrl-C: what is kept, and how to continue. None: the verb handles it."""
    is_run: bool = False
    """Whether the verb trains. Signals ask it to save and stop, and it prints its own message."""


def run_stage(stage: str, about: str, verbs: Mapping[str, Verb], argv: Sequence[str]) -> int:
    """Run the verb that `argv` names, or print the help of the stage.

    Raises:
        ConfigError: the verb is unknown, or an argument does not fit the verb's config.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_stage_help(stage, about, verbs))
        return 0 if argv else 2
    if argv[0] not in verbs:
        raise ConfigError(
            f"mobilellama {stage} VERB",
            argv[0],
            f"must be one of {', '.join(verbs)}",
            f"See 'mobilellama {stage} --help'{did_you_mean(argv[0], verbs)}",
        )
    verb = verbs[argv[0]]
    line = signals.BEFORE_STEPS if verb.is_run else verb.interrupted
    is_main = not verb.is_run or rank_from_environment() == 0
    with signals.answering(line, noting=verb.is_run, is_main=is_main) as answer:
        if has_launcher():
            answer.launcher = os.getppid()
        leaving = contextlib.nullcontext if verb.is_run else signals.leaving_at_once
        with leaving():
            config_class = importlib.import_module(verb.config or verb.module).Config
        config = parse_config(
            config_class,
            argv[1:],
            prog=f"mobilellama {stage} {argv[0]}",
            about=_docstring_of(verb.module) or verb.help,
            presets=verb.presets,
            thing=verb.thing,
            second=verb.second,
            first=verb.first,
            meant=verb.meant,
        )
        with leaving():
            module = importlib.import_module(verb.module)  # may take many seconds
        return int(module.main(config))


def _docstring_of(module: str) -> str | None:
    """Return a module's docstring without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")), clean=False)


def _stage_help(stage: str, about: str, verbs: Mapping[str, Verb]) -> str:
    lines = [f"usage: mobilellama {stage} VERB [--config FILE] [--section.field VALUE ...]", ""]
    lines += [*folded(about, WIDTH), "", "verbs:"]
    lines += listed({name: verb.help for name, verb in verbs.items()}, WIDTH)
    end = f"'mobilellama {stage} VERB --help' shows the fields set first, '--help all' all."
    return "\n".join([*lines, "", end])


def report(error: UserError, *, alone: bool = False) -> int:
    """Print a user's error as one message, and return the exit code 2.

    All processes of a run have the same ConfigError, so only the first process of each node prints
    it. (One node may lack a folder that the others have.) Other errors are printed by every
    process that has one. The consequence of another process's error is printed only to a log of
    its own, and after it.

    Args:
        error: the error.
        alone: whether this is the only process, even if the shell sets RANK or similar.
    """
    if error.is_consequence:
        # A launcher that sees one rank end kills all others: the one with the cause ends first.
        time.sleep(_CAUSE_FIRST_S)
        if error.told_here and not launcher.has_own_log():
            return 2
    rank = local_rank = 0
    if not alone:
        with contextlib.suppress(ConfigError):  # a RANK that is not a number counts as 0
            rank, local_rank = rank_from_environment(), local_rank_from_environment()
    if local_rank == 0 or not isinstance(error, ConfigError):
        where = "" if rank == 0 else f" [rank {rank} on {socket.gethostname()}]"
        print(f"mobilellama: error:{where} {error}", file=sys.stderr)
    if error.final:
        launcher.tell_failure(str(error))
    return 2
