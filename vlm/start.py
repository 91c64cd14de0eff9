"""What a run starts from, part by part: tower, projector and language model.

    --init     a language model: a Hugging Face folder, or a run of 'pretrain run' or 'sft run'
               a vision-language model: a run of this stage, its export, a published MobileVLM
    --vision   a tower's folder (CLIP's whole folder too); not needed where --init has a tower
    --projector.weights   a first stage's mm_projector.bin; goes before --init's projector

A run that is resumed takes all three from its own checkpoint.
"""

import logging
import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mobilellama.config import ConfigError, DataError
from mobilellama.files.hub_folder import FindModel, find_model
from mobilellama.files.pretrained import require_no_code
from mobilellama.pretrain.hf.config import llama_config
from mobilellama.pretrain.hf.export_folder import find_checkpoint, run_of
from mobilellama.pretrain.hf.start import resumed_facts
from mobilellama.pretrain.hf.weight_files import (
    StoredWeights,
    WeightFile,
    open_weights,
    read_object,
    some,
)
from mobilellama.pretrain.state.checkpoint_weights import naming_other_steps
from mobilellama.pretrain.state.manifest import MANIFEST, read_manifest
from mobilellama.pretrain.weight_source import (
    LayeredWeights,
    RenamedWeights,
    WeightSource,
    dims,
    shapes_of,
)
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import Origin
from mobilellama.sft.lora_config import lora_of
from mobilellama.sft.start import AdaptedStart, open_language_model
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.config import Config
from mobilellama.vlm.formats.converted_weights import ConvertedWeights
from mobilellama.vlm.formats.folder import (
    is_our_folder,
    is_vlm_folder,
    open_folder,
    tied_weights,
    with_images,
)
from mobilellama.vlm.formats.key_maps import (
    after_prefix,
    is_ignored,
    projector_kind,
    published_projectors,
)
from mobilellama.vlm.formats.preprocessor_config import from_folder
from mobilellama.vlm.formats.tower_folder import open_tower
from mobilellama.vlm.formats.trained import trained_weights
from mobilellama.vlm.formats.weights import NamedWeights
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, build_language_model
from mobilellama.vlm.projectors.rules import ORIGINAL, Squeeze, squeeze_of
from mobilellama.vlm.projectors.table import PROJECTORS, build_projector

log = logging.getLogger(__name__)

_SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")


@dataclass(frozen=True, kw_only=True)
class VisionLanguageStart(AdaptedStart):
    """What a stage of a vision-language model starts from."""

    architecture: Architecture
    tokenizer: TextTokenizer


def open_start(config: Config, run: RunFolder, find: FindModel = find_model) -> VisionLanguageStart:
    """Open what a run starts from; where it has a checkpoint already, what that says of it.

    Args:
        config: of the run.
        run: the run's folder.
        find: finds the folders of `init` and `vision`.

    Raises:
        ConfigError: a part is missing, or two do not fit.
        DataError: files are damaged, or not what their config says.
    """
    if resumed := _of_the_run_itself(config, run):
        _require_projector(config, resumed)
        return resumed
    init = find(config.init, field="init")
    if config.vision:
        with init.errors_by_name():
            _require_no_tower(init.path, config.vision)  # before the tower is downloaded
    vision = find(config.vision, field="vision") if config.vision else None
    with init.errors_by_name(), vision.errors_by_name() if vision else nullcontext():
        here = replace(config, init=init.path, vision=vision and vision.path)
        start = _open_new(here, find)
    origin = replace(start.origin, init=init.name, revision=init.revision)
    return replace(start, origin=replace(origin, vision=vision.name) if vision else origin)


def _require_no_tower(init: str, vision: str) -> None:
    """Raise ConfigError if the model to start from has a tower, so that another has no place."""
    if is_our_folder(init) or (not is_vlm_folder(init) and is_vlm_checkpoint(init)):
        rule = f"is given, but {init} has a tower of its own"
        raise ConfigError("vision", vision, rule, "Leave it out")


