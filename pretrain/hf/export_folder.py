"""What every export shares: which checkpoint, into which folder, whole or not at all."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mobilellama.config import ConfigError
from mobilellama.files.atomic import fsync_path, write_json
from mobilellama.files.hub_folder import find_model
from mobilellama.files.temporary import temporaries, temporary_path
from mobilellama.pretrain.hf.config import llama_config
from mobilellama.pretrain.hf.export_config import OutputConfig
from mobilellama.pretrain.hf.hub import missing_files
from mobilellama.pretrain.hf.weights import DTYPES, write_weights
from mobilellama.pretrain.model import LanguageModel
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.checkpoint_weights import naming_other_steps
from mobilellama.pretrain.state.manifest import MANIFEST
from mobilellama.pretrain.weight_source import WeightSource, shapes_of
from mobilellama.progress import format_amount
from mobilellama.run_folder import RunFolder
from mobilellama.tokenizers.opening import open_known_tokenizer
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

log = logging.getLogger(__name__)

_MADE_BY_MKFS = "lost+found"  # stands in an empty ext4


def require_free(output: Path) -> None:
    """Raise ConfigError if it is a file, or holds something; warn of dead exports beside."""
    if output.exists() and not output.is_dir():
        rule, remedy = "is a file, but the output is a folder", "Give a folder, new or empty"
        raise ConfigError("output", str(output), rule, remedy)
    if output.is_dir() and not os.access(output, os.W_OK | os.X_OK):
        rule, remedy = "may not be written to", "Give a folder that can be"
        raise ConfigError("output", str(output), rule, remedy)
    if output.is_dir() and any(path.name != _MADE_BY_MKFS for path in output.iterdir()):
        remedy = "Give another folder, or remove it"
        if not missing_files(output):
            remedy += "; 'mobilellama pretrain push' pushes it as it is"
        raise ConfigError("output", str(output), "exists and is not empty", remedy)
    for half in temporaries(output.parent.glob("*")):
        if half.final == output.name:
            text = "%s is an unfinished export; the process that made it died or still runs"
            log.warning(text, half.path)


def require_outside(output: Path, folder: Path) -> None:
    """Raise ConfigError if `output` lies within a folder that is read: it is not ours to change."""
    if output.resolve().is_relative_to(folder.resolve()):
        rule = f"lies within {folder}, which this command reads"
        raise ConfigError("output", str(output), rule, "Put it beside that folder")


def find_checkpoint(
    path: str,
    *,
    field: str = "checkpoint",
    remedy: str = "Give RUN or RUN/checkpoints/step-N, of 'pretrain run', 'sft run' or 'vlm run'",
) -> Checkpoint:
    """Open the checkpoint that `path` names.

    Args:
        path: a run's folder, whose newest checkpoint is taken, or a checkpoint's own.
        field: the field that names it, for errors.
        remedy: what to give instead of a path that names none.

    Raises:
        ConfigError: it is neither a checkpoint nor a run that has one.
        DataError: its manifest or a receipt is damaged; the run's other steps are named.
    """
    folder = Path(path).resolve()
    run = RunFolder(folder)
    if (folder / MANIFEST).is_file():
        return _open(folder)
    if steps := run.checkpoint_steps():
        log.info("step %d is the run's newest checkpoint", steps[-1])
        return _open(run.checkpoint(steps[-1]))
    if run.checkpoints.is_dir():
        raise ConfigError(field, path, "the run has no whole checkpoint", remedy)
    others = RunFolder(folder.parent.parent).checkpoint_steps()
    if others and folder.parent.name == run.checkpoints.name:
        remedy = f"The run has {', '.join(f'step-{step}' for step in others)}"
    raise ConfigError(field, path, "is neither a checkpoint nor a run's folder", remedy)


def _open(folder: Path) -> Checkpoint:
    with naming_other_steps(folder):
        return Checkpoint(folder)


def run_of(checkpoint: Checkpoint) -> RunFolder | None:
    """Return the run that the checkpoint lies in; None for one that was moved out.

    Raises:
        DataError: its tokenizer or template is not as it was written.
    """
    run = RunFolder(checkpoint.folder.parent.parent)
    if checkpoint.folder.parent != run.checkpoints:
        return None
    run.require_whole_texts()
    return run


def find_tokenizer(
    path: str | None, checkpoint: Checkpoint, run: RunFolder | None
) -> TextTokenizer:
    """Open the tokenizer and make sure that it is the one the data was encoded with.

    Raises:
        ConfigError: no tokenizer was found, or it is another one.
    """
    place = path or (run.path if run else None)
    if place is None:
        rule = f"is not given, and {checkpoint.folder} is not in a run that has one"
        raise ConfigError("tokenizer", "null", rule, "Give the dataset's tokenizer.model")
    expected = checkpoint.manifest.identity["data.tokenizer_sha256"]
    owner = f"{checkpoint.folder}'s dataset"
    if path is None:
        return open_known_tokenizer(place, expected, owner=owner)
    found = find_model(path, field="tokenizer", weights=False)
    with found.errors_by_name():
        return open_known_tokenizer(found.path, expected, owner=owner)


def parameter_shapes(model: ModelConfig) -> dict[str, torch.Size]:
    """Return every parameter's name and shape, in the model's order."""
    with torch.device("meta"):
        return shapes_of(LanguageModel(model))


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give a temporary folder beside `output`; fsync and rename it at the end, or remove it.

    An empty folder that cannot be replaced (a mount point, or one in a folder that is not ours to
    write to) takes the temporary inside it, and at the end the files one by one, config.json last.

    Raises:
        ConfigError: it cannot be made.
        OSError: of a write, a copy or a rename, say onto a full disk, with `output` for its file.
    """
    output = output.resolve() if output.is_symlink() else output
    inside = output.is_dir() and not _can_be_replaced(output)
    temporary = temporary_path(output / "export" if inside else output)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        rule = f"cannot be made ({error.strerror})"
        remedy = "Give a folder that can be written to, on a disk with room"
        raise ConfigError("output", str(output), rule, remedy) from None
    try:
        yield temporary
        for path in temporary.iterdir():
            fsync_path(path)
        fsync_path(temporary)
        if inside:
            _move_files(temporary, output)
        else:
            temporary.rename(output)  # over an empty folder too
            fsync_path(output.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # A failed write names no file or one in here, a copy or a rename the source first.
        if isinstance(error, OSError) and (
            error.filename is None
            or error.filename2 is not None
            or str(temporary) in str(error.filename)
        ):
            error.filename = str(output)
        raise


def _can_be_replaced(output: Path) -> bool:
    """Whether another folder can be renamed to an empty one."""
    parent = output.absolute().parent
    return not os.path.ismount(output) and os.access(parent, os.W_OK | os.X_OK)


def _move_files(folder: Path, output: Path) -> None:
    """Move all files of a folder; readers take the folder for a model by its config.json."""
    paths = sorted(folder.iterdir(), key=lambda path: (path.name.endswith("config.json"), path))
    moved = []
    try:
        for path in paths:
            path.rename(output / path.name)
            moved.append(output / path.name)
        folder.rmdir()
        fsync_path(output)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


def write_model(
    config: OutputConfig,
    folder: Path,
    source: WeightSource,
    model: ModelConfig,
    tokenizer: TextTokenizer,
) -> None:
    """Write config.json and the weights, cast to the config's dtype.

    Args:
        config: dtype and size of the files.
        folder: where to; it exists.
        source: is read in fp32.
        model: the architecture.
        tokenizer: whose special ids config.json states.
    """
    write_json(folder / "config.json", llama_config(model, tokenizer, config.weights_dtype))
    write_weights(
        source,
        folder,
        dtype=DTYPES[config.weights_dtype],
        max_shard_bytes=round(config.max_shard_size_gb * 1e9),
    )


def print_files(output: Path, started_s: float) -> None:
    """Print the command's result: the folder's size and its files.

    Args:
        output: the folder.
        started_s: ``time.monotonic()`` when the work began.
    """
    size_mb = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    print(f"{output}: {format_amount(size_mb, 'MB')} in {time.monotonic() - started_s:.0f} s")
    for path in sorted(output.iterdir()):
        print(f"  {path.name:<34} {path.stat().st_size:>15,} bytes")
