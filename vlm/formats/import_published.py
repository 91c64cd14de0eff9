"""Write a published MobileVLM folder, of either version, in our form.

    mobilellama vlm import PUBLISHED --output FOLDER
    mobilellama vlm import PUBLISHED --dry_run true

The folder must hold every weight in its shape, and no others. Tables that older versions of
transformers stored (position_ids, inv_freq) are ignored. The command prints what it read, and all
that is wrong. Every weight keeps its value. Weights of one dtype (bf16, fp16 or fp32) keep it, and
'vlm export --format mobilevlm' writes them back bit for bit. Weights of several dtypes are written
in the narrowest dtype that holds all of them exactly.

'vlm run --init PUBLISHED' needs no import: it reads published folders as they are.
"""

import logging
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from mobilellama import log as logs
from mobilellama.config import ConfigError
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.hf.device import DTYPE_NAMES
from mobilellama.pretrain.hf.export_folder import (
    new_folder,
    print_files,
    require_free,
    require_outside,
)
from mobilellama.pretrain.hf.weights import DTYPES, write_weights
from mobilellama.sft.data.template import read_template
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.table import aligned
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.vlm.formats.export import write_our_small_files
from mobilellama.vlm.formats.export_check import check_weights
from mobilellama.vlm.formats.folder import VlmFolder, open_folder
from mobilellama.vlm.formats.import_config import Config
from mobilellama.vlm.formats.trained import Trained
from mobilellama.vlm.formats.vlm_card import PARTS, VlmCard
from mobilellama.vlm.formats.weights import WrongWeightsError

log = logging.getLogger(__name__)


def main(config: Config) -> int:
    """Report, and write unless told not to."""
    logs.configure()
    found = find_model(config.model, field="model")
    vision = find_model(config.vision, field="vision") if config.vision else None
    with found.errors_by_name(), vision.errors_by_name() if vision else nullcontext():
        here = replace(config, model=found.path, vision=vision and vision.path)
        return _import(here, imported=found.name if found.is_from_hub else None)


def _import(config: Config, *, imported: str | None) -> int:
    """Report on the model of a folder, and write it unless told not to.

    Args:
        config: what to do.
        imported: the name of a model from the Hub, for the card.
    """
    shown = imported or config.model
    if config.output is not None and not config.dry_run:
        require_free(Path(config.output))
        for read in filter(None, (config.model, config.vision)):
            require_outside(Path(config.output), Path(read))
    try:
        opened = open_folder(config.model, vision=config.vision)
    except WrongWeightsError as error:
        is_of_tower = str(error.folder) != config.model
        print(_all_that_is_wrong(error, str(error.folder) if is_of_tower else shown))
        raise
    if opened.form != "published":
        rule = "is in our form already"
        raise ConfigError("model", config.model, rule, "Use it as it is")
    trained = _trained(config, opened)
    print(report(opened, trained))
    if config.dry_run or config.output is None:
        return 0
    output = Path(config.output)
    started_s = time.monotonic()
    dtype = trained.default_dtype(trained.shapes)
    with new_folder(output) as folder:
        write_our_small_files(folder, trained, dtype=dtype)
        card = VlmCard(
            title=config.name or output.resolve().name,
            license=config.license,
            form="hf",
            dtype=dtype,
            base=None,
            imported=imported,
            trained=trained,
        )
        card.write(folder / "README.md")
        write_weights(
            opened.weights,
            folder,
            dtype=DTYPES[dtype],
            max_shard_bytes=round(config.max_shard_size_gb * 1e9),
        )
        check_weights(folder, trained, dtype=dtype)
    trained.weights.close()
    print_files(output, started_s)
    print(f"Ask it about images with\n  mobilellama vlm chat {output} --image FILE")
    return 0


def _trained(config: Config, opened: VlmFolder) -> Trained:
    return Trained(
        path=opened.folder,
        architecture=opened.architecture,
        tokenizer=open_tokenizer(config.model, field="model", as_is=config.tokenizer_as_is),
        template=read_template(config.template, field="template"),
        weights=opened.weights,
        lora=LoraConfig(),
        published=opened.config,
    )


def report(opened: VlmFolder, trained: Trained) -> str:
    """Return what was read, by part, as text."""
    architecture = opened.architecture
    shorts = {getattr(torch, name): short for short, name in DTYPE_NAMES.items()}
    rows = [("part", "weights", "parameters", "dtype")]
    for prefix, part in PARTS.items():
        names = [name for name in trained.shapes if name.startswith(prefix)]
        dtypes = Counter(shorts[opened.weights.dtype(name)] for name in names)
        parameters = sum(trained.shapes[name].numel() for name in names)
        rows.append((part, f"{len(names):,}", f"{parameters:,}", ", ".join(dtypes)))
    total = sum(shape.numel() for shape in trained.shapes.values())
    rows.append(("all", f"{len(trained.shapes):,}", f"{total:,}", ""))
    ignored = opened.weights.ignored
    vision = architecture.vision
    mean = " ".join(f"{value:.4g}" for value in architecture.images.mean)
    return "\n".join(
        [
            f"{opened.folder}: {architecture.projector}, {architecture.image_tokens:,} tokens for "
            f"an image of {architecture.image_pixels} pixels ({architecture.images.aspect_ratio})",
            aligned(rows),
            f"tower: heads {vision['num_attention_heads']}, {vision['hidden_act']}, epsilon "
            f"{vision['layer_norm_eps']:g}, layer {architecture.feature_layer}, mean {mean}, by "
            f"{opened.tower_source}",
            "missing: none",
            "unexpected: none",
            *_listed("ignored", ignored),
        ]
    )


def _all_that_is_wrong(error: WrongWeightsError, model: str) -> str:
    kinds = {"missing": "missing", "unexpected": "unexpected", "misfits": "of another kind"}
    lines = [line for kind, name in kinds.items() for line in _listed(name, error.problems[kind])]
    return "\n".join([model, *lines])


def _listed(kind: str, names: list[str]) -> list[str]:
    return [f"{kind}: {len(names) or 'none'}", *(f"  {name}" for name in names)]
