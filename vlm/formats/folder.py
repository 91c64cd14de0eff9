"""A vision-language model's folder, in our form or the published MobileVLM's.

Ours ('vlm export --format hf', 'vlm import'):

    config.json                  "model_type": "mobilellama_vlm", and the ``Architecture``
    model*.safetensors           weights under our names
    tokenizer files, template.yaml, generation_config.json, preprocessor_config.json, README.md

MobileVLM's ('vlm export --format mobilevlm', and what was published): config.json with
"model_type": "mobilevlm" and Llama's keys beside those of LLaVA, pytorch_model*.bin or
safetensors under the names of key_maps.py. The tower's sizes are in no config there; they are
read off its weights, and published_tower.py says where the rest comes from.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from mobilellama.config import ConfigError, DataError
from mobilellama.files.hub_folder import FindModel, ModelFolder, find_model
from mobilellama.files.pretrained import require_no_code
from mobilellama.pretrain.hf.weight_files import StoredWeights, read_object
from mobilellama.run_record import VLM_TYPES
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.images import AspectRatio
from mobilellama.vlm.data.orientation import Orientation
from mobilellama.vlm.formats.key_maps import (
    is_ignored,
    projector_kind,
    published_name,
    published_projectors,
)
from mobilellama.vlm.formats.preprocessor_config import from_folder
from mobilellama.vlm.formats.published_tower import (
    PublishedTower,
    find_named_tower,
    read_tower,
    tower_names,
)
from mobilellama.vlm.formats.tower_folder import open_tower
from mobilellama.vlm.formats.weights import NamedWeights
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER, parameter_shapes
from mobilellama.vlm.projectors.rules import ORIGINAL, Squeeze, squeeze_of
from mobilellama.vlm.projectors.table import find_projector

OURS, PUBLISHED = VLM_TYPES
TEMPLATE_FILE = "template.yaml"
_FIELDS = ("language", "vision", "projector", "images", "feature_layer", "feature_scale")
_LATER_FIELDS = ("squeeze", "pooling")  # folders from before them are as the defaults
_REMEDY = "Give a folder of 'mobilellama vlm export', or a published MobileVLM folder"
_FIX = "Fix the file, or fetch it again"
# Of the published config.json: what is no fact of the language model.
_LLAVA_KEYS = (
    "mm_",
    "vision_tower_type",
    "tune_mm",
    "freeze_mm",
    "use_mm",
    "image_",
    "vision_config",
)
_ASPECT_RATIOS = ("square", "pad")
# Of a language model's or a tower's config.json, where it has them.
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "num_channels",
    "image_size",
    "patch_size",
)
_NUMBERS = ("rms_norm_eps", "layer_norm_eps", "rope_theta")
_MAY_BE_NULL = ("intermediate_size", "num_key_value_heads", "head_dim")
_LAYER = "mm_vision_select_layer"
Form = Literal["ours", "published"]


@dataclass(frozen=True, kw_only=True)
class VlmFolder:
    """A folder whose weights are checked and not read yet."""

    folder: Path
    form: Form
    architecture: Architecture
    weights: NamedWeights
    config: Mapping[str, object]
    """Its config.json."""
    tower_source: str = ""
    """Of a published folder: where what the tower's weights do not show came from."""
    named_tower: str | None = None
    """Of a published folder without --vision: the tower that was taken of its mm_vision_tower, a
    folder that has weights or NAME@COMMIT of the Hub. None: none was."""


def is_vlm_folder(folder: str | Path) -> bool:
    """Whether a folder is a vision-language model's, of either form."""
    path = Path(folder) / "config.json"
    return path.is_file() and read_object(path).get("model_type") in (OURS, PUBLISHED)


def is_our_folder(folder: str | Path) -> bool:
    """Whether a folder is a vision-language model's in our form, which always has a tower."""
    path = Path(folder) / "config.json"
    return path.is_file() and read_object(path).get("model_type") == OURS


