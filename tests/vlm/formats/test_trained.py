"""What is exported of a run: trained weights, adapters merged, the rest as it came."""

from pathlib import Path

import pytest
import torch

from mobilellama.vlm.formats.trained import open_trained
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER
from tests.vlm.helpers.exporting import Runs, export
from tests.vlm.helpers.published import (
    stored,
)


@pytest.mark.slow
def test_what_did_not_train_is_written_as_it_came(runs: Runs, tmp_path: Path) -> None:
    found = stored(export(runs.align, tmp_path / "out", "--dtype", "fp32"))
    for prefix, folder in ((TOWER, runs.tower), (LANGUAGE, runs.llm)):
        for name, value in stored(folder).items():
            assert torch.equal(found[prefix + name], value), name
    trained = stored(export(runs.full, tmp_path / "full", "--dtype", "fp32"))
    name = f"{LANGUAGE}model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(trained[name], found[name])
    assert not torch.equal(trained[f"{PROJECTOR}mlp.0.weight"], found[f"{PROJECTOR}mlp.0.weight"])


@pytest.mark.slow
def test_merged_weights_are_the_bases_plus_the_scaled_product(runs: Runs, tmp_path: Path) -> None:
    found = stored(export(runs.lora, tmp_path / "out", "--dtype", "fp32"))
    checkpoint = open_trained(str(runs.lora)).checkpoint
    assert checkpoint is not None
    base, moved = stored(runs.llm), 0
    for name, before in base.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(found[LANGUAGE + name], before), name
            continue
        layer = f"{LANGUAGE}{name.removesuffix('.weight')}"
        rows, columns = before.shape
        a = checkpoint.parameter(f"{layer}.lora_A.default.weight", torch.Size((4, columns)))
        b = checkpoint.parameter(f"{layer}.lora_B.default.weight", torch.Size((rows, 4)))
        expected = before.double() + 8 / 4 * b.double() @ a.double()
        torch.testing.assert_close(found[LANGUAGE + name].double(), expected, rtol=0, atol=1e-7)
        moved += not torch.equal(found[LANGUAGE + name], before)
    assert moved == 14, "seven linear layers of two decoder layers"
