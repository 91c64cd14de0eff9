"""The interface of all tokenizers, and the names of their files.

There are two kinds: ``tokenizer.Tokenizer`` is a sentencepiece model, as LLaMA's;
``hf_tokenizer.HfTokenizer`` is any other that transformers reads. ``opening.open_tokenizer`` opens
the tokenizer that a user names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mobilellama.config import ConfigError

SENTENCEPIECE_FILE = "tokenizer.model"
"""The name of a sentencepiece model in a dataset, a run or an export."""
HF_FOLDER = "tokenizer"
"""The name of the folder of any other tokenizer's files in a dataset or a run."""


@dataclass(frozen=True, kw_only=True)
class SpecialToken:
    """One special token of a tokenizer."""

    id: int
    lstrip: bool = False
    """Whether transformers' encoding drops white space before it."""
    rstrip: bool = False
    """Whether transformers' encoding drops white space after it."""
    read_from_text: bool = False
    """Whether ``encode`` gives its id for a text that spells it."""


class TextTokenizer(Protocol):
    """What the stages ask of a tokenizer of any kind."""

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
        """The highest id plus one: what an embedding needs at least."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Id that begins a text; None where there is none."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text; None where there is none."""
        ...

    @property
    def pad_id(self) -> int | None:
        """Id to pad with; None where there is none."""
        ...

    @property
    def bos_token(self) -> str:
        """How the begin token is spelt; empty where there is none."""
        ...

    @property
    def specials(self) -> Mapping[str, SpecialToken]:
        """Every special token by its spelling."""
        ...

    @property
    def begins_after_special(self) -> bool:
        """Whether a text after a special token is encoded as at the start, not as going on."""
        ...

    def encode(self, text: str, *, begins: bool) -> list[int]:
        """Return the ids of `text`, in which no special token is looked for.

        Args:
            text: any text that UTF-8 can hold.
            begins: whether it stands at the start, where some tokenizers put a space before
                it; else it goes on from the text before it.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special ids give nothing."""
        ...

    def require_sha256(self, expected: str, *, field: str, owner: str) -> None:
        """Raise ConfigError unless this is the tokenizer that `owner` was made with."""
        ...

    def save(self, folder: Path) -> None:
        """Put the tokenizer's own files into a dataset's or run's folder, which exists."""
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
            folder: where to; it exists.
            max_length_tokens: the model's longest sequence.
            add_bos: whether encoding puts the begin token first.
            chat_template: Jinja of a chat model; None for a base model.
            eos_token: what ends a text or an answer; None for the tokenizer's own.

        Raises:
            ConfigError: `eos_token` is no special token, or there is no begin token to add.
        """
        ...


def require_same_tokenizer(
    tokenizer: TextTokenizer, expected: str, *, field: str, owner: str, kind: str
) -> None:
    """Raise ConfigError unless `tokenizer`, a `kind`, has the sha256 `owner` was made with."""
    if tokenizer.sha256 != expected:
        raise ConfigError(
            field,
            str(tokenizer.path),
            f"has sha256 {tokenizer.sha256[:12]}, but {owner} was made with {expected[:12]}",
            f"Give the same {kind}",
        )
