"""A vision-language model to write out: a run's checkpoint, or a folder in our form."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import torch

from mobilellama.config import ConfigError
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.hf.export_folder import find_checkpoint, find_tokenizer, run_of
from mobilellama.pretrain.hf.weights import narrowest_dtype
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.pretrain.state.stored_fields import StoredConfig
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import RunRecord
from mobilellama.sft.data.template import Template, read_template
from mobilellama.sft.lora import inject, merged
from mobilellama.sft.lora_config import LoraConfig, lora_of
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.formats.folder import TEMPLATE_FILE, is_vlm_folder, open_folder
from mobilellama.vlm.model import LANGUAGE, parameter_shapes

_REMEDY = (
    "Give RUN or RUN/checkpoints/step-N of 'vlm run', or a folder of 'vlm export' or 'vlm import'"
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model, its weights not read yet."""

    path: Path
    """The checkpoint, or the folder."""
    architecture: Architecture
    tokenizer: TextTokenizer
    template: Template
    weights: WeightSource
    """All weights by plain names; of a run in fp32, with the adapter added if there is one."""
    checkpoint: Checkpoint | None = None
    """None for a folder."""
    run: RunFolder | None = None
    """The run that the checkpoint lies in; None for one that was moved out, or a folder."""
    lora: LoraConfig
    published: Mapping[str, object]
    """The published config.json that a folder was imported from; else empty."""

    def default_dtype(self, names: Iterable[str]) -> str:
        """Return the dtype to write some weights in: of a folder their own, of a run bf16."""
        if self.checkpoint is not None:  # its masters are fp32, and it computed in another
            return "bf16"
        return narrowest_dtype(map(self.weights.dtype, names))

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Name and shape of every parameter of the whole model, without adapters."""
        return parameter_shapes(self.architecture)

    @property
    def config(self) -> StoredConfig | None:
        """The config of the run; None for a folder."""
        return self.checkpoint.manifest.config if self.checkpoint else None

    @property
    def record(self) -> RunRecord | None:
        """What the run is; None for a folder."""
        return self.checkpoint.manifest.record if self.checkpoint else None

    @property
    def is_aligned_only(self) -> bool:
        """Whether the projector alone was trained: a first stage of MobileVLM's first version."""
        return self.record is not None and not self.record.trains_language_model


def open_trained(
    path: str, *, tokenizer: str | None = None, template: str | None = None
) -> Trained:
    """Open what is to be written out.

    Args:
        path: a run's folder, whose newest checkpoint is taken, a checkpoint's own, or a folder
            that 'vlm export' or 'vlm import' wrote.
        tokenizer: what the samples were made with; None takes the run's or folder's own.
        template: a chat template's name or file; None takes the run's or folder's own.

    Raises:
        ConfigError: there is no such model, or tokenizer or template are missing.
        DataError: its files are damaged, or its parameters are not those of its config's model.
    """
    if is_vlm_folder(path):
        return _of_folder(path, tokenizer, template)
    checkpoint = find_checkpoint(path, remedy=_REMEDY)
    manifest = checkpoint.manifest
    manifest.record.require("vlm", field="checkpoint", value=path)
    run = run_of(checkpoint)
    own = run.template if run and run.template.is_file() else None
    architecture = Architecture.from_dict(manifest.config["model"])
    return Trained(
        path=checkpoint.folder,
        architecture=architecture,
        tokenizer=find_tokenizer(tokenizer, checkpoint, run),
        template=_template(template, own, f"{checkpoint.folder} is not in a run that has one"),
        weights=trained_weights(checkpoint),
        checkpoint=checkpoint,
        run=run,
        lora=lora_of(manifest.record),
        published={},
    )


def trained_weights(checkpoint: Checkpoint) -> WeightSource:
    """Return a checkpoint's weights by their plain names, an adapter added if there is one.

    Raises:
        DataError: its parameters are not those of its config's model.
    """
    manifest = checkpoint.manifest
    lora = lora_of(manifest.record)
    adapt = partial(inject, config=lora, prefix=LANGUAGE)
    shapes = parameter_shapes(Architecture.from_dict(manifest.config["model"]), adapt)
    return merged(CheckpointWeights(checkpoint, shapes), lora)


def _of_folder(path: str, tokenizer: str | None, template: str | None) -> Trained:
    opened = open_folder(path, field="checkpoint")
    if opened.form != "ours":
        rule, remedy = "is a published folder already", "Import it first: 'mobilellama vlm import'"
        raise ConfigError("checkpoint", path, rule, remedy)
    own = opened.folder / TEMPLATE_FILE
    return Trained(
        path=opened.folder,
        architecture=opened.architecture,
        tokenizer=_open_tokenizer(tokenizer or path),
        template=_template(template, own if own.is_file() else None, f"{path} has none"),
        weights=opened.weights,
        lora=LoraConfig(),
        published=cast("dict[str, object]", opened.config.get("published") or {}),
    )


def _open_tokenizer(value: str) -> TextTokenizer:
    found = find_model(value, field="tokenizer", weights=False)
    with found.errors_by_name():
        return open_tokenizer(found.path)


def _template(given: str | None, own: Path | None, why: str) -> Template:
    found = given or own
    if found is None:
        remedy = "Give the template's name or file that the model was trained with"
        raise ConfigError("template", "null", f"is not given, and {why}", remedy)
    return read_template(found, field="template")
