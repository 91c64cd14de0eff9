"""What a new user of a cluster needs to know, with a verdict each.

    mobilellama launch doctor --folder /shared/runs [--slurm.partition p ...]

It asks SLURM for partitions, GPUs and rules, and runs a job of a minute on two nodes: do they
share the folder, do their clocks agree, do they find each other, and how fast do they talk? The
exit code is 0 if nothing is bad.
"""

import contextlib
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import mobilellama
from mobilellama import log as logs
from mobilellama.config import UserError, require_at_least
from mobilellama.launch import doctor_site as site
from mobilellama.launch import slurm
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.doctor_job import (
    LOGIN_FILE,
    STAGES,
    Outcome,
    Report,
    run_job,
    torch_version,
)
from mobilellama.launch.doctor_site import Row, Verdict
from mobilellama.launch.health import bus_gb_per_s

_CLOCK_WARNING_S, _CLOCK_BAD_S = 2.0, 30.0
_SLOW_GB_PER_S = 5.0

_REMEDIES = {
    "shared folder": "Give a folder on a disk that all nodes mount, as --folder",
    "torch": "See that slurm.python and slurm.setup make torch importable on the nodes",
    "GPUs": "See 'srun --gpus-per-node=1 nvidia-smi', and whether torch is built for its driver",
    "rendezvous": "Name the nodes' network in slurm.env (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME; "
    "'ip -br address' on a node lists it); ports 20000-30000 must be open between nodes",
    "clocks": "Ask the cluster's staff to look at chrony or ntpd there",
    "all-reduce": "Put NCCL_DEBUG: INFO into slurm.env, and look at the log of a run",
}
_BUSY = ("", "None", "Resources", "Priority")
"""Reasons to wait that are nobody's fault."""
_REASONS = {
    "QOS|Assoc|MaxJob|.*Account|InvalidQOS": "A limit of your account or QOS holds it. Give "
    "--slurm.account, or --slurm.extra '--qos=QOS', or ask the cluster's staff",
    "Partition": "The partition does not allow it. Give another --slurm.partition",
    "ReqNodeNotAvail|Nodes_required|Reserv|BadConstr": "Its nodes are down, drained, reserved or "
    "not there; see 'sinfo -R', and give another --slurm.partition",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is looked at."""

    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Where and how runs are to be launched; --slurm.config FILE is a site's file of these."""
    folder: str = "."
    """Shared folder in which runs will live; a temporary folder is made in it, and removed."""
    job: bool = True
    """Run the job on two nodes; false tells only what can be told without."""
    wait_minutes: float = 10
    """How long the job may wait in the queue before it is cancelled."""

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
    """Yield the rows in order; what needs something that is bad is skipped."""
    yield (row := site.commands_row())
    if row.verdict == "bad":
        yield Row("skipped", "the rest", "needs SLURM's commands")
        return
    try:
        rules = site.parse_site(slurm.call("scontrol", "show", "config").stdout)
        partitions = site.ask_partitions(config.slurm)
    except UserError as error:
        yield Row("bad", "controller", str(error), "Is SLURM_CONF right? See 'scontrol ping'")
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
    """Make a folder in the shared one, with the login node's file, and remove it at the end."""
    folder, where = None, Path(parent).absolute()
    try:
        folder = Path(tempfile.mkdtemp(prefix=".mobilellama-doctor-", dir=where))
        (folder / LOGIN_FILE).write_text(platform.node(), encoding="utf-8")
        free_gib = shutil.disk_usage(folder).free / 2**30
        row = Row("ok", "folder", f"{where} is writable, {free_gib:,.0f} GiB free")
    except OSError as error:
        remedy = "Give a folder in which you may write, as --folder"
        row = Row("bad", "folder", f"{where}: {error.strerror}", remedy)
    try:
        yield (folder if row.verdict == "ok" else None), row
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


# ---- what the job found ------------------------------------------------------------------------


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


def outcome_row(outcome: Outcome, processes: int, wait_minutes: float) -> Row:
    """Return whether the job ran, and all its processes reported."""
    last, reports = outcome.last, outcome.reports
    if outcome.started_after_s is None:
        reason = last.reason if last else ""
        found = f"job {outcome.job} did not start in {wait_minutes:g} minutes and was cancelled"
        if last and not last.is_active:
            found = f"job {outcome.job} is {last.state} before it started"
        if reason in _BUSY:
            remedy = "The nodes are in use, which is no fault. Wait longer with --wait_minutes, "
            remedy += "or give another --slurm.partition"
            return Row("warning", "job", f"{found}: {reason or 'no reason given'}", remedy)
        remedies = [text for form, text in _REASONS.items() if re.match(form, reason)]
        remedy = remedies[0] if remedies else "See 'man squeue', JOB REASON CODES"
        return Row("bad", "job", f"{found}: {reason}", remedy)
    nodes = last.nodes if last else "?"
    found = f"job {outcome.job} on {nodes}, started after {outcome.started_after_s:.0f} s"
    found += f", {len(reports)} of {processes} processes reported"
    if len(reports) == processes:
        return Row("ok", "job", found)
    found += f"; {last.state}, exit code {last.exit_code}" if last else ""
    found += f"; its log ends with: {outcome.log_tail or '(nothing)'}"
    remedy = "Fix slurm.setup or slurm.python; all nodes must mount that, --folder and this package"
    return Row("bad", "job", found, remedy)


def stage_rows(stage: str, reports: Sequence[Report]) -> Iterator[Row]:
    """Yield what ended a stage, or that it was not reached, or what was found in it."""
    here = [report for report in reports if report.stage == stage]
    if errors := {f"{report.node}: {report.error}": None for report in here if report.error}:
        yield Row("bad", stage, "; ".join([*errors][:2]), _REMEDIES[stage])
    elif any(report.stage in STAGES[: STAGES.index(stage)] for report in reports):
        yield Row("skipped", stage, "not all processes came so far")
    elif here:
        names = ", ".join(sorted({report.node for report in here}))
        yield Row("bad", stage, f"{names}: had not ended it when the job ended", _REMEDIES[stage])
    else:
        yield from _JUDGES[stage](reports)


def versions_row(reports: Sequence[Report]) -> Row:
    """Return whether all nodes have the same versions, and this one too."""
    form = "Python {}, mobilellama {}, torch {}"
    here = (platform.python_version(), mobilellama.__version__, torch_version())
    there = {report.node: (report.python, report.mobilellama, report.torch) for report in reports}
    texts = [f"{node}: {form.format(*versions)}" for node, versions in there.items()]
    versions = there[reports[0].node]
    if len(set(there.values())) > 1:
        remedy = "Give one slurm.python that all nodes mount"
        return Row("bad", "versions", "; ".join(texts), remedy)
    if versions[:2] != here[:2] or here[2] not in (None, versions[2]):
        found = f"nodes: {form.format(*versions)}; here: {form.format(*here)}"
        return Row("warning", "versions", found, "Launch with the Python that slurm.python names")
    return Row("ok", "versions", f"{form.format(*versions)}, on the nodes as here")


def files_rows(reports: Sequence[Report]) -> Iterator[Row]:
    """Yield whether each process saw the files of the others and of the login node."""
    writers = {f"from-{report.rank}": report.node for report in reports}
    unseen = {
        f"{report.node} sees no file of {writers.get(name, 'the login node')}"
        for report in reports
        for name in report.unseen
    }
    if unseen:
        yield Row("bad", "shared folder", "; ".join(sorted(unseen)), _REMEDIES["shared folder"])
    else:
        yield Row("ok", "shared folder", "nodes see one another's files and the login node's")


def torch_rows(reports: Sequence[Report]) -> Iterator[Row]:
    """Yield how long torch took to import."""
    seconds = max(report.import_s or 0 for report in reports)
    yield Row("ok", "torch", f"imported in {seconds:.1f} s or less")


def gpu_rows(reports: Sequence[Report]) -> Iterator[Row]:
    """Yield the GPUs that torch saw on each node."""
    seen = {report.node: f"{report.gpus} x {report.gpu_name}" for report in reports}
    yield Row("ok", "GPUs", ", ".join(f"{node}: {gpus}" for node, gpus in seen.items()))


def rendezvous_rows(reports: Sequence[Report]) -> Iterator[Row]:
    """Yield how long the last process to come took: the others waited for it."""
    seconds = min(report.rendezvous_s or 0 for report in reports)
    yield Row("ok", "rendezvous", f"{len(reports)} processes met in {seconds:.1f} s")


def clock_verdict(apart_s: float) -> Verdict:
    """Return the verdict on two clocks."""
    if apart_s > _CLOCK_BAD_S:
        return "bad"
    return "warning" if apart_s > _CLOCK_WARNING_S else "ok"


def clock_rows(reports: Sequence[Report]) -> Iterator[Row]:
    """Yield how far the nodes' clocks are apart, and the first's and the login node's."""

    def row(found: str, apart_s: float) -> Row:
        verdict = clock_verdict(apart_s)
        return Row(verdict, "clocks", found, "" if verdict == "ok" else _REMEDIES["clocks"])

    times = {report.node: report.clock_s or 0.0 for report in reports}
    if len(times) > 1:
        early, late = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
        apart_s = times[late] - times[early]
        yield row(f"{late} is {apart_s:.2f} s ahead of {early}", apart_s)
    node, bounds = reports[0].node, reports[0].login_ahead_s
    if bounds is None:
        found = f"{node} got no answer of the login node through the folder"
        yield Row("warning", "clocks", found, _REMEDIES["shared folder"])
        return
    low_s, high_s = bounds
    found = f"the login node is between {low_s:.2f} and {high_s:.2f} s ahead of {node}"
    # The least difference that fits what was measured.
    yield row(found, max(0.0, low_s, -high_s))


def bandwidth_rows(reports: Sequence[Report]) -> Iterator[Row]:
    """Yield the all-reduce's bus bandwidth by size; only GPUs have to be fast."""
    first, size = reports[0], len(reports)
    if not first.all_reduce_s:
        yield Row("skipped", "all-reduce", "there is one process only")
        return
    speeds = {
        mib: bus_gb_per_s(seconds, mib=int(mib), world_size=size)
        for mib, seconds in first.all_reduce_s.items()
    }
    texts = [f"{speed:.2f} GB/s at {mib} MiB" for mib, speed in speeds.items()]
    nodes = len({report.node for report in reports})
    found = f"{', '.join(texts)} (bus bandwidth, {size} processes on {nodes} nodes)"
    if first.gpus and max(speeds.values()) < _SLOW_GB_PER_S:
        remedy = "NCCL may use a slow network: name the fast one in slurm.env, for InfiniBand "
        remedy += "NCCL_IB_HCA ('ibstat -l' lists it), else NCCL_SOCKET_IFNAME"
        found = f"{found}, below {_SLOW_GB_PER_S:g} GB/s"
        yield Row("warning", "all-reduce", found, remedy)
    else:
        yield Row("ok", "all-reduce", found)


_JUDGES: dict[str, Callable[[Sequence[Report]], Iterator[Row]]] = {
    "shared folder": files_rows,
    "torch": torch_rows,
    "GPUs": gpu_rows,
    "rendezvous": rendezvous_rows,
    "clocks": clock_rows,
    "all-reduce": bandwidth_rows,
}
