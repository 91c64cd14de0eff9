"""Add a LoRA adapter to its base in fp32, and write the whole model as a Hugging Face folder.

    mobilellama sft merge RUN --output FOLDER
    mobilellama sft merge --adapter FOLDER --base FOLDER --output FOLDER

The first command takes the base and the adapter of a LoRA run. The second command takes any
adapter of peft and the folder of any model of Llama's shape. It uses the tokenizer and the chat
template in the adapter's folder, or those of the base. W + alpha / rank * B @ A is computed in fp32
and rounded once. The default dtype is bf16 for a run, and the base's own dtype for folders, so that
weights without an adapter stay the same. Then the logits of the result are compared with those of
base plus adapter. A merge that changes them is not kept.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mobilellama import log as logs
from mobilellama.config import ConfigError
from mobilellama.cpus import use_cpu_budget
from mobilellama.files.atomic import read_json, write_json
from mobilellama.files.hub_folder import ModelFolder, find_model
from mobilellama.files.unmarked import copy_unmarked
from mobilellama.pretrain.hf.card_parts import table, write_card
from mobilellama.pretrain.hf.config import DTYPE_NAMES
from mobilellama.pretrain.hf.export_check import (
    our_logits,
    probe_ids,
    relative_difference,
    require_same_logits,
    their_logits,
)
from mobilellama.pretrain.hf.export_folder import new_folder, print_files, require_free
from mobilellama.pretrain.hf.folder import HfFolder
from mobilellama.pretrain.hf.weights import (
    DTYPES,
    narrowest_dtype,
    write_weights,
)
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.weight_source import WeightSource
from mobilellama.sft.chat.folder import check_chat_ids
from mobilellama.sft.export import export
from mobilellama.sft.export.adapter_folder import AdapterFolder, peft_logits
from mobilellama.sft.export.merge_config import Config
from mobilellama.sft.finetuned import open_finetuned

log = logging.getLogger(__name__)

# A tokenizer's files, and what says where generation stops; config.json is written anew.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_GENERATION = "generation_config.json"


def main(config: Config) -> int:
    """Merge and check."""
    logs.configure()
    use_cpu_budget()
    output = Path(config.output)
    require_free(output)
    started_s = time.monotonic()
    if config.checkpoint is not None:
        _merge_run(config, output, config.checkpoint)
    else:
        adapter = find_model(str(config.adapter), field="adapter")
        base = find_model(str(config.base), field="base")
        with adapter.errors_by_name(), base.errors_by_name():
            _merge_folders(config, output, adapter, base)
    print_files(output, started_s)
    print(f"Talk to it with\n  mobilellama sft chat {output}")
    return 0


def _merge_run(config: Config, output: Path, path: str) -> None:
    """Merge the base and the adapter that a run trained."""
    finetuned = open_finetuned(path)
    if finetuned.lora.rank is None:
        rule = "is of a run that trained all weights: there is no adapter to merge"
        raise ConfigError("checkpoint", path, rule, "Write it with 'mobilellama sft export'")
    finetuned.trained.verify()
    title = config.name or output.resolve().name
    with new_folder(output) as folder:
        base = config.base or finetuned.base
        export.write_card(config, folder, finetuned, kind="merged", base=base, title=title)
        export.write_chat_model(config, folder, finetuned, checks=False)
        if config.check:
            check_chat_ids(folder, finetuned.tokenizer, finetuned.template)
            unmerged = finetuned.unmerged_logits
            check_merge(config, folder, finetuned.weights, finetuned.model, unmerged)
    finetuned.trained.close()


def _merge_folders(
    config: Config, output: Path, given_adapter: ModelFolder, given_base: ModelFolder
) -> None:
    """Merge a folder's adapter into another folder's model."""
    adapter, base = Path(given_adapter.path), Path(given_base.path)
    read_base, read_adapter = HfFolder(base, field="base"), AdapterFolder(adapter)
    if config.dtype is None:
        dtypes = map(read_base.dtype, read_base.names())
        config = replace(config, dtype=narrowest_dtype(dtypes))
    merged = read_adapter.over(read_base)
    ranks = ", ".join(map(str, read_adapter.ranks))
    if read_adapter.base and Path(read_adapter.base).name != given_base.short_name:
        name = given_base.name
        log.warning("the adapter says that its base is %s, not %s", read_adapter.base, name)
    log.info("%d layers get an update of rank %s", len(read_adapter.modules), ranks)
    with new_folder(output) as folder:
        _copy_tokenizer(folder, adapter, base)
        _write_config(config, folder, base)
        write_weights(
            merged,
            folder,
            dtype=DTYPES[config.weights_dtype],
            max_shard_bytes=round(config.max_shard_size_gb * 1e9),
        )
        if config.check:
            probe = probe_ids(read_base.config)

            def unmerged() -> Tensor:
                return peft_logits(base, adapter, probe)

            check_merge(config, folder, merged, read_base.config, unmerged)
        shown = given_adapter.name if given_adapter.is_from_hub else given_adapter.short_name
        base_name = given_base.name if given_base.is_from_hub else read_adapter.base or base
        rows = [
            ("base", f"`{base_name}`"),
            ("adapter", f"`{shown}`, rank {ranks}"),
            ("adapted layers", f"{len(read_adapter.modules)}"),
        ]
        _write_folders_card(config, folder, rows)
    read_base.close()


def check_merge(
    config: Config,
    folder: Path,
    merged: WeightSource,
    model: ModelConfig,
    unmerged: Callable[[], Tensor],
) -> None:
    """Compare the merged model, in fp32 and as written, with base plus adapter; report it.

    Args:
        config: the dtype that was written.
        folder: the merged model.
        merged: its weights, read in fp32.
        model: the architecture.
        unmerged: computes the logits of base plus adapter side by side, (1, T, V) fp32.

    Raises:
        RuntimeError: they differ by more than rounding.
    """
    expected = unmerged()
    exact = our_logits(merged, model, dtype="fp32")
    difference = require_same_logits(exact, expected, what="base plus adapter: merged logits")
    rounded = (
        exact
        if config.weights_dtype == "fp32"
        else our_logits(merged, model, dtype=config.weights_dtype)
    )
    written = their_logits(folder, probe_ids(model))
    require_same_logits(written, rounded, what=f"{folder}: transformers' logits")
    moved = relative_difference(written, expected)
    print(
        f"Merged in fp32, the logits are within {difference:.1e} of base plus adapter (of the "
        f"largest logit); rounded to {config.weights_dtype}, within {moved:.1e}"
    )


def _copy_tokenizer(folder: Path, adapter: Path, base: Path) -> None:
    """Copy the tokenizer's files and generation_config.json as they are, without marks."""
    names = ("tokenizer.json", "tokenizer.model")
    owner = adapter if any((adapter / name).is_file() for name in names) else base
    for name in _TOKENIZER_FILES:
        if (owner / name).is_file():
            copy_unmarked(owner / name, folder / name)
    for source in (adapter, base):
        if (source / _GENERATION).is_file():
            copy_unmarked(source / _GENERATION, folder / _GENERATION)
            break
    log.info("the tokenizer's files are those of %s", owner)


def _write_config(config: Config, folder: Path, base: Path) -> None:
    """Write the base's config.json, with the dtype and the untied head of what was written."""
    values = read_json(base / "config.json")
    values.pop("_name_or_path", None)
    dtype = DTYPE_NAMES[config.weights_dtype]
    values |= {"dtype": dtype, "torch_dtype": dtype, "tie_word_embeddings": False}
    write_json(folder / "config.json", values)


def _write_folders_card(config: Config, folder: Path, parts: Sequence[tuple[str, str]]) -> None:
    rows = [*parts, ("weights", f"{config.weights_dtype}, merged in fp32 and rounded once")]
    write_card(
        folder / "README.md",
        title=config.name or Path(config.output).resolve().name,
        license_name=config.license,
        introduction="A model of the LLaMA architecture with a LoRA adapter merged into it.",
        sections={"Merge": table(("", ""), rows)},
    )
