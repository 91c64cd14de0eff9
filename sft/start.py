"""What finetuning starts from: a language model, its adapters merged, or the run's own state."""

from dataclasses import dataclass, replace
from functools import partial

from mobilellama.files.hub_folder import FindModel, find_model
from mobilellama.pretrain.hf.start import (
    LanguageModelStart,
    StartingPoint,
    require_same_start,
    resumed_facts,
)
from mobilellama.pretrain.hf.start import open_language_model as open_with_weights
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.run_folder import RunFolder
from mobilellama.sft.lora import injected_shapes, merged
from mobilellama.sft.lora_config import LoraConfig, lora_of


@dataclass(frozen=True, kw_only=True)
class AdaptedStart(StartingPoint):
    """What a run starts from that can train adapters."""

    lora: LoraConfig | None = None
    """The adapter of a run that resumes."""


@dataclass(frozen=True, kw_only=True)
class FinetuningStart(LanguageModelStart, AdaptedStart):
    """What finetuning starts from."""


def open_start(init: str, run: RunFolder, find: FindModel = find_model) -> FinetuningStart:
    """Open what a run starts from. If the run has a checkpoint, take the facts from there.

    Args:
        init: the field of that name.
        run: the run's folder.
        find: finds the folder of `init`.

    Raises:
        ConfigError: `init` is neither a Hugging Face folder nor a checkpoint, or its model has
            parts that our model cannot compute.
        DataError: its files are damaged.
    """
    if resumed := _of_the_run_itself(run):
        require_same_start(init, resumed, partial(open_language_model, find=find))
        return resumed
    start = open_language_model(init, find)
    # Conversations are packed into rows: tokens must not attend to other conversations.
    model = replace(start.model, attention="per_document")
    return FinetuningStart(**vars(replace(start, model=model)))


def open_language_model(init: str, find: FindModel = find_model) -> LanguageModelStart:
    """Open a Hugging Face folder of Llama's shape, or a run's folder or checkpoint.

    Raises:
        ConfigError: `init` is neither, or its model has parts that our model cannot compute.
        DataError: its files are damaged.
    """
    return open_with_weights(init, _merged_weights, find)


def _merged_weights(checkpoint: Checkpoint, model: ModelConfig) -> WeightSource:
    lora = lora_of(checkpoint.manifest.record)
    return merged(CheckpointWeights(checkpoint, injected_shapes(model, lora)), lora)


def _of_the_run_itself(run: RunFolder) -> FinetuningStart | None:
    """Return the facts in the run's newest readable checkpoint. None if it has no checkpoint."""
    facts = resumed_facts(run, "sft")
    if facts is None:
        return None
    manifest, origin = facts
    return FinetuningStart(
        model=ModelConfig(**manifest.config["model"]),
        origin=origin,
        fingerprint=manifest.identity["init.fingerprint"],
        weights=None,
        resumed=run.path,
        tokenizer=None,
        lora=lora_of(manifest.record),
    )
