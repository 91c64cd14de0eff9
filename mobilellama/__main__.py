"""Command line: ``mobilellama STAGE VERB [--section.field VALUE ...]``."""

import errno
import faulthandler
import importlib
import os
import sys

from mobilellama import __version__, signals, streams
from mobilellama.cli import report
from mobilellama.commandline.help_text import WIDTH
from mobilellama.commandline.prose import listed
from mobilellama.config import ConfigError, MachineError, UserError, did_you_mean
from mobilellama.files.atomic import DISK_FULL

STAGES = {
    "tokenize": "raw text -> bucket files of token ids",
    "shards": "look at, check and plot bucket files",
    "pretrain": "train a language model on bucket files, export it",
    "sft": "finetune it on conversations, talk to it, export it",
    "vlm": "train a vision-language model on top of it, ask it about images, export it",
    "launch": "any of these as SLURM jobs that survive preemption, or on this machine",
}

# True because every file is written under a temporary name, or line by line.
_MAKE_ROOM = "No half-written file is used. Free some space and run the same command again"


def _help() -> str:
    lines = ["usage: mobilellama STAGE VERB [--config FILE] [--section.field VALUE ...]", ""]
    lines += ["Train small language models from raw web text, and vision-language models.", ""]
    lines += ["stages:"]
    lines += listed(STAGES, WIDTH)
    return "\n".join([*lines, "", "'mobilellama STAGE --help' lists its verbs."])


def main() -> int:
    """Call ``mobilellama.STAGE.main:main``. Only that stage is imported."""
    streams.settle()
    if not faulthandler.is_enabled():
        # If a memory-mapped file is shortened, the process gets SIGBUS. This prints the stack.
        faulthandler.enable(sys.__stderr__ or sys.stderr)
    try:
        try:
            with signals.answering("nothing was begun") as answer:
                code = _run(sys.argv[1:], answer)
        finally:  # also when the parser exits after it has printed the help
            streams.flush()  # here a full disk can still be reported
    except OSError as error:
        streams.drop()
        return 141 if isinstance(error, BrokenPipeError) else _report_os_error(error)
    return code


def _run(argv: list[str], answer: signals.Answer) -> int:
    """Run the command. Its errors become messages, except errors of the standard output."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] in ("--version", "-V"):
        print(f"mobilellama {__version__}")
        return 0
    try:
        if argv[0] not in STAGES:
            raise ConfigError(
                "mobilellama STAGE",
                argv[0],
                f"must be one of {', '.join(STAGES)}",
                f"See 'mobilellama --help'{did_you_mean(argv[0], STAGES)}",
            )
        stage = importlib.import_module(f"mobilellama.{argv[0]}.main")
        try:
            return int(stage.main(argv[1:]))
        except Exception:
            if answer.reason is None:
                raise
            raise KeyboardInterrupt from None  # a library turned the interrupt into another error
    except UserError as error:
        return report(error, alone=argv[0] == "launch")
    except OSError as error:  # disks, permissions, paths: the user's to fix
        if isinstance(error, BrokenPipeError) or error.filename == streams.STDOUT:
            raise
        return _report_os_error(error)
    except RuntimeError as error:
        # For a loop of links, Path.resolve raises RuntimeError: "Symlink loop from 'PATH'".
        text, _, path = str(error).partition(" from ")
        if text != "Symlink loop":
            raise
        return _report_os_error(OSError(errno.ELOOP, os.strerror(errno.ELOOP), path.strip("'")))
    except KeyboardInterrupt:
        if answer.reason is None:  # otherwise the message was printed when the signal came
            print("mobilellama: interrupted", file=sys.stderr)
        return 143 if answer.reason == "SIGTERM" else signals.INTERRUPTED


def _report_os_error(error: OSError) -> int:
    """Print one message; with MOBILELLAMA_TRACEBACK set, raise the error instead."""
    if os.environ.get("MOBILELLAMA_TRACEBACK"):
        raise error
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in DISK_FULL:
        return report(MachineError(f"{place}the disk is full ({error.strerror}). {_MAKE_ROOM}"))
    remedy = "Check the path, its permissions and the free space on its disk, and run again"
    return report(MachineError(f"{place}{error.strerror or error}. {remedy}"))


if __name__ == "__main__":
    sys.exit(main())