def _open_new(config: Config, find: FindModel) -> VisionLanguageStart:
    """Open what a new run starts from; `init` and `vision` are paths."""
    if is_vlm_folder(config.init):
        start = _of_vlm_folder(config, find)
    elif is_vlm_checkpoint(config.init):
        start = _of_vlm_checkpoint(config)
    else:
        start = _of_parts(config)
    if config.projector.weights is not None:
        start = _with_projector(start, config.projector.weights)
    _require_projector(config, start)
    return start


def _require_projector(config: Config, start: VisionLanguageStart) -> None:
    """Raise ConfigError if the config asks for a projector that the run does not start from."""
    architecture = start.architecture
    remedy = "Leave it out, or start from a language model and a tower"
    wanted, found = config.projector.kind, architecture.projector
    if wanted is not None and wanted != found:
        rule = f"must be {found}, the kind of projector that the run starts from"
        raise ConfigError("projector.kind", wanted, rule, remedy)
    for name in ("squeeze", "pooling"):
        wanted = getattr(config.projector, name)
        if wanted is None:
            continue
        if architecture.projector_class.rule != name:
            log.warning(
                "projector.%s has no effect on a projector of kind %s", name, architecture.projector
            )
        elif wanted != (found := getattr(architecture, name)):
            rule = f"must be {found}, as in the projector that the run starts from"
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
        return read_manifest(folder).record.stage == "vlm"


def _of_vlm_folder(config: Config, find: FindModel) -> VisionLanguageStart:
    """Open a folder; `vision` is the tower of a published one that has none inside."""
    found = open_folder(config.init, field="init", vision=config.vision, find=find)
    if found.tower_source:
        log.info("the tower's settings that its weights do not show: %s", found.tower_source)
    return VisionLanguageStart(
        architecture=_with_images(config, found.architecture),
        origin=Origin(init=config.init, vision=config.vision or found.named_tower),
        fingerprint=found.weights.fingerprint,
        weights=found.weights,
        tokenizer=open_tokenizer(config.init, field="init", as_is=config.tokenizer_as_is),
    )


def _of_vlm_checkpoint(config: Config) -> VisionLanguageStart:
    checkpoint = find_checkpoint(config.init)
    run = run_of(checkpoint)
    architecture = Architecture.from_dict(checkpoint.manifest.config["model"])
    weights = trained_weights(checkpoint)
    return VisionLanguageStart(
        architecture=_with_images(config, architecture),
        origin=Origin(init=config.init),
        fingerprint=weights.fingerprint,
        weights=weights,
        tokenizer=open_tokenizer(
            run.path if run else checkpoint.folder.parent.parent, field="init"
        ),
    )


def _of_parts(config: Config) -> VisionLanguageStart:
    """Open a language model and a tower; the projector begins anew."""
    language, language_weights, tokenizer = _language_model(config.init, config.tokenizer_as_is)
    if config.vision is None:
        rule = f"is not given, and {config.init} is a language model, which has no tower"
        remedy = "Give the folder of CLIP ViT-L/14-336, or start from a vision-language model"
        raise ConfigError("vision", "null", rule, remedy)
    tower, tower_weights = open_tower(config.vision)
    weights = LayeredWeights(language_weights, tower_weights)
    kind = config.projector.kind
    if kind is None and config.projector.weights is None:
        rule = "is not given, and neither --init nor --projector.weights has a projector"
        remedy = f"Give one of {', '.join(PROJECTORS)}, or a preset's --config"
        raise ConfigError("projector.kind", "null", rule, remedy)
    if kind is None:
        file = Path(str(config.projector.weights))
        kind = projector_kind(_open_projector(file).names(), str(file))
    return VisionLanguageStart(
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
        origin=Origin(init=config.init, vision=config.vision),
        fingerprint=weights.fingerprint,
        weights=weights,
        tokenizer=tokenizer,
    )


