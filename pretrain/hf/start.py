"""What a run starts from: the weights of a folder or checkpoint, or the run's own state.

Pretraining takes it by --init, and draws new weights where that is not given. The later stages
always start from something: they add their own to what is here.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.distributed import OtherRankError, World
from mobilellama.files.atomic import sha256_of_json
from mobilellama.files.hub_folder import FindModel, ModelFolder, find_model, is_same_model
from mobilellama.pretrain.hf.export_folder import find_checkpoint, parameter_shapes, run_of
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint, newest_readable
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.pretrain.state.manifest import Manifest
from mobilellama.pretrain.weight_source import WeightSource, dims
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import Origin, Stage, require_language_model
from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenizers.opening import WrongIdsError, open_tokenizer
from mobilellama.tokenizers.same_ids import same_ids
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)

_REMEDY = "Give a language model: a Hugging Face folder, a name on the Hub, or a run or checkpoint"
_SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "kv_heads", "d_ff")
_RULES = ("max_seq_len", "rope_theta", "norm_eps")
_RULES_OF_RUNS = (*_RULES, "attention")
"""The config of a Hugging Face folder cannot show how the model attends across documents."""

WeightsOf = Callable[[Checkpoint, ModelConfig], WeightSource]


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """What a run starts from: the weights and their fingerprint.

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
                others, and where the ranks have different weights.
        """
        # A node can have another folder at the same path. Of a model of the Hub all ranks have
        # the same commit: see hub_names.py.
        mine = int(sha256_of_json([self.fingerprint, asdict(self.origin)])[:15], 16)
        if world.any(mine != world.broadcast(mine)):
            what = "the ranks found different weights there"
            raise OtherRankError(f"{init}: {what}. Give every node the same files")
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
    """A language model that a run starts from."""

    model: ModelConfig
    tokenizer: TextTokenizer | None
    """The model's tokenizer. None if the folder has none."""


def open_start(
    init: str | None, model: ModelConfig, run: RunFolder, find: FindModel = find_model
) -> LanguageModelStart | None:
    """Open what a pretraining run starts from; None where its weights are drawn.

    Args:
        init: the field of that name.
        model: the run's architecture.
        run: where it has a checkpoint already, what that says counts.
        find: finds the folder of `init`.

    Raises:
        ConfigError: `init` is no language model, one of another shape, or not what the run began
            with.
        DataError: its files are damaged.
    """
    if found := newest_readable(run):
        return _of_the_run_itself(init, model, run, *found, find)
    if init is None:
        return None
    start = _open_plain(init, find)
    require_same_shapes(init, start, model)
    return start


def require_stage(manifest: Manifest, stage: Stage, run: RunFolder) -> None:
    """Raise ConfigError unless a run's checkpoint is of the stage that is to resume it."""
    remedy = "Give another folder. Give the model to start from as --init"
    manifest.record.require(stage, field="run.folder", value=str(run.path), remedy=remedy)


def resumed_facts(run: RunFolder, stage: Stage) -> tuple[Manifest, Origin] | None:
    """Return the newest readable manifest of a run, and what the run began from.

    It is None if the run has no checkpoint. For stages whose runs always begin from a model.

    Raises:
        ConfigError: the run is of another stage.
    """
    found = newest_readable(run)
    if found is None:
        return None
    manifest = found[1]
    require_stage(manifest, stage, run)
    assert manifest.record.origin is not None
    return manifest, manifest.record.origin


def _of_the_run_itself(
    init: str | None,
    model: ModelConfig,
    run: RunFolder,
    folder: Path,
    manifest: Manifest,
    find: FindModel,
) -> LanguageModelStart | None:
    require_stage(manifest, "pretrain", run)
    record = manifest.record
    if record.origin is None:
        if init is not None:
            rule = f"{folder} is of a run that began with new weights"
            raise ConfigError("init", init, rule, "Leave it out, or give another run.folder")
        return None
    start = LanguageModelStart(
        model=model,
        origin=record.origin,
        fingerprint=manifest.identity["init.fingerprint"],
        weights=None,
        resumed=run.path,
        tokenizer=None,
    )
    if init is not None:
        require_same_start(init, start, partial(_open_plain, find=find))
    return start


def _open_plain(init: str, find: FindModel) -> LanguageModelStart:
    return open_language_model(init, _plain_weights, find)


def _plain_weights(checkpoint: Checkpoint, model: ModelConfig) -> WeightSource:
    if checkpoint.manifest.record.lora:
        rule = "has LoRA adapters beside its weights"
        remedy = "Write a model of the two first: 'mobilellama sft merge'"
        raise ConfigError("init", str(checkpoint.folder), rule, remedy)
    return CheckpointWeights(checkpoint, parameter_shapes(model))


