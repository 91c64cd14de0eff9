"""What the reports of the doctor's job mean, a row each."""

import platform
import re
from collections.abc import Callable, Iterator, Sequence

import mobilellama
from mobilellama.launch.doctor.job import Outcome
from mobilellama.launch.doctor.report import STAGES, Report, torch_version
from mobilellama.launch.doctor.row import Row, Verdict
from mobilellama.launch.health import bus_gb_per_s
from mobilellama.progress import format_count

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


def outcome_row(outcome: Outcome, processes: int, wait_minutes: float) -> Row:
    """Return whether the job ran, and all its processes reported."""
    last, reports = outcome.last, outcome.reports
    if outcome.started_after_s is None:
        reason = last.reason if last else ""
        found = f"job {outcome.job} did not start in {wait_minutes:g} minutes and was cancelled"
        if last and not last.is_active:
            found = f"job {outcome.job} is {last.state} before it started"
        if reason in _BUSY:
            remedy = "The nodes are in use; this is not a fault. Wait longer with --wait_minutes, "
            remedy += "or give another --slurm.partition"
            return Row("warning", "job", f"{found}: {reason or 'no reason given'}", remedy)
        remedies = [text for form, text in _REASONS.items() if re.match(form, reason)]
        remedy = remedies[0] if remedies else "See 'man squeue', JOB REASON CODES"
        return Row("bad", "job", f"{found}: {reason}", remedy)
    nodes = last.nodes if last else "?"
    found = f"job {outcome.job} on {nodes}, started after {outcome.started_after_s:.0f} s"
    found += f", {len(reports)} of {format_count(processes, 'process')} reported"
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
        yield Row("skipped", stage, "not all processes reached it")
    elif here:
        names = ", ".join(sorted({report.node for report in here}))
        yield Row("bad", stage, f"{names}: had not done it when the job ended", _REMEDIES[stage])
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
        f"{report.node} does not see the file of {writers.get(name, 'the login node')}"
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
    yield Row("ok", "rendezvous", f"{format_count(len(reports), 'process')} met in {seconds:.1f} s")


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
        found = f"{node} got no answer from the login node through the folder"
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
    where = f"{format_count(size, 'process')} on {format_count(nodes, 'node')}"
    found = f"{', '.join(texts)} (bus bandwidth, {where})"
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
