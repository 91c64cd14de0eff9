"""A tower's folder: its config and weights under our names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mobilellama.config import ConfigError, DataError
from mobilellama.vlm.formats.tower_folder import open_tower
from mobilellama.vlm.model import TOWER
from tests.vlm.helpers.tiny_vlm import VISION, make_tower


def test_every_weight_has_our_name_and_its_value_in_either_spelling(tmp_path: Path) -> None:
    folder = make_tower(tmp_path / "tower")
    path = folder / "model.safetensors"
    stored = {name.removeprefix("vision_model."): v for name, v in load_file(path).items()}
    for prefix in ("", "vision_model."):
        given = {prefix + name: value for name, value in stored.items()}
        save_file(given | {"logit_scale": torch.ones(1)}, path, metadata={"format": "pt"})
        config, weights = open_tower(str(folder))
        assert {name: config[name] for name in VISION} == VISION
        assert all(name.startswith(TOWER) for name in weights.names())
        for name in weights.names():
            assert torch.equal(weights.stored(name), stored[name.removeprefix(TOWER)])


def test_what_is_no_tower_and_weights_that_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^vision = .*nowhere: is not a folder\. Give the folder"
    ):
        open_tower(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"^init = .*: has no config\.json"):
        open_tower(str(tmp_path), field="init")
    folder = make_tower(tmp_path / "tower")
    path = folder / "model.safetensors"
    stored = load_file(path)
    stored.pop(next(iter(stored)))
    save_file(stored, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match="1 "):
        open_tower(str(folder))
    assert json.loads((folder / "config.json").read_text())
