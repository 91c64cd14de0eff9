"""Continue a text with a base model. The continuation appears token by token.

    mobilellama pretrain generate MODEL --prompt 'The capital of France is'

MODEL is an output of 'pretrain export', any other Hugging Face folder of a language model, its name
on the Hub, or a run of 'pretrain run' (its folder or the folder of one checkpoint). The command
prints the prompt and its continuation. Without a prompt the model begins a document.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilellama import log as logs
from mobilellama.config import ConfigError, UserError, require_at_least
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.generation.loading import (
    HfChoice,
    load_model,
    quieten,
    read_config,
    unreadable,
)
from mobilellama.pretrain.generation.run_model import open_run_model
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.run_record import require_language_model

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config(HfChoice, Sampling):
    """Fields of 'pretrain generate'."""

    model: str
    """A Hugging Face folder, such as 'pretrain export' writes, a name on the Hub (OWNER/NAME or
    OWNER/NAME@REVISION), the folder of a 'pretrain run', for its newest checkpoint, or the folder
    of one checkpoint."""
    prompt: str = ""
    """The text to continue. Without it, the model begins a new document."""
    max_new_tokens: int = 128
    """The most tokens of the continuation."""
    seed: int = 0
    """Seed of the draws, if temperature is above 0. The same seed gives the same text."""
    tokenizer: str | None = None
    """For a run: the dataset's tokenizer. null: the run's own copy."""

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        require_at_least("max_new_tokens", self.max_new_tokens, 1)
        require_at_least("seed", self.seed, 0)
        remedy = "Ask it with 'mobilellama vlm chat' or 'vlm generate'"
        require_language_model(self.model, field="model", remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model that continues text."""

    model: Any
    """Of transformers, in evaluation mode."""
    encode: Callable[[str], list[int]]
    """Gives the ids of a prompt that begins a text."""
    decode: Callable[[Sequence[int]], str]
    start_id: int | None
    """What generation without a prompt starts from."""
    end_ids: frozenset[int]
    """Tokens that end a document."""
    context_tokens: int | None
    """The most tokens that prompt and continuation may have together; None: no limit is known."""


def main(config: Config) -> int:
    """Load the model and write the prompt's continuation."""
    logs.configure()
    quieten()
    found = find_model(config.model, field="model")
    with found.errors_by_name():
        here = replace(config, model=found.path)
        is_folder = (Path(here.model) / "config.json").is_file()
        opened = _open_folder(here) if is_folder else _open_run(here)
    write = sys.stdout.write
    write(config.prompt)
    finish = continue_text(opened, config, write=_written_at_once)
    write("\n")
    log.info("%s", _ENDS[finish])
    return 0


_ENDS = {
    "stop": "the model ended the document",
    "length": "the text is at its limit: --max_new_tokens, or the context's end",
}


def continue_text(opened: Opened, config: Config, *, write: Callable[[str], object]) -> str:
    """Continue the config's prompt; return why it ended: "stop" or "length".

    Raises:
        ConfigError: the prompt leaves no room in the context, or there is nothing to start from.
    """
    import numpy as np

    from mobilellama.pretrain.generation.decode import decode, naming_memory
    from mobilellama.pretrain.generation.token_text import TokenText

    prompt = opened.encode(config.prompt) if config.prompt else []
    if not prompt:
        if opened.start_id is None:
            rule = "is empty, and the tokenizer has no token that begins a document"
            raise ConfigError("prompt", "(empty)", rule, "Give a text to continue")
        prompt = [opened.start_id]
    room = config.max_new_tokens
    if opened.context_tokens is not None:
        room = min(room, opened.context_tokens - len(prompt))
    if room < 1:
        rule = f"has {len(prompt):,} tokens, and the context holds {opened.context_tokens:,}"
        raise ConfigError("prompt", config.prompt[:20] + "...", rule, "Give a shorter text")
    text = TokenText(opened.decode, prompt if config.prompt else ())

    def on_token(row: int, token: int) -> None:
        del row
        if token not in opened.end_ids:
            write(text.add(token))

    with naming_memory([prompt], opened.model.device):
        (answer,) = decode(
            opened.model,
            [prompt],
            sampling=config,
            generators=[np.random.default_rng(config.seed)],
            limits=[room],
            ended=lambda ids: ids[-1] in opened.end_ids,
            on_token=on_token,
        )
    write(text.end())
    return answer.finish


def _written_at_once(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _open_folder(config: Config) -> Opened:
    from mobilellama.tokenizers.exact_tokenizer import load_exact_tokenizer

    if config.tokenizer is not None:
        rule, remedy = "is given with a Hugging Face folder", "Leave it out: the folder has its own"
        raise ConfigError("tokenizer", config.tokenizer, rule, remedy)
    try:
        tokenizer = load_exact_tokenizer(config.model)
    except UserError:
        raise
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        raise unreadable(config.model, "has no tokenizer that can be read", error) from error
    model = load_model(config)
    text_config = read_config(config.model).get_text_config()
    generation = model.generation_config
    eos = generation.eos_token_id
    ends = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id} - {None}
    start = generation.bos_token_id
    return Opened(
        model=model,
        encode=lambda text: list(tokenizer(text).input_ids),
        decode=lambda ids: tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        ),
        start_id=tokenizer.eos_token_id if start is None else start,
        end_ids=frozenset(ends),
        context_tokens=getattr(text_config, "max_position_embeddings", None),
    )


def _open_run(config: Config) -> Opened:
    remedy = "Talk to it with 'mobilellama {stage} chat'"
    with open_run_model(config.model, tokenizer=config.tokenizer, remedy=remedy) as run:
        built = run.build(config)
    tokenizer = run.tokenizer
    eos = tokenizer.eos_id  # in pretraining it stands between documents, and <s> never occurs
    return Opened(
        model=built,
        encode=lambda text: tokenizer.encode(text, begins=True),
        decode=tokenizer.decode,
        start_id=eos,
        end_ids=frozenset(() if eos is None else (eos,)),
        context_tokens=run.config.max_seq_len,
    )
