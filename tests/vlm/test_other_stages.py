"""Runs and models of this stage, given to other stages' verbs: one clear line, or it works."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilellama.config import ConfigError
from mobilellama.pretrain.main import main as pretrain
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.main import main as sft
from mobilellama.sft.start import open_language_model, open_start
from tests.helpers.ranks import run_ranks
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.tiny_vlm import make_language_model, make_tower, train_vlm

BY_VLM = "was written by 'mobilellama vlm run'"
Main = Callable[[list[str]], int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Path) -> Path:
    """A run with two learning rates, validated twice."""
    folder = tmp_path_factory.mktemp("vlm")
    data, images = write_llava(folder / "data")
    tower = make_tower(folder / "tower")
    init = make_language_model(folder / "llm", small_tokenizer)
    fields = {
        "vision": tower,
        "data.validation": data,
        "validation.every_steps": 2,
        "optimizer.projector_learning_rate": 1e-3,
    }
    run_ranks(train_vlm, 1, init, data, images, folder / "run", fields)
    return folder / "run"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """What tells a vision-language model's folder; its weights are not read."""
    folder = tmp_path / "exported"
    folder.mkdir()
    values: dict[str, Any] = {"model_type": "mobilellama_vlm", "language": {}, "vision": {}}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("main", "verb"), [(pretrain, "export"), (sft, "export"), (sft, "merge")])
def test_other_exports_send_the_run_to_its_own(
    main: Main, verb: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        main([verb, "--checkpoint", str(run), "--output", str(tmp_path / "out")])
    remedy = "Export it with 'mobilellama vlm export'"
    assert str(caught.value) == f"checkpoint = {run}: {BY_VLM}. {remedy}."
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_finetuning_starts_neither_from_the_run_nor_in_its_folder(run: Path) -> None:
    remedy = (
        "Give a language model: a Hugging Face folder, a name on the Hub, or a run or checkpoint"
    )
    for path in (run, run / "checkpoints/step-4"):
        with pytest.raises(ConfigError) as caught:
            open_language_model(str(path))
        assert str(caught.value) == f"init = {path}: {BY_VLM}. {remedy}."
    with pytest.raises(ConfigError, match="Give another folder") as caught:
        open_start("any", RunFolder(run))
    assert f"run.folder = {run}: {BY_VLM}" in str(caught.value)


@pytest.mark.slow
def test_replay_says_where_the_records_are(run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain(["replay", "--run", str(run), "--step", "1"])
    samples = run / "samples/train.arrow"
    assert samples.is_file()
    assert str(caught.value) == (
        f"run = {run}: {BY_VLM}; only runs on datasets of text are replayed. "
        f"Its records lie tokenised in {samples}."
    )


@pytest.mark.slow
def test_the_plot_has_both_kinds_of_samples_and_both_rates(run: Path, tmp_path: Path) -> None:
    from mobilellama.pretrain.monitoring.plot import Config, draw, read_losses

    output = tmp_path / "loss.png"
    assert pretrain(["plot", "--run", str(run), "--output", str(output)]) == 0
    with Image.open(output) as picture:
        assert picture.size[0] > 1000
    records = RunFolder(run).read_metrics()
    config = Config(run=str(run), output=str(output))
    figure = draw(read_losses(RunFolder(run)), title="run", config=config)
    losses, rates = figure.axes[:2]
    drawn = {line.get_label(): list(line.get_ydata()) for line in losses.get_lines()}
    held_out = [record for record in records if "validation_loss" in record]
    assert [record["step"] for record in held_out] == [2, 4]
    for kind in ("image", "text"):
        assert drawn[kind] == [record[f"validation_loss/{kind}"] for record in held_out]
    drawn = {line.get_label(): list(line.get_ydata()) for line in rates.get_lines()}
    trained = [record for record in records if "loss" in record]
    assert drawn["all others"] == [record["learning_rate"] for record in trained]
    assert drawn["projector"] == [record["learning_rate/projector"] for record in trained]
    assert "step 4, 16 samples, loss" in figure.get_suptitle()


def test_chat_finetuning_and_the_harness_refuse_an_exported_model(exported: Path) -> None:
    told = f"= {exported}: is a vision-language model. "
    with pytest.raises(ConfigError) as caught:
        ModelChoice(model=str(exported))
    assert str(caught.value) == (
        f"model {told}Ask it with 'mobilellama vlm chat' or 'vlm generate'."
    )
    with pytest.raises(ConfigError) as caught:
        open_language_model(str(exported))
    assert str(caught.value).startswith(f"init {told}Give a language model")


def test_the_harness_sends_an_exported_model_to_its_own_benchmarks(exported: Path) -> None:
    pytest.importorskip("lm_eval")
    from mobilellama.pretrain.evaluation.scored_model import require_folder

    with pytest.raises(ConfigError, match="Score it with 'mobilellama vlm evaluate'"):
        require_folder(str(exported))


@pytest.mark.slow
def test_the_runs_checkpoint_is_whole(run: Path) -> None:
    """What is refused above is refused for its stage, not for a fault."""
    checkpoint = Checkpoint(run / "checkpoints/step-4")
    checkpoint.verify()
    checkpoint.close()