def open_folder(
    folder: str | Path,
    *,
    field: str = "model",
    aspect_ratio: AspectRatio | None = None,
    vision: str | None = None,
    find: FindModel = find_model,
) -> VlmFolder:
    """Open a folder of either form.

    Args:
        folder: where it is.
        field: the config field that named it, for messages.
        aspect_ratio: of images; None takes the folder's own.
        vision: a tower's folder, the field of that name: for a published one that holds no tower,
            or that does not say all of its own, of which then the config alone is taken.
        find: finds the tower on the Hub that a published folder names and does not hold.

    Raises:
        ConfigError: it is none.
        DataError: its weights are damaged, or not those of its config.json.
    """
    folder = Path(folder)
    values, form = _read_config(folder, field)
    weights = StoredWeights(folder, field, _REMEDY)
    if vision is not None and form == "ours":
        rule = f"is given, but {folder} has a tower of its own"
        raise ConfigError("vision", vision, rule, "Leave it out")
    outside = _tower_outside(folder, values, weights, vision, find)
    with outside.errors_by_name() if outside else nullcontext():
        tower = open_tower(outside.path) if outside else None
    found: PublishedTower | None = None
    try:
        if form == "ours":
            later = {name: values[name] for name in _LATER_FIELDS if name in values}
            needed = {name: values[name] for name in _FIELDS}
            architecture = Architecture.from_dict(needed | later)
        else:
            architecture, found = published_architecture(
                folder,
                values,
                weights,
                vision=vision,
                tower=(outside, tower[0]) if outside and tower else None,
                find=find,
            )
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder}/config.json: lacks {error} or has it of another type") from None
    if aspect_ratio is not None:
        architecture = with_images(architecture, aspect_ratio=aspect_ratio)
    shapes = parameter_shapes(architecture)
    named = NamedWeights(
        folder,
        weights,
        shapes,
        stored_name=lambda name: (
            name if form == "ours" else published_name(name, architecture.projector)
        ),
        ignored=is_ignored,
        tied=tied_weights(architecture.language),
        others={TOWER: tower[1]} if tower else None,
    )
    return VlmFolder(
        folder=folder,
        form=form,
        architecture=architecture,
        weights=named,
        config=values,
        tower_source=found.source if found else "",
        named_tower=None if vision is not None or found is None else found.taken_from,
    )


def _read_config(folder: Path, field: str) -> tuple[Mapping[str, object], Form]:
    """Return a folder's config.json and its form; raise ConfigError unless both are right."""
    path = folder / "config.json"
    if not path.is_file():
        rule = "has no config.json" if folder.is_dir() else "is not a folder"
        raise ConfigError(field, str(folder), rule, _REMEDY)
    values = read_object(path)
    kind = values.get("model_type")
    if kind not in (OURS, PUBLISHED):
        require_no_code(folder, field=field)
        rule = f"is a model of type {kind!r}, not {OURS} or {PUBLISHED}"
        raise ConfigError(field, str(folder), rule, _REMEDY)
    _require_sizes(path, values)
    return values, "ours" if kind == OURS else "published"


def _tower_outside(
    folder: Path,
    values: Mapping[str, object],
    weights: StoredWeights,
    vision: str | None,
    find: FindModel,
) -> ModelFolder | None:
    """Return the other folder whose tower is taken. None: the folder holds a tower."""
    if values["model_type"] == OURS or tower_names(weights):
        return None
    if vision is not None:
        return ModelFolder(path=vision, name=vision)
    why = f"{folder} holds no vision tower"
    return find_named_tower(folder, values, find, why=why, weights=True)


def _require_sizes(path: Path, values: Mapping[str, object]) -> None:
    """Raise ConfigError where config.json, of either form, has a size of another type.

    What builds a model of it names neither the file nor what to do.
    """
    parts = {"": values} if values["model_type"] == PUBLISHED else {}
    parts |= {f"{name}.": values.get(name) for name in ("language", "vision") if not parts}
    for prefix, config in parts.items():
        if not isinstance(config, Mapping):
            continue  # whoever builds it says that it is missing
        for name in (*_SIZES, *_NUMBERS):
            value = config.get(name)
            if name not in config or (value is None and name in _MAY_BE_NULL):
                continue
            if name == "intermediate_size" and isinstance(value, list):
                continue  # Gemma 3n has one a layer
            _require_number(f"{path}: {prefix}{name}", value, whole=name in _SIZES)
    _layer(path, values)


def _layer(path: Path, values: Mapping[str, object]) -> int:
    """Return which of the tower's layers is projected."""
    layer = values.get(_LAYER, -2)
    if type(layer) is not int:
        raise ConfigError(f"{path}: {_LAYER}", repr(layer), "must be a whole number", _FIX)
    return layer


def _require_number(field: str, value: object, *, whole: bool) -> None:
    rule = "must be a whole number" if whole else "must be a number"
    # No instance check: true is an int too.
    if type(value) not in ((int,) if whole else (int, float)):
        raise ConfigError(field, repr(value), rule, _FIX)
    if whole and isinstance(value, int) and value < 1:
        raise ConfigError(field, value, f"{rule}, 1 or more", _FIX)


def with_images(
    architecture: Architecture,
    *,
    aspect_ratio: AspectRatio | None = None,
    orientation: Orientation | None = None,
) -> Architecture:
    """Return the architecture with another way of making images square, or of turning them.

    Args:
        architecture: the model's.
        aspect_ratio: how they become square; None: as before.
        orientation: whether they are turned; None: as before.
    """
    images = replace(
        architecture.images,
        aspect_ratio=aspect_ratio or architecture.images.aspect_ratio,
        orientation=orientation or architecture.images.orientation,
    )
    return replace(architecture, images=images)


