"""A folder's tokenizer as transformers opens it, and what generation_config.json says of ends."""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Protocol

from mobilellama.config import DataError, UserError, one_line
from mobilellama.files.atomic import read_json
from mobilellama.pretrain.generation.loading import read_config, unreadable
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.data.template_process import Rendered
from mobilellama.tokenizers.exact_tokenizer import load_exact_tokenizer


class AddedToken(Protocol):
    """A token beside the model's own, as transformers has it."""

    content: str


class TokenizedText(Protocol):
    """What one of transformers' tokenizers makes of a text."""

    input_ids: list[int]


class ForeignTokenizer(Protocol):
    """What is asked of one of transformers' tokenizers."""

    chat_template: str | None
    eos_token_id: int | None
    model_max_length: int
    """Tokens; a huge number where the folder does not say."""

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by their ids."""
        ...

    def __call__(self, text: str, *, add_special_tokens: bool) -> TokenizedText:
        """Return the ids of a text."""
        ...

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Return the text of ids."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id."""
        ...

    def convert_tokens_to_ids(self, tokens: str) -> int:
        """Return a token's id."""
        ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], /, **options: bool
    ) -> Rendered:
        """Return a conversation's text, or its ids."""
        ...


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
