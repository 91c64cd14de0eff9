"""A folder with a vision tower's weights: CLIP's or SigLIP's, alone or in a whole model."""

from pathlib import Path

import torch

from mobilellama.config import ConfigError
from mobilellama.files.pretrained import require_no_code
from mobilellama.pretrain.hf.weight_files import StoredWeights, read_object
from mobilellama.vlm.formats.weights import NamedWeights
from mobilellama.vlm.model import TOWER
from mobilellama.vlm.towers import build_tower, tower_config

# What a whole model, or an older version's file, holds beside the tower.
_OTHERS = (
    "position_ids", "logit_scale", "logit_bias", "text_projection.weight",
    "visual_projection.weight",
)  # fmt: skip
_SIZES = ("hidden_size", "num_hidden_layers", "image_size", "patch_size")


def open_tower(folder: str, *, field: str = "vision") -> tuple[dict[str, object], NamedWeights]:
    """Return a tower's config and its weights under our names, not read yet.

    Args:
        folder: holds config.json and weights, of transformers 4 or 5.
        field: the config field that named it, for messages.

    Raises:
        ConfigError: it is no tower's folder.
        DataError: its weights are damaged, or not those of its config.json.
    """
    path = Path(folder) / "config.json"
    remedy = "Give the folder of CLIP ViT-L/14-336, or another CLIP or SigLIP tower's"
    if not path.is_file():
        rule = "has no config.json" if Path(folder).is_dir() else "is not a folder"
        raise ConfigError(field, folder, rule, remedy)
    config = tower_config(read_object(path))
    require_no_code(folder, field=field)
    with torch.device("meta"):
        tower = build_tower(config)
    # A whole model's config leaves out what is as the class has it.
    config = {name: getattr(tower.config, name) for name in _SIZES} | config
    stored = StoredWeights(Path(folder), field, remedy)
    # Files of transformers 4, and of whole models, have one more part in their names.
    prefix = "vision_model." if any(n.startswith("vision_model.") for n in stored.names()) else ""
    weights = NamedWeights(
        Path(folder),
        stored,
        {TOWER + name: value.shape for name, value in tower.named_parameters()},
        stored_name=lambda name: prefix + name.removeprefix(TOWER),
        ignored=lambda name: name.startswith("text_model.") or name.endswith(_OTHERS),
    )
    return config, weights
