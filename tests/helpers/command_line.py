"""What tests of the command line share."""

from collections.abc import Callable

Cli = Callable[..., tuple[int, str, str]]
"""Runs ``mobilellama ARGUMENTS``; gives exit code, stdout and stderr."""
RUN = ("pretrain", "run")
GIVEN = ("--data.path", "unused", "--run.folder", "unused")
HELP = "See 'mobilellama pretrain run --help'"
ALL = "See 'mobilellama pretrain run --help all'"
