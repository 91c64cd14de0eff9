"""The fields of 'sft export'; they are read without torch."""

from dataclasses import dataclass

from mobilellama.pretrain.hf.export_config import ExportConfig


@dataclass(frozen=True, kw_only=True)
class Config(ExportConfig):
    """Fields of 'sft export'; an adapter is written in fp32, as it was trained, whatever dtype."""

    template: str | None = None
    """The chat template's name or file. None: the run's own copy."""
    base: str | None = None
    """Folder or Hub name of the base model, for an adapter's config and the card. None: the
    model that the run began from, if that is a Hugging Face folder or on the Hub."""
