"""The vision tower of a published folder: its sizes off its weights, all else off a config.

Weights do not show the number of heads, the activation, the norms' epsilon, or the mean and
deviation of images. They come from the first of these that is there, and never from a guess:

1. the folder itself: config.json's vision_config, preprocessor_config.json
2. the folder that config.json's mm_vision_tower names: an absolute path, or relative to the
   folder, or to the directory of the process, where the original code looks
3. the folder that --vision names, for its config alone
4. the towers of known_towers.py, where mm_vision_tower's name and the weights' sizes are both one's
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import cast

from mobilellama.config import ConfigError, DataError, one_line
from mobilellama.pretrain.hf.weight_files import StoredWeights, read_object
from mobilellama.vlm.data.images import PREPROCESSOR_FILE, AspectRatio, ImageProcessor
from mobilellama.vlm.formats.key_maps import PUBLISHED_TOWER
from mobilellama.vlm.formats.known_towers import KnownTower, find_known
from mobilellama.vlm.formats.preprocessor_config import (
    from_folder,
    has_processor,
    processor_of_class,
)
from mobilellama.vlm.towers import tower_config

_CLIP, _SIGLIP = "clip_vision_model", "siglip_vision_model"
_UNSHOWN = ("num_attention_heads", "hidden_act", "layer_norm_eps")
_REMEDY = "Give the config of the tower whose weights these are"


@dataclass(frozen=True, kw_only=True)
class PublishedTower:
    """A tower's config and image processor, and where what weights do not show came from."""

    config: dict[str, object]
    images: ImageProcessor
    source: str
    """For the console."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A config of the tower."""

    name: str
    """For messages."""
    config: Mapping[str, object]
    folder: Path | None = None
    """Where its image processor is; None where it has none."""
    known: KnownTower | None = None
    is_given: bool = False
    """Whether it is what --vision names."""


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What the weights show of the config."""

    facts: Mapping[str, object]
    """By the config's names, without the size of images."""
    width: int
    image_sizes: range
    """Pixels: patches that do not fill the image leave its last ones out, as SigLIP's 27 x 14 of
    384."""

    def all(self) -> dict[str, object]:
        """Return the facts and what sizes of images there may be."""
        return {**self.facts, "image_size": self.image_sizes}


def tower_names(weights: StoredWeights) -> list[str]:
    """Return the stored names of a published folder's tower; none where it lies elsewhere."""
    return [name for name in weights.names() if name.startswith(PUBLISHED_TOWER)]


def read_tower(
    folder: Path,
    values: Mapping[str, object],
    weights: StoredWeights,
    *,
    vision: str | None,
    aspect_ratio: AspectRatio,
) -> PublishedTower:
    """Return the config of the tower whose weights are in a published folder.

    Args:
        folder: where it is.
        values: its config.json.
        weights: its weights.
        vision: another folder with the tower's config; None: none is given.
        aspect_ratio: how images become square.

    Raises:
        ConfigError: no source says what weights do not show, or one contradicts the weights or
            --vision.
        DataError: the tower is not whole.
    """
    shown = _shown_by(folder, weights)
    sources = [*_sources(folder, values, shown, vision)]
    if not sources:
        raise _nothing_says(folder, values)
    configs = [_checked(source, shown, folder) for source in sources]
    given = next((i for i, its in enumerate(sources) if its.is_given), 0)
    for name in _UNSHOWN:
        if configs[given][name] != configs[0][name]:
            rule = f"says {name} {configs[given][name]}, but {sources[0].name} says"
            remedy = "Leave it out, or fix the one that is wrong"
            raise ConfigError("vision", str(vision), f"{rule} {configs[0][name]}", remedy)
    images, said = _images(folder, sources, configs[0], aspect_ratio)
    return PublishedTower(config=configs[0], images=images, source=f"{sources[0].name}{said}")


def _shown_by(folder: Path, weights: StoredWeights) -> _Shown:
    """Return what the weights show of the config."""
    names = tower_names(weights)
    is_clip = f"{PUBLISHED_TOWER}embeddings.class_embedding" in names
    try:
        patches = weights.shape(f"{PUBLISHED_TOWER}embeddings.patch_embedding.weight")
        width, channels, patch, _ = patches
        places, _ = weights.shape(f"{PUBLISHED_TOWER}embeddings.position_embedding.weight")
        hidden, _ = weights.shape(f"{PUBLISHED_TOWER}encoder.layers.0.mlp.fc1.weight")
    except (KeyError, ValueError):
        raise DataError(
            f"{folder}: holds no whole CLIP tower ({len(names)} weights below {PUBLISHED_TOWER})"
        ) from None
    inside = (name.removeprefix(PUBLISHED_TOWER).split(".") for name in names)
    layers = [int(parts[2]) for parts in inside if parts[:2] == ["encoder", "layers"]]
    side = isqrt(places - 1 if is_clip else places)
    facts = {
        "model_type": _CLIP if is_clip else _SIGLIP,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": max(layers) + 1,
        "num_channels": channels,
        "patch_size": patch,
    }
    return _Shown(facts=facts, width=width, image_sizes=range(side * patch, (side + 1) * patch))


