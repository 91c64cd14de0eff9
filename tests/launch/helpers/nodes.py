"""The virtual nodes of the test cluster, and the switch that joins them in mode net."""

import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tests.launch.helpers import processes
from tests.launch.helpers.processes import ClusterError, find_program
from tests.launch.helpers.slurm_conf import Layout, Mode

# The namespaces of a node; all its processes die with its init, and that with unshare itself.
NAMESPACES = ["-m", "-u", "-p", "-f", "--kill-child=KILL", "--mount-proc"]
NAMESPACES += ["--propagation", "private"]

PACKAGES = "slurmctld slurmd slurm-client munge"

Value = TypeVar("Value")


def reason_unavailable(mode: Mode | None = None) -> str | None:
    """Return why no cluster of this mode can be started here, None if one can."""
    try:
        for name in ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol"):
            find_program(name, PACKAGES)
        ip = find_program("ip", "iproute2") if mode == "net" else ""
    except ClusterError as error:
        return str(error)
    if mode in ("ns", "net") and not processes.succeeds(["unshare", *NAMESPACES, "true"]):
        return f"mode {mode} needs the right to unshare namespaces: run as root, use mode flat"
    if mode == "net":
        links = f"{ip} link add up0 type veth peer name up1 && {ip} link add br0 type bridge"
        if not processes.succeeds(["unshare", "-n", "sh", "-c", links]):
            return "mode net needs network namespaces with veth pairs and bridges: not allowed here"
    return None


def _wait_for(condition: Callable[[], Value | None], what: str, timeout: float = 30) -> Value:
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise ClusterError(f"waited {timeout} s for {what}")
        time.sleep(0.01)


class Switch:
    """A bridge and a cable to each node.

    It lives in a network namespace of its own: bridge and cables vanish with the last process in
    it, even when nobody is left to clean up.
    """

    def __init__(self, layout: Layout, env: Mapping[str, str]) -> None:
        self._layout, self._env = layout, env
        self._ip = find_program("ip", "iproute2")
        self._inside: list[str] = []
        self._cables: dict[int, str] = {}

    def start(self) -> subprocess.Popen[bytes]:
        """Make the bridge and join this machine to it as the controller."""
        output = self._layout.folder / "log/switch.out"
        process = processes.spawn(["unshare", "-n", "sleep", "infinity"], output, self._env)
        here = os.readlink("/proc/self/ns/net")
        there = f"/proc/{process.pid}/ns/net"
        _wait_for(lambda: os.readlink(there) != here, "the switch's network namespace")
        self._inside = ["nsenter", "-t", str(process.pid), "-n"]
        uplink = f"slurm{secrets.token_hex(4)}"  # 15 characters at most
        self._run(self._inside, "link add br0 type bridge")
        self._run(self._inside, "link set br0 up")
        self._run([], f"link add {uplink} type veth peer name up0 netns {process.pid}")
        self._run(self._inside, "link set up0 master br0 up")
        self._run([], f"addr add {self._layout.address(0)}/24 dev {uplink}")
        self._run([], f"link set {uplink} up")
        return process

    def connect(self, place: int, pid: int) -> None:
        """Give a node that has just started a cable to the bridge.

        Args:
            place: the node's, from 1.
            pid: of its init.
        """
        # Renewed with every start of the node, as the old one goes away at leisure.
        cable = self._cables[place] = f"p{place}.{pid % 100_000}"
        node = ["nsenter", "-t", str(pid), "-n"]
        self._run(self._inside, f"link add {cable} type veth peer name eth0 netns {pid}")
        self._run(self._inside, f"link set {cable} master br0 up")
        self._run(node, f"addr add {self._layout.address(place)}/24 dev eth0")
        self._run(node, "link set eth0 up")

    def set_cable(self, place: int, state: str) -> None:
        """Set the link to a node "up" or "down"."""
        self._run(self._inside, f"link set {self._cables[place]} {state}")

    def _run(self, inside: list[str], words: str) -> None:
        argv = [*inside, self._ip, *words.split()]
        end = time.monotonic() + 10
        while True:  # a namespace or a device may take a moment to appear
            done = subprocess.run(argv, capture_output=True, text=True)
            if done.returncode == 0:
                return
            if time.monotonic() > end:
                raise ClusterError(f"{shlex.join(argv)}: {done.stderr}")
            time.sleep(0.05)


