"""Show launched steps: their jobs and their progress.

    mobilellama launch status               your newest launches
    mobilellama launch status --all         all that are known, those that ended long ago too
    mobilellama launch status RUN           one launch: its jobs, its starts, why it ended
    mobilellama launch status RUN --json    the same as JSON, for programs

The states of jobs come from SLURM's controller, and from its accounting if the site has it. The
progress of a run comes from its folder. RUN is a run's folder, or the output of another step.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from mobilellama.config import UserError
from mobilellama.launch.folder import find, require
from mobilellama.launch.launched.known import known
from mobilellama.launch.launched.state import Status, status_of
from mobilellama.launch.launched.table import describe, table
from mobilellama.terminal import result_columns

log = logging.getLogger(__name__)

_SHOWN = 20
_LONG_AGO_S = 7 * 86_400


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'launch status'."""

    run: str | None = None
    """A run's folder, or the output of another launched step. None: list the newest launches."""
    json: bool = False
    """Print JSON, not tables. Without a run, print all launches."""
    all: bool = False
    """Without a run: list all known launches, also those that ended over a week ago."""


def main(config: Config) -> int:
    """Print the status of one launch or of the newest."""
    if config.run is not None:
        folder, launch = require(config.run)
        status = status_of(folder, launch)
        if config.json:
            print(json.dumps(asdict(status), indent=2))
        else:
            print(describe(status, folder, width=result_columns()))
        return 0
    every = known()
    asked = every if config.all or config.json else every[-_SHOWN:]
    silence: list[str] = []
    found = list_known(asked, silence)
    if config.json:
        print(json.dumps([asdict(status) for status in found], indent=2))
    elif not found:
        print("nothing was launched yet; see 'mobilellama launch --help'")
    else:
        now_s = time.time()
        # A launch whose jobs SLURM does not tell of may still wait in the queue.
        keeps_all = config.all or bool(silence)
        shown = found if keeps_all else [one for one in found if not ended_long_ago(one, now_s)]
        if shown:
            print(table(shown, now_s=now_s, width=result_columns()))
        counts = [(len(found) - len(shown), "that ended over a week ago")]
        counts += [(len(every) - len(asked), "launched earlier")]
        if hidden := " and ".join(f"{count} {what}" for count, what in counts if count):
            said = f"{hidden}: see 'mobilellama launch status --all'"
            print(f"\n{said}" if shown else said)
    return 0


def ended_long_ago(status: Status, now_s: float) -> bool:
    """Return whether nothing of a launch waits or runs, and nothing of it was written lately."""
    changed_s = datetime.fromisoformat(status.changed).timestamp()
    return status.is_over and now_s - changed_s > _LONG_AGO_S


def list_known(launches: Sequence[Path], silence: list[str]) -> list[Status]:
    """Return the launches that are still on the disk.

    Args:
        launches: what they made, the newest last.
        silence: gets the error of a controller that does not answer. It is not asked again.
    """
    found: list[Status] = []
    for made in launches:
        try:
            folder = find(made)  # None: deleted since
            if folder and (launch := folder.read()):
                found.append(status_of(folder, launch, silence))
        except (UserError, OSError) as error:
            log.warning("%s", error)  # one that is damaged or unreadable does not hide the others
    return found
