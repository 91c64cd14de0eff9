"""A checkpoint of 'sft run' with all that belongs to it: tokenizer, template, what was trained."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.export_check import model_logits
from mobilellama.pretrain.hf.export_folder import (
    find_checkpoint,
    find_tokenizer,
    require_same_names,
    run_of,
)
from mobilellama.pretrain.hf.weights import ParameterSource
from mobilellama.pretrain.model import LanguageModel, ModelConfig, build_on
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder
from mobilellama.sft.data.template import Template, read_template
from mobilellama.sft.lora import LoraConfig, Merged, adapted_weights, inject, stored_lora
from mobilellama.stages import require_stage
from mobilellama.tokenizers.text_tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A finetuned model, its weights not read yet."""

    checkpoint: Checkpoint
    run: RunFolder | None
    """The run that the checkpoint lies in; None for one that was moved out."""
    tokenizer: TextTokenizer
    template: Template
    model: ModelConfig
    lora: LoraConfig

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Name and shape of every parameter of the model that trained, adapters included."""
        with torch.device("meta"):
            model = LanguageModel(self.model)
            inject(model, self.lora)
        return {name: parameter.shape for name, parameter in model.named_parameters()}

    @property
    def source(self) -> ParameterSource:
        """The whole model's parameters by plain names, fp32, with the adapter added if any."""
        adapted = adapted_weights(self.checkpoint.names(), self.lora)
        return Merged(self.checkpoint, adapted) if adapted else self.checkpoint

    @property
    def base(self) -> str | None:
        """The Hugging Face folder that the run began from, where it was one and is still there."""
        init = self.checkpoint.manifest.config["init"]
        return init if (Path(init) / "config.json").is_file() else None

    @torch.no_grad()
    def unmerged_logits(self) -> torch.Tensor:
        """Return the logits of base plus adapter, computed side by side in fp32, (1, T, V)."""
        model = build_on(torch.device("cpu"), self.model)
        inject(model, self.lora)
        for name, parameter in model.named_parameters():
            parameter.copy_(self.checkpoint.parameter(name, parameter.shape))
        return model_logits(model)


def open_finetuned(
    path: str,
    *,
    tokenizer: str | None = None,
    template: str | None = None,
    field: str = "checkpoint",
) -> Finetuned:
    """Open a checkpoint of an SFT run.

    Args:
        path: a run's folder, whose newest checkpoint is taken, or a checkpoint's own.
        tokenizer: the dataset's tokenizer; None takes the run's own copy.
        template: a chat template's name or file; None takes the run's own copy.
        field: the field that names the path, for errors.

    Raises:
        ConfigError: there is no checkpoint, it is not of an SFT run, or tokenizer or template
            are missing.
        DataError: its manifest or a receipt is damaged, or its parameters are not those of its
            config's model.
    """
    checkpoint = find_checkpoint(path, field=field)
    config = checkpoint.manifest.config
    require_stage(config, "sft", field=field, value=path)
    run = run_of(checkpoint)
    found = Finetuned(
        checkpoint=checkpoint,
        run=run,
        tokenizer=find_tokenizer(tokenizer, checkpoint, run),
        template=_find_template(template, checkpoint, run),
        model=ModelConfig(**config["model"]),
        lora=stored_lora(config),
    )
    require_same_names(checkpoint, found.shapes)
    return found


def _find_template(given: str | None, checkpoint: Checkpoint, run: RunFolder | None) -> Template:
    if given is not None:
        return read_template(given, field="template")
    if run is None or not run.template.is_file():
        rule = f"is not given, and {checkpoint.folder} lies in no run that has one"
        remedy = "Give the template's name or file that the data was prepared with"
        raise ConfigError("template", "null", rule, remedy)
    return read_template(run.template, field="template")
