"""The sentencepiece kind: ids of texts that begin and that go on, and special pieces."""

from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.tokenizers.sentencepiece_model import USER_DEFINED
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.helpers.hostile_texts import hostile_texts


def test_going_on_from_a_text_gives_the_ids_of_the_whole(tokenizer: Tokenizer) -> None:
    """Pieces have a space at their beginning only: before one, a text may be cut anywhere."""
    pieces = [piece.piece for piece in tokenizer.proto.pieces]
    assert not [piece for piece in pieces if "▁" in piece.lstrip("▁")]
    texts = [text for text in hostile_texts(500) if text.strip(" ▁")]
    for first, second in zip(texts, reversed(texts), strict=True):
        first, second = f"{first}:", f" {second}"
        parts = tokenizer.encode(first, begins=True) + tokenizer.encode(second, begins=False)
        assert parts == tokenizer.processor.encode(first + second), (first, second)
    assert tokenizer.decode(tokenizer.encode("the", begins=False)) == "the"
    assert tokenizer.encode(" the", begins=False) == tokenizer.encode("the", begins=True)


def test_special_pieces_are_known_and_never_read_from_text(tokenizer: Tokenizer) -> None:
    assert {token: special.id for token, special in tokenizer.specials.items()} == {
        "<unk>": tokenizer.unk_id, "<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id,
    }  # fmt: skip
    text = "a</s>b <s> <unk>c"
    for begins in (True, False):
        ids = tokenizer.encode(text, begins=begins)
        assert not {*ids} & {special.id for special in tokenizer.specials.values()}
        assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token, tokenizer.pad_id) == ("<s>", tokenizer.unk_id)


def test_a_user_defined_piece_is_known_to_be_read_from_text(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    proto = Tokenizer(small_tokenizer).proto
    proto.pieces.add(piece="<|end|>", score=0.0, type=USER_DEFINED)
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    special = Tokenizer(tmp_path / "tokenizer.model").specials["<|end|>"]
    assert special.read_from_text
    assert special.id in Tokenizer(tmp_path / "tokenizer.model").encode("a<|end|>", begins=True)


def test_a_model_that_removes_spaces_cannot_go_on_from_a_text(
    small_tokenizer: Path, tmp_path: Path
) -> None:
    proto = Tokenizer(small_tokenizer).proto
    proto.normalizer_spec.remove_extra_whitespaces = True
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    tokenizer = Tokenizer(tmp_path / "tokenizer.model")
    with pytest.raises(
        ConfigError, match="removes extra spaces, so that a text cannot continue another one"
    ):
        tokenizer.encode(" x", begins=False)
