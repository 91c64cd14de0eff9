"""Splitting is tested with the character as token: what fits can be counted by eye.

The table's template writes ``[s]q=a;``: a system text, a question, an answer and its end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilellama.files.presets import preset_names
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import Encoded, encode
from mobilellama.sft.data.records import read_turns
from mobilellama.sft.data.split import Parts, split_conversation
from mobilellama.sft.data.template import TEMPLATES, Template, read_template
from mobilellama.tokenizers.text_tokenizer import SpecialToken, TextTokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from tests.sft.helpers.conversations import make_conversations

LETTERS = Template(
    name="letters", about="", source="", bos=False, system="[{content}]", user="{content}",
    prompt="=", assistant="{content}", end=";", between="", specials=(), stop=(),
)  # fmt: skip


class Characters(TextTokenizer):
    """A tokenizer of one token a character, and one for each of a template's special tokens."""

    def __init__(self, template: Template = LETTERS) -> None:
        names = ["<begin>", *template.specials]
        self._specials = {name: SpecialToken(id=0x110000 + i) for i, name in enumerate(names)}
        self.encoded_characters = 0

    @property
    def path(self) -> Path:
        return Path("characters")

    @property
    def sha256(self) -> str:
        return "0" * 64

    @property
    def vocab_size(self) -> int:
        return 0x110000 + len(self._specials)

    @property
    def bos_id(self) -> int | None:
        return 0x110000

    @property
    def eos_id(self) -> int | None:
        return None

    @property
    def pad_id(self) -> int | None:
        return None

    @property
    def bos_token(self) -> str:
        return "<begin>"

    @property
    def specials(self) -> Mapping[str, SpecialToken]:
        return self._specials

    @property
    def begins_after_special(self) -> bool:
        return True

    def encode(self, text: str, *, begins: bool) -> list[int]:
        self.encoded_characters += len(text)
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def require_sha256(self, expected: str, *, field: str, owner: str) -> None:
        assert expected == self.sha256

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def write_hf(self, folder: Path, **_: object) -> None:
        raise NotImplementedError


def exchanges(spelt: str) -> list[Turn]:
    """Make turns of ``[s] q=a q=a``."""
    turns = []
    for part in spelt.split():
        if part.startswith("["):
            turns.append(Turn("system", part[1:-1]))
        else:
            question, answer = part.split("=")
            turns += [Turn("user", question), Turn("assistant", answer)]
    return turns


def text(part: Encoded) -> str:
    return "".join(map(chr, part.ids))


def marks(part: Encoded) -> str:
    return "".join("^" if one else "." for one in part.supervised)


# Turns; row length; the parts' text over what is supervised; truncated, cut away.
TABLE = [
    ("q=a q=bb q=ccc", 15, ["q=a;q=bb;q=ccc;",
                            "..^^..^^^..^^^^"], 0, 0),
    ("q=a q=bb q=ccc", 14, ["q=a;q=bb;", "q=ccc;",
                            "..^^..^^^", "..^^^^"], 0, 0),
    ("q=a q=bb q=ccc", 9,  ["q=a;q=bb;", "q=ccc;",
                            "..^^..^^^", "..^^^^"], 0, 0),
    ("q=a q=bb q=ccc", 8,  ["q=a;", "q=bb;", "q=ccc;",
                            "..^^", "..^^^", "..^^^^"], 0, 0),
    # every part carries the system text
    ("[s] q=a q=bb q=ccc", 12, ["[s]q=a;q=bb;", "[s]q=ccc;",
                                ".....^^..^^^", ".....^^^^"], 0, 0),
    # an answer that is too long loses its tail; the exchange after it starts a part
    ("q=a q=bbbbbb q=c q=d", 7, ["q=a;", "q=bbbbb", "q=c;", "q=d;",
                                 "..^^", "..^^^^^", "..^^", "..^^"], 1, 0),
    ("q=abcdefgh", 6, ["q=abcd",
                       "..^^^^"], 1, 0),
    ("q=a", 3, ["q=a",
                "..^"], 1, 0),
    # an exchange whose answer begins after the row's end is left out
    ("q=a qqqqqq=b q=c", 7, ["q=a;", "q=c;",
                             "..^^", "..^^"], 0, 1),
    ("[ssss] q=a q=b", 8, [], 0, 2),
    ("qqqq=a", 4, [], 0, 1),
]  # fmt: skip


@pytest.mark.parametrize(("given", "seq_len", "expected", "truncated", "cut_away"), TABLE)
def test_parts_as_a_table(
    given: str, seq_len: int, expected: list[str], truncated: int, cut_away: int
) -> None:
    made = split_conversation(LETTERS, Characters(), exchanges(given), seq_len)
    half = len(expected) // 2
    assert [text(part) for part in made.parts] == expected[:half]
    assert [marks(part) for part in made.parts] == expected[half:]
    assert (made.truncated, made.cut_away) == (truncated, cut_away)


def test_what_happened_is_told() -> None:
    turns = exchanges("q=a q=bb q=ccc")
    whole = split_conversation(LETTERS, Characters(), turns, 15)
    assert (len(whole.parts), whole.tokens, whole.split) == (1, 15, False)
    halves = split_conversation(LETTERS, Characters(), turns, 14)
    assert (len(halves.parts), halves.tokens, halves.split) == (2, 15, True)
    alone = split_conversation(LETTERS, Characters(), exchanges("q=abcdef"), 5)
    assert (len(alone.parts), alone.tokens, alone.split, alone.truncated) == (1, 9, False, 1)