def tied_weights(language: Mapping[str, object]) -> dict[str, str]:
    """Return the weight that a language model's head shares, by our names, if it shares one."""
    if not language.get("tie_word_embeddings", False):
        return {}
    return {f"{LANGUAGE}lm_head.weight": f"{LANGUAGE}model.embed_tokens.weight"}


def published_architecture(
    folder: Path,
    values: Mapping[str, object],
    weights: StoredWeights,
    *,
    vision: str | None = None,
    tower: tuple[ModelFolder, dict[str, object]] | None = None,
    find: FindModel = find_model,
) -> tuple[Architecture, PublishedTower]:
    """Return the architecture of a published MobileVLM folder, and where its tower's is said.

    Args:
        folder: where it is.
        values: its config.json.
        weights: its weights.
        vision: folder of a tower or of its config; None: none is given.
        tower: folder and config of the tower outside whose weights are taken; None: the one inside.
        find: finds the tower on the Hub that the folder names, if nothing else describes its own.

    Raises:
        ConfigError: its config asks for what MobileVLM does not do.
        DataError: its weights are no MobileVLM's.
    """
    path = folder / "config.json"
    for name, wanted in (("mm_vision_select_feature", "patch"), ("vision_tower_type", "clip")):
        if values.get(name, wanted) != wanted:
            raise ConfigError(f"{path}: {name}", values[name], f"must be {wanted}", _REMEDY)
    for name in ("mm_use_im_start_end", "mm_use_im_patch_token"):
        if values.get(name):
            rule = "must be false: no published MobileVLM has tokens around its images"
            raise ConfigError(f"{path}: {name}", True, rule, _REMEDY)
    aspect_ratio = values.get("image_aspect_ratio") or "square"
    if aspect_ratio not in _ASPECT_RATIOS:
        rule = f"must be {' or '.join(_ASPECT_RATIOS)}"
        raise ConfigError(f"{path}: image_aspect_ratio", aspect_ratio, rule, _REMEDY)
    projector = _projector(path, values.get("mm_projector_type"), weights)
    if _LAYER not in values:
        rule = "must be given: no weight shows which of the tower's layers is projected"
        raise ConfigError(f"{path}: {_LAYER}", "(absent)", rule, "Add it: MobileVLM's is -2")
    if tower is not None:
        found = _of_other_folder(*tower, values, aspect_ratio, is_given=vision is not None)
    else:
        found = read_tower(
            folder, values, weights, vision=vision, aspect_ratio=aspect_ratio, find=find
        )
    architecture = Architecture(
        language=_llama_config(values),
        vision=found.config,
        projector=projector,
        squeeze=_squeeze(values, weights, projector),
        pooling=ORIGINAL.pooling,
        feature_layer=_layer(path, values),
        images=replace(found.images, transparency="ignored"),  # the original's convert("RGB")
    )
    return architecture, found


def _of_other_folder(
    place: ModelFolder,
    config: dict[str, object],
    values: Mapping[str, object],
    aspect_ratio: AspectRatio,
    *,
    is_given: bool,
) -> PublishedTower:
    """Return the tower of another folder: that of --vision, or the one that config.json names."""
    named = f"mm_vision_tower = {values.get('mm_vision_tower')}"
    named += f", on the Hub {place.name}" if place.is_from_hub else ""
    return PublishedTower(
        config=config,
        images=from_folder(place.path, aspect_ratio),
        source=f"vision = {place.name}" if is_given else named,
        taken_from=place.name,
    )


def _projector(path: Path, stated: object, weights: StoredWeights) -> str:
    """Return the kind of the projector whose weights are there, which the config must not deny."""
    try:
        kind = projector_kind(weights.names(), str(path.parent))
    except DataError:
        if isinstance(stated, str) and stated in published_projectors():
            return stated  # so that what is missing or unexpected gets listed
        raise
    if stated not in (None, kind):
        rule = f"must be {kind}: the projector's weights are of that kind"
        raise ConfigError(f"{path}: mm_projector_type", str(stated), rule, _REMEDY)
    return kind


def _squeeze(values: Mapping[str, object], weights: StoredWeights, projector: str) -> Squeeze:
    """Return the form of LDP's squeeze, which its weights show."""
    if find_projector(projector).rule != "squeeze":
        return ORIGINAL.squeeze
    name = published_name(f"{PROJECTOR}blocks.0.squeeze.reduce.bias", projector)
    if name not in weights.names():
        return ORIGINAL.squeeze  # so that what is missing gets listed
    width = cast(int, values["hidden_size"])  # checked when the folder was opened
    return squeeze_of(width, weights.shape(name).numel())


def _llama_config(values: Mapping[str, object]) -> dict[str, object]:
    """Return the language model's part of a published config.json."""
    kept = {name: value for name, value in values.items() if not name.startswith(_LLAVA_KEYS)}
    kept.pop("_name_or_path", None)
    return {**kept, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
