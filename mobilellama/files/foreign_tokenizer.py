"""What is asked of a tokenizer of transformers. Its own types are too wide to check against."""

from typing import Protocol


class AddedToken(Protocol):
    """A token beside the model's own, as transformers has it."""

    content: str


class TokenizedText(Protocol):
    """What one of transformers' tokenizers makes of a text."""

    input_ids: list[int]


class ForeignTokenizer(Protocol):
    """What is asked of one of transformers' tokenizers."""

    chat_template: str | None
    bos_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    model_max_length: int
    """Tokens; a huge number where the folder does not say."""
    init_kwargs: dict[str, object]
    """What tokenizer_config.json says."""

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by their ids."""
        ...

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> TokenizedText:
        """Return the ids of a text."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
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
    ) -> str | list[int]:
        """Return a conversation's text, or its ids."""
        ...
