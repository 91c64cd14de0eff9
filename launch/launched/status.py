"""Show launched steps: their jobs, and how far they are.

    mobilellama launch status               all that you launched lately
    mobilellama launch status RUN           one: its jobs, starts, and why it ended
    mobilellama launch status RUN --json    the same for programs

What SLURM says comes from its controller (and accounting, where the site has it); how far a run
is, from its folder. RUN is a run's folder, or the output of another step.
"""

import json
import logging
from dataclasses import asdict, dataclass

from mobilellama.config import UserError
from mobilellama.launch.folder import (
    find,
    require,
)
from mobilellama.launch.launched.known import known
from mobilellama.launch.launched.state import Status, status_of
from mobilellama.launch.launched.table import describe, table

log = logging.getLogger(__name__)
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'launch status'."""

    run: str | None = None
    """A run's folder or the output of another launched step; None lists the newest launches."""
    json: bool = False
    """Print JSON instead of tables."""


def main(config: Config) -> int:
    """Print the status of one launch or of the newest."""
    if config.run is not None:
        folder, launch = require(config.run)
        status = status_of(folder, launch)
        print(json.dumps(asdict(status), indent=2) if config.json else describe(status, folder))
        return 0
    found = list_known()
    if config.json:
        print(json.dumps([asdict(status) for status in found], indent=2))
    elif not found:
        print("nothing was launched yet; see 'mobilellama launch --help'")
    else:
        print(table(found))
    return 0


def list_known() -> list[Status]:
    """Return the newest launches that are still on the disk, the newest last."""
    found: list[Status] = []
    silence: list[str] = []  # a controller that does not answer is asked once
    for made in known()[-_SHOWN:]:
        folder = find(made)
        if folder is None:
            continue  # deleted since
        try:
            if launch := folder.read():
                found.append(status_of(folder, launch, silence))
        except UserError as error:
            log.warning("%s", error)  # one that is damaged does not hide the others
    return found