def _sources(
    folder: Path, values: Mapping[str, object], shown: _Shown, vision: str | None
) -> Iterator[_Source]:
    """Yield the configs of the tower that are there, in their order."""
    own = values.get("vision_config")
    if isinstance(own, Mapping):
        config = {"model_type": shown.facts["model_type"], **own}
        yield _Source(name=f"{folder / 'config.json'}: vision_config", config=tower_config(config))
    named = values.get("mm_vision_tower")
    if isinstance(named, str) and named:
        for place in (folder / named, Path(named)):  # an absolute path stays
            if (place / "config.json").is_file():
                yield _of_folder(place, f"mm_vision_tower = {named}")
                break
    if vision is not None:
        if not (Path(vision) / "config.json").is_file():
            rule = "has no config.json" if Path(vision).is_dir() else "is not a folder"
            raise ConfigError("vision", vision, rule, "Give the folder of the tower")
        yield replace(_of_folder(Path(vision), f"vision = {vision}"), is_given=True)
    known = find_known(named if isinstance(named, str) else None, shown.facts)
    if known is not None and known.config["image_size"] in [*shown.image_sizes]:
        name = f"the known tower {known.name}"
        yield _Source(name=name, config=known.config, known=known)


def _of_folder(folder: Path, name: str) -> _Source:
    config = tower_config(read_object(folder / "config.json"))
    return _Source(name=name, config=config, folder=folder)


def tower_facts(config: Mapping[str, object]) -> dict[str, object]:
    """Return all of a tower's config that decides what it computes.

    What config.json leaves out is as transformers' class has it: it writes differences alone.
    """
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    kind = config["model_type"]
    made = (CLIPVisionConfig if kind == _CLIP else SiglipVisionConfig).from_dict(dict(config))
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("num_channels", "image_size", "patch_size", "hidden_act", "layer_norm_eps")
    facts = {name: getattr(made, name) for name in (*names, *more)}
    projection = {"projection_dim": made.projection_dim} if kind == _CLIP else {}
    return {"model_type": kind, **facts, **projection}


def _checked(source: _Source, shown: _Shown, folder: Path) -> dict[str, object]:
    """Return a source's config whole; refuse one that the weights contradict."""
    for name, value in shown.all().items():
        found = source.config.get(name, value)
        fits = found in value if isinstance(value, range) else found == value
        if found is not value and not fits:
            show = value[0] if isinstance(value, range) else value
            rule = f"must be {show}, which the weights of {folder} show"
            raise ConfigError(f"{source.name}: {name}", repr(found), rule, _REMEDY)
    image_size = source.config.get("image_size", shown.image_sizes[0])
    sizes = {**shown.facts, "image_size": image_size}
    _require_computable(source, shown.width)
    try:
        return tower_facts({**source.config, **sizes})
    except Exception as error:  # transformers' own checks of any field raise what they like
        shown_config = f"of {len(source.config)} fields"
        rule = f"is not a config of such a tower ({one_line(error)})"
        raise ConfigError(source.name, shown_config, rule, _REMEDY) from None


def _require_computable(source: _Source, width: int) -> None:
    """Raise ConfigError, which names the field, where transformers would raise something else."""
    from transformers.activations import ACT2FN

    defaults = {"num_attention_heads": 12, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
    facts = defaults | dict(source.config)  # the classes' own, where they decide here
    heads, eps = facts["num_attention_heads"], facts["layer_norm_eps"]
    if type(heads) is not int or heads < 1 or width % heads:
        rule = f"must be a whole number that divides the width, {width}"
        raise ConfigError(f"{source.name}: num_attention_heads", repr(heads), rule, _REMEDY)
    if type(eps) is not float or not 0 < eps < 1:
        rule = "must be a number between 0 and 1"
        raise ConfigError(f"{source.name}: layer_norm_eps", repr(eps), rule, _REMEDY)
    if not isinstance(facts["hidden_act"], str) or facts["hidden_act"] not in ACT2FN:
        rule = "is not an activation that transformers knows"
        raise ConfigError(f"{source.name}: hidden_act", repr(facts["hidden_act"]), rule, _REMEDY)


def _images(
    folder: Path, sources: list[_Source], config: Mapping[str, object], aspect_ratio: AspectRatio
) -> tuple[ImageProcessor, str]:
    """Return the image processor, and what is to be said of where it comes from."""
    size_pixels = cast(int, config["image_size"])  # checked against the weights
    if has_processor(folder):
        return from_folder(folder, aspect_ratio), f"; images as its {PREPROCESSOR_FILE} says"
    for source in sources:
        if source.folder is not None and has_processor(source.folder):
            return from_folder(source.folder, aspect_ratio), f"; images as {source.folder} says"
        if (known := source.known) is not None:
            images = ImageProcessor(
                size_pixels=size_pixels,
                mean=known.mean,
                std=known.std,
                aspect_ratio=aspect_ratio,
            )
            return images, ""
    images = processor_of_class(str(config["model_type"]), size_pixels, aspect_ratio)
    said = f"no {PREPROCESSOR_FILE}: transformers' mean and deviation for such"
    return images, f"; {said} a tower"


def _nothing_says(folder: Path, values: Mapping[str, object]) -> ConfigError:
    rule = (
        f"is not given, and nothing says which heads, activation and epsilon the tower in {folder} "
        f"has: its config.json's mm_vision_tower, {values.get('mm_vision_tower')!r}, is neither a "
        "folder here nor a known tower of these sizes"
    )
    return ConfigError("vision", "null", rule, "Give the folder of that tower: --vision FOLDER")
