"""What a run starts from, part by part: tower, projector and language model.

    --init     a language model: a Hugging Face folder, or a run of 'pretrain run' or 'sft run'
               a vision-language model: a run of this stage, its export, a published MobileVLM
    --vision   a tower's folder (CLIP's whole folder too); not needed where --init has a tower
    --projector.weights   a first stage's mm_projector.bin; goes before --init's projector

A run that is resumed takes all three from its own checkpoint.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_file, sha256_of_json
from mobilellama.files.pretrained import require_no_code
from mobilellama.pretrain.assemble import Initial
from mobilellama.pretrain.hf.config import llama_config
from mobilellama.pretrain.hf.export_folder import find_checkpoint, naming_other_steps, run_of
from mobilellama.pretrain.hf.folder import dims
from mobilellama.pretrain.hf.weight_files import StoredWeights, open_weights, read_object, some
from mobilellama.pretrain.state.checkpoint import (
    MANIFEST,
    Checkpoint,
    newest_readable,
    read_manifest,
)
from mobilellama.run_folder import RunFolder
from mobilellama.sft.lora import LoraConfig, stored_lora
from mobilellama.sft.start import open_language_model
from mobilellama.stages import require_stage, stage_of
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.config import Config
from mobilellama.vlm.formats.converted_weights import ConvertedWeights
from mobilellama.vlm.formats.folder import is_vlm_folder, open_folder, tied_weights, with_images
from mobilellama.vlm.formats.key_maps import (
    PROJECTOR_KEYS,
    after_prefix,
    is_ignored,
    projector_kind,
)
from mobilellama.vlm.formats.preprocessor_config import from_folder
from mobilellama.vlm.formats.tower_folder import open_tower
from mobilellama.vlm.formats.trained import merged
from mobilellama.vlm.formats.weights import NamedWeights
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER, build_language_model
from mobilellama.vlm.projector_rules import ORIGINAL, Squeeze, squeeze_of
from mobilellama.vlm.projectors import build_projector

log = logging.getLogger(__name__)

_SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")


class Part(NamedTuple):
    """Where the weights of some names come from."""

    parameter: Initial
    """A weight by our name, fp32."""
    stored: Initial
    """The same in the dtype it comes in."""
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Start:
    """The architecture, a name for the weights, and the weights while they are at hand."""

    architecture: Architecture
    origin: dict[str, str]
    """What each part came from when the run began."""
    fingerprint: str
    """Names the weights; part of the run's identity."""
    parts: dict[str, Part]
    """By the prefix of the names; a projector that begins anew has none."""
    tokenizer: TextTokenizer
    verify: Callable[[int, int], None] = lambda share, shares: None
    """(share, shares) -> check the bytes of that share of the files, where they have hashes."""
    close: Callable[[], None] = lambda: None
    """Let go of the files."""
    lora: LoraConfig | None = None
    """What a run that is resumed adapts."""

    def part_of(self, name: str) -> Part | None:
        """Return where a parameter comes from; None where it begins anew."""
        prefix = next(prefix for prefix in (TOWER, PROJECTOR, LANGUAGE) if name.startswith(prefix))
        return self.parts.get(prefix)


def open_start(config: Config, run: RunFolder) -> Start:
    """Open what a run starts from; where it has a checkpoint already, what that says of it.

    Raises:
        ConfigError: a part is missing, or two do not fit.
        DataError: files are damaged, or not what their config says.
    """
    if resumed := _of_the_run_itself(config, run):
        _require_projector(config, resumed)
        return resumed
    if is_vlm_folder(config.init):
        start = _of_vlm_folder(config)
    elif is_vlm_checkpoint(config.init):
        start = _of_vlm_checkpoint(config)
    else:
        start = _of_parts(config)
    if config.projector.weights is not None:
        start = _with_projector(start, config.projector.weights)
    _require_projector(config, start)
    return start


def _require_projector(config: Config, start: Start) -> None:
    """Raise ConfigError if the config asks for a projector that the run does not start from."""
    architecture = start.architecture
    remedy = "Leave it out, or start from a language model and a tower"
    wanted, found = config.projector.kind, architecture.projector
    if wanted is not None and wanted != found:
        rule = f"but what the run starts from has a projector of kind {found}"
        raise ConfigError("projector.kind", wanted, rule, remedy)
    for name, kind in (("squeeze", "ldpnet"), ("pooling", "ldpnetv2")):
        wanted = getattr(config.projector, name)
        if wanted is None:
            continue
        if architecture.projector != kind:
            log.warning(
                "projector.%s has no effect on a projector of kind %s", name, architecture.projector
            )
        elif wanted != (found := getattr(architecture, name)):
            rule = f"but the projector that the run starts from has {found}"
            raise ConfigError(f"projector.{name}", wanted, rule, remedy)


def _with_images(config: Config, architecture: Architecture) -> Architecture:
    """Return the architecture with images made ready as the config says."""
    return with_images(
        architecture,
        aspect_ratio=config.data.aspect_ratio,
        orientation=config.images.orientation,
    )


