"""The interface of all tokenizers, and the names of their files.

There are two kinds. ``tokenizer.Tokenizer`` is a sentencepiece model, such as LLaMA's.
``hf_tokenizer.HfTokenizer`` is any other tokenizer that transformers reads.
``opening.open_tokenizer`` opens the tokenizer that a user names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mobilellama.config import ConfigError

SENTENCEPIECE_FILE = "tokenizer.model"
"""The name of a sentencepiece model in a dataset, a run or an export."""
HF_FOLDER = "tokenizer"
"""The name of the folder, in a dataset or a run, with the files of any other tokenizer."""


@dataclass(frozen=True, kw_only=True)
class SpecialToken:
    """One special token of a tokenizer."""

    id: int
    lstrip: bool = False
    """Whether transformers drops white space before it."""
    rstrip: bool = False
    """Whether transformers drops white space after it."""
    read_from_text: bool = False
    """Whether ``encode`` gives its id for its spelling in a text."""


class TextTokenizer(Protocol):
    """What the stages need from a tokenizer of any kind."""

    @property
    def path(self) -> Path:
        """The file that decides the ids."""
        ...

    @property
    def sha256(self) -> str:
        """sha256 of that file."""
        ...

    @property
    def vocab_size(self) -> int:
        """The highest id plus one: the smallest size of an embedding."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Id that begins a text. None: there is none."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text. None: there is none."""
        ...

    @property
    def pad_id(self) -> int | None:
        """Id to pad with. None: there is none."""
        ...

    @property
    def bos_token(self) -> str:
        """The spelling of the begin token, or an empty string if there is none."""
        ...

    @property
    def specials(self) -> Mapping[str, SpecialToken]:
        """Every special token by its spelling."""
        ...

    @property
    def begins_after_special(self) -> bool:
        """Whether a text after a special token is encoded like the first text."""
        ...

    def encode(self, text: str, *, begins: bool) -> list[int]:
        """Return the ids of `text`. The spelling of a special token in it is encoded as text.

        Args:
            text: any text that UTF-8 can hold.
            begins: whether the text is the first one. Some tokenizers put a space before it.
                False: the text continues the text before it.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        ...

    def require_sha256(self, expected: str, *, field: str, owner: str) -> None:
        """Raise ConfigError unless this is the tokenizer that `owner` was made with."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files into the folder of a dataset or a run, which exists."""
        ...

    def write_hf(
        self,
        folder: Path,
        *,
        max_length_tokens: int,
        add_bos: bool,
        chat_template: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        """Write the files that transformers 4 and 5 load as this tokenizer.

        Args:
            folder: the folder, which exists.
            max_length_tokens: the model's longest sequence.
            add_bos: whether encoding puts the begin token first.
            chat_template: Jinja of a chat model. None: a base model.
            eos_token: the token that ends a text or an answer. None: the tokenizer's own.

        Raises:
            ConfigError: `eos_token` is not a special token, or there is no begin token to add.
        """
        ...


def require_same_tokenizer(
    tokenizer: TextTokenizer, expected: str, *, field: str, owner: str, kind: str
) -> None:
    """Raise ConfigError unless `tokenizer`, a `kind`, has the sha256 that `owner` recorded."""
    if tokenizer.sha256 != expected:
        raise ConfigError(
            field,
            str(tokenizer.path),
            f"has sha256 {tokenizer.sha256[:12]}, but {owner} was made with {expected[:12]}",
            f"Give the same {kind}",
        )