def _squeeze(weights: str | None) -> Squeeze:
    """Return the form of LDP's squeeze in a first stage's file; without one the original's."""
    if weights is None:
        return ORIGINAL.squeeze
    wanted = published_projectors()["ldpnet"]["blocks.0.squeeze.reduce.weight"]
    file = _open_projector(Path(weights))
    for name in file.names():
        if after_prefix(name) == wanted:
            return squeeze_of(file.shape(name)[1], file.shape(name)[0])
    return ORIGINAL.squeeze


def _language_model(
    init: str, tokenizer_as_is: bool
) -> tuple[dict[str, object], WeightSource, TextTokenizer]:
    """Return a language model's config, its weights by our names, and its tokenizer."""
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
            log.info(
                "%s: like transformers, does not read %s",
                init,
                some(others),
            )
        tokenizer = open_tokenizer(init, field="init", as_is=tokenizer_as_is)
        return language, weights, tokenizer
    start = open_language_model(init)
    if start.tokenizer is None:
        rule, remedy = "has no tokenizer", "Export it, which puts the tokenizer beside the weights"
        raise ConfigError("init", init, rule, remedy)

    plain = start.require_weights()
    weights = RenamedWeights(plain, {LANGUAGE + name: name for name in plain.names()})
    return llama_config(start.model, start.tokenizer, "fp32"), weights, start.tokenizer


def tied_weights_stored(language: dict[str, object]) -> set[str]:
    """Return the stored names of a head that is the embedding, which some files hold twice."""
    return {name.removeprefix(LANGUAGE) for name in tied_weights(language)}


def _open_projector(path: Path) -> WeightFile:
    if not path.is_file():
        remedy = "Give a first stage's mm_projector.bin"
        raise ConfigError("projector.weights", str(path), "is not a file", remedy)
    return open_weights(path)


def _with_projector(start: VisionLanguageStart, file: str) -> VisionLanguageStart:
    """Return the start with the projector of a first stage's file."""
    path, architecture = Path(file), start.architecture
    opened = _open_projector(path)
    kind = projector_kind(opened.names(), str(path))
    if kind != architecture.projector:
        rule = f"holds a projector of kind {kind}, but the run's is {architecture.projector}"
        raise ConfigError(
            "projector.weights", file, rule, "Give a file of that kind, or another projector.kind"
        )
    with torch.device("meta"):
        projector = build_projector(
            kind,
            vision_width=architecture.vision_width,
            width=architecture.width,
            rules=architecture.rules,
        )
    theirs = {after_prefix(name): name for name in opened.names()}
    names: dict[str, str] = {}
    for name, shape in shapes_of(projector).items():
        names[PROJECTOR + name] = stored = theirs[published_projectors()[kind][name]]
        if (found := opened.shape(stored)) != shape:  # refused before any process is started
            wanted = f"'{stored}' is {dims(found)}, but the run's model wants {dims(shape)}"
            raise DataError(f"{path}: {wanted}")
    weights = LayeredWeights(start.require_weights(), RenamedWeights(opened, names))
    return replace(
        start,
        origin=replace(start.origin, projector=file),
        fingerprint=weights.fingerprint,
        weights=weights,
    )


def _of_the_run_itself(config: Config, run: RunFolder) -> VisionLanguageStart | None:
    """Return what the run's newest readable checkpoint says; its weights come from there."""
    facts = resumed_facts(run, "vlm")
    if facts is None:
        return None
    manifest, origin = facts
    architecture = Architecture.from_dict(manifest.config["model"])
    return VisionLanguageStart(
        # The config's aspect: the identity tells where it is another.
        architecture=_with_images(config, architecture),
        origin=origin,
        fingerprint=manifest.identity["init.fingerprint"],
        weights=None,
        resumed=run.path,
        tokenizer=open_tokenizer(run.path, field="run.folder"),
        lora=lora_of(manifest.record),
    )
