"""The vision tower of a published folder: its sizes off its weights, all else off a config.

Weights do not show the number of heads, the activation, the norms' epsilon, or the mean and
deviation of images. They come from the first of these that is there, and never from a guess:

1. the folder itself: config.json's vision_config, preprocessor_config.json
2. the folder that config.json's mm_vision_tower names: an absolute path, or relative to the
   folder, or to the directory of the process, where the original code looks
3. the folder that --vision names, for its config alone
4. the towers of known_towers.py, where mm_vision_tower's name and the weights' sizes are both one's
5. the model of the Hub that mm_vision_tower names, without --vision: its small files alone

A folder may also hold no tower at all. Then that of --vision is taken, else that which
mm_vision_tower names, on this machine or on the Hub (``find_named_tower``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import cast

from mobilellama.config import ConfigError, DataError, one_line
from mobilellama.files.hub_folder import FindModel, ModelFolder
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
_NAMED = "mm_vision_tower"
_GIVE = "Give the folder of that tower: --vision FOLDER"
_REMEDY = "Give the config of the tower whose weights these are"


@dataclass(frozen=True, kw_only=True)
class PublishedTower:
    """A tower's config and image processor, and where what weights do not show came from."""

    config: dict[str, object]
    images: ImageProcessor
    source: str
    """For the console."""
    taken_from: str | None = None
    """The folder whose weights are taken, or NAME@COMMIT of the Hub. None: neither."""


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
    hub_name: str | None = None
    """NAME@COMMIT, if it is of the Hub."""


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
    find: FindModel,
) -> PublishedTower:
    """Return the config of the tower whose weights are in a published folder.

    Args:
        folder: where it is.
        values: its config.json.
        weights: its weights.
        vision: another folder with the tower's config; None: none is given.
        aspect_ratio: how images become square.
        find: finds the model of the Hub that config.json names, if nothing else says what it is.

    Raises:
        ConfigError: no source says what weights do not show, or one contradicts the weights or
            --vision.
        DataError: the tower is not whole.
    """
    shown = _shown_by(folder, weights)
    sources = [*_sources(folder, values, shown, vision)]
    if not sources:
        why = f"nothing says which heads, activation and epsilon the tower in {folder} has"
        found = find_named_tower(folder, values, find, why=why, weights=False)
        with found.errors_by_name():
            return _described(folder, [_of_hub(found, values)], shown, vision, aspect_ratio)
    return _described(folder, sources, shown, vision, aspect_ratio)


def _described(
    folder: Path,
    sources: list[_Source],
    shown: _Shown,
    vision: str | None,
    aspect_ratio: AspectRatio,
) -> PublishedTower:
    """Return the tower as its sources describe it, which must agree."""
    configs = [_checked(source, shown, folder) for source in sources]
    given = next((i for i, its in enumerate(sources) if its.is_given), 0)
    for name in _UNSHOWN:
        if configs[given][name] != configs[0][name]:
            rule = f"says {name} {configs[given][name]}, but {sources[0].name} says"
            remedy = "Leave it out, or fix the one that is wrong"
            raise ConfigError("vision", str(vision), f"{rule} {configs[0][name]}", remedy)
    images, said = _images(folder, sources, configs[0], aspect_ratio)
    return PublishedTower(
        config=configs[0],
        images=images,
        source=f"{sources[0].name}{said}",
        taken_from=sources[0].hub_name,
    )


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
    named = values.get(_NAMED)
    if isinstance(named, str) and named:
        if (place := _named_folder(folder, named)) is not None:
            yield _of_folder(place, f"mm_vision_tower = {named}")
    if vision is not None:
        if not (Path(vision) / "config.json").is_file():
            rule = "has no config.json" if Path(vision).is_dir() else "is not a folder"
            raise ConfigError("vision", vision, rule, "Give the folder of the tower")
        yield replace(_of_folder(Path(vision), f"vision = {vision}"), is_given=True)
    known = find_known(named if isinstance(named, str) else None, shown.facts)
    if known is not None and known.config["image_size"] in [*shown.image_sizes]:
        name = f"the known tower {known.name}"
        yield _Source(name=name, config=known.config, known=known)


def _named_folder(folder: Path, named: str) -> Path | None:
    """Return the folder of this machine that mm_vision_tower names; None: there is none."""
    places = (folder / named, Path(named))  # an absolute path stays
    return next((place for place in places if (place / "config.json").is_file()), None)


def named_tower(folder: str | Path) -> str | None:
    """Return a published folder's mm_vision_tower. None: it has none, or its config is damaged."""
    try:
        named = read_object(Path(folder) / "config.json").get(_NAMED)
    except (OSError, DataError):
        return None
    return named if isinstance(named, str) and named else None


def find_named_tower(
    folder: Path, values: Mapping[str, object], find: FindModel, *, why: str, weights: bool
) -> ModelFolder:
    """Return the tower that mm_vision_tower names, on this machine or on the Hub.

    Args:
        folder: a published folder.
        values: its config.json.
        find: finds a model of the Hub.
        why: the reason for which it is needed, for errors.
        weights: whether its weights are.

    Raises:
        ConfigError: there is none.
    """
    named = values.get(_NAMED)
    if isinstance(named, str) and named:
        if (place := _named_folder(folder, named)) is not None:
            return ModelFolder(path=str(place), name=str(place))
        try:
            found = find(named, field=_NAMED, weights=weights)
        except ConfigError as error:
            rule = f"is not given, and {why}: its {_NAMED} = {named} {error.args[2]}"
            raise type(error)("vision", "null", rule, _GIVE) from None
        if (Path(found.path) / "config.json").is_file():
            return found
    rule = (
        f"is not given, and {why}: its config.json's {_NAMED}, {named!r}, is neither a folder with "
        "a tower here nor one on the Hub"
    )
    raise ConfigError("vision", "null", rule, _GIVE)


def _of_hub(found: ModelFolder, values: Mapping[str, object]) -> _Source:
    name = f"{_NAMED} = {values[_NAMED]}, on the Hub {found.name}"
    return replace(_of_folder(Path(found.path), name), hub_name=found.name)


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
            said = source.hub_name or source.folder
            return from_folder(source.folder, aspect_ratio), f"; images as {said} says"
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
