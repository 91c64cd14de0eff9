"""The picture of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilellama.config import ConfigError
from mobilellama.pretrain.main import main
from mobilellama.pretrain.monitoring.plot import Config, draw, even, read_losses
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


def test_an_interval_cut_by_a_stop_is_taken_together_with_the_next() -> None:
    steps, values = [10, 20, 21, 30, 40], [5.0, 4.0, 9.0, 4.0, 3.0]
    # 21 is of one step, 30 of nine: (9 * 1 + 4 * 9) / 10 = 4.5
    assert even(steps, values) == ([10, 20, 30, 40], [5.0, 4.0, 4.5, 3.0])
    assert even([10, 20, 30, 31], [5.0, 4.0, 3.0, 14.0]) == ([10, 20, 31], [5.0, 4.0, 4.0])
    assert even([1, 2, 3], [3.0, 2.0, 1.0]) == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert even([7, 8], [3.0, 2.0]) == ([7, 8], [3.0, 2.0])


@pytest.mark.parametrize("steps", [[1], [1, 2, 3], [100, 1100, 90_100]])
def test_steps_are_numbered_whole_titles_stay_and_what_the_legend_names_is_drawn(
    steps: list[int], tmp_path: Path
) -> None:
    records: list[dict[str, Any]] = [
        {"step": step, "loss": 1.0, "loss/c4": 1.1, "loss/gone": None, "grad_norm": 1.0,
         "learning_rate": 1e-3, "learning_rate/projector": 1e-2, "tokens_per_s_per_gpu": 9.0}
        for step in steps
    ]  # fmt: skip
    config = Config(run=str(tmp_path), output=str(tmp_path / "loss.png"))
    figure = draw(records, title="run", config=config)
    figure.draw_without_rendering()
    for axis in figure.axes:
        low, high = axis.get_xlim()
        shown = [t for t in axis.get_xticks() if low <= t <= high]
        assert shown and all(tick == round(tick) for tick in shown)
        for line in axis.get_lines():
            assert len(line.get_xdata()) > 1 or line.get_marker() == "o"
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["c4", "training, all"]
    assert figure.axes[1].get_title(loc="left") == "learning rate"
