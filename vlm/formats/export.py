"""Write a vision-language model as a folder: our form, the published MobileVLM's, or a part.

    mobilellama vlm export RUN --output FOLDER [--push USER/NAME [--private]]
    mobilellama vlm export RUN --output FOLDER --format mobilevlm
    mobilellama vlm export RUN --output FOLDER --format projector

RUN is a run's folder (its newest checkpoint), RUN/checkpoints/step-N, or a folder in our form.
For a LoRA run every format holds the merged model: W + alpha / rank * B @ A in fp32, rounded once.
Without --dtype a run is written in bf16, and a folder in its own dtype, so that every weight stays
the same, bit for bit. If a folder has several dtypes, the command takes the narrowest dtype that
holds all of them exactly.

    hf         ours: config.json, model*.safetensors, template.yaml, the tokenizer's files,
               generation_config.json, preprocessor_config.json, README.md, and of a run
               run_record.json
    mobilevlm  the names and fields of the published folders, for the original code and for
               converters made for it: pytorch_model*.bin, as those have (--safetensors true for
               safetensors), with the tower inside, and LLaMA's slow tokenizer
    projector  mm_projector.bin alone, as the original's first stage writes it

'vlm run --init' starts from the first two, '--projector.weights' from the third. The
command writes the export beside FOLDER, checks it, and then renames it: FOLDER is never half an
export.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mobilellama import log as logs
from mobilellama.cpus import use_cpu_budget
from mobilellama.files.atomic import whole_file, write_json
from mobilellama.pretrain.hf.device import DTYPE_NAMES
from mobilellama.pretrain.hf.export_folder import (
    new_folder,
    print_files,
    require_free,
    require_outside,
)
from mobilellama.pretrain.hf.hub import push
from mobilellama.pretrain.hf.weights import DTYPES, write_weights
from mobilellama.run_record import RECORD_FILE
from mobilellama.sft.chat.folder import check_chat_ids, write_chat_files
from mobilellama.sft.data.template import read_template
from mobilellama.vlm.data.images import PREPROCESSOR_FILE
from mobilellama.vlm.formats.export_check import check_merged, check_weights
from mobilellama.vlm.formats.export_config import Config
from mobilellama.vlm.formats.folder import OURS, TEMPLATE_FILE
from mobilellama.vlm.formats.import_config import ORIGINALS_TEMPLATE
from mobilellama.vlm.formats.published_config import require_publishable, write_small_files
from mobilellama.vlm.formats.published_weights import (
    PROJECTOR_FILE,
    write_projector,
    write_published,
)
from mobilellama.vlm.formats.trained import Trained, open_trained
from mobilellama.vlm.formats.vlm_card import VlmCard
from mobilellama.vlm.model import PROJECTOR

log = logging.getLogger(__name__)


def main(config: Config) -> int:
    """Export, check, and push if asked to."""
    logs.configure()
    use_cpu_budget()
    output = Path(config.output)
    require_free(output)
    trained = open_trained(config.checkpoint, tokenizer=config.tokenizer, template=config.template)
    require_outside(output, trained.run.path if trained.run else trained.path)
    tower_name = ""
    if config.format == "mobilevlm":
        tower_name = require_publishable(trained, config.vision_tower)
        if trained.template.sha256 != read_template(ORIGINALS_TEMPLATE).sha256:
            log.warning(
                "trained with the template %s, but the original code asks with %s",
                trained.template.name, ORIGINALS_TEMPLATE,
            )  # fmt: skip
    trained.weights.verify()
    if config.dtype is None:
        config = replace(config, dtype=trained.default_dtype(_written(config, trained)))
    started_s = time.monotonic()
    with new_folder(output) as folder:
        if config.format == "projector":
            path = folder / PROJECTOR_FILE
            dtype = DTYPES[config.weights_dtype]
            write_projector(trained.weights, trained.architecture, path, dtype=dtype)
        else:
            _write_folder(config, folder, trained, tower_name)
            _check(config, folder, trained)
    trained.weights.close()
    print_files(output, started_s)
    print(_NEXT[config.format].format(output=output) + _also(config, trained))
    if config.push:
        push(output, config.push, private=config.private)
    return 0


def _also(config: Config, trained: Trained) -> str:
    """Return what a run must be told of a projector that is not the original's."""
    rule = trained.architecture.differs_from_original
    if config.format != "projector" or rule is None:
        return ""
    return f" --projector.{rule} {getattr(trained.architecture, rule)}"


