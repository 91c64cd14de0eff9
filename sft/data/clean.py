"""A record -> a conversation to train on, as the published recipe needs it.

The record's turns are read (records.py), then cleaned:

1. A system turn may stand first, and nowhere else; an empty one is left out.
2. Answers before the first question are left out (they belong to a conversation whose
   beginning is lost); so is a last question without an answer.
3. Questions and answers alternate, and none is empty. Otherwise the record is dropped: what
   its author left out cannot be guessed.
4. An answer that is marked as cut short ends the conversation before its question: its end
   token would teach the model to stop in mid-sentence, and what follows goes on from it.
5. An answer that is not to be learnt stays, as context; one at least is to be learnt.
6. Texts are kept as they are, spaces included: the template says what is stripped. Only
   halves of surrogate pairs, which UTF-8 cannot hold, become U+FFFD.

Source: FastChat's preprocessing, by which MobileLLaMA's chat models were made, drops a first
turn that is not human, and asserts that roles alternate.
"""

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.reasons import Drop, DropError, Fix, excerpt
from mobilellama.sft.data.records import Format, read_record

CLEANING_VERSION = 2
"""Rises when other conversations come of the same turns."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """A conversation that is to be encoded."""

    turns: tuple[Turn, ...]
    place: str
    """Where its record was found."""
    fixes: tuple[Fix, ...] = ()
    unread: tuple[str, ...] = ()
    """Names of the record's fields that were not read; see fields.py."""


def read_conversation(
    place: str, value: object, kind: Format = "auto", *, more_read: Collection[str] = ()
) -> Cleaned:
    """Return the conversation that a record holds.

    Args:
        place: where the record was found.
        value: the record: a JSON value, or a row of a table as a dict.
        kind: the shape it must have; "auto" takes any.
        more_read: fields that the caller reads itself.

    Raises:
        DropError: it holds none to train on.
    """
    reading = read_record(value, kind, more_read=more_read)
    turns, fixes = clean(reading.turns)
    return Cleaned(turns=turns, place=place, fixes=tuple(fixes), unread=reading.unread)


def clean(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], list[Fix]]:
    """Return the turns to train on, and what had to be fixed.

    Raises:
        DropError: no conversation can be made of them.
    """
    fixes: list[Fix] = []
    system, rest = _take_system(turns, fixes)
    rest = _from_first_question(rest, fixes)
    for number, (before, turn) in enumerate(itertools.pairwise(rest)):
        if before.role == turn.role:
            detail = f"{turn.role}: {excerpt(before.content)} | {excerpt(turn.content)}"
            raise DropError(Drop.NOT_ALTERNATING, f"turns {number} and {number + 1}, {detail}")
    rest = _before_unfinished(rest, fixes)
    if rest[-1].role == "user":
        fixes.append(Fix.TRAILING_TURN)
        rest = rest[:-1]
    if not rest:
        raise DropError(Drop.NO_EXCHANGE, excerpt(turns[-1].content))
    for number, turn in enumerate(rest):
        if not turn.content.strip():
            reason = Drop.EMPTY_QUESTION if turn.role == "user" else Drop.EMPTY_ANSWER
            beside = rest[number + 1 if turn.role == "user" else number - 1].content
            raise DropError(reason, f"turn {number} of {len(rest)}, beside: {excerpt(beside)}")
    answers = [turn for turn in rest if turn.role == "assistant"]
    if not any(turn.learnt for turn in answers):
        raise DropError(Drop.NOT_LEARNT, excerpt(answers[-1].content))
    return _without_surrogates((*system, *rest), fixes), fixes


def _take_system(
    turns: Sequence[Turn], fixes: list[Fix]
) -> tuple[tuple[Turn, ...], Sequence[Turn]]:
    """Return a system turn that stands first, and the other turns."""
    system, rest = (), turns
    if turns and turns[0].role == "system":
        system, rest = (turns[0],), turns[1:]
        if not turns[0].content.strip():
            fixes.append(Fix.EMPTY_SYSTEM)
            system = ()
    for turn in rest:
        if turn.role == "system":
            raise DropError(Drop.MISPLACED_SYSTEM, excerpt(turn.content))
    return system, rest


def _from_first_question(turns: Sequence[Turn], fixes: list[Fix]) -> Sequence[Turn]:
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise DropError(Drop.NO_EXCHANGE, excerpt(turns[0].content) if turns else "no turns")
    if first:
        fixes.append(Fix.LEADING_TURNS)
    return turns[first:]


def _before_unfinished(turns: Sequence[Turn], fixes: list[Fix]) -> Sequence[Turn]:
    """Return the exchanges before the first whose answer is cut short; questions come first."""
    cut = next((i for i, turn in enumerate(turns) if turn.cut), None)
    if cut is None:
        return turns
    if cut == 1:
        raise DropError(Drop.UNFINISHED, excerpt(turns[1].content))
    fixes.append(Fix.UNFINISHED)
    return turns[: cut - 1]


def _without_surrogates(turns: tuple[Turn, ...], fixes: list[Fix]) -> tuple[Turn, ...]:
    if not any(_SURROGATE.search(turn.content) for turn in turns):
        return turns
    fixes.append(Fix.SURROGATES)
    return tuple(replace(turn, content=_SURROGATE.sub("\ufffd", turn.content)) for turn in turns)
