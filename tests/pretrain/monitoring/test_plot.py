"""The picture of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilellama.config import ConfigError
from mobilellama.pretrain.main import main
from mobilellama.pretrain.monitoring.plot import Config, draw, read_losses
from mobilellama.run_folder import RunFolder


def write_metrics(run: Path) -> None:
    records: list[dict[str, Any]] = []
    for step in range(10, 60, 10):
        loss = 8 - step / 20
        records.append(
            {"step": step, "tokens": 100 * step, "loss": loss, "loss/c4": loss + 0.1,
             "grad_norm": 1.0, "learning_rate": 1e-3, "tokens_per_s_per_gpu": 1000.0}
        )  # fmt: skip
        if step % 20 == 0:
            records.append({"step": step, "validation_loss": loss, "validation_loss/c4": loss})
    records[2]["grad_norm"] = None  # was not finite
    lines = "".join(json.dumps(record) + "\n" for record in records)
    RunFolder(run).metrics.write_text(lines + '{"step": 60, "lo')  # torn by a kill


def test_the_curves_are_those_of_metrics_jsonl(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    config = Config(run=str(tmp_path), output=str(tmp_path / "loss.png"), baseline=6.25)
    figure = draw(read_losses(RunFolder(tmp_path)), title="run", config=config)
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    assert list(lines["training, all"].get_xdata()) == [10, 20, 30, 40, 50]
    assert list(lines["training, all"].get_ydata()) == [7.5, 7.0, 6.5, 6.0, 5.5]
    assert list(lines["held out, all"].get_xdata()) == [20, 40]
    assert list(lines["c4"].get_ydata()) == [7.0, 6.0]
    assert any(list(line.get_ydata()) == [6.25, 6.25] for line in figure.axes[0].get_lines())
    assert "step 50, 5,000 tokens, loss 5.500" in figure.get_suptitle()


def test_a_png_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_metrics(tmp_path)
    output = tmp_path / "loss.png"
    assert main(["plot", "--run", str(tmp_path), "--output", str(output)]) == 0
    with Image.open(output) as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20  # not a blank page
    assert str(output) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "message"),
    [("loss.pdf", "must end in .png"), ("nowhere/loss.png", "a folder that does not exist")],
)
def test_an_output_that_cannot_be_is_refused(tmp_path: Path, output: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["plot", "--run", str(tmp_path), "--output", str(tmp_path / output)])


def test_a_run_without_losses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no losses yet"):
        main(["plot", "--run", str(tmp_path), "--output", str(tmp_path / "loss.png")])