def _written(config: Config, trained: Trained) -> list[str]:
    """Return our names of the weights that the format holds."""
    prefix = PROJECTOR if config.format == "projector" else ""
    return [name for name in trained.shapes if name.startswith(prefix)]


_NEXT = {
    "hf": "Ask it about images with\n  mobilellama vlm chat {output} --image FILE",
    "mobilevlm": "The original MobileVLM code loads it; so does 'mobilellama vlm run --init'.",
    "projector": (
        "A second stage starts from it with\n"
        f"  mobilellama vlm run --projector.weights {{output}}/{PROJECTOR_FILE}"
    ),
}


def _write_folder(config: Config, folder: Path, trained: Trained, tower_name: str) -> None:
    assert config.format != "projector"
    card = VlmCard(
        title=config.title,
        license=config.license,
        form=config.format,
        dtype=config.weights_dtype,
        base=config.base,
        trained=trained,
    )
    card.write(folder / "README.md")
    max_shard_bytes = round(config.max_shard_size_gb * 1e9)
    if config.format == "hf":
        write_our_small_files(folder, trained, dtype=config.weights_dtype)
        if trained.record is not None:
            trained.record.write(folder)
        elif (trained.path / RECORD_FILE).is_file():  # of the run that the folder was exported from
            shutil.copyfile(trained.path / RECORD_FILE, folder / RECORD_FILE)
        write_weights(
            trained.weights,
            folder,
            dtype=DTYPES[config.weights_dtype],
            max_shard_bytes=max_shard_bytes,
        )
        return
    write_small_files(
        folder, trained, vision_tower=tower_name, dtype=config.weights_dtype, title=config.title
    )
    write_published(
        trained.weights,
        trained.architecture,
        folder,
        dtype=DTYPES[config.weights_dtype],
        max_shard_bytes=max_shard_bytes,
        safetensors=config.safetensors,
    )


def write_our_small_files(folder: Path, trained: Trained, *, dtype: str) -> None:
    """Write all files of our form but weights and card.

    Args:
        folder: where to; it exists.
        trained: what is written.
        dtype: bf16, fp16 or fp32, of the weights.
    """
    values: dict[str, object] = {
        "model_type": OURS,
        "dtype": DTYPE_NAMES[dtype],
        **trained.architecture.to_dict(),
    }
    if trained.published:
        values["published"] = dict(trained.published)
    write_json(folder / "config.json", values)
    write_json(folder / PREPROCESSOR_FILE, trained.architecture.images.to_hf())
    with whole_file(folder / TEMPLATE_FILE) as file:
        file.write(trained.template.to_yaml().encode())
    write_chat_files(
        folder,
        trained.tokenizer,
        trained.template,
        max_length_tokens=trained.architecture.max_seq_len,
    )


def _check(config: Config, folder: Path, trained: Trained) -> None:
    if not config.checks(sum(shape.numel() for shape in trained.shapes.values())):
        log.info("not read again; --check true reads it again")
        return
    check_weights(folder, trained, dtype=config.weights_dtype)
    if config.format == "hf":
        with _without_warnings():  # of a model_type that transformers does not know
            check_chat_ids(folder, trained.tokenizer, trained.template)
    log.info("checked: the folder reads back as the trained model, bit for bit")
    if trained.lora.rank is not None:
        difference = check_merged(trained)
        print(
            f"Merged in fp32, the logits are within {difference:.1e} of base plus adapter (of the "
            "largest logit)"
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Let transformers tell errors alone."""
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
