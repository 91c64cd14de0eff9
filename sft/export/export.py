"""Write a finetuned checkpoint as a Hugging Face chat model. Of a LoRA run, write the adapter.

    mobilellama sft export RUN --output FOLDER [--push USER/NAME [--private]]

RUN is a run's folder (its newest checkpoint) or RUN/checkpoints/step-N. FOLDER gets the files of
'pretrain export'. The chat template is in the tokenizer's files, and its end token is in
generation_config.json. For a LoRA run, adapter_config.json and adapter_model.safetensors replace
config.json and the weights; 'mobilellama sft merge RUN' writes the whole model. The files are
written to a temporary folder and checked. Then that folder gets the name FOLDER.
"""

import logging
import time
from pathlib import Path

from mobilellama import log as logs
from mobilellama.config import ConfigError
from mobilellama.cpus import use_cpu_budget
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.hf.card_parts import last_losses
from mobilellama.pretrain.hf.export_check import check_logits, probe_ids, require_same_logits
from mobilellama.pretrain.hf.export_config import OutputConfig
from mobilellama.pretrain.hf.export_folder import new_folder, print_files, require_free, write_model
from mobilellama.pretrain.hf.hub import push
from mobilellama.pretrain.model import count_parameters
from mobilellama.sft.chat.folder import check_chat_ids, write_chat_files
from mobilellama.sft.export.adapter_folder import peft_logits, write_adapter
from mobilellama.sft.export.chat_card import ChatCard, Kind
from mobilellama.sft.export.export_config import Config
from mobilellama.sft.finetuned import Finetuned, open_finetuned

log = logging.getLogger(__name__)


def main(config: Config) -> int:
    """Export, check, and push if asked to."""
    logs.configure()
    use_cpu_budget()
    output = Path(config.output)
    require_free(output)
    finetuned = open_finetuned(
        config.checkpoint, tokenizer=config.tokenizer, template=config.template
    )
    base = config.base or finetuned.base
    if finetuned.lora.rank is not None:
        require_base(config, base)
    finetuned.trained.verify()
    started_s = time.monotonic()
    checks = config.checks(count_parameters(finetuned.model)[0])
    with new_folder(output) as folder:
        if finetuned.lora.rank is None:
            write_card(config, folder, finetuned, kind="model", base=base, title=config.title)
            write_chat_model(config, folder, finetuned, checks=checks)
        else:
            write_card(config, folder, finetuned, kind="adapter", base=base, title=config.title)
            _write_adapter(folder, finetuned, str(base), checks=checks)
        if not checks:
            log.info("not compared with transformers; --check true compares")
    finetuned.trained.close()
    print_files(output, started_s)
    if finetuned.lora.rank is None:
        print(f"Talk to it with\n  mobilellama sft chat {output}")
    else:
        print(
            "This is the adapter. Write a whole model, for programs that load no adapters, with\n"
            f"  mobilellama sft merge {config.checkpoint} --output FOLDER"
        )
    if config.push:
        push(output, config.push, private=config.private)
    return 0


def require_base(config: Config, base: str | None) -> None:
    """Raise ConfigError unless whoever loads the adapter can know of which model it is one."""
    remedy = "Give the base's folder or Hub name; 'mobilellama pretrain export' writes one"
    if base is None:
        rule = "is not given, and the run did not begin from a Hugging Face folder that is there"
        raise ConfigError("base", "null", rule, remedy)
    if config.push and Path(base).exists():
        rule = "is a path of this machine, and others who load the adapter do not have it"
        raise ConfigError("base", base, rule, "Give the base's Hub name, USER/NAME")


def write_card(
    config: OutputConfig,
    folder: Path,
    finetuned: Finetuned,
    *,
    kind: Kind,
    base: str | None,
    title: str,
) -> None:
    """Write README.md."""
    card = ChatCard(
        title=title,
        license=config.license,
        kind=kind,
        dtype="fp32" if kind == "adapter" else config.weights_dtype,
        base=base,
        finetuned=finetuned,
        losses=last_losses(finetuned.run, finetuned.checkpoint.manifest.step),
    )
    card.write(folder / "README.md")


def write_chat_model(
    config: OutputConfig, folder: Path, finetuned: Finetuned, *, checks: bool
) -> None:
    """Write a whole model, its adapter merged if it has one, and check it if asked to."""
    _write_chat_files(folder, finetuned)
    write_model(config, folder, finetuned.weights, finetuned.model, finetuned.tokenizer)
    if checks:
        check_chat_ids(folder, finetuned.tokenizer, finetuned.template)
        difference = check_logits(
            folder, finetuned.weights, finetuned.model, dtype=config.weights_dtype
        )
        log.info("checked: transformers gives our ids, and logits within %.1g of ours", difference)


def _write_chat_files(folder: Path, finetuned: Finetuned) -> None:
    write_chat_files(
        folder,
        finetuned.tokenizer,
        finetuned.template,
        max_length_tokens=finetuned.model.max_seq_len,
    )
    finetuned.checkpoint.manifest.record.write(folder)


def _write_adapter(folder: Path, finetuned: Finetuned, base: str, *, checks: bool) -> None:
    _write_chat_files(folder, finetuned)
    write_adapter(folder, finetuned.trained, finetuned.lora, base=base)
    if not checks:
        return
    check_chat_ids(folder, finetuned.tokenizer, finetuned.template)
    here = base if Path(base).is_dir() else finetuned.base
    if here is None:
        log.info("%s is not a folder here, so the adapter is not tested with it", base)
        return
    try:
        model = find_model(here, field="base")
    except ConfigError as error:  # the adapter is whole without it
        log.warning("the adapter is not tested with its base: %s", error)
        return
    found = peft_logits(Path(model.path), folder, probe_ids(finetuned.model))
    what = f"{folder}: peft's logits on {model.name}"
    difference = require_same_logits(found, finetuned.unmerged_logits(), what=what)
    log.info("checked: transformers gives our ids, and peft logits within %.1g of ours", difference)
