"""A folder's tokenizer as transformers opens it, and what generation_config.json says of ends."""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path

from mobilellama.config import DataError, UserError, one_line
from mobilellama.files.atomic import read_json
from mobilellama.files.foreign_tokenizer import ForeignTokenizer
from mobilellama.pretrain.generation.loading import read_config, unreadable
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.tokenizers.exact_tokenizer import load_exact_tokenizer


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """What generation_config.json says of an answer's end."""

    eos_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()


def load_tokenizer(choice: ModelChoice) -> ForeignTokenizer:
    """Return a folder's tokenizer; no weights are read.

    Raises:
        ConfigError: it has none that can be read.
    """
    try:
        return load_exact_tokenizer(choice.model, as_is=choice.tokenizer_as_is)
    except UserError:
        raise
    except Exception as error:  # any of a dozen kinds, by what is wrong with the folder
        raise unreadable(choice.model, "has no tokenizer that can be read", error) from error


def read_generation_config(folder: str) -> GenerationConfig:
    """Return what a folder's generation_config.json says; without the file, nothing.

    Raises:
        DataError: it is not JSON.
    """
    path = Path(folder) / "generation_config.json"
    if not path.is_file():
        return GenerationConfig()
    try:
        settings = dict(read_json(path))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({one_line(error)}); copy the folder again") from None
    ids, texts = map(_listed, (settings.get("eos_token_id"), settings.get("stop_strings")))
    return GenerationConfig(
        eos_token_ids=tuple(one for one in ids if isinstance(one, int)),
        stop_strings=tuple(text for text in texts if isinstance(text, str) and text),
    )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def context_tokens(folder: str, tokenizer: ForeignTokenizer) -> int | None:
    """Return the most tokens that prompt and answer may have together; None: no limit known."""
    known = getattr(read_config(folder).get_text_config(), "max_position_embeddings", None)
    if known is None and tokenizer.model_max_length < 1 << 30:  # else "not given"
        known = tokenizer.model_max_length
    return known


def can_sanitize(tokenizer: ForeignTokenizer) -> bool:
    """Return whether its template can tell a special token from a text that spells it."""
    return "sanitize_control_tokens" in signature(tokenizer.apply_chat_template).parameters