def open_language_model(
    init: str, weights_of: WeightsOf, find: FindModel = find_model
) -> LanguageModelStart:
    """Open a Hugging Face folder of Llama's shape, or a run's folder or checkpoint.

    Args:
        init: its path, or its name on the Hub.
        weights_of: (checkpoint, its architecture) -> the weights by the model's plain names.
        find: finds the folder of `init`.

    Raises:
        ConfigError: `init` is neither, or its model has parts that our model cannot compute.
        DataError: its files are damaged.
    """
    found = find(init, field="init")
    with found.errors_by_name():
        require_language_model(found.path, field="init", remedy=_REMEDY)
        if (Path(found.path) / "config.json").is_file():
            return _of_folder(found)
        return _of_checkpoint(found.path, weights_of)


def _of_folder(found: ModelFolder) -> LanguageModelStart:
    folder = HfFolder(found.path, field="init")
    return LanguageModelStart(
        model=folder.config,
        origin=Origin(init=found.name, revision=found.revision),
        fingerprint=folder.fingerprint,
        weights=folder,
        tokenizer=_tokenizer_of(Path(found.path)),
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


def _of_checkpoint(init: str, weights_of: WeightsOf) -> LanguageModelStart:
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
    if checkpoint.manifest.record.stage == "vlm":
        raise ConfigError("init", init, "was written by 'mobilellama vlm run'", _REMEDY)
    run = run_of(checkpoint)
    model = ModelConfig(**checkpoint.manifest.config["model"])
    weights = weights_of(checkpoint, model)
    return LanguageModelStart(
        model=model,
        origin=Origin(init=init),
        fingerprint=weights.fingerprint,
        weights=weights,
        tokenizer=_tokenizer_of(run.path if run else checkpoint.folder.parent.parent),
    )


def require_same_start(
    init: str, resumed: StartingPoint, open_model: Callable[[str], LanguageModelStart]
) -> None:
    """Raise ConfigError if `init` exists and differs from what the run began with.

    Args:
        init: the value of the field init.
        resumed: what the run began with.
        open_model: opens `init`.
    """
    before = resumed.origin
    if is_same_model(init, before.init, before.revision):
        return
    if init == before.init and not Path(init).exists():
        # A folder then. The Hub may have another model of its name.
        log.info("a resume needs no --init: %s no longer exists", init)
        return
    try:
        given = open_model(init)
    except UserError as error:
        log.info("a resume needs no --init: %s", error)
        return
    given.close()
    if given.fingerprint != resumed.fingerprint:
        rule = f"is not what the run began with, {before.init}"
        raise ConfigError("init", init, rule, "Give that one, or another run.folder")


def require_same_shapes(init: str, start: LanguageModelStart, model: ModelConfig) -> None:
    """Raise ConfigError unless the run's model has the very parameters that it starts from.

    What has no weights may differ, such as the longest sequence; it is told.
    """
    others = [name for name in _SIZES if getattr(start.model, name) != getattr(model, name)]
    if others:
        flags = {name: name.replace("kv_heads", "n_kv_heads") for name in others}
        values = [f"--model.{flags[name]} {getattr(start.model, name)}" for name in others]
        rule = _first_difference(start.require_weights(), model) or (
            f"its model has {others[0]} {getattr(start.model, others[0])}, "
            f"but the run's {getattr(model, others[0])}"
        )
        raise ConfigError("init", init, rule, f"Give {' '.join(values)}")
    for name in _RULES if isinstance(start.weights, HfFolder) else _RULES_OF_RUNS:
        before, now = getattr(start.model, name), getattr(model, name)
        if before != now:
            log.warning("model.%s = %s, but %s was trained with %s", name, now, init, before)


def _first_difference(weights: WeightSource, model: ModelConfig) -> str | None:
    """Name the first parameter that the run's model or the weights lack or have in another shape.

    Heads of another width change no shape.
    """
    wanted, found = parameter_shapes(model), weights.names()
    for name, shape in wanted.items():
        if name not in found:
            return f"it lacks '{name}', which is {dims(shape)} in the run's model"
        if (its := weights.shape(name)) != shape:
            return f"its '{name}' is {dims(its)}, but the run's model wants {dims(shape)}"
    for name in found:
        if name not in wanted:
            return f"it has '{name}', {dims(weights.shape(name))}, which the run's model lacks"
    return None


def require_same_tokenizer(start: LanguageModelStart, dataset: TokenDataset, remedy: str) -> None:
    """Raise ConfigError if the model was trained with another tokenizer than the dataset's.

    Args:
        start: the model. If it has no tokenizer, nothing is compared.
        dataset: the field ``data.path``.
        remedy: how to make a dataset with the model's.
    """
    theirs, ours = start.tokenizer, dataset.tokenizer
    if theirs is None or theirs.sha256 == ours.sha256:
        return
    # Of two kinds of file no hash can be equal; two sentencepiece models that differ are two.
    both_models = theirs.path.suffix == ours.path.suffix == ".model"
    if not both_models and same_ids(theirs, ours):
        return
    rule = f"was prepared with another tokenizer than {theirs.path}: their ids differ"
    raise ConfigError("data.path", str(dataset.folder), rule, remedy)