def is_vlm_checkpoint(path: str) -> bool:
    """Whether a path is a run or a checkpoint of this stage."""
    run = RunFolder(path)
    steps = run.checkpoint_steps()
    folder = run.checkpoint(steps[-1]) if steps else Path(path)
    if not (folder / MANIFEST).is_file():
        return False  # whoever opens it says why
    with naming_other_steps(folder):
        return stage_of(read_manifest(folder).config) == "vlm"


def _of_vlm_folder(config: Config) -> Start:
    """Open a folder; `vision` is the tower of a published one that has none inside."""
    found = open_folder(config.init, field="init", vision=config.vision)
    if found.tower_source:
        log.info("what the tower's weights do not show: %s", found.tower_source)
    fingerprint = found.weights.fingerprint([found.folder / "config.json"])
    part = Part(found.weights.parameter, found.weights.stored, fingerprint)
    return Start(
        architecture=_with_images(config, found.architecture),
        origin={"init": config.init} | ({"vision": config.vision} if config.vision else {}),
        fingerprint=fingerprint,
        parts=dict.fromkeys((TOWER, PROJECTOR, LANGUAGE), part),
        tokenizer=open_tokenizer(config.init, field="init", as_is=config.tokenizer_as_is),
        close=found.weights.close,
    )


def _of_vlm_checkpoint(config: Config) -> Start:
    if config.vision is not None:
        rule = f"is given, but {config.init} has a tower of its own"
        raise ConfigError("vision", config.vision, rule, "Leave it out")
    checkpoint = find_checkpoint(config.init)
    run = run_of(checkpoint)
    architecture = Architecture.from_dict(checkpoint.manifest.config["model"])
    read = merged(checkpoint).parameter
    fingerprint = sha256_of_file(checkpoint.folder / MANIFEST)
    return Start(
        architecture=_with_images(config, architecture),
        origin={"init": config.init},
        fingerprint=fingerprint,
        parts=dict.fromkeys((TOWER, PROJECTOR, LANGUAGE), Part(read, read, fingerprint)),
        tokenizer=open_tokenizer(
            run.path if run else checkpoint.folder.parent.parent, field="init"
        ),
        verify=partial(_verify, checkpoint),
        close=checkpoint.close,
    )


def _verify(checkpoint: Checkpoint, share: int, shares: int) -> None:
    with naming_other_steps(checkpoint.folder):
        checkpoint.verify(share=share, shares=shares)


def _of_parts(config: Config) -> Start:
    """Open a language model and a tower; the projector begins anew."""
    language, language_part, tokenizer, verify, close = _language_model(
        config.init, config.tokenizer_as_is
    )
    if config.vision is None:
        rule = f"is not given, and {config.init} is a language model, which has no tower"
        remedy = "Give the folder of CLIP ViT-L/14-336, or start from a vision-language model"
        raise ConfigError("vision", "null", rule, remedy)
    tower, weights = open_tower(config.vision)
    path = Path(config.vision) / "config.json"
    tower_part = Part(weights.parameter, weights.stored, weights.fingerprint([path]))
    kind = config.projector.kind
    if kind is None and config.projector.weights is None:
        rule = "is not given, and neither --init nor --projector.weights has a projector"
        remedy = "Give ldpnet, ldpnetv2 or mlp2x_gelu, or a preset's --config"
        raise ConfigError("projector.kind", "null", rule, remedy)
    if kind is None:
        file = Path(str(config.projector.weights))
        kind = projector_kind(_open_projector(file).shapes, str(file))
    return Start(
        architecture=Architecture(
            language=language,
            vision=tower,
            projector=kind,
            squeeze=config.projector.squeeze or _squeeze(config.projector.weights),
            pooling=config.projector.pooling or ORIGINAL.pooling,
            images=replace(
                from_folder(config.vision, config.data.aspect_ratio),
                orientation=config.images.orientation or "as_shown",
            ),
        ),
        origin={"init": config.init, "vision": config.vision},
        fingerprint=sha256_of_json([language_part.fingerprint, tower_part.fingerprint]),
        parts={LANGUAGE: language_part, TOWER: tower_part},
        tokenizer=tokenizer,
        verify=verify,
        close=lambda: (close(), weights.close(), None)[-1],
    )


def _squeeze(weights: str | None) -> Squeeze:
    """Return the form of LDP's squeeze in a first stage's file; without one the original's."""
    if weights is None:
        return ORIGINAL.squeeze
    wanted = PROJECTOR_KEYS["ldpnet"]["blocks.0.squeeze.reduce.weight"]
    for name, shape in _open_projector(Path(weights)).shapes.items():
        if after_prefix(name) == wanted:
            return squeeze_of(shape[1], shape[0])
    return ORIGINAL.squeeze


