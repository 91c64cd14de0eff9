"""The fields of 'vlm export'; they are read without torch."""

from dataclasses import dataclass
from typing import Literal

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.export_config import ExportConfig
from mobilellama.pretrain.hf.hub import require_repo_id


@dataclass(frozen=True, kw_only=True)
class Config(ExportConfig):
    """Fields of 'vlm export'."""

    checkpoint: str
    """A run's folder, for its newest checkpoint, the folder of one checkpoint, or a folder that
    'vlm export' or 'vlm import' wrote in our form."""
    format: Literal["hf", "mobilevlm", "projector"] = "hf"
    """hf: our format, for all commands of mobilellama. mobilevlm: the published format. projector:
    only mm_projector.bin."""
    check: bool | None = None
    """Read the folder again and compare every weight. For a LoRA run, also compare the merged model
    with base plus adapter. null: only below 1e9 parameters, because this needs an fp32 model."""
    template: str | None = None
    """The chat template's name or file. None: the run's or folder's own."""
    safetensors: bool = False
    """With --format mobilevlm: write safetensors, not .bin, which is a pickle. The original code
    reads both. Converters of its time read only .bin."""
    vision_tower: str | None = None
    """With --format mobilevlm: the name by which the original code finds the tower's config and
    image processor. null: openai/clip-vit-large-patch14-336, if the tower has its sizes, or the
    name that the folder was imported with."""
    base: str | None = None
    """The Hub's name of the language model, USER/NAME, for the card. None: the card omits it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base is not None:
            require_repo_id("base", self.base)
        if self.push is not None and self.format != "hf":
            rule = f"needs --format hf, but --format is {self.format}"
            remedy = "Leave it out, and push the folder with 'hf upload USER/NAME FOLDER'"
            raise ConfigError("push", self.push, rule, remedy)
        if self.format != "mobilevlm":
            for name in ("safetensors", "vision_tower"):
                if value := getattr(self, name):
                    rule = f"has no effect with --format {self.format}"
                    raise ConfigError(name, value, rule, "Leave it out, or give mobilevlm")
