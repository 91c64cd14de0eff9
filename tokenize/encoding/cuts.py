"""Where a text may be cut without changing an id, derived from the pieces of a model.

sentencepiece's BPE joins two neighbours only if the result is a piece. So if no piece has the
characters a and b side by side, nothing is ever joined across "ab". The text may be cut there, and
each unit between two cuts has the same ids wherever it stands.

    LLaMA:  " the cat, 12"  ->  " the" " cat" "," " " "1" "2"

Cuts are found by pairs of bytes: the last byte of a and the first byte of b. So a few cuts are
missed where other characters share these bytes, and no wrong cut is made.
"""

import numpy as np
from numpy.typing import NDArray

from mobilellama.tokenize.encoding.memo import ID_BITS
from mobilellama.tokenizers.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN
from mobilellama.tokenizers.tokenizer import Tokenizer

SPACE = "\u2581"
"""The character that sentencepiece puts in place of each space."""

_BPE = 2  # TrainerSpec.ModelType


def find_obstacle(tokenizer: Tokenizer) -> str | None:
    """Return why a model's texts cannot be encoded unit by unit. None: they can."""
    proto = tokenizer.proto
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = {piece.type for piece in proto.pieces}
    obstacles = {
        "it is no BPE model": trainer.model_type != _BPE,
        "its normaliser changes characters": bool(normalizer.precompiled_charsmap),
        "it removes extra spaces": normalizer.remove_extra_whitespaces,
        f"it does not put {SPACE} in place of spaces": not normalizer.escape_whitespaces,
        "it puts the space after a word": trainer.treat_whitespace_as_suffix,
        "it has no byte fallback": not trainer.byte_fallback,
        "it has user-defined or unused pieces": bool(kinds - {NORMAL, UNKNOWN, CONTROL, BYTE}),
        f"it has more than {1 << ID_BITS:,} pieces": len(proto.pieces) > 1 << ID_BITS,
    }
    for obstacle, is_there in obstacles.items():
        if is_there:
            return obstacle
    return _obstacle_in_pieces(tokenizer)


def _obstacle_in_pieces(tokenizer: Tokenizer) -> str | None:
    pieces = tokenizer.normal_pieces
    reserved = {piece.piece for piece in tokenizer.proto.pieces if piece.type != NORMAL}
    if SPACE not in pieces:
        return f"{SPACE} is no piece"
    characters = set[str]().union(*pieces)
    if " " in characters:
        return "a piece holds a space that no text can have"
    if any(piece in pieces or len(piece) == 1 for piece in reserved):
        return "a special piece is spelled like text"
    # A character that is no piece becomes bytes, and could still be joined to such a piece.
    lone = characters - pieces.keys()
    return f"a piece holds {min(lone)!r}, which is no piece" if lone else None


def cut_table(pieces: dict[str, int]) -> NDArray[np.uint8]:
    """Return for each pair of bytes whether to cut between them, at ``first | second << 8``.

    A space stands for U+2581.
    """
    may_cut = np.ones((256, 256), np.uint8)  # [second, first]
    may_cut[0x80:0xC0] = 0  # such a byte continues a character
    # 0xFF is in no UTF-8. It keeps the pieces apart, and a pair with it is in no text.
    joined = b"\xff".join(piece.replace(SPACE, " ").encode() for piece in pieces)
    spelled = np.frombuffer(joined, np.uint8)
    may_cut[spelled[1:], spelled[:-1]] = 0
    return may_cut.reshape(-1)
