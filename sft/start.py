"""What finetuning starts from: a language model, its adapters merged, or the run's own state."""

from dataclasses import dataclass, replace

from mobilellama.pretrain.hf import start as plain
from mobilellama.pretrain.hf.start import LanguageModelStart, require_same_start
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint, newest_readable
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.run_folder import RunFolder
from mobilellama.sft.lora import injected_shapes, merged
from mobilellama.sft.lora_config import LoraConfig, lora_of


@dataclass(frozen=True, kw_only=True)
class FinetuningStart(LanguageModelStart):
    """What finetuning starts from."""

    lora: LoraConfig | None = None
    """The adapter of a run that resumes."""


def open_start(init: str, run: RunFolder) -> FinetuningStart:
    """Open what a run starts from. If the run has a checkpoint, take the facts from there.

    Raises:
        ConfigError: `init` is neither a Hugging Face folder nor a checkpoint, or its model has
            parts that our model cannot compute.
        DataError: its files are damaged.
    """
    if resumed := _of_the_run_itself(run):
        require_same_start(init, resumed, open_language_model)
        return resumed
    start = open_language_model(init)
    return FinetuningStart(
        # Conversations are packed into rows: tokens must not attend to other conversations.
        model=replace(start.model, attention="per_document"),
        origin=start.origin,
        fingerprint=start.fingerprint,
        weights=start.weights,
        tokenizer=start.tokenizer,
    )


def open_language_model(init: str) -> LanguageModelStart:
    """Open a Hugging Face folder of Llama's shape, or a run's folder or checkpoint.

    Raises:
        ConfigError: `init` is neither, or its model has parts that our model cannot compute.
        DataError: its files are damaged.
    """
    return plain.open_language_model(init, _merged_weights)


def _merged_weights(checkpoint: Checkpoint, model: ModelConfig) -> WeightSource:
    lora = lora_of(checkpoint.manifest.record)
    return merged(CheckpointWeights(checkpoint, injected_shapes(model, lora)), lora)


def _of_the_run_itself(run: RunFolder) -> FinetuningStart | None:
    """Return the facts in the run's newest readable checkpoint. None if it has no checkpoint."""
    found = newest_readable(run)
    if found is None:
        return None
    manifest = found[1]
    remedy = "Give another folder. Give the model to start from as --init"
    record = manifest.record
    record.require("sft", field="run.folder", value=str(run.path), remedy=remedy)
    assert record.origin is not None
    return FinetuningStart(
        model=ModelConfig(**manifest.config["model"]),
        origin=record.origin,
        fingerprint=manifest.identity["init.fingerprint"],
        weights=None,
        resumed=run.path,
        tokenizer=None,
        lora=lora_of(record),
    )
