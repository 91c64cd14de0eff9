"""Write a checkpoint as a Hugging Face folder. transformers loads it without this package.

    mobilellama pretrain export RUN --output FOLDER [--push USER/NAME [--private]]

RUN is a run's folder (its newest checkpoint) or RUN/checkpoints/step-N. FOLDER gets config.json,
generation_config.json, model.safetensors (above max_shard_size_gb, shards and an index),
tokenizer.json, tokenizer.model, tokenizer_config.json, run_record.json (a record of the run) and
README.md, the model card. The files are written to a temporary folder and checked. Then that
folder gets the name FOLDER.
"""

import logging
import time
from pathlib import Path

from mobilellama import log as logs
from mobilellama.cpus import use_cpu_budget
from mobilellama.files.atomic import write_json
from mobilellama.pretrain.hf.card_parts import last_losses
from mobilellama.pretrain.hf.config import generation_config
from mobilellama.pretrain.hf.export_check import check_logits, check_tokenizer
from mobilellama.pretrain.hf.export_config import Config
from mobilellama.pretrain.hf.export_folder import (
    find_checkpoint,
    find_tokenizer,
    new_folder,
    parameter_shapes,
    print_files,
    require_free,
    run_of,
    write_model,
)
from mobilellama.pretrain.hf.hub import push
from mobilellama.pretrain.hf.model_card import Card
from mobilellama.pretrain.model import count_parameters
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.run_folder import RunFolder
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)


def main(config: Config) -> int:
    """Export, check, and push if asked to."""
    logs.configure()
    use_cpu_budget()
    output = Path(config.output)
    require_free(output)
    checkpoint = find_checkpoint(config.checkpoint)
    given = config.checkpoint
    checkpoint.manifest.record.require("pretrain", field="checkpoint", value=given)
    run = run_of(checkpoint)
    tokenizer = find_tokenizer(config.tokenizer, checkpoint, run)
    weights = CheckpointWeights(checkpoint, parameter_shapes(model_of(checkpoint)))
    weights.verify()
    started_s = time.monotonic()
    with new_folder(output) as folder:
        write_export(config, folder, weights, run, tokenizer)
    weights.close()
    print_files(output, started_s)
    print("Load it with transformers alone:")
    print(f'  AutoModelForCausalLM.from_pretrained("{output}")')
    print(f'  AutoTokenizer.from_pretrained("{output}")')
    if config.push:
        push(output, config.push, private=config.private)
    return 0


def model_of(checkpoint: Checkpoint) -> ModelConfig:
    """Return the architecture of a language model's checkpoint."""
    return ModelConfig(**checkpoint.manifest.config["model"])


def write_export(
    config: Config,
    folder: Path,
    weights: CheckpointWeights,
    run: RunFolder | None,
    tokenizer: TextTokenizer,
) -> None:
    """Write every file into `folder`, and check them if asked to."""
    manifest = weights.checkpoint.manifest
    model = model_of(weights.checkpoint)
    # In pretraining a document follows the former one's EOS, and <s> never occurs.
    start_id = tokenizer.bos_id if config.add_bos else tokenizer.eos_id
    eos_ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    values = generation_config(start_id=start_id, eos_ids=eos_ids, pad_id=tokenizer.pad_id)
    write_json(folder / "generation_config.json", values)
    tokenizer.write_hf(folder, max_length_tokens=model.max_seq_len, add_bos=config.add_bos)
    card = Card(
        title=config.title,
        license=config.license,
        dtype=config.weights_dtype,
        add_bos=config.add_bos,
        model=model,
        manifest=manifest,
        tokenizer=tokenizer,
        losses=last_losses(run, manifest.step),
    )
    card.write(folder / "README.md")
    manifest.record.write(folder)
    write_model(config, folder, weights, model, tokenizer)
    if config.checks(count_parameters(model)[0]):
        check_tokenizer(folder, tokenizer, add_bos=config.add_bos)
        difference = check_logits(folder, weights, model, dtype=config.weights_dtype)
        log.info("checked: transformers gives our ids, and logits within %.1g of ours", difference)
    else:
        log.info("not compared with transformers; --check true compares")
