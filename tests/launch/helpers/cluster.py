"""A throw-away, real Slurm on one machine: munged, slurmctld and a slurmd per virtual node.

Needs the Debian packages slurmctld, slurmd, slurm-client and munge; nothing has to run before.

    with Cluster(nodes=2) as cluster:
        cluster.run("srun", "-N2", "hostname")
        cluster.kill_node("node1")

Modes:

- ns (as root): every node is a mount, UTS and PID namespace. It has its own host name, an
  /etc/hosts that knows all nodes, and its own process table: killing its init kills all its
  processes at once, like pulling the plug. The network is the host's loopback.
- net (as root, needs iproute2): ns, and a network namespace per node behind a bridge: a node can
  also be cut off.
- flat (no privilege): plain processes of the calling user. Nodes are called 127.x.y.z, so that
  their names resolve; `hostname` is the host's.

Start it in the main thread: the daemons die with the thread that started them.
"""

import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.launch.helpers import processes
from tests.launch.helpers.nodes import PACKAGES, Node, Switch, reason_unavailable
from tests.launch.helpers.processes import ClusterError, find_program
from tests.launch.helpers.slurm_conf import Layout, Mode, Options, write_files

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
ENDED += ("BOOT_FAIL", "OUT_OF_MEMORY", "DEADLINE")
USABLE = ("idle", "allocated", "mixed", "completing")
_SLURM_VARIABLE = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SCANCEL|SQUEUE|SINFO|PMI|PMIX)_")

Value = TypeVar("Value")


def slurm_variables() -> list[str]:
    """Return the variables of our environment that would mislead Slurm's commands."""
    return [name for name in os.environ if _SLURM_VARIABLE.match(name)]


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


