"""Which vision-language model answers, and where it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_type_hints

from mobilellama.config import ConfigError, did_you_mean
from mobilellama.files.hub_folder import may_be_on_hub
from mobilellama.pretrain.hf.device import Placement
from mobilellama.vlm.data.orientation import Orientation


@dataclass(frozen=True, kw_only=True)
class AssistantChoice(Placement):
    """Which model, and where it runs."""

    model: str
    """A folder that 'vlm export' or 'vlm import' wrote, a published MobileVLM folder, a name on the
    Hub (OWNER/NAME or OWNER/NAME@REVISION), the folder of a 'vlm run', for its newest checkpoint,
    or the folder of one checkpoint."""
    template: str | None = None
    """A chat template's name or YAML file. None: the model's own; for a published one vicuna_v1."""
    tokenizer_as_is: bool = False
    """Use the ids of the folder's tokenizer.json even if they differ from those of its
    sentencepiece model. false: correct or refuse such a folder (docs/finetuning.md)."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Quantize the language model's linear layers, except its head, with bitsandbytes. The tower
    and the projector are not quantized."""

    orientation: Orientation | None = None
    """as_shown: turn photographs by their EXIF orientation. as_stored: do not turn them. null: as
    in the model's training. A published MobileVLM was trained on images as_stored."""

    def __post_init__(self) -> None:
        from mobilellama.files.pretrained import require_no_code
        from mobilellama.pretrain.state.manifest import MANIFEST
        from mobilellama.vlm.formats.folder import is_vlm_folder

        # A call from Python has not been through the command line, which checks them.
        hints = get_type_hints(AssistantChoice)
        allowed = {name: get_args(hints[name]) for name in ("dtype", "quantization")}
        for field, choices in (allowed | {"orientation": get_args(Orientation)}).items():
            value = getattr(self, field)
            if value not in choices and not (field == "orientation" and value is None):
                rule = f"must be one of {', '.join(choices)}"
                remedy = f"Give one of them{did_you_mean(str(value), choices)}"
                raise ConfigError(field, value, rule, remedy)
        if may_be_on_hub(self.model):
            return  # its folder is looked at when it is downloaded
        folder = Path(self.model)
        is_run = (folder / "checkpoints").is_dir() or (folder / MANIFEST).is_file()
        if not is_run and not is_vlm_folder(folder):
            require_no_code(folder, field="model")
            rule = "is not a folder"
            if folder.is_dir():
                rule = "is neither a vision-language model's folder nor a run"
            remedy = (
                "Give a folder that 'vlm export' wrote, a published MobileVLM, a name on the Hub, "
                "or a run"
            )
            raise ConfigError("model", self.model, rule, remedy)
