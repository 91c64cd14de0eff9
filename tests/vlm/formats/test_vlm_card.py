"""The card of a vision-language model."""

from pathlib import Path

import pytest

from tests.vlm.helpers.exporting import TOWER_NAME, Runs, export


@pytest.mark.slow
def test_the_card_says_what_was_trained_on_what(runs: Runs, tmp_path: Path) -> None:
    def card(run: Path, name: str, *more: str) -> str:
        return (export(run, tmp_path / name, "--check", "false", *more) / "README.md").read_text()

    text = card(runs.lora, "lora", "--base", "someone/llm", "--license", "mit")
    assert "pipeline_tag: image-text-to-text" in text and "license: mit" in text
    assert "base_model: someone/llm" in text and "library_name: mobilellama" in text
    assert "| began from (init) | `align` |" in text, "a path of this machine by its name"
    assert str(tmp_path.parent) not in text
    assert "LoRA of rank 4, alpha 8, dropout 0.05 on the language model's q_proj" in text
    assert "| learning rate of the projector | warm-up to 0.001 over" in text
    assert "mobilellama vlm chat lora --image photo.jpg" in text
    assert "`<image>` stands for 4 image tokens. Images are padded" in text
    assert "It learnt from the samples of `records.json`: it" in text
    assert "nats an answer token" in text
    first = card(runs.align, "align")
    assert "It is a first stage" in first and "| trained | the projector |" in first
    assert "began from (vision)" in first
    theirs = card(runs.full, "theirs", "--format", "mobilevlm", "--vision_tower", TOWER_NAME)
    assert "names and keys of the published MobileVLM" in theirs
