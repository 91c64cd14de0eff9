"""Which chat model answers, of a folder or of a run, and where it runs."""

from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError
from mobilellama.files.hub_folder import may_be_on_hub
from mobilellama.pretrain.generation.loading import HfChoice
from mobilellama.run_record import require_language_model

_REMEDY = (
    "Give a folder of AutoModelForCausalLM and AutoTokenizer, as 'sft export' writes, a name on "
    "the Hub, or a run of 'sft run'"
)


@dataclass(frozen=True, kw_only=True)
class ModelChoice(HfChoice):
    """Which model, and where it runs."""

    model: str
    """A Hugging Face chat folder, such as 'sft export' writes, a name on the Hub (OWNER/NAME or
    OWNER/NAME@REVISION), the folder of an 'sft run', for its newest checkpoint, or the folder of
    one checkpoint."""
    template: str | None = None
    """A chat template's name or YAML file; None: the one in the folder or the run."""
    tokenizer_as_is: bool = False
    """Use the ids of the folder's tokenizer.json even if they differ from those of its
    sentencepiece model. false: correct or refuse such a folder (docs/finetuning.md)."""

    @property
    def is_run(self) -> bool:
        """Whether it is a run's folder or a checkpoint's, and no Hugging Face folder."""
        folder = Path(self.model)
        has_steps = (folder / "checkpoints").is_dir() or (folder / "manifest.json").is_file()
        return has_steps and not (folder / "config.json").is_file()

    def __post_init__(self) -> None:
        if may_be_on_hub(self.model) or self.is_run:
            return  # it is looked at when it is downloaded or opened
        folder = Path(self.model)
        if (folder / "adapter_config.json").is_file():
            remedy = "Make a whole model of it with 'mobilellama sft merge'"
            raise ConfigError("model", self.model, "is an adapter without its base", remedy)
        if not (folder / "config.json").is_file():
            rule = "has no config.json" if folder.is_dir() else "is not a folder"
            raise ConfigError("model", self.model, rule, _REMEDY)
        remedy = "Ask it with 'mobilellama vlm chat' or 'vlm generate'"
        require_language_model(folder, field="model", remedy=remedy)
