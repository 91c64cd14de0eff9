"""Check a cluster for a new user, and print a verdict for each check.

    mobilellama launch doctor --folder /shared/runs [--slurm.partition p ...]

The command asks SLURM for partitions, GPUs and rules. Then it runs a job of a minute on two nodes:
do they share the folder, do their clocks agree, do they find each other, and how fast is the
network between them? The exit code is 0 if no verdict is "bad".
"""

import contextlib
import platform
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from mobilellama import log as logs
from mobilellama.config import UserError, require_at_least
from mobilellama.launch import slurm
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.doctor import site
from mobilellama.launch.doctor.findings import outcome_row, stage_rows, versions_row
from mobilellama.launch.doctor.job import run_job
from mobilellama.launch.doctor.report import LOGIN_FILE, STAGES
from mobilellama.launch.doctor.row import Row, Verdict


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'launch doctor'."""

    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Where and how to launch runs. --slurm.config FILE gives a site's file of these fields."""
    folder: str = "."
    """Shared folder for the runs. The command makes a temporary folder in it, and removes it.

    A missing folder is not made. The nearest folder above it is checked.
    """
    job: bool = True
    """Run the job on two nodes. false: only the checks that need no job."""
    wait_minutes: float = 10
    """Cancel the job if it waits longer in the queue, in minutes."""

    def __post_init__(self) -> None:
        require_at_least("wait_minutes", self.wait_minutes, 0)


def main(config: Config) -> int:
    """Print a row for each check, the moment it is known, and a last line."""
    logs.configure()
    rows: list[Row] = []
    # Closed at once on Ctrl-C: that cancels the job and removes the folder.
    with contextlib.closing(examine(config)) as found:
        for row in found:
            print(row, flush=True)
            rows.append(row)
    print(summary(rows))
    return int(any(row.verdict == "bad" for row in rows))


def summary(rows: Sequence[Row]) -> str:
    """Return the last line: how many rows of each verdict, and which are bad."""
    verdicts = [row.verdict for row in rows]
    counts = [f"{verdicts.count(each)} {each}" for each in get_args(Verdict) if each in verdicts]
    bad = [row.name for row in rows if row.verdict == "bad"]
    return ", ".join(counts) + (f": {', '.join(bad)}" if bad else "")


def examine(config: Config) -> Generator[Row, None, None]:
    """Yield the rows, one by one. A check that needs a bad part is skipped."""
    yield (row := site.commands_row())
    if row.verdict == "bad":
        yield Row("skipped", "the rest", "needs SLURM's commands")
        return
    try:
        rules = site.parse_site(slurm.call("scontrol", "show", "config").stdout)
        partitions = site.ask_partitions(config.slurm)
    except UserError as error:
        found, _, remedy = str(error).partition(". ")
        yield Row("bad", "controller", found, remedy or "Is SLURM_CONF right? See 'scontrol ping'")
        yield Row("skipped", "the rest", "needs an answer of the controller")
        return
    known = [rules.get(name, "?") for name in ("SLURM_VERSION", "ClusterName")]
    yield Row("ok", "controller", "SLURM {}, cluster {}, answers".format(*known))
    usable = True
    for row in site.partition_rows(partitions, config.slurm):
        usable = usable and row.verdict != "bad"
        yield row
    yield from site.site_rows(rules)
    with temporary_folder(config.folder) as (folder, row):
        yield row
        if not config.job:
            yield Row("skipped", "job", "--job false")
        elif folder is None or not usable:
            yield Row("skipped", "job", "needs a folder and a partition that are not bad")
        else:
            trains = site.used_for_training(partitions, config.slurm)
            nodes = min(2, *(one.nodes_with(config.slurm.gpus_per_node) for one in trains))
            yield from job_rows(config, folder, nodes=nodes)


@contextlib.contextmanager
def temporary_folder(parent: str) -> Iterator[tuple[Path | None, Row]]:
    """Make a folder in the shared one, with the login node's file, and remove it at the end.

    Before a first run the shared folder is most often not there, and a launch makes it. Then the
    nearest one above it is looked at, and nothing is left behind.
    """
    folder, asked = None, Path(parent).absolute()
    where, absent = asked, ""
    try:
        where = next(path for path in (asked, *asked.parents) if path.exists())
        absent = "" if where == asked else f"{asked} is not there yet, a launch makes it; "
        folder = Path(tempfile.mkdtemp(prefix=".mobilellama-doctor-", dir=where))
        (folder / LOGIN_FILE).write_text(platform.node(), encoding="utf-8")
        free_gib = shutil.disk_usage(folder).free / 2**30
        row = Row("ok", "folder", f"{absent}{where} is writable, {free_gib:,.0f} GiB free")
    except OSError as error:
        remedy = "Give a folder in which you may write, as --folder"
        row = Row("bad", "folder", f"{absent}{where}: {error.strerror}", remedy)
    try:
        yield (folder if row.verdict == "ok" else None), row
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def job_rows(config: Config, folder: Path, *, nodes: int) -> Iterator[Row]:
    """Run the job and yield what its processes found."""
    try:
        outcome = run_job(config.slurm, folder, nodes=nodes, wait_minutes=config.wait_minutes)
    except UserError as error:
        found, _, remedy = str(error).partition(". ")
        yield Row("bad", "job", found, remedy.partition(" ('mobilellama launch doctor'")[0])
        return
    processes = nodes * (config.slurm.gpus_per_node or 1)
    yield outcome_row(outcome, processes, config.wait_minutes)
    if not outcome.reports:
        yield Row("skipped", "the rest", "needs the job's processes")
        return
    yield versions_row(outcome.reports)
    for stage in STAGES:
        if stage != "GPUs" or config.slurm.gpus_per_node:
            yield from stage_rows(stage, outcome.reports)
