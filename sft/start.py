"""What a run starts from: architecture and weights of a folder or checkpoint, or its own state."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.distributed import World
from mobilellama.pretrain.hf.export_folder import find_checkpoint, run_of
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import newest_readable
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import Origin, require_language_model
from mobilellama.sft.lora import injected_shapes, merged
from mobilellama.sft.lora_config import LoraConfig, lora_of
from mobilellama.tokenizers.opening import WrongIdsError, open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)

_REMEDY = "Give a language model: a Hugging Face folder, or a run's folder or checkpoint"


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """What a run of a later stage starts from: the weights and their fingerprint.

    Each stage adds its architecture, and where the parts were found.
    """

    fingerprint: str
    """Identifies the weights; part of the run's identity."""
    origin: Origin
    """Where the parts were found when the run began."""
    weights: WeightSource | None
    """By the plain names of the stage's model, without new parts such as a projector or an adapter.
    None if the run resumes from its own checkpoint."""
    resumed: Path | None = None
    """The run's folder, if the run resumes from its own checkpoint."""
    lora: LoraConfig | None = None
    """The adapter of a run that resumes."""

    def require_weights(self) -> WeightSource:
        """Return the weights that a new run begins with.

        Raises:
            DataError: the run is not new, and its checkpoints were lost after it was opened.
        """
        if self.weights is None:
            raise DataError(
                f"{self.resumed}: no checkpoint of the run is left, so its weights are unknown. "
                "Restore a checkpoint from a copy, or start over in another run.folder"
            )
        return self.weights

    def verify(self, world: World, init: str) -> None:
        """Check the bytes of all files that have hashes. Each rank checks a share.

        Args:
            world: all ranks call this together.
            init: the value of the field init, for messages.

        Raises:
            DataError: a file is damaged. Raised on the rank that found it; OtherRankError on the
                others.
        """
        world.run_on_all(
            lambda: self.require_weights().verify(share=world.rank, shares=world.size),
            otherwise=f"{init}: another rank found it damaged",
        )

    def close(self) -> None:
        """Close the files."""
        if self.weights is not None:
            self.weights.close()


@dataclass(frozen=True, kw_only=True)
class LanguageModelStart(StartingPoint):
    """What finetuning starts from."""

    model: ModelConfig
    tokenizer: TextTokenizer | None
    """The model's tokenizer. None if the folder has none."""


def open_start(init: str, run: RunFolder) -> LanguageModelStart:
    """Open what a run starts from. If the run has a checkpoint, take the facts from there.

    Raises:
        ConfigError: `init` is neither a Hugging Face folder nor a checkpoint, or its model has
            parts that our model cannot compute.
        DataError: its files are damaged.
    """
    if resumed := _of_the_run_itself(run):
        _require_same_start(init, resumed)
        return resumed
    start = open_language_model(init)
    # Conversations are packed into rows: tokens must not attend to other conversations.
    return replace(start, model=replace(start.model, attention="per_document"))


def open_language_model(init: str) -> LanguageModelStart:
    """Open a Hugging Face folder of Llama's shape, or a run's folder or checkpoint.

    Raises:
        ConfigError: `init` is neither, or its model has parts that our model cannot compute.
        DataError: its files are damaged.
    """
    require_language_model(init, field="init", remedy=_REMEDY)
    return _of_folder(init) if (Path(init) / "config.json").is_file() else _of_checkpoint(init)


def _require_same_start(init: str, resumed: LanguageModelStart) -> None:
    """Raise ConfigError if `init` exists and differs from what the run began with."""
    try:
        given = open_language_model(init)
    except UserError as error:
        log.info("a resume needs no --init: %s", error)
        return
    given.close()
    if given.fingerprint != resumed.fingerprint:
        rule = f"is not what the run began with, {resumed.origin.init}"
        raise ConfigError("init", init, rule, "Give that one, or another run.folder")


def _of_folder(init: str) -> LanguageModelStart:
    folder = HfFolder(init, field="init")
    return LanguageModelStart(
        model=folder.config,
        origin=Origin(init=init),
        fingerprint=folder.fingerprint,
        weights=folder,
        tokenizer=_tokenizer_of(Path(init)),
    )


def _tokenizer_of(folder: Path) -> TextTokenizer | None:
    try:
        return open_tokenizer(folder, field="init")
    except WrongIdsError as error:  # a warning is enough: the dataset's ids are compared with these
        rule = error.args[2]
        log.warning("%s: %s. The dataset must have the ids of tokenizer.json", folder, rule)
        return open_tokenizer(folder, field="init", as_is=True)
    except ConfigError:
        log.warning("%s has no tokenizer, so the dataset's tokenizer is not checked", folder)
        return None


def _of_checkpoint(init: str) -> LanguageModelStart:
    if not Path(init).is_dir():
        raise ConfigError("init", init, "is not a folder", _REMEDY)
    if (Path(init) / "adapter_config.json").is_file():
        rule, remedy = "is a LoRA adapter", "Merge it with its base first: 'mobilellama sft merge'"
        raise ConfigError("init", init, rule, remedy)
    try:
        checkpoint = find_checkpoint(init)
    except ConfigError as error:
        _, value, rule, _ = error.args
        raise ConfigError("init", value, rule, _REMEDY) from None
    manifest = checkpoint.manifest
    if manifest.record.stage == "vlm":
        raise ConfigError("init", init, "was written by 'mobilellama vlm run'", _REMEDY)
    run = run_of(checkpoint)
    model = ModelConfig(**manifest.config["model"])
    lora = lora_of(manifest.record)
    trained = CheckpointWeights(checkpoint, injected_shapes(model, lora))
    return LanguageModelStart(
        model=model,
        origin=Origin(init=init),
        fingerprint=trained.fingerprint,
        weights=merged(trained, lora),
        tokenizer=_tokenizer_of(run.path if run else checkpoint.folder.parent.parent),
    )


def _of_the_run_itself(run: RunFolder) -> LanguageModelStart | None:
    """Return the facts in the run's newest readable checkpoint. None if it has no checkpoint."""
    found = newest_readable(run)
    if found is None:
        return None
    manifest = found[1]
    remedy = "Give another folder. The model to start from belongs into --init"
    record = manifest.record
    record.require("sft", field="run.folder", value=str(run.path), remedy=remedy)
    assert record.origin is not None
    return LanguageModelStart(
        model=ModelConfig(**manifest.config["model"]),
        origin=record.origin,
        fingerprint=manifest.identity["init.fingerprint"],
        weights=None,
        resumed=run.path,
        tokenizer=None,
        lora=lora_of(record),
    )
