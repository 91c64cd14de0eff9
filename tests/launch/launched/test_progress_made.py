"""How far a step is, by what is whole on the disk."""

from pathlib import Path

from mobilellama.launch.folder import LaunchFolder
from mobilellama.launch.launched.progress_made import count_buckets, progress_made
from mobilellama.launch.steps import STEPS


def test_a_run_is_at_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    step = STEPS["pretrain"]
    folder = LaunchFolder.of(step, tmp_path / "run")
    assert progress_made(step, folder) == "step 0"
    for name in ("step-90", "step-100", "step-110.tmp-2", "step-120.bad-1"):
        (folder.made / "checkpoints" / name).mkdir(parents=True)
    assert progress_made(step, folder) == "step 100"


def test_a_dataset_is_as_far_as_its_receipts(tmp_path: Path) -> None:
    step = STEPS["tokenize"]
    (tmp_path / "code").mkdir()
    (tmp_path / "code/0.json").touch()
    assert progress_made(step, LaunchFolder.of(step, tmp_path)) == "1 bucket"
    for name in ("code/12.json", "code/12.bin", "web/3.json", "dataset.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "code/facts.json").touch()
    assert count_buckets(tmp_path) == 3
    assert progress_made(step, LaunchFolder.of(step, tmp_path)) == "3 buckets"


def test_what_is_done_in_one_go_has_saved_nothing_before_its_end(tmp_path: Path) -> None:
    step = STEPS["export"]
    assert progress_made(step, LaunchFolder.of(step, tmp_path)) == "nothing"
