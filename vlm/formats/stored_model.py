"""A whole vision-language model on disk, and loading it to be used.

A folder of either form of folder.py, or a run of 'vlm run'. Weights come tensor by tensor in the
dtype that is asked for, so that there is never a second copy of the model in memory.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
from torch import nn

from mobilellama.config import ConfigError, one_line
from mobilellama.files.atomic import sha256_of_file, sha256_of_json
from mobilellama.pretrain.hf.device import DTYPE_NAMES, choose_dtype
from mobilellama.pretrain.hf.fingerprint import identify
from mobilellama.pretrain.state.manifest import MANIFEST
from mobilellama.pretrain.weight_source import WeightSource, shapes_of
from mobilellama.sft.data.template import Template, read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.prompts import ImageTextTokenizer
from mobilellama.vlm.formats.folder import TEMPLATE_FILE, VlmFolder, is_vlm_folder, open_folder
from mobilellama.vlm.formats.import_config import ORIGINALS_TEMPLATE
from mobilellama.vlm.formats.trained import open_trained
from mobilellama.vlm.model import LANGUAGE, VisionLanguageModel
from mobilellama.vlm.quantization import Quantization, put_quantized, quantize

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A model whose weights are checked and not read yet."""

    name: str
    """The folder, for messages."""
    architecture: Architecture
    tokenizer: TextTokenizer
    template: Template
    weights: WeightSource
    """All of them by our names."""
    sha256: str
    """Tells this model from any other, wherever it lies."""

    @property
    def dtype(self) -> torch.dtype:
        """In which the language model is stored."""
        names = self.weights.names()
        return self.weights.dtype(next(name for name in names if name.startswith(LANGUAGE)))

    @property
    def prompts(self) -> ImageTextTokenizer:
        """What makes ids of turns."""
        return ImageTextTokenizer(
            self.tokenizer,
            self.template,
            image_tokens=self.architecture.image_tokens,
            context_tokens=self.architecture.max_seq_len,
        )

    def choose_dtype(
        self, name: Literal["auto", "bf16", "fp16", "fp32"], device: torch.device
    ) -> torch.dtype:
        """Return the dtype that a name stands for; see ``Placement``."""
        stored = SimpleNamespace(dtype=self.dtype)
        short = choose_dtype(name, device, lambda: stored, prefer="speed")
        return getattr(torch, DTYPE_NAMES[short])


def open_model(
    path: str, *, template: str | None = None, tokenizer_as_is: bool = False
) -> StoredModel:
    """Open a folder of either form, or the newest checkpoint of a run of this stage.

    Args:
        path: where it is; ``model`` in messages.
        template: a chat template's name or file; None takes the model's own, which for a published
            folder is vicuna_v1.
        tokenizer_as_is: whether the ids of a folder's tokenizer.json are wanted as they are.

    Raises:
        ConfigError: it is none, or template or tokenizer are missing or do not fit.
        DataError: its weights are damaged, or not those of its config.
    """
    folder = Path(path)
    is_checkpoint = (folder / "checkpoints").is_dir() or (folder / MANIFEST).is_file()
    if is_checkpoint and not is_vlm_folder(path):
        stored = _of_run(path, template)
    else:
        stored = _of_folder(path, template, tokenizer_as_is)
    vocab_size = stored.architecture.vocab_size
    ids = stored.tokenizer.vocab_size
    if ids > vocab_size:
        rule = f"has {vocab_size:,} embeddings, but {ids:,} ids in its tokenizer"
        raise ConfigError("model", path, rule, "Give a model with its own tokenizer")
    return stored


def _of_folder(path: str, template: str | None, tokenizer_as_is: bool) -> StoredModel:
    try:
        found = open_folder(path)
    except ConfigError as error:
        if error.field != "vision":
            raise
        rule = str(error.args[2]).removeprefix("is not given, and ").removeprefix(f"{path} ")
        command = f"mobilellama vlm import {path} --vision DIR --output NEW"
        remedy = f"Import it first: '{command}'"
        raise type(error)("model", path, rule, remedy) from None
    if found.tower_source:
        log.info("the tower's settings that its weights do not show: %s", found.tower_source)
    own = found.folder / TEMPLATE_FILE
    default = str(own) if own.is_file() else None
    if default is None and found.form == "published":
        default = ORIGINALS_TEMPLATE
    if template is None and default is None:
        remedy = "Give --template, the one that the model was trained with"
        raise ConfigError("model", path, f"has no {TEMPLATE_FILE}", remedy)
    return StoredModel(
        name=path,
        architecture=found.architecture,
        tokenizer=open_tokenizer(path, field="model", as_is=tokenizer_as_is),
        template=read_template(template or default or ""),
        weights=found.weights,
        sha256=_identify(found),
    )


def _identify(found: VlmFolder) -> str:
    """Return a sha256 that tells a folder's model from any other, its tower included."""
    own = identify(str(found.folder))
    if found.named_tower is None:
        return own
    return sha256_of_json([own, found.architecture.vision, found.weights.fingerprint])


def _of_run(path: str, template: str | None) -> StoredModel:
    found = open_trained(path, template=template)
    return StoredModel(
        name=str(found.path),
        architecture=found.architecture,
        tokenizer=found.tokenizer,
        template=found.template,
        weights=found.weights,
        sha256=sha256_of_file(found.path / MANIFEST),
    )


def load_model(
    stored: StoredModel,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization = "none",
) -> VisionLanguageModel:
    """Read a model's weights; in evaluation mode.

    Args:
        stored: the model; its files are let go of.
        device: where to.
        dtype: of all weights that are not quantised.
        quantization: of the language model's linear layers but its head.

    Raises:
        ConfigError: it does not fit into the device's memory, or bitsandbytes is not there.
        DataError: the bytes are not those that were written.
    """
    from accelerate import init_empty_weights

    # Buffers are made: tables of rotary positions are in no file of weights.
    with init_empty_weights(include_buffers=False):
        model = VisionLanguageModel(stored.architecture)
    model.language_model.tie_weights()  # a head that is the embedding has no weight of its own
    quantized = quantize(model, quantization, dtype)
    try:
        stored.weights.verify()
        for name in [*shapes_of(model)]:
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            weight = stored.weights.stored(name)
            if name in quantized:
                put_quantized(module, weight.to(dtype, copy=True), device)
            else:  # a copy, which does not go when the file is let go of
                weight = weight.to(device, dtype, copy=True)
                setattr(module, leaf, nn.Parameter(weight, requires_grad=False))
        for module in model.modules():
            for name, buffer in [*module.named_buffers(recurse=False)]:
                setattr(module, name, buffer.to(device))
        model.language_model.tie_weights()
    except torch.OutOfMemoryError as error:
        rule = f"does not fit into the memory of {device} ({one_line(error)})"
        remedy = "Use another device or dtype, or --quantization 4bit"
        raise ConfigError("model", stored.name, rule, remedy) from None
    finally:
        stored.weights.close()
    kind = str(dtype).removeprefix("torch.")
    how = (
        kind if quantization == "none" else f"{kind}, its language model's layers in {quantization}"
    )
    log.info("%s in %s on %s", stored.name, how, device)
    return model.eval()
