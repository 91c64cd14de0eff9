"""The command line of the launcher: what it lists, refuses, and does without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.launch.main import VERBS, main
from mobilellama.launch.steps import STEPS

ARGS = {"checkpoint": "a", "output": "b"}
PIPELINE = {"steps": [{"step": "export", "args": ARGS}]}


def test_help_lists_every_step_and_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert main([]) == 2
    assert all(f"\n  {name} " in shown for name in [*STEPS, *VERBS])


def test_what_is_neither_a_step_nor_a_verb_is_met_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"must be one of tokenize, .*; did you mean 'pretrain'"):
        main(["pretran", "--run.folder", "a"])


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["pretrain", "--help"],
        ["pretrain", "--config", "mobilellama_1_4b", "--run.folder", "a", "--dry-run"],
        ["export", "--checkpoint", ".", "--output", "a", "--dry-run"],
        ["tokenize", "--output", "a", "--dry-run", "--no-check"],
        ["pretrain", "--run.folder", "a", "--dry-run", "--no-check", "--local", "--processes", "2"],
        ["pipeline", "--config", "pipeline.yaml", "--dry-run"],
        ["status"],
        ["status", "--json"],
        ["doctor", "--job", "false", "--folder", "."],
        ["logs", "nowhere"],
        ["cancel", "nowhere"],
    ],
    ids=" ".join,
)
def test_it_answers_on_a_login_node_without_torch_or_a_stage(
    words: list[str], tmp_path: Path
) -> None:
    """Whatever the answer is: no torch, no transformers, no module of a stage but its main.py."""
    (tmp_path / "pipeline.yaml").write_text(json.dumps(PIPELINE))
    code = (
        "import sys; from mobilellama.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "names = ('torch', 'transformers', 'numpy', 'pyarrow', 'lightning_fabric')\n"
        "stages = ('tokenize', 'shards', 'pretrain', 'sft', 'vlm')\n"
        "stages = tuple(f'mobilellama.{stage}.' for stage in stages)\n"
        "found = [n for n in names if n in sys.modules]\n"
        # A stage's main.py says what it reads, and imports nothing of the stage.
        "found += [n for n in sys.modules if n.startswith(stages) and not n.endswith('.main')]\n"
        "print(found, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "launch", *words],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env=os.environ | {"PATH": "/bin:/usr/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipeline.yaml"]


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID", "RANK", "SLURM_PROCID"])
@pytest.mark.parametrize("value", ["1", "x"])
def test_a_mistake_is_told_whatever_rank_the_shell_is_told_to_be(
    name: str, value: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mobilellama", "launch", "export", "--slurm.nodes", "0"],
        capture_output=True, text=True, cwd=tmp_path, check=False, env=os.environ | {name: value},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("mobilellama: error: slurm.nodes = 0: must be at least 1")


@pytest.mark.parametrize("text", ['"', "--a 'b"])
def test_options_with_an_open_quotation_mark_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a quotation mark that is not closed"):
        main(["export", f"--output={tmp_path}/x", f"--slurm.extra={text}", "--dry-run"])


def test_a_site_file_that_is_no_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "mobilellama" / "slurm.yaml").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"slurm\.config = .*slurm\.yaml: is not a file"):
        main(["export", f"--output={tmp_path}/x", "--dry-run"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["pretrain", "--run.folder=run", "--data.path=data"],
            "data.path = data: does not exist. Give a dataset folder: the --output of "
            "'mobilellama tokenize run', finished. If only the nodes see it, give --no-check",
        ),
        (["pretrain", "--run.folder=run", "--data.path=text"], "text: holds no dataset.json"),
        (["export", "--output=model", "--checkpoint=a.json"], "a.json: is not a folder"),
        (["vlm", "--run.folder=run", "--data.leave-out=text"], "data.leave_out = text: is not a f"),
        (["prepare", "--output=rows", "--data.path", "b.json"], "data.path = b.json: does not exi"),
        (["sft", "--run.folder=run", "--config=recipe.yaml"], "init = base: does not exist"),
    ],
)
@pytest.mark.parametrize("how", ["--dry-run", "--local", "--slurm.nodes=2"])
def test_what_a_job_would_not_find_is_told_before_it_waits_in_the_queue(
    words: list[str], message: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch, and none is asked for
    (tmp_path / "text").mkdir()
    (tmp_path / "a.json").touch()
    (tmp_path / "recipe.yaml").write_text("init: base\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as caught:
        main([*words, how])
    assert message in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("how", ["export", "export --local", "pipeline"])
def test_a_dry_run_refuses_a_config_that_the_launch_would_refuse(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    Path("pipeline.yaml").write_text(json.dumps(PIPELINE))
    wrong = {"step": "export", "args": ARGS | {"colour": "x"}}
    Path("wrong.yaml").write_text(json.dumps({"steps": [wrong]}))
    step = [*how.split(), "--checkpoint=a", "--output=b", "--dry-run"]
    right = ["pipeline", "--config=pipeline.yaml", "--dry-run"] if how == "pipeline" else step
    assert main(right) == 0
    assert " export --checkpoint=a --output=b" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--colour = x: is not a field"):
        main([right[0], "--config=wrong.yaml", "--dry-run"] if how == "pipeline"
             else [*step, "--colour", "x"])  # fmt: skip
    assert not capsys.readouterr().out


def test_a_dry_run_warns_of_an_old_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").touch()
    words = ["pretrain", "--config=demo", "--run.folder=run", "--data.path=data", "--dry-run"]
    assert main([*words, "--schedule.warmup_share=0.1"]) == 0
    assert "schedule.warmup_ratio" in capsys.readouterr().err


def test_paths_that_only_the_nodes_see_pass_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["pretrain", "--run.folder=run", "--data.path=/nowhere/data", "--dry-run"]
    assert main([*words, "--no-check"]) == 0
    assert "--data.path=/nowhere/data" in capsys.readouterr().out


def test_a_run_that_has_a_checkpoint_needs_what_it_began_from_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "dataset.json").touch()
    words = ["sft", "--run.folder=run", "--data.path=rows", "--init=gone", "--dry-run"]
    with pytest.raises(ConfigError, match="init = gone: does not exist"):
        main(words)
    (tmp_path / "run" / "checkpoints" / "step-10").mkdir(parents=True)
    assert main(words) == 0
