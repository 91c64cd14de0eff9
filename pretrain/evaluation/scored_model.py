"""The model that is scored: a Hugging Face folder, or a run of pretraining as it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mobilellama.config import ConfigError, UserError, one_line
from mobilellama.files import pretrained
from mobilellama.files.atomic import sha256_of_json, write_json
from mobilellama.files.hub_folder import ModelFolder
from mobilellama.pretrain.generation.loading import HfChoice
from mobilellama.pretrain.generation.run_model import RunModel, open_run_model
from mobilellama.pretrain.hf.device import DTYPE_NAMES, DtypeName
from mobilellama.pretrain.hf.fingerprint import sampled_sha256
from mobilellama.run_record import require_language_model

if TYPE_CHECKING:  # they import torch, which --help does without
    import torch
    from transformers import PreTrainedModel

_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
RUN_DTYPE: DtypeName = "bf16"
"""What 'pretrain export' and 'sft export' write unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model whose weights are not loaded yet."""

    name: str
    """As it was given: for tables and files."""
    folder: str
    """Holds config.json and the tokenizer."""
    fingerprint: str
    """Tells the model from any other."""
    load: Callable[[str, DtypeName], "PreTrainedModel"]
    """Loads the weights. It takes a device and a short name of a dtype, such as ``fp32``."""


@contextmanager
def open_scored_model(found: ModelFolder) -> Iterator[ScoredModel]:
    """Give the model of a folder, or of a run, until the block ends.

    The small files of an export of the run are written into a temporary folder, so that a run and
    its export get the same ids. The weights go from the checkpoint straight into memory.

    Raises:
        ConfigError: it is neither, or has no tokenizer.
        DataError: a file of the checkpoint is damaged.
    """
    if (Path(found.path) / "config.json").is_file():
        require_folder(found.path)
        yield ScoredModel(
            name=found.name,
            folder=found.path,
            fingerprint=fingerprint(found),
            load=lambda device, dtype: load_weights(found.path, device, dtype),
        )
        return
    remedy = "Score it with 'mobilellama {stage} evaluate'"
    with (
        open_run_model(found.path, tokenizer=None, remedy=remedy) as run,
        TemporaryDirectory(prefix="mobilellama-evaluate-") as folder,
    ):
        yield _of_run(run, found.name, Path(folder))


def _of_run(run: RunModel, name: str, folder: Path) -> ScoredModel:
    from mobilellama.pretrain.hf.config import llama_config

    write_json(folder / "config.json", llama_config(run.config, run.tokenizer, RUN_DTYPE))
    run.tokenizer.write_hf(folder, max_length_tokens=run.config.max_seq_len, add_bos=False)
    small = fingerprint(ModelFolder(path=str(folder), name=name))
    return ScoredModel(
        name=name,
        folder=str(folder),
        fingerprint=sha256_of_json([run.weights.fingerprint, small]),
        load=lambda device, dtype: run.build(HfChoice(model=name, device=device, dtype=dtype)),
    )


def load_weights(folder: str, device: "torch.device | str", dtype: DtypeName) -> "PreTrainedModel":
    """Return a folder's model on a device.

    Args:
        folder: of a causal language model of transformers.
        device: cpu, cuda, ...
        dtype: of the weights: bf16, fp16 or fp32.

    Raises:
        ConfigError: the weights cannot be loaded.
        DataError: they are a pickle that would run code.
    """
    try:
        loaded = pretrained.load_causal_model(folder, dtype=DTYPE_NAMES[dtype])
    except UserError:
        raise
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        rule = f"is not a causal language model that transformers can load ({one_line(error)})"
        raise ConfigError("model", folder, rule.rstrip("."), "Give an exported folder") from None
    return pretrained.moved(loaded, device)


def require_folder(folder: str) -> None:
    """Raise ConfigError unless a folder holds a language model with its tokenizer."""
    asked = "Score it with 'mobilellama vlm evaluate'"
    require_language_model(folder, field="model", remedy=asked)
    if not any((Path(folder) / name).is_file() for name in _TOKENIZERS):
        raise ConfigError("model", folder, "has no tokenizer", f"Add its {_TOKENIZERS[0]}")


def fingerprint(model: ModelFolder) -> str:
    """Return what identifies a model: a folder's sampled sha256, or the commit on the Hub."""
    if model.is_from_hub:
        return model.name
    folder = Path(model.path)
    names = ("config.json", *_TOKENIZERS)
    whole = [folder / name for name in names if (folder / name).is_file()]
    weights = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    return sampled_sha256(whole, weights)