def test_only_the_first_exchange_of_a_part_is_encoded_twice() -> None:
    tokenizer = Characters()
    made = split_conversation(LETTERS, tokenizer, exchanges("[s] " + "q=a " * 100), 43)
    assert [len(part.ids) for part in made.parts] == [43] * 10
    # 3 + 100 * 4 for the whole, then 3 + 4 for each part after the first.
    assert tokenizer.encoded_characters == 403 + 9 * 7


def by_encoding_each_part(
    template: Template, tokenizer: TextTokenizer, turns: Sequence[Turn], seq_len: int
) -> list[Encoded]:
    """Split in the plainest way: encode ever longer parts afresh, until one does not fit."""
    first = 1 if turns[0].role == "system" else 0
    parts: list[Encoded] = []
    start = first
    while start < len(turns):
        stop = start + 2
        part = encode(template, tokenizer, [*turns[:first], *turns[start:stop]])
        while stop < len(turns):
            longer = encode(template, tokenizer, [*turns[:first], *turns[start : stop + 2]])
            if len(longer.ids) > seq_len:
                break
            part, stop = longer, stop + 2
        part = Encoded(ids=part.ids[:seq_len], supervised=part.supervised[:seq_len])
        parts += [part] * bool(part.supervised.any())
        start = stop
    return parts


def assert_parts_are_as_if_each_was_encoded(template: Template, tokenizer: TextTokenizer) -> None:
    least = len(encode(template, tokenizer, exchanges("q=a")).ids)
    has_system = template.system is not None or template.folded_system is not None
    compared = 0
    for number, record in enumerate(make_conversations(12, seed=5, scale=0.12)):
        turns = read_turns(record)
        if has_system and number % 2:
            turns = [Turn("system", "Be terse; say 1."), *turns]
        for seq_len in (least + 20, least + 100, least + 333):
            made = split_conversation(template, tokenizer, turns, seq_len).parts
            expected = by_encoding_each_part(template, tokenizer, turns, seq_len)
            assert len(made) == len(expected), (number, seq_len)
            for part, other in zip(made, expected, strict=True):
                assert np.array_equal(part.ids, other.ids), (number, seq_len)
                assert np.array_equal(part.supervised, other.supervised), (number, seq_len)
            compared += len(made)
    assert compared > 40


@pytest.mark.parametrize("name", preset_names(TEMPLATES))
def test_parts_of_every_template_are_as_if_each_was_encoded_by_itself(name: str) -> None:
    template = read_template(name)
    assert_parts_are_as_if_each_was_encoded(template, Characters(template))


def test_parts_are_so_with_a_sentencepiece_model(small_tokenizer: Path) -> None:
    assert_parts_are_as_if_each_was_encoded(read_template("vicuna_v1"), Tokenizer(small_tokenizer))


@pytest.mark.parametrize("name", ["vicuna_v1", "plain"])
def test_parts_are_so_with_llamas_model(name: str, llama_tokenizer: Path) -> None:
    assert_parts_are_as_if_each_was_encoded(read_template(name), Tokenizer(llama_tokenizer))


def test_a_part_has_something_to_learn_or_is_not_there() -> None:
    for seq_len in range(2, 30):
        made: Parts = split_conversation(
            LETTERS, Characters(), exchanges("[s] qq=a q=bbbbbbb qqqqqq=c q=d"), seq_len
        )
        for part in made.parts:
            assert 0 < len(part.ids) <= seq_len
            assert part.supervised.any()
            assert not part.supervised[0]  # so that no label reaches over from the part before


def test_an_answer_that_is_not_to_be_learnt_is_split_and_cut_as_another() -> None:
    """The same ids in the same parts; a part in which nothing is to be learnt is left out."""
    turns = exchanges("[s] q=a q=b q=c q=d q=e")
    seq_len = 3 + 2 * 4
    whole = split_conversation(LETTERS, Characters(), turns, seq_len)
    context = [replace(turn, learnt=turn.content not in "abcd") for turn in turns]
    made = split_conversation(LETTERS, Characters(), context, seq_len)
    assert len(whole.parts) == 3 and (whole.context_alone, made.context_alone) == (0, 2)
    assert [part.ids.tolist() for part in made.parts] == [whole.parts[2].ids.tolist()]
    mixed = [replace(turn, learnt=turn.content not in "bd") for turn in turns]
    made = split_conversation(LETTERS, Characters(), mixed, seq_len)
    assert [p.ids.tolist() for p in made.parts] == [p.ids.tolist() for p in whole.parts]
    for part, all_learnt in zip(made.parts[:2], whole.parts[:2], strict=True):
        first_answer = all_learnt.supervised & (np.arange(len(part.ids)) < 3 + 4)
        assert part.supervised.tolist() == first_answer.tolist()
    alone = [replace(turns[0]), turns[1], replace(turns[2], learnt=False), *turns[3:5]]
    short = split_conversation(LETTERS, Characters(), alone, 6)  # the first answer's end is cut
    assert (short.context_alone, len(short.parts), short.truncated) == (1, 1, 1)
