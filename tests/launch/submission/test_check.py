"""What is looked at before a step waits in a queue."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.launch.config import SlurmConfig
from mobilellama.launch.submission.check import check_inputs, require_cwd, require_syntax
from mobilellama.launch.submission.request import LaunchRequest


def request_of(*arguments: str, cwd: str = "/home/u") -> LaunchRequest:
    return LaunchRequest(step_name="pretrain", arguments=[*arguments], slurm=SlurmConfig(), cwd=cwd)


def test_what_an_earlier_step_makes_need_not_be_there_yet(tmp_path: Path) -> None:
    request = request_of(f"--run.folder={tmp_path}/run", f"--data.path={tmp_path}/data")
    with pytest.raises(ConfigError, match="does not exist"):
        check_inputs(request)
    check_inputs(request, made=[tmp_path / "data"])


def test_a_path_in_a_folder_that_the_run_will_make_is_no_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset.json").touch()
    arguments = ["--data.path=data", "--init=runs/base"]
    request = request_of(*arguments, "--run.folder=runs/x", cwd=str(tmp_path))
    with pytest.raises(ConfigError, match=r"init = runs/base: does not exist"):
        check_inputs(request)
    elsewhere = request_of(*arguments, "--run.folder=x", cwd=str(tmp_path))
    check_inputs(elsewhere)
    assert "init = runs/base: no such folder here; read as a name on the Hub" in caplog.text
    with pytest.raises(ConfigError, match=r"init = runs/base: does not exist"):
        check_inputs(elsewhere, beside=[tmp_path / "runs/later"])


@pytest.mark.parametrize("name", ['/a"b', "/a%j", "/a\nb"])
def test_a_folder_that_no_job_script_can_name_is_refused(name: str) -> None:
    require_cwd(request_of(cwd="/home/é u"))
    with pytest.raises(ConfigError, match=r"the current folder = .*Launch from another one"):
        require_cwd(request_of(cwd=name))


def test_a_script_that_bash_cannot_read_is_refused_with_what_bash_says(tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text("if true; then\n")
    with pytest.raises(UserError, match=r"job.sbatch: line \d+: syntax error.*Fix slurm.setup"):
        require_syntax(script)
    script.write_text("true\n")
    require_syntax(script)
