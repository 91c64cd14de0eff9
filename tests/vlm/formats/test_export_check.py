"""The check of an export finds one wrong bit and another computation."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mobilellama.sft.lora import inject
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.formats.export_check import check_merged, check_weights
from mobilellama.vlm.formats.trained import open_trained
from mobilellama.vlm.model import LANGUAGE, VisionLanguageModel, build_on
from tests.vlm.helpers.exporting import Runs, changed, export
from tests.vlm.helpers.published import (
    stored,
)


def test_the_check_sees_a_single_wrong_bit_and_another_computation(
    ours: Path, tmp_path: Path
) -> None:
    trained = open_trained(str(ours))
    folder = export(ours, tmp_path / "out")
    check_weights(folder, trained, dtype="bf16")
    weights = load_file(folder / "model.safetensors")
    weights["projector.position.bias"].view(torch.int16)[7] ^= 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"'projector\.position\.bias' reads back changed"):
        check_weights(folder, trained, dtype="bf16")
    other = changed(ours, tmp_path / "other", "images", aspect_ratio="square")
    with pytest.raises(RuntimeError, match="reads back with another aspect_ratio"):
        check_weights(other, trained, dtype="bf16")


@pytest.mark.slow
def test_the_merged_models_losses_are_those_of_base_plus_adapter(runs: Runs) -> None:
    trained = open_trained(str(runs.lora))
    assert trained.checkpoint is not None
    assert check_merged(trained) < 1e-5
    cpu = torch.device("cpu")
    adapt = partial(inject, config=trained.lora, prefix=LANGUAGE)
    side_by_side = build_on(cpu, trained.architecture, adapt=adapt).eval()
    merged = build_on(cpu, trained.architecture).eval()
    base = build_on(cpu, trained.architecture).eval()
    with torch.no_grad():
        for name, value in side_by_side.named_parameters():
            value.copy_(trained.checkpoint.parameter(name, value.shape))
        for name, value in merged.named_parameters():
            value.copy_(trained.weights.parameter(name))
            base.get_parameter(name).copy_(value)
        for name, value in stored(runs.llm).items():
            base.language_model.get_parameter(name).copy_(value)
    expected, found, without = (losses(model) for model in (side_by_side, merged, base))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (without - expected).abs().max() > 1e-3, "the adapter does something"


@torch.no_grad()
def losses(model: VisionLanguageModel) -> torch.Tensor:
    """Return the loss sums of three drawn samples: with two images, one and none."""
    tokens, generator = model.config.image_tokens, torch.Generator().manual_seed(1)
    ids = torch.randint(3, 800, (3, 40), generator=generator)
    ids[0, 5 : 5 + tokens], ids[0, 20 : 20 + tokens] = IMAGE, IMAGE
    ids[1, 9 : 9 + tokens] = IMAGE
    labels = torch.randint(3, 800, (3, 40), generator=generator)
    pixels = torch.randint(256, (3, 3, 16, 16), generator=generator).to(torch.uint8)
    return model(ids, labels, pixel_values=pixels).sample_loss_sums
