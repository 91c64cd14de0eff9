"""The doctor's job: its script."""

from pathlib import Path

from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.doctor.job import script


def test_the_script_has_the_sites_environment_and_options(tmp_path: Path) -> None:
    config = SlurmConfig(
        setup=["module load x"], env={"NCCL_DEBUG": "a b"}, python="/p/python", srun_extra="--x=1"
    )
    lines = script(config, tmp_path).splitlines()
    assert lines.index("module load x") < lines.index("export NCCL_DEBUG='a b'")
    assert lines[-1] == (
        "srun --label --kill-on-bad-exit=0 --wait=0 --cpu-bind=cores --x=1 "
        f"/p/python -m mobilellama.launch.doctor.node {tmp_path} 8"
    )
