"""Use a sentencepiece model, such as LLaMA's, as a tokenizer: encode texts, and write its files.

Corpora are encoded by ``tokenize/encoding/encoder.py``, not here.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.config import ConfigError
from mobilellama.files.atomic import whole_file
from mobilellama.tokenizers.fast_tokenizer import fast_tokenizer, special_pieces
from mobilellama.tokenizers.hf_files import write_hf_files
from mobilellama.tokenizers.sentencepiece_model import (
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    SentencepieceModel,
)
from mobilellama.tokenizers.text_tokenizer import (
    SENTENCEPIECE_FILE,
    SpecialToken,
    require_same_tokenizer,
)


class Tokenizer(SentencepieceModel):
    """A ``TextTokenizer`` of a sentencepiece model.

    Raises:
        ConfigError: see ``SentencepieceModel``.
    """

    @property
    def pad_id(self) -> int:
        """Id of <unk>, which no text encodes to.

        Padding is masked. If </s> were the padding, the model would not learn it.
        """
        return self.unk_id

    @property
    def bos_token(self) -> str:
        """The spelling of <s>, or an empty string if there is none."""
        return self.processor.id_to_piece(self.bos_id) if self.bos_id >= 0 else ""

    @property
    def specials(self) -> Mapping[str, SpecialToken]:
        """Control pieces, <unk> and user-defined pieces. Text spells only user-defined ones."""
        return self._specials

    @cached_property
    def _specials(self) -> Mapping[str, SpecialToken]:
        return {
            piece.piece: SpecialToken(id=i, read_from_text=piece.type == USER_DEFINED)
            for i, piece in enumerate(self.proto.pieces)
            if piece.type in (UNKNOWN, CONTROL, USER_DEFINED)
        }

    @property
    def begins_after_special(self) -> bool:
        """True, as in the legacy LLaMA tokenizer, tokenizer.json and llama.cpp."""
        return True

    @cached_property
    def continuing(self) -> sentencepiece.SentencePieceProcessor:
        """The processor that puts no space before a text."""
        proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
        proto.CopyFrom(self.proto)
        if proto.normalizer_spec.remove_extra_whitespaces:
            raise ConfigError(
                "tokenizer",
                str(self.path),
                "removes extra spaces, so that a text cannot continue another one",
                "Train it with 'mobilellama tokenize train-tokenizer'",
            )
        proto.normalizer_spec.add_dummy_prefix = False
        return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def encode(self, text: str, *, begins: bool) -> list[int]:
        """Return the ids of `text`. The spelling of a special token in it is encoded as text.

        Args:
            text: any text that UTF-8 can hold.
            begins: whether to put sentencepiece's dummy prefix, a space, before it.
        """
        return (self.processor if begins else self.continuing).encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self.processor.decode(list(ids))

    def require_sha256(self, expected: str, *, field: str, owner: str) -> None:
        """Raise ConfigError unless this is the tokenizer that `owner` was made with."""
        kind = "sentencepiece model"
        require_same_tokenizer(self, expected, field=field, owner=owner, kind=kind)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.model`` into a folder. A half-written file never has that name."""
        with whole_file(folder / SENTENCEPIECE_FILE) as file:
            file.write(self.model_bytes)

    def write_hf(
        self,
        folder: Path,
        *,
        max_length_tokens: int,
        add_bos: bool,
        chat_template: str | None = None,
        eos_token: str | None = None,
    ) -> None:
        """Write tokenizer.model, and the files from which transformers 4 and 5 get the same ids.

        The padding token is <unk>: see ``pad_id``.

        Args:
            folder: the folder, which exists.
            max_length_tokens: the model's longest sequence.
            add_bos: whether encoding puts <s> first.
            chat_template: Jinja of a chat model. None: a base model.
            eos_token: the token that ends a text or an answer. None: </s>.

        Raises:
            ConfigError: ``tokenizers`` cannot do what the model needs, or `eos_token` is not one
                of its special pieces.
        """
        *_, eos = specials = special_pieces(self)
        if eos_token is not None and eos_token not in specials:
            rule = f"is not a special token of {self.path}"
            raise ConfigError("eos_token", eos_token, rule, f"Give {eos}")
        fast = fast_tokenizer(self, add_bos=add_bos)
        unk, bos, eos = specials
        config = {
            "bos_token": bos,
            "eos_token": eos_token or eos,
            "unk_token": unk,
            "pad_token": unk,
            "legacy": True,
            "sp_model_kwargs": {},
        }
        write_hf_files(
            folder,
            fast.to_str(pretty=True),
            config,
            max_length_tokens=max_length_tokens,
            add_bos=add_bos,
            chat_template=chat_template,
        )
        (folder / SENTENCEPIECE_FILE).write_bytes(self.model_bytes)
