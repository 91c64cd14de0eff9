"""What a vision-language model is made of: a tower, a projector and a language model.

A family (MobileVLM, its second version, Imp, MGM) is one ``Architecture`` and one template;
nothing else tells them apart.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from mobilellama.config import ConfigError
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.projectors.projector import Projector
from mobilellama.vlm.projectors.rules import Pooling, ProjectorRules, Rule, Squeeze, grid_side
from mobilellama.vlm.projectors.table import find_projector, image_tokens


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The architecture. Every field is part of a run's identity."""

    language: dict[str, object]
    """config.json of the language model, any that AutoModelForCausalLM builds."""
    vision: dict[str, object]
    """config.json of the vision tower: CLIPVisionModel or SiglipVisionModel."""
    projector: str
    """Its name in the table of projectors."""
    squeeze: Squeeze = "quarter"
    """Of ldpnet: how its squeeze is rounded. Models from before this field have quarter."""
    pooling: Pooling = "2x2"
    """Of ldpnetv2: how patches become tokens. Models from before this field have 2x2."""
    images: ImageProcessor
    """How images are made ready for the tower."""
    feature_layer: int = -2
    """Which of the tower's hidden states is projected; -2 is the output of its last layer but
    one."""
    feature_scale: float = 1.0
    """What projected features are multiplied by before they stand among embeddings: the square root
    of the width where a Gemma was trained by code that scaled both (MGM-2B)."""

    def __post_init__(self) -> None:
        for name, config in (("language", self.language), ("vision", self.vision)):
            if "model_type" not in config:
                rule, remedy = "has no model_type", "Give transformers' config.json"
                raise ConfigError(f"model.{name}", sorted(config), rule, remedy)
        layers = _whole_number("vision", self.vision, "num_hidden_layers")
        if not -layers - 1 <= self.feature_layer <= -1:
            rule = f"must be between {-layers - 1} and -1, of a tower of {layers} layers"
            raise ConfigError("model.feature_layer", self.feature_layer, rule, "-2 is usual")
        if self.images.size_pixels != self.image_pixels:
            rule = f"must be that of the tower's images, {self.image_pixels}"
            remedy = "Give the tower's own preprocessor_config.json"
            raise ConfigError("images.size_pixels", self.images.size_pixels, rule, remedy)
        for name, choices in (("squeeze", Squeeze), ("pooling", Pooling)):
            if (value := getattr(self, name)) not in get_args(choices):
                rule = f"must be {' or '.join(get_args(choices))}"
                raise ConfigError(f"model.{name}", value, rule, "Give one of them")
        image_tokens(self.projector, self.patches, self.rules)  # refuses what it cannot take

    @property
    def projector_class(self) -> type[Projector]:
        """The class of its projector."""
        return find_projector(self.projector)

    @property
    def differs_from_original(self) -> Rule | None:
        """The rule by which its projector computes something else than MobileVLM's, if one does."""
        its, side = self.projector_class, grid_side(self.patches)
        differs = its.differs_from_original(self.rules, side=side, width=self.width)
        return its.rule if differs else None

    @property
    def patches(self) -> int:
        """Patches of an image, the class token not counted."""
        return (self.image_pixels // _whole_number("vision", self.vision, "patch_size")) ** 2

    @property
    def image_tokens(self) -> int:
        """Tokens that the language model sees of an image."""
        return image_tokens(self.projector, self.patches, self.rules)

    @property
    def rules(self) -> ProjectorRules:
        """What the projector's kind leaves open."""
        return ProjectorRules(squeeze=self.squeeze, pooling=self.pooling)

    @property
    def image_pixels(self) -> int:
        """Width and height of the images that the tower takes."""
        return _whole_number("vision", self.vision, "image_size")

    @property
    def vision_width(self) -> int:
        """Width of the tower."""
        return _whole_number("vision", self.vision, "hidden_size")

    @property
    def width(self) -> int:
        """Width of the language model."""
        return _whole_number("language", self.language, "hidden_size")

    @property
    def max_seq_len(self) -> int:
        """Tokens that the language model was made for."""
        if not self.language.get("max_position_embeddings"):
            return 2048
        return _whole_number("language", self.language, "max_position_embeddings")

    @property
    def vocab_size(self) -> int:
        """Embeddings of the language model."""
        return _whole_number("language", self.language, "vocab_size")

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON gives them back, so that a resume finds them unchanged."""
        values = asdict(self)
        for name in ("mean", "std"):
            values["images"][name] = list(values["images"][name])
        return values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Architecture":
        """Return what ``to_dict`` was made of."""
        images = dict(values["images"])
        for name in ("mean", "std"):
            images[name] = tuple(images[name])
        return Architecture(**{**values, "images": ImageProcessor(**images)})


def _whole_number(part: str, config: Mapping[str, object], name: str) -> int:
    value = config[name]
    if not isinstance(value, int):
        rule, remedy = "must be a whole number", "Give transformers' config.json"
        raise ConfigError(f"model.{part}: {name}", repr(value), rule, remedy)
    return value
