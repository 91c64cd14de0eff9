"""A real Slurm for the tests of the launcher, started when the first of them asks for it."""

import os
from collections.abc import Iterator

import pytest

from tests.launch.helpers.cluster import Cluster, slurm_variables
from tests.launch.helpers.nodes import reason_unavailable
from tests.launch.helpers.slurm_conf import Mode

REQUIRED = "MOBILELLAMA_REQUIRE_SLURM"
CLUSTERS = ("slurm", "slurm_net")


def require_slurm(mode: Mode | None = None) -> None:
    """Skip the test where no Slurm can be started; fail where one must be."""
    reason = reason_unavailable(mode)
    if reason and os.environ.get(REQUIRED):  # so that CI cannot pass by skipping
        pytest.fail(f"{REQUIRED} is set, but {reason}")
    if reason:
        pytest.skip(reason)


def _started(mode: Mode | None) -> Iterator[Cluster]:
    require_slurm(mode)
    # The grace of a preemption is long: a run that saves on a busy machine must not be killed.
    quick = {"slurmd_timeout": 6, "kill_wait": 3, "cred_expire": 5, "grace": 30}
    with Cluster(nodes=3, gpus=8, mode=mode, **quick) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A Slurm of 3 nodes with 8 pretended GPUs each."""
    yield from _started(None)


@pytest.fixture(scope="session")
def slurm_net() -> Iterator[Cluster]:
    """The like of `slurm`, whose nodes can be cut off the network."""
    yield from _started("net")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own site file and list of launches out of it."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))


@pytest.fixture(autouse=True)
def _clean_slurm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point our own environment at the test's cluster; make that as new after the test."""
    used = [name for name in CLUSTERS if name in request.fixturenames]
    clusters: list[Cluster] = [request.getfixturevalue(name) for name in used]
    for cluster in clusters:
        for name in slurm_variables():
            monkeypatch.delenv(name)
        monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    yield
    for cluster in clusters:
        cluster.restore()
