"""The fields of 'vlm import'; they are read without torch."""

from dataclasses import dataclass

from mobilellama.config import ConfigError, require_at_least

ORIGINALS_TEMPLATE = "vicuna_v1"
"""The chat template that the original code asks with (its "v1")."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'vlm import'."""

    model: str
    """The published folder (config.json, pytorch_model*.bin or safetensors, tokenizer.model), or
    its name on the Hub: OWNER/NAME or OWNER/NAME@REVISION."""
    output: str | None = None
    """The folder to write. It must be missing or empty."""
    dry_run: bool = False
    """Print only the report, and write nothing."""
    vision: str | None = None
    """Folder of the vision tower, or its name on the Hub, for a published folder without a tower.
    If that folder has the tower's weights, only the config is read: heads, activation, epsilon,
    mean and deviation. null: they come from the published folder, from the folder in its
    mm_vision_tower, from the towers known here, or from the model on the Hub that mm_vision_tower
    names; the tower itself from that folder or that model."""
    template: str = ORIGINALS_TEMPLATE
    """The name or the YAML file of the chat template."""
    tokenizer_as_is: bool = False
    """Use the ids of the folder's tokenizer.json even if they differ from those of its
    sentencepiece model. false: correct or refuse such a folder (docs/finetuning.md)."""
    max_shard_size_gb: float = 5.0
    """Largest weight file, in 1e9 bytes. A larger parameter gets its own file."""
    name: str | None = None
    """The title of the model card. None: the folder's name."""
    license: str | None = None
    """The Hub's name of the weights' licence, for the model card (MobileVLM has apache-2.0). null:
    the card names no licence."""

    def __post_init__(self) -> None:
        require_at_least("max_shard_size_gb", self.max_shard_size_gb, 1e-6)
        if self.output is None and not self.dry_run:
            rule, remedy = "must be given", "Give --output FOLDER, or --dry_run true"
            raise ConfigError("output", "null", rule, remedy)
