"""The sentencepiece model's facts: loading, special ids, hash, decoding, exact tokenizer.json.

Nothing here encodes corpora; that is ``tokenize/encoder.py``.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.config import ConfigError

BPE = 2  # TrainerSpec.ModelType.BPE
# ModelProto.SentencePiece.Type
NORMAL, USER_DEFINED, UNUSED = 1, 4, 5
SPACE = "▁"  # sentencepiece's stand-in for a space, U+2581


class Tokenizer:
    """A sentencepiece BPE model with LLaMA's special ids: <unk> 0, <s> 1, </s> 2.

    Raises:
        ConfigError: the file is missing, is no sentencepiece model, or has no </s>.
    """

    def __init__(self, path: str | Path, *, field: str = "tokenizer") -> None:
        self.path = Path(path)
        remedy = "Give the path of a sentencepiece .model file"
        if not self.path.is_file():
            raise ConfigError(field, str(path), "is not a file", remedy)
        self.model_bytes = self.path.read_bytes()
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
        except (RuntimeError, ValueError) as error:
            rule = f"is not a sentencepiece model ({error})"
            raise ConfigError(field, str(path), rule, remedy) from None
        if self.processor.eos_id() < 0:
            raise ConfigError(field, str(path), "has no </s> piece", "Train it with one")

    @cached_property
    def sha256(self) -> str:
        """sha256 of the model file."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    @cached_property
    def proto(self) -> Any:
        """The parsed ModelProto: pieces, scores, trainer and normaliser settings."""
        proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
        proto.ParseFromString(self.model_bytes)
        return proto

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return self.processor.vocab_size()

    @property
    def bos_id(self) -> int:
        """Id of <s>."""
        return self.processor.bos_id()

    @property
    def eos_id(self) -> int:
        """Id of </s>, which ends every document."""
        return self.processor.eos_id()

    @property
    def unk_id(self) -> int:
        """Id of <unk>."""
        return self.processor.unk_id()

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids; special ids give nothing."""
        return self.processor.decode(ids)

    def require_sha256(self, expected: str, *, field: str, owner: str) -> None:
        """Raise ConfigError unless this is the tokenizer that `owner` was made with."""
        if self.sha256 != expected:
            raise ConfigError(
                field,
                str(self.path),
                f"has sha256 {self.sha256[:12]}, but {owner} was made with {expected[:12]}",
                "Give the same sentencepiece model",
            )


def fast_tokenizer(tokenizer: Tokenizer, *, add_bos: bool = True) -> Any:
    """Build the ``tokenizers.Tokenizer`` that encodes exactly as sentencepiece does.

    transformers' own conversion orders merges by id and ignores scores, which mis-tokenises
    LLaMA's runs of spaces; here merges are ordered by score, then by the longer left part.

    Args:
        tokenizer: the sentencepiece model.
        add_bos: whether encoding puts <s> first, where special tokens are asked for.

    Raises:
        ConfigError: sentencepiece does with this model what ``tokenizers`` cannot do.
    """
    from tokenizers import AddedToken, decoders, models, normalizers, processors
    from tokenizers import Tokenizer as FastTokenizer

    _require_exact(tokenizer)
    pieces, normalizer = tokenizer.proto.pieces, tokenizer.proto.normalizer_spec
    unk, bos, eos = _special_pieces(tokenizer)
    model = models.BPE(
        {piece.piece: i for i, piece in enumerate(pieces)},
        _merges(pieces),
        unk_token=unk,
        fuse_unk=True,
        byte_fallback=True,
    )
    fast = FastTokenizer(model)
    dummy_prefix = normalizer.add_dummy_prefix
    fast.normalizer = normalizers.Sequence(
        ([normalizers.Prepend(SPACE)] if dummy_prefix else []) + [normalizers.Replace(" ", SPACE)]
    )
    fast.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if dummy_prefix else [])
    )
    fast.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (unk, bos, eos)]
    )
    if add_bos:
        fast.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tokenizer.bos_id)],
        )
    return fast


def _require_exact(tokenizer: Tokenizer) -> None:
    """Raise ConfigError unless ``fast_tokenizer`` can do all that sentencepiece does."""
    trainer, normalizer = tokenizer.proto.trainer_spec, tokenizer.proto.normalizer_spec
    rules = {
        "be a BPE model": trainer.model_type == BPE,
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
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise ConfigError(
            "tokenizer",
            str(tokenizer.path),
            f"must {' and '.join(broken)} to be exported exactly",
            "Train it with 'mobilellama tokenize train-tokenizer'",
        )


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """Return every (left, right) that makes a piece, in the order in which they are merged."""
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


def _special_pieces(tokenizer: Tokenizer) -> tuple[str, str, str]:
    """Return the spelling of unk, bos and eos."""
    pieces = tokenizer.proto.pieces
    return (
        pieces[tokenizer.unk_id].piece,
        pieces[tokenizer.bos_id].piece,
        pieces[tokenizer.eos_id].piece,
    )


def write_hf_tokenizer(
    tokenizer: Tokenizer, folder: Path, *, max_length_tokens: int, add_bos: bool = True
) -> None:
    """Write tokenizer.json, tokenizer.model and tokenizer_config.json for transformers 4 and 5.

    The class name PreTrainedTokenizerFast is what both versions load as it stands:
    LlamaTokenizer rebuilds the merges wrongly in version 5, and version 4 does not know the
    name that version 5 would write. Padding is <unk>, which no text encodes to: with </s> a
    trainer that masks padding would never learn to stop.

    Args:
        tokenizer: the sentencepiece model.
        folder: where to; it exists.
        max_length_tokens: the model's longest sequence.
        add_bos: whether encoding puts <s> first.
    """
    unk, bos, eos = _special_pieces(tokenizer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unk,
        "pad_token": unk,
        "add_bos_token": add_bos,
        "add_eos_token": False,
        "legacy": True,
        # Without it version 4 also gives token_type_ids, which a Llama's generate() refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length_tokens,
        "clean_up_tokenization_spaces": False,
        "sp_model_kwargs": {},
    }
    fast = fast_tokenizer(tokenizer, add_bos=add_bos)
    (folder / "tokenizer.json").write_text(fast.to_str(pretty=True), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
