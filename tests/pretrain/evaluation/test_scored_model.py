"""What is scored: a folder or a run, with the same ids and, in fp32, the same bits."""

import json
import shutil
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.files.hub_folder import ModelFolder
from mobilellama.pretrain.evaluation import harness
from mobilellama.pretrain.evaluation.scored_model import fingerprint, open_scored_model
from mobilellama.pretrain.hf.export import main as export_main
from mobilellama.pretrain.hf.export_config import Config as ExportConfig
from mobilellama.run_folder import RunFolder
from tests.pretrain.conftest import Command
from tests.pretrain.helpers.likelihoods import likelihoods

pytest.importorskip("lm_eval")


def at(folder: Path | str) -> ModelFolder:
    """A model that is named by its path."""
    return ModelFolder(path=str(folder), name=str(folder))


@pytest.fixture(scope="module")
def export(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("export") / "model"
    config = ExportConfig(checkpoint=str(tiny_run), output=str(output), dtype="fp32", check=False)
    assert export_main(config) == 0
    return output


def scores(model: Path) -> list[tuple[float, bool]]:
    return likelihoods(open_scored_model(at(model)))


def test_a_run_has_the_likelihoods_of_its_export_to_the_last_bit(
    tiny_run: Path, export: Path
) -> None:
    expected = scores(export)
    assert scores(tiny_run) == scores(RunFolder(tiny_run).checkpoint(4)) == expected
    earlier = scores(RunFolder(tiny_run).checkpoint(2))
    assert all(one != other for one, other in zip(earlier, expected, strict=True))


@pytest.mark.slow
def test_the_command_scores_a_run_and_goes_on_with_its_file_but_not_with_another_step(
    command: Command, tiny_run: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.json"
    arguments = ["--data", data, "--output", output, "--tasks", "arc_easy", "--limit", 3]
    assert command("pretrain", "evaluate", tiny_run, *arguments).code == 0
    stored = json.loads(output.read_text())
    assert stored["model"]["path"] == str(tiny_run)
    assert stored["tasks"]["arc_easy"]["samples"] == 3
    again = command("pretrain", "evaluate", tiny_run, *arguments)
    assert again.code == 0 and "arc_easy: scored already" in again.err
    other = command("pretrain", "evaluate", RunFolder(tiny_run).checkpoint(2), *arguments)
    assert other.code == 2 and "holds results with model = " in other.err


def test_what_is_no_model_is_told(base: Path, tiny_run: Path, tmp_path: Path) -> None:
    def message(model: Path, kind: type[Exception] = ConfigError) -> str:
        with pytest.raises(kind) as caught, open_scored_model(at(model)):
            pass
        return str(caught.value)

    remedy = "Give a Hugging Face folder, a name on the Hub, RUN or RUN/checkpoints/step-N"
    nowhere = message(tmp_path / "nowhere")
    assert nowhere.endswith(f"nowhere: is neither a checkpoint nor a run's folder. {remedy}.")
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    for path in copied.glob("tokenizer*"):
        path.unlink()
    assert message(copied).endswith("has no tokenizer. Add its tokenizer.json.")
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="has no tokenizer that transformers can load"):
        harness.load_tokenizer(str(copied), None)
    run = RunFolder(Path(shutil.copytree(tiny_run, tmp_path / "run")))
    manifest = run.checkpoint(4) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"step"', '"stop"', 1))
    assert "manifest.json" in message(run.path, DataError)


def test_the_fingerprint_knows_weights_config_and_tokenizer(base: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    first = fingerprint(at(base))
    assert fingerprint(at(copied)) == first
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint(at(copied)) != first
        (copied / name).write_bytes(content)
    name = "tester/tiny@c0ffee"  # as files of former versions have it
    assert fingerprint(ModelFolder(path=str(base), name=name)) == name