class Node:
    """One node: a slurmd and, but in mode flat, the namespaces around it."""

    def __init__(
        self,
        layout: Layout,
        place: int,
        env: Mapping[str, str],
        switch: Switch | None,
    ) -> None:
        """Plan a node.

        Args:
            layout: the cluster's.
            place: from 1.
            env: the environment of its slurmd.
            switch: what to connect it to, in mode net.
        """
        self._layout, self._place, self._switch = layout, place, switch
        self._env = env
        self.name = layout.names[place - 1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node, which may have been killed before."""
        if self._process and self._process.poll() is None:
            raise ClusterError(f"{self.name} is running: kill it first")
        folder = self._layout.folder
        connected = folder / f"run/{self.name}.connected"
        connected.unlink(missing_ok=True)
        argv = self._slurmd() if self._layout.mode == "flat" else self._in_namespaces(connected)
        self._process = processes.spawn(argv, folder / f"log/{self.name}.out", self._env)
        if self._switch:
            self._switch.connect(self._place, self.init_pid())
            connected.touch()

    def _slurmd(self) -> list[str]:
        slurmd = find_program("slurmd", PACKAGES)
        return [slurmd, "-D", "-N", self.name, "-f", str(self._layout.conf)]

    def _in_namespaces(self, connected: Path) -> list[str]:
        folder = shlex.quote(str(self._layout.folder))
        lines = [
            f"hostname {self.name}",
            f"mount --bind {shlex.quote(str(self._layout.hosts))} /etc/hosts",
        ]
        if self._layout.proctrack == "cgroup":
            # A corner of v1's freezer hierarchy, the only one that proctrack/cgroup needs.
            group = f"{folder}/fz/{self._layout.cgroup}-{self.name}"
            lines += [
                f"mkdir -p {folder}/fz {folder}/cg/freezer",
                f"mount -t cgroup -o freezer testing {folder}/fz",
                f"mkdir -p {group}",
                f"mount --bind {group} {folder}/cg/freezer",
            ]
        network = []
        if self._switch:
            lines.append("ip link set lo up")
            wait = f"for _ in $(seq 1500); do [ -e {connected} ] && break; sleep 0.02; done"
            network = ["-n"]
            lines.append(wait)
        # bash is the node's init: it reaps orphans, and when it dies the kernel kills the node.
        lines += [f"{shlex.join(self._slurmd())} &", "while :; do wait; sleep 0.5; done"]
        return ["unshare", *NAMESPACES, *network, "bash", "-c", "\n".join(lines)]

    @property
    def pid(self) -> int:
        """The process that we started last for this node."""
        if self._process is None:
            raise ClusterError(f"{self.name} has not been started")
        return self._process.pid

    def init_pid(self) -> int:
        """Return the pid, on this machine, of the node's first process."""
        if self._layout.mode == "flat":
            return self.pid
        return _wait_for(lambda: processes.children(self.pid), f"{self.name}'s init")[0]

    def slurmd_pid(self) -> int | None:
        """Return the pid, on this machine, of the node's daemon; None if it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        candidates = [self.pid]
        if self._layout.mode != "flat":
            candidates = processes.children(self.init_pid())
        for pid in candidates:
            found = processes.process_state(pid)
            if found and found.command.startswith("slurmd") and found.state not in "ZX":
                return pid
        return None

    def is_up(self) -> bool:
        """Return whether the node's daemon runs and is not stopped."""
        pid = self.slurmd_pid()
        found = pid and processes.process_state(pid)
        return bool(found) and found.state not in "TZX"

    def pids(self) -> list[int]:
        """Return all processes of the node, as pids on this machine."""
        if self._process is None or self._process.poll() is not None:
            return []
        if self._layout.mode == "flat":
            return processes.slurm_pids(self._layout.conf, self.name)
        return processes.pids_in_namespace(self.init_pid())

    def kill(self) -> None:
        """Pull the plug: SIGKILL to every process of the node."""
        if self._process is None:
            return
        if self._layout.mode == "flat":  # tasks have left the daemon's tree
            for pid in processes.slurm_pids(self._layout.conf, self.name):
                processes.kill(pid)
        self._process.kill()
        self._process.wait()

    def kill_slurmd(self, number: signal.Signals) -> None:
        """Send a signal to the daemon only; its job steps go on."""
        processes.kill(_wait_for(self.slurmd_pid, f"{self.name}'s slurmd"), number)

    def set_cable(self, state: str) -> None:
        """Set the node's link "up" or "down".

        Raises:
            ClusterError: the cluster's mode is not net.
        """
        if self._switch is None:
            raise ClusterError(f"mode {self._layout.mode} has no cables: use mode net")
        self._switch.set_cable(self._place, state)
