"""Write a checkpoint as a Hugging Face folder, which transformers loads without this package.

    mobilellama pretrain export --checkpoint RUN --output FOLDER [--push USER/NAME [--private]]

--checkpoint takes a run's folder (its newest checkpoint) or RUN/checkpoints/step-N. FOLDER
holds config.json, generation_config.json, model.safetensors (shards and an index above
max_shard_size_gb), tokenizer.json, tokenizer.model, tokenizer_config.json and README.md, the
model card. It is written beside FOLDER, checked, and renamed: there is a whole export or none.
"""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mobilellama import log as logs
from mobilellama.config import ConfigError, DataError, require_at_least
from mobilellama.files import fsync_path, temporary_path, write_json
from mobilellama.pretrain.checkpoint import MANIFEST, Checkpoint
from mobilellama.pretrain.export_check import check_logits, check_tokenizer
from mobilellama.pretrain.hf_config import generation_config, llama_config
from mobilellama.pretrain.hf_weights import DTYPES, write_weights
from mobilellama.pretrain.hub import push, require_repo_id
from mobilellama.pretrain.model import LanguageModel, ModelConfig
from mobilellama.pretrain.model_card import Card, last_losses
from mobilellama.progress import Progress
from mobilellama.run_folder import RunFolder
from mobilellama.tokenizer import Tokenizer, write_hf_tokenizer

log = logging.getLogger(__name__)

_CHECKED_BELOW_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields of 'pretrain export'."""

    checkpoint: str
    """A run's folder, whose newest checkpoint is taken, or a checkpoint's own."""
    output: str
    """The folder to write; must not exist, or be empty."""
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Of the weights. bf16 is what forward and backward computed with, so that nothing is lost
    that training knew of; fp16 cannot hold fp32's range."""
    max_shard_size_gb: float = 5.0
    """Largest weight file, in 1e9 bytes; a larger parameter gets a file of its own."""
    tokenizer: str | None = None
    """The dataset's sentencepiece model; None takes the run's own copy."""
    add_bos: bool = False
    """Whether the exported tokenizer puts <s> first. A base model has never seen <s>."""
    name: str | None = None
    """The model card's title; None takes the repository's or the folder's name."""
    license: str = "apache-2.0"
    """The Hub's name of the weights' licence, for the model card."""
    check: bool | None = None
    """Load the folder with transformers and compare logits and ids with ours; None does so below
    1e9 parameters, since it holds two fp32 copies of the model, one after the other."""
    push: str | None = None
    """USER/NAME on the Hugging Face Hub to push to; None does not push."""
    private: bool = False
    """Make that repository private."""

    def __post_init__(self) -> None:
        require_at_least("max_shard_size_gb", self.max_shard_size_gb, 1e-6)
        if self.push is not None:
            require_repo_id("push", self.push)
        elif self.private:
            raise ConfigError("private", "true", "nothing is pushed", "Give --push USER/NAME too")


def main(config: Config) -> int:
    """Export, check, and push if asked to."""
    logs.configure()
    output = Path(config.output)
    require_free(output)
    checkpoint = find_checkpoint(config.checkpoint)
    run = run_of(checkpoint)
    tokenizer = find_tokenizer(config.tokenizer, checkpoint, run)
    verify(checkpoint)
    started_s = time.monotonic()
    with new_folder(output) as folder:
        write_export(config, folder, checkpoint, run, tokenizer)
    checkpoint.close()
    size_gb = sum(path.stat().st_size for path in output.iterdir()) / 1e9
    print(f"{output}: {size_gb:.2f} GB in {time.monotonic() - started_s:.0f} s")
    for path in sorted(output.iterdir()):
        print(f"  {path.name:<34} {path.stat().st_size:>15,} bytes")
    print("Load it with transformers alone:")
    print(f'  AutoModelForCausalLM.from_pretrained("{output}")')
    print(f'  AutoTokenizer.from_pretrained("{output}")')
    if config.push:
        push(output, config.push, private=config.private)
    return 0


