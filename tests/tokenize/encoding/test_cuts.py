from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mobilellama.tokenize.encoding.cuts import cut_table, find_obstacle
from mobilellama.tokenizers.sentencepiece_model import CONTROL, UNUSED, USER_DEFINED
from mobilellama.tokenizers.tokenizer import Tokenizer


def cut_places(pieces: list[str], text: str) -> str:
    """Return the text with a bar at each cut."""
    table, data = cut_table(dict.fromkeys(pieces, 0)), text.encode()
    shown = data[:1]
    for left, right in pairwise(data):
        shown += (b"|" if table[left | right << 8] else b"") + bytes([right])
    return shown.decode()


@pytest.mark.parametrize(
    ("pieces", "text", "cut"),
    [
        (["▁", "t", "h", "▁t", "▁th", "th"], " th th,h", " th| th|,|h"),
        (["a", "b", "ab"], "aabba", "a|ab|b|a"),
        (["a", "b"], "ab\n\n", "a|b|\n|\n"),
        (["▁▁", "▁a"], "a  a", "a|  a"),
        # é and ã end in other bytes than è; the bytes of one character are never parted.
        (["éa", "é", "a"], "éaèaé", "éa|è|a|é"),
        # U+00C1 and U+0441 both end in 0x81: a cut is missed, none is wrong.
        (["Áx"], "\u0441x", "\u0441x"),
        (["汉字"], "汉字汉语", "汉字|汉|语"),
    ],
)
def test_a_text_is_cut_where_no_piece_joins(pieces: list[str], text: str, cut: str) -> None:
    assert cut_places(pieces, text) == cut


def set_piece(i: int, **fields: object) -> Callable[[Any], None]:
    def change(proto: Any) -> None:
        for name, value in fields.items():
            setattr(proto.pieces[i], name, value)

    return change


def set_field(part: str, **fields: object) -> Callable[[Any], None]:
    def change(proto: Any) -> None:
        for name, value in fields.items():
            setattr(getattr(proto, part), name, value)

    return change


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        (set_field("trainer_spec", model_type=1), "it is no BPE model"),
        (set_field("normalizer_spec", remove_extra_whitespaces=True), "it removes extra spaces"),
        (set_field("normalizer_spec", escape_whitespaces=False), "it does not put ▁ in place of"),
        (set_field("trainer_spec", treat_whitespace_as_suffix=True), "the space after a word"),
        (set_piece(400, type=USER_DEFINED), "user-defined or unused pieces"),
        (set_piece(400, type=UNUSED), "user-defined or unused pieces"),
        (set_piece(400, piece="a b"), "a piece holds a space"),
        (set_piece(400, piece="aЖ"), "a piece holds 'Ж', which is no piece"),
        (set_piece(400, type=CONTROL, piece="ツ"), "a special piece is spelled like text"),
    ],
)
def test_a_model_without_the_property_is_told_by_its_reason(
    changed: Callable[..., Tokenizer], change: Callable[[Any], None], obstacle: str
) -> None:
    assert obstacle in (find_obstacle(changed(change)) or "")


def test_a_model_with_more_pieces_than_an_entry_of_the_memo_can_name_is_told(
    small_tokenizer: Path,
) -> None:
    tokenizer = Tokenizer(small_tokenizer)
    # sentencepiece takes seconds to open so many pieces, so they are added behind it.
    tokenizer.proto.pieces.extend([tokenizer.proto.pieces[-1]] * ((1 << 20) - tokenizer.vocab_size))
    assert find_obstacle(tokenizer) is None
    tokenizer.proto.pieces.add(piece="one more")
    assert find_obstacle(tokenizer) == "it has more than 1,048,576 pieces"


def test_a_model_whose_spaces_are_bytes_has_an_obstacle(
    changed: Callable[..., Tokenizer],
) -> None:
    def rename(proto: Any) -> None:
        for piece in proto.pieces:
            if piece.piece == "▁":
                piece.piece = "ツ"

    assert find_obstacle(changed(rename)) == "▁ is no piece"


def test_a_normaliser_that_changes_characters_is_an_obstacle(train: Callable[..., Path]) -> None:
    tokenizer = Tokenizer(train(normalization_rule_name="nfkc"))
    assert find_obstacle(tokenizer) == "its normaliser changes characters"


def test_models_of_llamas_kind_have_no_obstacle(
    small_tokenizer: Path, changed: Callable[..., Tokenizer]
) -> None:
    assert find_obstacle(Tokenizer(small_tokenizer)) is None
    assert find_obstacle(changed(set_field("normalizer_spec", add_dummy_prefix=False))) is None


def test_llamas_pieces_let_a_text_be_cut_before_each_word_and_at_each_newline(
    llama_tokenizer: Path,
) -> None:
    tokenizer = Tokenizer(llama_tokenizer)
    assert find_obstacle(tokenizer) is None
    pieces = [*tokenizer.normal_pieces]
    text = "A cat (12 of 汉字), \n\n  said"
    assert cut_places(pieces, text) == "A| cat| (|1|2| of| |汉|字|),| |\n|\n|  said"
