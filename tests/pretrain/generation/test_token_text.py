"""Tokens to text as they come, with half characters held back."""

from collections.abc import Sequence

import pytest

from mobilellama.pretrain.generation.token_text import TokenText


def decode_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("text", ["plain", "größer", "漢字 and 🦙🦙", "a � within"])
def test_the_pieces_joined_are_the_text_and_none_holds_half_a_character(text: str) -> None:
    stream = TokenText(decode_bytes)
    pieces = [stream.add(byte) for byte in text.encode()]
    assert "".join(pieces) + stream.end() == text
    assert all("�" not in piece for piece in pieces) or "�" in text


def test_half_a_character_at_the_end_is_left_out() -> None:
    stream = TokenText(decode_bytes)
    assert "".join(map(stream.add, "a🦙".encode()[:-1])) + stream.end() == "a"


def test_text_goes_on_after_the_tokens_before_it() -> None:
    """As sentencepiece does, whose first token of all loses its space."""

    def decode(ids: Sequence[int]) -> str:
        return "".join(" word" if i else "word" for i in range(len(ids)))

    assert TokenText(decode, before=[1, 2]).add(3) == " word"
    assert TokenText(decode).add(3) == "word"