def require_free(output: Path) -> None:
    """Raise ConfigError if the folder exists and holds something; warn of dead exports beside."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(
            "output",
            str(output),
            "exists and is not empty",
            "Give another folder, or remove it; 'mobilellama pretrain push' pushes it as it is",
        )
    for path in output.parent.glob(f"{output.name}.tmp.*"):
        log.warning("%s is half an export, by a process that died or still runs", path)


def find_checkpoint(path: str) -> Checkpoint:
    """Open the checkpoint that `path` names.

    Raises:
        ConfigError: it is neither a checkpoint nor a run that has one.
        DataError: its manifest or a receipt is damaged.
    """
    folder = Path(path).resolve()
    run = RunFolder(folder)
    remedy = "Give RUN or RUN/checkpoints/step-N, of 'mobilellama pretrain run'"
    if (folder / MANIFEST).is_file():
        return Checkpoint(folder)
    if steps := run.checkpoint_steps():
        log.info("step %d is the run's newest checkpoint", steps[-1])
        return Checkpoint(run.checkpoint(steps[-1]))
    if run.checkpoints.is_dir():
        raise ConfigError("checkpoint", path, "the run has no whole checkpoint", remedy)
    others = RunFolder(folder.parent.parent).checkpoint_steps()
    if others and folder.parent.name == run.checkpoints.name:
        remedy = f"The run has {', '.join(f'step-{step}' for step in others)}"
    raise ConfigError("checkpoint", path, "is neither a checkpoint nor a run's folder", remedy)


def run_of(checkpoint: Checkpoint) -> RunFolder | None:
    """Return the run that the checkpoint lies in; None for one that was moved out."""
    run = RunFolder(checkpoint.folder.parent.parent)
    return run if checkpoint.folder.parent == run.checkpoints else None


def find_tokenizer(path: str | None, checkpoint: Checkpoint, run: RunFolder | None) -> Tokenizer:
    """Open the tokenizer and make sure that it is the one the data was encoded with.

    Raises:
        ConfigError: no tokenizer was found, or it is another one.
    """
    found = Path(path) if path else run.tokenizer if run else None
    if found is None or not (path or found.is_file()):
        rule = f"is not given, and {checkpoint.folder} lies in no run that has one"
        raise ConfigError("tokenizer", "null", rule, "Give the dataset's tokenizer.model")
    tokenizer = Tokenizer(found)
    expected = checkpoint.manifest.identity["data.tokenizer_sha256"]
    tokenizer.require_sha256(expected, field="tokenizer", owner=f"{checkpoint.folder}'s dataset")
    return tokenizer


def verify(checkpoint: Checkpoint) -> None:
    """Check the sha256 of the checkpoint's files, with a bar.

    Raises:
        DataError: a file's bytes are not those that were written.
    """
    sizes_mb = [receipt["file"]["bytes"] / 1e6 for receipt in checkpoint.receipts]
    with Progress(f"verify {checkpoint.folder.name}", total=sum(sizes_mb), unit="MB") as progress:
        for i, size_mb in enumerate(sizes_mb):
            checkpoint.verify(share=i, shares=len(sizes_mb))
            progress.advance(size_mb)


def require_same_names(checkpoint: Checkpoint, shapes: Mapping[str, torch.Size]) -> None:
    """Raise DataError unless the checkpoint has exactly these parameters, in these sizes."""
    stored = set(checkpoint.names())
    missing, unexpected = sorted(set(shapes) - stored), sorted(stored - set(shapes))
    wrong = [
        f"{name} ({checkpoint.numel(name)} elements, not {shapes[name].numel()})"
        for name in sorted(stored & set(shapes))
        if checkpoint.numel(name) != shapes[name].numel()
    ]
    for problem, names in (("lacks", missing), ("also has", unexpected), ("has sizes of", wrong)):
        if names:
            some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            raise DataError(f"{checkpoint.folder}: it {problem} {some}, unlike its config's model")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give a temporary folder beside `output`; fsync and rename it at the end, or remove it."""
    temporary = temporary_path(output)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        rule = f"cannot be made ({error.strerror})"
        raise ConfigError("output", str(output), rule, "Give a writable folder") from None
    try:
        yield temporary
        for path in temporary.iterdir():
            fsync_path(path)
        fsync_path(temporary)
        temporary.rename(output)  # over an empty folder too
        fsync_path(output.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_export(
    config: Config,
    folder: Path,
    checkpoint: Checkpoint,
    run: RunFolder | None,
    tokenizer: Tokenizer,
) -> None:
    """Write every file into `folder`, and check them if asked to."""
    manifest, dtype = checkpoint.manifest, DTYPES[config.dtype]
    model = ModelConfig(**manifest.config["model"])
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in LanguageModel(model).named_parameters()}
    require_same_names(checkpoint, shapes)
    write_json(folder / "config.json", llama_config(model, tokenizer, config.dtype))
    generation = generation_config(tokenizer, add_bos=config.add_bos)
    write_json(folder / "generation_config.json", generation)
    write_hf_tokenizer(
        tokenizer, folder, max_length_tokens=model.max_seq_len, add_bos=config.add_bos
    )
    card = Card(
        title=config.name or config.push or Path(config.output).resolve().name,
        license=config.license,
        dtype=config.dtype,
        add_bos=config.add_bos,
        model=model,
        manifest=manifest,
        tokenizer=tokenizer,
        losses=last_losses(run, manifest.step),
    )
    card.write(folder / "README.md")
    max_shard_bytes = round(config.max_shard_size_gb * 1e9)
    write_weights(checkpoint, shapes, folder, dtype=dtype, max_shard_bytes=max_shard_bytes)
    parameters = sum(shape.numel() for shape in shapes.values())
    if config.check or (config.check is None and parameters < _CHECKED_BELOW_PARAMETERS):
        check_tokenizer(folder, tokenizer, add_bos=config.add_bos)
        difference = check_logits(folder, checkpoint, shapes, model, dtype=dtype)
        log.info("checked: transformers' ids are ours, its logits within %.1g of ours", difference)
    else:
        log.info("not compared with transformers; --check true does")
