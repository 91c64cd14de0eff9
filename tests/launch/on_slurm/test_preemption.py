"""What every cluster does to a job: preemption, time limits, requeues. On a real Slurm."""

import json
from pathlib import Path

import pytest

from mobilellama.launch.main import main
from mobilellama.run_folder import RunFolder
from tests.launch.helpers.cluster import Cluster
from tests.launch.helpers.jobs import (
    assert_same_weights,
    batch_log,
    pretrain,
    undisturbed,
    wait_for,
    wait_for_attempt,
    wait_for_end,
    wait_for_step,
)

pytestmark = pytest.mark.slow

STEPS = 400


@pytest.fixture(scope="module")
def undisturbed_run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing has disturbed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    return undisturbed(small_dataset, run, {"train.max_steps": STEPS})


def said_by_ranks(run: Path) -> str:
    """Return what the first process of every start printed."""
    return "".join(path.read_text() for path in sorted(run.glob("logs/*/rank-0.log")))


def test_a_run_survives_two_time_limits_a_preemption_and_a_requeue_bit_for_bit(
    slurm: Cluster,
    small_dataset: Path,
    undisturbed_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "disturbed"
    # Of the limit of a minute a slow machine may need all to start: that is no failure here.
    fields = {"slurm.time": "1", "slurm.max_failures": 50, "train.max_steps": STEPS}
    job = pretrain(small_dataset, run, fields)
    wait_for(lambda: int(slurm.job(job)["Restarts"]) >= 2, "two time limits", timeout_s=240)
    # Asked to stop as it trained, or, on a slow machine, before it began.
    assert batch_log(run).count("because the job's time ends") == 2
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")

    before = RunFolder(run).newest_attempt()
    wait_for_attempt(run, before + 1)
    slurm.sbatch("-p", "urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    wait_for_attempt(run, before + 2)
    assert "preempted with step" in batch_log(run)
    assert "a preemption of its job" in said_by_ranks(run)

    slurm.run("scontrol", "requeue", job)
    record = wait_for_end(slurm, job)
    assert (record["JobState"], record["Restarts"]) == ("COMPLETED", "4")
    verdict = RunFolder(run).read_verdict()
    assert verdict is not None
    assert (verdict.kind, verdict.step, verdict.attempt) == ("finished", STEPS, before + 3)
    assert_same_weights(run, undisturbed_run, STEPS)

    capsys.readouterr()
    assert main(["status", str(run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["state"] == "finished"
    assert status["parts"][0]["restarts"] == 4
    repeated = [RunFolder(run).read_attempt(n)["repeated_steps"] for n in range(1, before + 4)]
    assert status["progress"]["repeated_steps"] == sum(repeated)


def test_cancel_stays_cancelled_in_the_middle_of_a_requeue(
    slurm: Cluster, small_dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "cancelled"
    job = pretrain(small_dataset, run, {"train.max_steps": 100_000})
    wait_for_step(run, 2)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: "asked to save and stop" in batch_log(run), "the warning")
    assert main(["cancel", str(run)]) == 0
    # A requeued job waits 5 seconds here before it may start; a resurrected one would be there.
    with pytest.raises(AssertionError, match="another start"):
        wait_for(lambda: RunFolder(run).newest_attempt() > 1, "another start", timeout_s=12)
    assert slurm.job(job)["JobState"] in ("CANCELLED", "COMPLETED")
    assert main(["status", str(run)]) == 0


def test_cancel_of_a_job_that_waits_after_its_requeue_is_final(
    slurm: Cluster, small_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "cancelled"
    job = pretrain(small_dataset, run, {"train.max_steps": 100_000})
    wait_for_step(run, 2)
    slurm.run("scontrol", "requeue", job)
    wait_for(lambda: slurm.job(job)["JobState"] == "PENDING", "the requeue")
    assert main(["cancel", str(run)]) == 0
    assert slurm.job(job)["JobState"] == "CANCELLED"
    assert main(["status", str(run)]) == 0
    assert "cancelled" in capsys.readouterr().out


def test_cancel_with_save_ends_with_a_checkpoint_and_a_launch_goes_on_from_it(
    slurm: Cluster, small_dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "saved"
    job = pretrain(small_dataset, run, {"train.max_steps": 100_000})
    wait_for_step(run, 2)
    assert main(["cancel", str(run), "--save"]) == 0
    record = wait_for_end(slurm, job)
    # Not COMPLETED, which would let the steps that wait for it begin.
    assert (record["JobState"], record["Restarts"]) == ("FAILED", "0")
    verdict = RunFolder(run).read_verdict()
    assert verdict is not None and verdict.kind == "stopped"
    assert verdict.message.endswith(": 'mobilellama launch cancel' --save")
    assert RunFolder(run).checkpoint_steps()[-1] == verdict.step

    again = pretrain(small_dataset, run, {"train.max_steps": verdict.step + 1})
    assert wait_for_end(slurm, again)["JobState"] == "COMPLETED"
    assert RunFolder(run).read_attempt(2)["saved_step"] == verdict.step