class Cluster:
    """A Slurm of `nodes` nodes, with the partitions main (default) and urgent, which preempts."""

    def __init__(self, **options: Any) -> None:
        """Plan a cluster; `start`, or `with`, starts it.

        Args:
            options: the fields of `slurm_conf.Options`.
        """
        chosen = Options(**options)
        mode = chosen.mode or ("flat" if reason_unavailable("ns") else "ns")
        reason = reason_unavailable(mode)
        if reason:
            raise ClusterError(reason)
        processes.sweep()
        freezer = mode != "flat" and processes.has_freezer()
        folder = tempfile.mkdtemp(prefix=f"{processes.PREFIX}{os.getpid()}-")
        self.layout = Layout(
            options=chosen,
            folder=Path(folder).resolve(),
            mode=mode,
            proctrack=chosen.proctrack or ("cgroup" if freezer else "linuxproc"),
            subnet=processes.random_subnet(),
            ports=processes.free_ports(1 + chosen.nodes),
        )
        self.folder = self.layout.folder
        self.names = self.layout.names
        env = self._whole_env() | {"PATH": processes.sbin_path()}
        self._daemon_env = env
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._cut: set[str] = set()
        self._switch = Switch(self.layout, env) if mode == "net" else None
        self._nodes = {
            name: Node(self.layout, place, env, self._switch)
            for place, name in enumerate(self.names, start=1)
        }

    def start(self, timeout: float = 120) -> Self:
        """Start everything and wait until all nodes are idle.

        Args:
            timeout: seconds for each part.
        """
        try:
            self._start(timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self, timeout: float) -> None:
        write_files(self.layout)
        if self._switch:
            self._daemons["switch"] = self._switch.start()
        files = {"key-file": "munge.key", "socket": self.layout.munge_socket.name}
        files |= {"pid-file": "run/munged.pid", "seed-file": "run/munged.seed"}
        self._spawn("munged", "-F", *(f"--{key}={self.folder / files[key]}" for key in files))
        self.until(self.layout.munge_socket.exists, timeout, "munged's socket", every=0.02)
        self._spawn("slurmctld", "-D", "-c", "-f", str(self.layout.conf))
        # A slurmd that finds no controller tries again only after a second.
        port = self.layout.ports[0]
        listening = functools.partial(processes.is_listening, port)
        self.until(listening, timeout, "slurmctld to listen", every=0.02)
        for node in self._nodes.values():
            node.start()
        self.wait_nodes(timeout=timeout)

    def _spawn(self, name: str, *arguments: str) -> None:
        argv = [find_program(name, PACKAGES), *arguments]
        output = self.folder / f"log/{name}.out"
        self._daemons[name] = processes.spawn(argv, output, self._daemon_env)

    def stop(self, timeout: float = 30) -> None:
        """End everything and remove the cluster's folder.

        Args:
            timeout: seconds that the daemons have to end before they are killed.
        """
        # Nodes first, their death takes every task along; then the controller, munged last.
        for node in self._nodes.values():
            node.kill()
        end = time.monotonic() + timeout
        if self.mode == "flat":  # slurmstepds and tasks may have started others meanwhile
            while time.monotonic() < end and (pids := processes.slurm_pids(self.layout.conf)):
                for pid in pids:
                    processes.kill(pid)
                time.sleep(0.05)
        for name in ("slurmctld", "munged", "switch"):
            if daemon := self._daemons.pop(name, None):
                daemon.terminate()
                try:
                    daemon.wait(max(0.1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        if self.layout.proctrack == "cgroup":
            processes.remove_cgroups(self.layout.cgroup)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def mode(self) -> Mode:
        """How nodes are told apart: ns, net or flat."""
        return self.layout.mode

    @property
    def env(self) -> dict[str, str]:
        """What a client (sbatch, srun, ...) needs in its environment."""
        return {"SLURM_CONF": str(self.layout.conf)}

    def _whole_env(self) -> dict[str, str]:
        drop = slurm_variables()
        return {name: value for name, value in os.environ.items() if name not in drop} | self.env

    def run(
        self,
        *argv: str | Path | int,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 120,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user of the cluster and return what it printed.

        Args:
            argv: the command, such as "srun", "-N2", "hostname".
            env: variables on top of our own.
            cwd: the folder in which it runs.
            timeout: seconds.
            check: whether to raise where it fails.

        Raises:
            ClusterError: the command failed; holds its output.
        """
        words = [str(word) for word in argv]
        done = subprocess.run(
            words,
            env=self._whole_env() | dict(env or {}),
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise ClusterError(
                f"{shlex.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def sbatch(self, *arguments: str | Path | int, env: Mapping[str, str] | None = None) -> str:
        """Submit a job and return its id."""
        printed = self.run("sbatch", "--parsable", *arguments, env=env).stdout
        return printed.strip().partition(";")[0]

    def job(self, job_id: str) -> dict[str, str]:
        """Return scontrol's record of a job, ended ones included: JobState, Restarts, ..."""
        line = self.run("scontrol", "show", "job", job_id, "-o").stdout.strip().partition("\n")[0]
        field = r"(?:^| )([A-Za-z][\w:/]*)=(.*?)(?= [A-Za-z][\w:/]*=|$)"
        return dict(re.findall(field, line))

    def wait_job(
        self,
        job_id: str,
        states: Sequence[str] = ENDED,
        restarts: int = 0,
        timeout: float = 120,
    ) -> dict[str, str]:
        """Wait until a job is in one of the states and return its record.

        Args:
            job_id: as `sbatch` returned it.
            states: of JobState.
            restarts: how often it must have been requeued at least.
            timeout: seconds.
        """
        end = time.monotonic() + timeout
        while True:  # sbatch --wait would back off to 30 s and more between looks
            job = self.job(job_id)
            if job.get("JobState") in states and int(job.get("Restarts", 0)) >= restarts:
                return job
            if time.monotonic() > end:
                raise ClusterError(
                    f"job {job_id} is {job.get('JobState')} ({job.get('Reason')}) after"
                    f" {job.get('Restarts')} restarts; waited {timeout} s for {', '.join(states)}"
                    f" and {restarts} restarts\n{self.logs('slurmctld')}"
                )
            time.sleep(0.1)

    def node_states(self) -> dict[str, str]:
        """Return each node's state as sinfo has it: idle, down*, drained, ..."""
        lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False).stdout
        return dict(line.split(maxsplit=1) for line in lines.splitlines())

    def wait_nodes(
        self,
        names: Sequence[str] | None = None,
        states: Sequence[str] = USABLE,
        timeout: float = 120,
    ) -> None:
        """Wait until nodes, by default all, are in one of the states."""
        wanted = list(names or self.names)
        self.until(
            lambda: all(self.node_states().get(name) in states for name in wanted),
            timeout,
            f"{', '.join(wanted)} to be {' or '.join(states)}",
        )

    def until(
        self, condition: Callable[[], Value], timeout: float, what: str, every: float = 0.1
    ) -> Value:
        """Wait for a condition and return its (true) value.

        Args:
            condition: asked every `every` seconds.
            timeout: seconds.
            what: what is waited for, for the message.
            every: seconds.

        Raises:
            ClusterError: it did not come true in time, or one of the cluster's daemons ended;
                holds the daemons' last words.
        """
        end = time.monotonic() + timeout
        while True:
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    code = daemon.returncode
                    raise ClusterError(f"{name} ended with code {code}:\n{self.logs(name)}")
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                names = [*self._daemons, *self.names]
                logs = "".join(f"\n== {name}\n{self.logs(name)}" for name in names)
                raise ClusterError(f"waited {timeout} s for {what}{logs}")
            time.sleep(every)

    def logs(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a daemon's logs: "slurmctld", "munged" or a node's name."""
        printed = _lines(self.folder / f"log/{name}.out")
        logged = _lines(self.folder / f"log/{name}.log")
        logged += _lines(self.folder / f"log/slurmd.{name}.log")
        # Daemons print what they log; what is left comes from the commands around them.
        printed = [line for line in printed if not line.startswith(("slurmd:", "slurmctld:"))]
        return "\n".join([*printed[-lines:], *logged[-lines:]])

    def kill_node(self, name: str) -> None:
        """Pull the plug: SIGKILL to every process of the node."""
        self._nodes[name].kill()

    def start_node(self, name: str) -> None:
        """Start a node that was killed; `wait_nodes` waits until Slurm knows it."""
        self._nodes[name].start()
        self._cut.discard(name)

    def kill_slurmd(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a node's daemon only; its job steps go on."""
        self._nodes[name].kill_slurmd(number)

    def cut(self, name: str) -> None:
        """Take a node off the network (mode net); its processes go on."""
        self._nodes[name].set_cable("down")
        self._cut.add(name)

    def uncut(self, name: str) -> None:
        """Put a node that was cut back on the network.

        Slurm looks for a node that went down only after half a minute (32 to 34 s measured);
        SIGHUP to its slurmd makes that register at once.
        """
        self._nodes[name].set_cable("up")
        self._cut.discard(name)

    def node_pids(self, name: str) -> list[int]:
        """Return every process of a node, as pids on this machine."""
        return self._nodes[name].pids()

    def restore(self, timeout: float = 120) -> None:
        """Make the cluster as new for the next test: no jobs, all nodes idle.

        Args:
            timeout: seconds for each part.
        """
        self._cancel_all("--full", "--signal=KILL")
        for name, node in self._nodes.items():
            if not node.is_up():
                node.kill()
                self.start_node(name)
            elif name in self._cut:
                self.uncut(name)
                self.kill_slurmd(name, signal.SIGHUP)
        # Again and again: a job that was just requeueing itself comes back from the dead.
        self.until(self._cancel_all, timeout, "the queue to drain", every=0.5)
        states = self.node_states()
        bad = [name for name in states if states[name].startswith(("drain", "down", "inval"))]
        if bad:
            self.run("scontrol", "update", f"nodename={','.join(bad)}", "state=resume", check=False)
        self.wait_nodes(states=("idle",), timeout=timeout)

    def _cancel_all(self, *options: str) -> bool:
        """Cancel all jobs; return whether there were none."""
        job_ids = self.run("squeue", "-h", "-o", "%A").stdout.split()
        if job_ids:
            self.run("scancel", *options, *job_ids, check=False)
        return not job_ids
