"""Read a sentencepiece model file: its processor, its pieces and the ids of special tokens."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb

from mobilellama.config import ConfigError

# ModelProto.SentencePiece.Type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_REMEDY = "Give the path of a sentencepiece .model file"


class SentencepieceModel:
    """A sentencepiece BPE model with LLaMA's special ids: <unk> 0, <s> 1, </s> 2.

    Raises:
        ConfigError: the file is missing or empty, is not a sentencepiece model, or has no </s>.
    """

    def __init__(
        self, path: str | Path, *, field: str = "tokenizer", remedy: str = _REMEDY
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ConfigError(field, str(path), "is not a file", remedy)
        self.model_bytes = self.path.read_bytes()
        if not self.model_bytes:
            raise ConfigError(field, str(path), "is empty", remedy)
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
        except (RuntimeError, ValueError):  # the message names a line of C++ and no cause
            rule = "is not a sentencepiece model"
            raise ConfigError(field, str(path), rule, remedy) from None
        if self.processor.eos_id() < 0:
            raise ConfigError(field, str(path), "has no </s> piece", "Train it with one")

    @property
    def sha256(self) -> str:
        """sha256 of the model file."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return hashlib.sha256(self.model_bytes).hexdigest()

    @cached_property
    def proto(self) -> Any:
        """The parsed ModelProto: pieces, scores, trainer and normaliser settings."""
        proto = model_pb.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
        proto.ParseFromString(self.model_bytes)
        return proto

    @cached_property
    def normal_pieces(self) -> dict[str, int]:
        """The pieces that text is joined to, and their ids."""
        return {piece.piece: i for i, piece in enumerate(self.proto.pieces) if piece.type == NORMAL}

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
