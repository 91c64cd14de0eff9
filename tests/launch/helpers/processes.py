"""Processes, ports and cgroups of this machine, as the test cluster needs them. Linux only."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
# A cluster's folder, and its cgroups, are called by it, the tester's pid, "-" and something random.
PREFIX = "slurm-test-"
# A test suite may have seeded the global generator, in each of its processes alike.
_random = random.SystemRandom()


class ClusterError(RuntimeError):
    """The test cluster, or a command given to it, failed."""


def sbin_path() -> str:
    """Return $PATH with the folders added where daemons and `ip` are installed."""
    return os.pathsep.join([os.environ.get("PATH", "/usr/bin:/bin"), SBIN])


def find_program(name: str, package: str) -> str:
    """Return the full path of a program.

    Raises:
        ClusterError: it is not installed; names the Debian package to install.
    """
    path = shutil.which(name, path=sbin_path())
    if path is None:
        raise ClusterError(f"{name} not found: apt-get install {package}")
    return path


def succeeds(argv: list[str]) -> bool:
    """Run a command silently and return whether it ended well."""
    try:
        return subprocess.run(argv, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def spawn(argv: Sequence[str], output: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a daemon that dies with the thread which started it, even if that is killed.

    Args:
        argv: the command.
        output: the file to which its output is added.
        env: its environment.
    """
    with output.open("ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=dict(env),
            cwd=output.parent,
        )


class ProcessState(NamedTuple):
    """What /proc/PID/stat says of a process."""

    command: str
    state: str
    """One letter: R running, S sleeping, T stopped, Z zombie, X dead, ..."""


def process_state(pid: int) -> ProcessState | None:
    """Return a process's state, None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command stands in brackets and may hold brackets and spaces itself.
    command, _, rest = text.partition("(")[2].rpartition(") ")
    return ProcessState(command, rest.split()[0])


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    found = process_state(pid)
    # A killed daemon can stay a zombie of pid 1 for some seconds.
    return found is not None and found.state not in "ZX"


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process, which may have gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def all_pids() -> Iterator[int]:
    """Yield the pid of every process."""
    yield from (int(name) for name in os.listdir("/proc") if name.isdigit())


def children(pid: int) -> list[int]:
    """Return a process's children, of its first thread."""
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def pids_in_namespace(pid: int) -> list[int]:
    """Return every process in the PID namespace of the one given."""
    namespace = _link(f"/proc/{pid}/ns/pid")
    return [
        other for other in all_pids() if namespace and namespace == _link(f"/proc/{other}/ns/pid")
    ]


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def slurm_pids(conf: Path, node: str | None = None) -> list[int]:
    """Return the daemons and tasks on the nodes of the cluster with this slurm.conf.

    Clients such as the tester's own srun are not among them.

    Args:
        conf: as the processes have it in $SLURM_CONF.
        node: only this node's.
    """
    found = []
    for pid in all_pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            command = Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            continue
        variables = environment.split("\0")
        if f"SLURM_CONF={conf}" not in variables:
            continue
        if node is None:
            is_task = any(variable.startswith("SLURMD_NODENAME=") for variable in variables)
            belongs = is_task or command.startswith(("slurmd", "slurmstepd"))
        else:
            is_task = f"SLURMD_NODENAME={node}" in variables
            # A slurmstepd says nowhere else whose it is than by the log that it holds open.
            is_daemon = f"\0-N\0{node}\0" in arguments or _has_open(pid, f"slurmd.{node}.log")
            belongs = is_task or is_daemon
        if belongs:
            found.append(pid)
    return found


def _has_open(pid: int, name: str) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        return any(
            (_link(f"{folder}/{fd}") or "").endswith(f"/{name}") for fd in os.listdir(folder)
        )
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses on any address.

    They lie below the range from which the kernel hands out ports by chance.
    """
    taken: list[socket.socket] = []
    try:
        for port in _random.sample(range(20000, 32000), 4000):
            listener = socket.socket()
            try:
                listener.bind(("", port))
            except OSError:
                listener.close()
                continue
            taken.append(listener)
            if len(taken) == count:
                return [listener.getsockname()[1] for listener in taken]
    finally:
        for listener in taken:
            listener.close()
    raise ClusterError(
        f"fewer than {count} free ports between 20000 and 32000: stop what uses them"
    )


def random_subnet() -> tuple[int, int]:
    """Return the second and third number of the addresses of one cluster."""
    return _random.randint(100, 220), _random.randint(1, 250)


def is_listening(port: int) -> bool:
    """Return whether somebody listens on a TCP port of this network namespace.

    It does not connect, which would leave an error in the daemon's log.
    """
    listening = "0A"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        if any(row[3] == listening and row[1].endswith(f":{port:04X}") for row in rows):
            return True
    return False


def in_freezer(script: str) -> bool:
    """Run a shell script with $root = cgroup v1's freezer hierarchy; return whether it ended well.

    The hierarchy is mounted for the script only, /sys/fs/cgroup is left alone. Where cgroups or
    mounts are not to be had, nothing runs and the answer is no.
    """
    with tempfile.TemporaryDirectory() as root:
        mounted = f"root={root}; mount -t cgroup -o freezer testing $root && {{ {script}\n}}"
        return succeeds(["unshare", "-m", "--propagation", "private", "sh", "-c", mounted])


def has_freezer() -> bool:
    """Return whether cgroups can be made in cgroup v1's freezer hierarchy."""
    probe = f"$root/{PREFIX}{os.getpid()}-probe"
    return in_freezer(f"mkdir {probe} && rmdir {probe}")


def remove_cgroups(prefix: str) -> None:
    """Remove a stopped cluster's cgroups, of which each empties when its last process is reaped."""
    in_freezer(f"""
        for attempt in $(seq 100); do
            find $root -mindepth 1 -type d -path "$root/{prefix}-*" -delete 2>/dev/null
            ls -d $root/{prefix}-* >/dev/null 2>&1 || break
            sleep 0.05
        done""")


def sweep() -> None:
    """Clear away what testers left behind that were killed.

    Daemons, and in the modes ns and net all tasks, die with their tester. What stays is folders,
    empty cgroups and, in mode flat, job steps.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}[0-9]*-*"):
        try:
            tester = int(folder.name.removeprefix(PREFIX).partition("-")[0])
            if folder.stat().st_uid != os.geteuid() or is_alive(tester):
                continue
        except (OSError, ValueError):
            continue
        for pid in slurm_pids(folder / "slurm.conf"):
            kill(pid)
        shutil.rmtree(folder, ignore_errors=True)
    if os.geteuid() == 0:
        in_freezer(f"""
            for group in $root/{PREFIX}*; do
                [ -d "$group" ] || continue
                tester=${{group##*/{PREFIX}}} tester=${{tester%%-*}}
                [ -d "/proc/$tester" ] && ! grep -q ') Z' "/proc/$tester/stat" ||
                    find "$group" -type d -delete 2>/dev/null
            done""")
