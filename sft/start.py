"""What a run starts from: architecture and weights of a folder or checkpoint, or its own state."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilellama.config import ConfigError, DataError, UserError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.pretrain.assemble import Initial
from mobilellama.pretrain.hf.export_folder import find_checkpoint, naming_other_steps, run_of
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.model import ModelConfig
from mobilellama.pretrain.state.checkpoint import MANIFEST, Checkpoint, newest_readable
from mobilellama.run_folder import RunFolder
from mobilellama.sft.lora import (
    LoraConfig,
    Merged,
    adapted_weights,
    base_name,
    init_lora_parameter,
    inject,
    is_adapter,
    stored_lora,
)
from mobilellama.stages import require_language_model, require_stage, stage_of
from mobilellama.tokenizers.opening import WrongIdsError, open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)

_REMEDY = "Give a language model: a Hugging Face folder, or a run's folder or checkpoint"


@dataclass(frozen=True, kw_only=True)
class Start:
    """The architecture, a name for the weights, and the weights while they are at hand."""

    model: ModelConfig
    origin: str
    """Where it was found when the run began."""
    fingerprint: str
    """Names the weights; part of the run's identity."""
    parameter: Initial
    """A weight by its plain name, fp32."""
    stored: Initial
    """The same in the dtype it comes in."""
    tokenizer: TextTokenizer | None
    """What the model was trained with, where it is at hand."""
    verify: Callable[[int, int], None]
    """(share, shares) -> check the bytes of that share of the files, where they have hashes."""
    close: Callable[[], None]
    """Let go of its files."""
    lora: LoraConfig | None = None
    """What a run that is resumed adapts."""


def open_start(init: str, run: RunFolder) -> Start:
    """Open what a run starts from; where it has a checkpoint already, what that says of it.

    Raises:
        ConfigError: `init` is neither a Hugging Face folder nor a checkpoint, or its model computes
            what ours does not.
        DataError: its files are damaged.
    """
    if resumed := _of_the_run_itself(run):
        _require_same_start(init, resumed)
        return resumed
    start = open_language_model(init)
    # Conversations are packed, and must not see one another.
    return replace(start, model=replace(start.model, attention="per_document"))


def open_language_model(init: str) -> Start:
    """Open a Hugging Face folder of Llama's shape, or a run's folder or checkpoint.

    Raises:
        ConfigError: `init` is neither, or its model computes what ours does not.
        DataError: its files are damaged.
    """
    require_language_model(init, field="init", remedy=_REMEDY)
    return _of_folder(init) if (Path(init) / "config.json").is_file() else _of_checkpoint(init)


def _require_same_start(init: str, resumed: Start) -> None:
    """Raise ConfigError if `init` is there, and is not what the run began with."""
    try:
        given = open_language_model(init)
    except UserError as error:
        log.info("a resume needs no --init: %s", error)
        return
    given.close()
    if given.fingerprint != resumed.fingerprint:
        rule = f"is not what the run began with, {resumed.origin}"
        raise ConfigError("init", init, rule, "Give that, or another run.folder")


def _of_folder(init: str) -> Start:
    folder = HfFolder(init, field="init")
    return Start(
        model=folder.config,
        origin=init,
        close=folder.close,
        fingerprint=folder.fingerprint,
        parameter=folder.parameter,
        stored=lambda name, shape: folder.stored(name).view(shape),
        tokenizer=_tokenizer_of(Path(init)),
        verify=lambda share, shares: None,
    )


def _tokenizer_of(folder: Path) -> TextTokenizer | None:
    try:
        return open_tokenizer(folder, field="init")
    except WrongIdsError as error:  # the dataset's ids count: they are compared with these
        rule = error.args[2]
        log.warning("%s: %s. The dataset must have the ids of tokenizer.json", folder, rule)
        return open_tokenizer(folder, field="init", as_is=True)
    except ConfigError:
        log.warning("%s has no tokenizer that could be compared with the dataset's", folder)
        return None


def _of_checkpoint(init: str) -> Start:
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
    config = checkpoint.manifest.config
    if stage_of(config) == "vlm":
        raise ConfigError("init", init, "was written by 'mobilellama vlm run'", _REMEDY)
    run = run_of(checkpoint)
    model = ModelConfig(**config["model"])
    adapted = adapted_weights(checkpoint.names(), stored_lora(config))
    read = Merged(checkpoint, adapted).parameter
    return Start(
        model=model,
        origin=init,
        close=checkpoint.close,
        fingerprint=sha256_of_file(checkpoint.folder / MANIFEST),
        parameter=read,
        stored=read,
        tokenizer=_tokenizer_of(run.path if run else checkpoint.folder.parent.parent),
        verify=partial(_verify, checkpoint),
    )


def _verify(checkpoint: Checkpoint, share: int, shares: int) -> None:
    with naming_other_steps(checkpoint.folder):
        checkpoint.verify(share=share, shares=shares)


def _of_the_run_itself(run: RunFolder) -> Start | None:
    """Return what the run's newest readable checkpoint says; its weights come from there."""

    def absent(name: str, shape: torch.Size) -> Tensor:
        del shape
        raise DataError(f"{run.path}: no checkpoint of the run is left, so '{name}' is unknown")

    found = newest_readable(run)
    if found is None:
        return None
    manifest = found[1]
    remedy = "Give another folder; what a run starts from is --init"
    require_stage(manifest.config, "sft", field="run.folder", value=str(run.path), remedy=remedy)
    return Start(
        model=ModelConfig(**manifest.config["model"]),
        origin=manifest.config["init"],
        close=lambda: None,
        fingerprint=manifest.identity["init.fingerprint"],
        parameter=absent,
        stored=absent,
        tokenizer=None,
        verify=lambda share, shares: None,
        lora=stored_lora(manifest.config),
    )


def first_values(start: Start, lora: LoraConfig, seed: int) -> dict[str, Any]:
    """Return ``Stage``'s fields that say what trains, and from which values."""

    def initial(name: str, shape: torch.Size) -> Tensor:
        if is_adapter(name):
            return init_lora_parameter(name, shape, seed)
        return start.parameter(base_name(name), shape)

    return {
        "initial": initial,
        "stored": lambda name, shape: start.stored(base_name(name), shape),
        "adapt": partial(inject, config=lora),
    }