def _language_model(
    init: str, tokenizer_as_is: bool
) -> tuple[dict[str, Any], Part, TextTokenizer, Any, Any]:
    """Return a language model's config, weights, tokenizer, check and end."""
    path = Path(init) / "config.json"
    if path.is_file():
        values = read_object(path)
        require_no_code(init, field="init")
        language = {name: value for name, value in values.items() if name != "_name_or_path"}
        if "model_type" not in language:
            rule, remedy = "is missing", "Give the folder of a language model"
            raise ConfigError(f"{path}: model_type", "(absent)", rule, remedy)
        with torch.device("meta"):
            model = build_language_model(language, "sdpa")
        # Of other spellings (GPT-2's n_embd), and what is as the class has it.
        sizes = {name: getattr(model.config, name, None) for name in _SIZES}
        language = {name: value for name, value in sizes.items() if value is not None} | language
        passed_over = model._keys_to_ignore_on_load_unexpected or []
        stored = StoredWeights(Path(init), "init", "Give a folder with a language model's weights")
        weights = NamedWeights(
            Path(init),
            ConvertedWeights(stored, model, init),
            {LANGUAGE + name: value.shape for name, value in model.named_parameters()},
            stored_name=lambda name: name.removeprefix(LANGUAGE),
            ignored=lambda name: (
                is_ignored(name)
                or name in tied_weights_stored(language)
                or any(re.search(pattern, name) for pattern in passed_over)
            ),
            tied=tied_weights(language),
        )
        if others := [name for name in weights.ignored if not is_ignored(name)]:
            log.info("%s: not read, as by transformers: %s", init, some(others))
        part = Part(weights.parameter, weights.stored, weights.fingerprint([path]))
        tokenizer = open_tokenizer(init, field="init", as_is=tokenizer_as_is)
        return language, part, tokenizer, lambda share, shares: None, weights.close
    start = open_language_model(init)
    if start.tokenizer is None:
        rule, remedy = "has no tokenizer", "Export it, which puts the tokenizer beside the weights"
        raise ConfigError("init", init, rule, remedy)

    def plain(read: Initial) -> Initial:
        return lambda name, shape: read(name.removeprefix(LANGUAGE), shape)

    part = Part(plain(start.parameter), plain(start.stored), start.fingerprint)
    language = llama_config(start.model, start.tokenizer, "fp32")
    return language, part, start.tokenizer, start.verify, start.close


def tied_weights_stored(language: dict[str, Any]) -> set[str]:
    """Return the stored names of a head that is the embedding, which some files hold twice."""
    return {name.removeprefix(LANGUAGE) for name in tied_weights(language)}


def _open_projector(path: Path) -> Any:
    if not path.is_file():
        remedy = "Give a first stage's mm_projector.bin"
        raise ConfigError("projector.weights", str(path), "is not a file", remedy)
    return open_weights(path)


def _with_projector(start: Start, file: str) -> Start:
    """Return the start with the projector of a first stage's file."""
    path, architecture = Path(file), start.architecture
    opened = _open_projector(path)
    kind = projector_kind(opened.shapes, str(path))
    if kind != architecture.projector:
        rule = f"holds a projector of kind {kind}, but the run's is {architecture.projector}"
        raise ConfigError("projector.weights", file, rule, "Give that kind's, or another kind")
    names = {after_prefix(name): name for name in opened.shapes}

    def stored(name: str, shape: torch.Size) -> Tensor:
        theirs = names[PROJECTOR_KEYS[kind][name.removeprefix(PROJECTOR)]]
        found = opened.tensor(theirs)
        if found.shape != shape:
            wanted = f"'{theirs}' is {dims(found.shape)}, but the run's model wants {dims(shape)}"
            raise DataError(f"{path}: {wanted}")
        return found

    def parameter(name: str, shape: torch.Size) -> Tensor:
        return stored(name, shape).to(torch.float32, copy=True)

    with torch.device("meta"):
        projector = build_projector(
            kind,
            vision_width=architecture.vision_width,
            width=architecture.width,
            rules=architecture.rules,
        )
    for name, value in projector.named_parameters():
        stored(PROJECTOR + name, value.shape)  # refuses one of other widths before any process
    sha256 = sha256_of_file(path)
    return replace(
        start,
        origin=start.origin | {"projector": file},
        fingerprint=sha256_of_json([start.fingerprint, sha256]),
        parts=start.parts | {PROJECTOR: Part(parameter, stored, sha256)},
    )


def _of_the_run_itself(config: Config, run: RunFolder) -> Start | None:
    """Return what the run's newest readable checkpoint says; its weights come from there."""

    def absent(name: str, shape: torch.Size) -> Tensor:
        del shape
        raise DataError(f"{run.path}: no checkpoint of the run is left, so '{name}' is unknown")

    found = newest_readable(run)
    if found is None:
        return None
    manifest = found[1]
    remedy = "Give another folder, and that one as --init"
    require_stage(manifest.config, "vlm", field="run.folder", value=str(run.path), remedy=remedy)
    part = Part(absent, absent, "")
    architecture = Architecture.from_dict(manifest.config["model"])
    return Start(
        # The config's aspect: the identity tells where it is another.
        architecture=_with_images(config, architecture),
        origin=manifest.config["origin"],
        fingerprint=manifest.identity["init.fingerprint"],
        parts=dict.fromkeys((TOWER, PROJECTOR, LANGUAGE), part),
        tokenizer=open_tokenizer(run.path, field="run.folder"),
        lora=stored_lora(manifest.config),
    )
