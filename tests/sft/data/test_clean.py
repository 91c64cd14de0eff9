import pytest

from mobilellama.sft.data.clean import Cleaned, clean, read_conversation
from mobilellama.sft.data.conversation import Role, Turn
from mobilellama.sft.data.reasons import Drop, DropError, Fix

ROLES: dict[str, Role] = {"s": "system", "u": "user", "a": "assistant"}


def turns(spelt: str) -> list[Turn]:
    """Make turns of ``u:question a:answer``; a text of ``-`` is empty, ``!`` marks it as cut."""
    parts = [part.split(":") for part in spelt.split()]
    return [Turn(ROLES[role], text.strip("-!"), cut=text.endswith("!")) for role, text in parts]


@pytest.mark.parametrize(
    ("given", "kept", "fixes"),
    [
        ("u:1 a:2", "u:1 a:2", []),
        ("s:0 u:1 a:2 u:3 a:4", "s:0 u:1 a:2 u:3 a:4", []),
        ("a:0 u:1 a:2", "u:1 a:2", [Fix.LEADING_TURNS]),
        ("a:0 a:0 u:1 a:2", "u:1 a:2", [Fix.LEADING_TURNS]),
        ("s:0 a:0 u:1 a:2", "s:0 u:1 a:2", [Fix.LEADING_TURNS]),
        ("u:1 a:2 u:3", "u:1 a:2", [Fix.TRAILING_TURN]),
        ("u:1 a:2 u:-", "u:1 a:2", [Fix.TRAILING_TURN]),
        ("a:0 u:1 a:2 u:3", "u:1 a:2", [Fix.LEADING_TURNS, Fix.TRAILING_TURN]),
        ("s:- u:1 a:2", "u:1 a:2", [Fix.EMPTY_SYSTEM]),
        ("a:- u:1 a:2", "u:1 a:2", [Fix.LEADING_TURNS]),
        ("a:0! u:1 a:2", "u:1 a:2", [Fix.LEADING_TURNS]),
        ("u:1 a:2 u:3 a:4!", "u:1 a:2", [Fix.UNFINISHED]),
        ("u:1 a:2 u:3 a:-!", "u:1 a:2", [Fix.UNFINISHED]),
        ("u:1 a:2 u:3 a:4! u:5 a:6 u:7", "u:1 a:2", [Fix.UNFINISHED]),
        ("u:1 a:2 u:3 a:4! u:5 a:6!", "u:1 a:2", [Fix.UNFINISHED]),
        ("s:0 u:1 a:2 u:3 a:4 u:5 a:6!", "s:0 u:1 a:2 u:3 a:4", [Fix.UNFINISHED]),
        ("a:0 u:1 a:2 u:3 a:4!", "u:1 a:2", [Fix.LEADING_TURNS, Fix.UNFINISHED]),
    ],
)
def test_a_conversation_is_fixed_where_its_end_is_missing(
    given: str, kept: str, fixes: list[Fix]
) -> None:
    assert clean(turns(given)) == (tuple(turns(kept)), fixes)


def test_a_record_is_read_and_cleaned_with_all_that_is_told_of_it() -> None:
    said = [("gpt", "Lost."), ("human", "Hi"), ("gpt", "Hello!")]
    record = {"conversations": [{"from": who, "value": text} for who, text in said], "mood": "x"}
    assert read_conversation("f.jsonl:3", record) == Cleaned(
        turns=(Turn("user", "Hi"), Turn("assistant", "Hello!")),
        place="f.jsonl:3",
        fixes=(Fix.LEADING_TURNS,),
        unread=("mood",),
    )
    assert read_conversation("f.jsonl:3", record, more_read=("mood",)).unread == ()
    with pytest.raises(DropError) as caught:
        read_conversation("f.jsonl:3", record, "alpaca")
    assert caught.value.reason == Drop.UNKNOWN_SHAPE


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", Drop.NO_EXCHANGE),
        ("s:0", Drop.NO_EXCHANGE),
        ("u:1", Drop.NO_EXCHANGE),
        ("a:1", Drop.NO_EXCHANGE),
        ("a:0 u:1", Drop.NO_EXCHANGE),
        ("u:1 u:2 a:3", Drop.NOT_ALTERNATING),
        ("u:1 a:2 a:3", Drop.NOT_ALTERNATING),
        ("u:1 a:2 u:3 u:4", Drop.NOT_ALTERNATING),
        ("u:- a:2", Drop.EMPTY_QUESTION),
        ("u:1 a:-", Drop.EMPTY_ANSWER),
        ("u:1 a:2 u:3 a:-", Drop.EMPTY_ANSWER),
        ("u:1 a:2!", Drop.UNFINISHED),
        ("s:0 a:0 u:1 a:2! u:3 a:4", Drop.UNFINISHED),
        ("u:1 a:2! a:3", Drop.NOT_ALTERNATING),
        ("u:1 a:- u:2 a:3!", Drop.EMPTY_ANSWER),
        ("u:1 s:0 a:2", Drop.MISPLACED_SYSTEM),
        ("s:0 s:0 u:1 a:2", Drop.MISPLACED_SYSTEM),
        ("u:1 a:2 s:-", Drop.MISPLACED_SYSTEM),
    ],
)
def test_a_conversation_that_cannot_be_fixed_is_dropped(given: str, reason: Drop) -> None:
    with pytest.raises(DropError) as dropped:
        clean(turns(given))
    assert dropped.value.reason is reason


def test_spaces_alone_are_empty_but_spaces_around_a_text_are_kept() -> None:
    with pytest.raises(DropError):
        clean([Turn("user", "x"), Turn("assistant", " \n\t")])
    spaced = (Turn("user", "  x\n"), Turn("assistant", "\n y "))
    assert clean(spaced) == (spaced, [])


def test_half_a_surrogate_pair_is_replaced_and_a_whole_character_is_not() -> None:
    kept, fixes = clean([Turn("user", "a\ud83db"), Turn("assistant", "\U0001f600")])
    assert kept == (Turn("user", "a\ufffdb"), Turn("assistant", "\U0001f600"))
    assert fixes == [Fix.SURROGATES]


def test_an_answer_that_is_not_to_be_learnt_stays_and_one_at_least_is_to_be() -> None:
    said = (Turn("user", "1"), Turn("assistant", "2\ud800", learnt=False))
    more = (Turn("user", "3"), Turn("assistant", "4"))
    kept, _ = clean([*said, *more])
    assert kept == (said[0], Turn("assistant", "2\ufffd", learnt=False), *more)
    for turns in (said, [*said, Turn("user", "3")], [*said, more[0], Turn("assistant", "4", True)]):
        with pytest.raises(DropError) as dropped:
            clean(turns)
        assert dropped.value.reason is Drop.NOT_LEARNT
