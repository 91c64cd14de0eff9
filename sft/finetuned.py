"""A checkpoint of 'sft run' with all that belongs to it: tokenizer, template, what was trained."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mobilellama.config import ConfigError
from mobilellama.files.hub_folder import name_on_hub
from mobilellama.pretrain.hf.export_check import model_logits
from mobilellama.pretrain.hf.export_folder import find_checkpoint, find_tokenizer, run_of
from mobilellama.pretrain.model import build_on
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.pretrain.weight_source import WeightSource, fill
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import EXPORT_IT
from mobilellama.sft.data.template import Template, read_template
from mobilellama.sft.lora import inject, injected_shapes, merged
from mobilellama.sft.lora_config import LoraConfig, lora_of
from mobilellama.tokenizers.text_tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A finetuned model, its weights not read yet."""

    trained: CheckpointWeights
    """The parameters as they trained: adapters, if any, apart from their base."""
    run: RunFolder | None
    """The run that the checkpoint lies in; None for one that was moved out."""
    tokenizer: TextTokenizer
    template: Template
    model: ModelConfig
    lora: LoraConfig

    @property
    def checkpoint(self) -> Checkpoint:
        """Where all of it was read."""
        return self.trained.checkpoint

    @property
    def weights(self) -> WeightSource:
        """The whole model by plain names, fp32, with the adapter added if any."""
        return merged(self.trained, self.lora)

    @property
    def base(self) -> str | None:
        """What the run began from: NAME@COMMIT, or a Hugging Face folder that is still there."""
        origin = self.checkpoint.manifest.record.origin
        if origin is None:
            return None
        is_folder = (Path(origin.init) / "config.json").is_file()
        return origin.init if is_folder or name_on_hub(origin.init) else None

    @torch.no_grad()
    def unmerged_logits(self) -> torch.Tensor:
        """Return the logits of base plus adapter, computed side by side in fp32, (1, T, V)."""
        model = build_on(torch.device("cpu"), self.model)
        inject(model, self.lora)
        fill(model, self.trained)
        return model_logits(model)


def open_finetuned(
    path: str,
    *,
    tokenizer: str | None = None,
    template: str | None = None,
    field: str = "checkpoint",
    remedy: str = EXPORT_IT,
) -> Finetuned:
    """Open a checkpoint of an SFT run.

    Args:
        path: a run's folder, whose newest checkpoint is taken, or a checkpoint's own.
        tokenizer: the dataset's tokenizer; None takes the run's own copy.
        template: a chat template's name or file; None takes the run's own copy.
        field: the field that names the path, for errors.
        remedy: what to do with the run of another stage. ``{stage}`` is replaced by the stage.

    Raises:
        ConfigError: there is no checkpoint, it is not of an SFT run, or tokenizer or template
            are missing.
        DataError: its manifest or a receipt is damaged, or its parameters are not those of its
            config's model.
    """
    checkpoint = find_checkpoint(path, field=field)
    manifest = checkpoint.manifest
    manifest.record.require("sft", field=field, value=path, remedy=remedy)
    run = run_of(checkpoint)
    model, lora = ModelConfig(**manifest.config["model"]), lora_of(manifest.record)
    return Finetuned(
        tokenizer=find_tokenizer(tokenizer, checkpoint, run),
        template=_find_template(template, checkpoint, run),
        trained=CheckpointWeights(checkpoint, injected_shapes(model, lora)),
        run=run,
        model=model,
        lora=lora,
    )


def _find_template(given: str | None, checkpoint: Checkpoint, run: RunFolder | None) -> Template:
    if given is not None:
        return read_template(given, field="template")
    if run is None or not run.template.is_file():
        rule = f"is not given, and {checkpoint.folder} is not in a run that has one"
        remedy = "Give the template's name or file that the data was prepared with"
        raise ConfigError("template", "null", rule, remedy)
    return read_template(run.template, field="template")
