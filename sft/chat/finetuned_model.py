"""The model and tokenizer of a chat: of a Hugging Face folder, or of an 'sft run' as it is."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mobilellama.files.atomic import sha256_of_json, write_json
from mobilellama.pretrain.generation.loading import (
    build_model,
    find_dtype,
    find_run_dtype,
    load_model,
)
from mobilellama.pretrain.hf.device import DTYPE_NAMES, DtypeName
from mobilellama.pretrain.hf.fingerprint import identify
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.chat.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mobilellama.sft.finetuned import Finetuned


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A chat model whose weights are not loaded yet."""

    tokenizer: ChatTokenizer
    load: Callable[[], "PreTrainedModel"]
    """Loads the weights."""
    sha256: Callable[[], str]
    """Tells the model from any other."""
    dtype: Callable[[], str]
    """Name of the dtype that its weights are loaded in, such as ``bfloat16``."""


@contextmanager
def opened(choice: ModelChoice) -> Iterator[OpenedModel]:
    """Yield the model that a choice names.

    Of a run the small files of an export are written into a temporary folder, so that a chat with
    the run and one with its export have the same ids; the weights go from the checkpoint straight
    into memory, an adapter added to its base.

    Raises:
        ConfigError: neither can be read, or the run is another stage's.
    """
    if not choice.is_run:
        yield OpenedModel(
            tokenizer=ChatTokenizer(choice),
            load=partial(load_model, choice),
            sha256=partial(identify, choice.model),
            dtype=partial(find_dtype, choice),
        )
        return
    from mobilellama.sft.finetuned import open_finetuned

    run = open_finetuned(choice.model, template=choice.template, field="model")
    with small_files(run, "fp32") as folder:
        weights = run.weights
        name = str(folder)
        yield OpenedModel(
            tokenizer=ChatTokenizer(replace(choice, model=name, template=None)),
            load=partial(build_model, choice, weights, run.model, run.tokenizer),
            sha256=lambda: sha256_of_json([weights.fingerprint, identify(name)]),
            dtype=lambda: DTYPE_NAMES[find_run_dtype(choice)],
        )


@contextmanager
def small_files(run: "Finetuned", dtype: DtypeName) -> Iterator[Path]:
    """Yield a temporary folder with an export's config, tokenizer and template, and no weights.

    Args:
        run: is closed after the block.
        dtype: of the weights, for config.json.
    """
    from mobilellama.pretrain.hf.config import llama_config
    from mobilellama.sft.chat.folder import write_chat_files

    with closing(run.trained), TemporaryDirectory(prefix="mobilellama-chat-") as name:
        folder = Path(name)
        write_json(folder / "config.json", llama_config(run.model, run.tokenizer, dtype))
        tokens = run.model.max_seq_len
        write_chat_files(folder, run.tokenizer, run.template, max_length_tokens=tokens)
        yield folder
