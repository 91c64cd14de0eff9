"""The model and tokenizer of a chat: of a Hugging Face folder, or of an 'sft run' as it is."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mobilellama.files.atomic import write_json
from mobilellama.pretrain.generation.loading import build_model, load_model
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.chat.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def opened(choice: ModelChoice) -> Iterator[tuple[ChatTokenizer, Callable[[], "PreTrainedModel"]]]:
    """Yield the tokenizer that a choice names, and what loads the model.

    Of a run the small files of an export are written into a temporary folder, so that a chat with
    the run and one with its export have the same ids; the weights go from the checkpoint straight
    into memory, an adapter added to its base.

    Raises:
        ConfigError: neither can be read, or the run is another stage's.
    """
    if not choice.is_run:
        yield ChatTokenizer(choice), partial(load_model, choice)
        return
    from mobilellama.pretrain.hf.config import llama_config
    from mobilellama.sft.chat.folder import write_chat_files
    from mobilellama.sft.finetuned import open_finetuned

    run = open_finetuned(choice.model, template=choice.template, field="model")
    with closing(run.trained), TemporaryDirectory(prefix="mobilellama-chat-") as name:
        folder = Path(name)
        write_json(folder / "config.json", llama_config(run.model, run.tokenizer, "fp32"))
        tokens = run.model.max_seq_len
        write_chat_files(folder, run.tokenizer, run.template, max_length_tokens=tokens)
        tokenizer = ChatTokenizer(replace(choice, model=name, template=None))
        yield tokenizer, partial(build_model, choice, run.weights, run.model, run.tokenizer)
