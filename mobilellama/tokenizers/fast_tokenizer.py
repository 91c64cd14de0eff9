"""Turn a sentencepiece model into a ``tokenizers.Tokenizer`` that gives the same ids."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from mobilellama.config import ConfigError
from mobilellama.tokenizers.hf_files import begin_with
from mobilellama.tokenizers.sentencepiece_model import (
    NORMAL,
    UNUSED,
    USER_DEFINED,
    SentencepieceModel,
)

if TYPE_CHECKING:  # it is imported where it is used
    from tokenizers import Tokenizer as FastTokenizer

_BPE = 2  # TrainerSpec.ModelType.BPE
_SPACE = "▁"  # sentencepiece writes it for a space, U+2581


class Piece(Protocol):
    """A piece of a sentencepiece model."""

    @property
    def piece(self) -> str:
        """The text, with marks for spaces."""
        ...

    @property
    def type(self) -> int:
        """Its kind, such as ``NORMAL``."""
        ...

    @property
    def score(self) -> float:
        """The higher one is merged first."""
        ...


def fast_tokenizer(tokenizer: SentencepieceModel, *, add_bos: bool = True) -> "FastTokenizer":
    """Build the ``tokenizers.Tokenizer`` that encodes exactly as sentencepiece does.

    transformers' own conversion orders merges by id and ignores scores. That gives wrong ids for
    LLaMA's runs of spaces. Here merges are ordered by score, then by the longer left part.

    Args:
        tokenizer: the sentencepiece model.
        add_bos: whether encoding puts <s> first, if the caller asks for special tokens.

    Raises:
        ConfigError: the model needs something that ``tokenizers`` cannot do.
    """
    from tokenizers import AddedToken, decoders, models, normalizers
    from tokenizers import Tokenizer as FastTokenizer

    _require_exact(tokenizer)
    pieces, normalizer = tokenizer.proto.pieces, tokenizer.proto.normalizer_spec
    unk, bos, eos = special_pieces(tokenizer)
    model = models.BPE(
        {piece.piece: i for i, piece in enumerate(pieces)},
        merges_of(pieces),
        unk_token=unk,
        fuse_unk=True,
        byte_fallback=True,
    )
    fast = FastTokenizer(model)
    dummy_prefix = normalizer.add_dummy_prefix
    fast.normalizer = normalizers.Sequence(
        ([normalizers.Prepend(_SPACE)] if dummy_prefix else []) + [normalizers.Replace(" ", _SPACE)]
    )
    fast.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if dummy_prefix else [])
    )
    fast.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (unk, bos, eos)]
    )
    if add_bos:
        fast.post_processor = begin_with(bos, tokenizer.bos_id)
    return fast


def broken_rules(tokenizer: SentencepieceModel) -> list[str]:
    """Return the rules that a model breaks, so that ``fast_tokenizer`` cannot give its ids."""
    trainer, normalizer = tokenizer.proto.trainer_spec, tokenizer.proto.normalizer_spec
    rules = {
        "be a BPE model": trainer.model_type == _BPE,
        "have byte fallback": trainer.byte_fallback,
        "have the identity normaliser": not normalizer.precompiled_charsmap,
        "keep runs of spaces": not normalizer.remove_extra_whitespaces,
        "write spaces as U+2581": normalizer.escape_whitespaces,
        "mark words at their beginning": not trainer.treat_whitespace_as_suffix,
        "have no user-defined or unused pieces": all(
            piece.type not in (USER_DEFINED, UNUSED) for piece in tokenizer.proto.pieces
        ),
        "have <unk>, <s> and </s>": min(tokenizer.unk_id, tokenizer.bos_id) >= 0,
    }
    return [rule for rule, holds in rules.items() if not holds]


def _require_exact(tokenizer: SentencepieceModel) -> None:
    if broken := broken_rules(tokenizer):
        raise ConfigError(
            "tokenizer",
            str(tokenizer.path),
            f"must {' and '.join(broken)} to be exported exactly",
            "Train it with 'mobilellama tokenize train-tokenizer'",
        )


def merges_of(pieces: Iterable[Piece]) -> list[tuple[str, str]]:
    """Return every (left, right) that makes a piece, in the order of merging.

    Args:
        pieces: the pieces of a ModelProto, or others.
    """
    names = {piece.piece for piece in pieces}
    merges = []
    for piece in pieces:
        if piece.type == NORMAL:
            for cut in range(1, len(piece.piece)):
                left, right = piece.piece[:cut], piece.piece[cut:]
                if left in names and right in names:
                    merges.append((piece.score, len(left), len(right), left, right))
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    return [merge[3:] for merge in merges]


def special_pieces(tokenizer: SentencepieceModel) -> list[str]:
    """Return the spelling of unk, bos and eos, without those that the model lacks."""
    ids = (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    return [tokenizer.processor.id_to_piece(i) for i in ids if i >= 0]
