"""A record -> its turns as they stand, whatever shape the record has.

    conversations  {"conversations": [{"from": "human", "value": ...}, ...]}     ShareGPT, Vicuna
    messages       {"messages": [{"role": "user", "content": ...}, ...]}         OpenAI
    pairs          {"instruction": ..., "input": ..., "output": ...}             Alpaca
                   also prompt, question or query, with response, completion or answer; "history"
                   (or "chat_history", ...) holds the rounds before: [[question, answer], ...], or
                   a list of turns
    a list         [{"from": ..., "value": ...}, ...] or [{"role": ..., "content": ...}, ...]

A system text may stand among the turns, or beside them. A turn or a pair may say that its answer
stops before its end (``"cut": true``, as '/save' of 'sft chat' writes; ``"finish": "length"``, as
'sft generate' does), or that it is not to be learnt; see turns.py.

1. Every other field is judged by its name; see fields.py.
2. Two fields for one thing drop the record, unless they say the same: which of them is meant
   cannot be known. Of two shapes, ``kind`` chooses.
3. A field that is null or empty counts as absent: tables have a column for every field of any
   record. An empty part of a question is not joined to the other.

Nothing else is judged here; see clean.py.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mobilellama.files.json_lines import NotJsonError, parse_json, require_short
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.fields import EMPTY_JSON, by_name, same, says_nothing, unknown_fields
from mobilellama.sft.data.reasons import Drop, DropError, excerpt
from mobilellama.sft.data.turns import (
    ANSWER_FIELDS,
    ROLE_FIELDS,
    ROLES,
    choose,
    is_cut,
    is_learnt,
    odd_marks,
    read_turn,
    text_of,
)

Format = Literal["auto", "sharegpt", "messages", "alpaca"]

READING_VERSION = 2
"""Rises when other turns come of the same records.

No identity holds it, so that data which both versions read alike keep their dataset's fingerprint.
Each bucket's receipt holds it; a receipt without it is of version 1.
"""

_TURN_LISTS: dict[str, tuple[str, ...]] = {
    "sharegpt": ("conversations", "conversation"),
    "messages": ("messages",),
    "auto": ("conversations", "messages", "conversation"),
    "alpaca": (),
}
_QUESTIONS = ("instruction", "prompt", "question", "query")
_INPUTS = ("input", "context")
_ANSWERS = ("output", "response", "completion", "answer")
_SYSTEMS = ("system", "system_prompt", "system_message")
_HISTORIES = (
    "history", "chat_history", "conversation_history", "dialogue_history", "dialog_history",
    "previous_turns", "previous_messages",
)  # fmt: skip
_PAIR = (*_QUESTIONS, *_INPUTS, *_ANSWERS)

# Not read, but each would be one of a pair's three texts.
_OTHER_QUESTIONS = ("problem", "user_message")
_OTHER_INPUTS = tuple(
    "inputs contexts passage passages paragraph article document documents background evidence "
    "knowledge choices options hint text content body dialogue transcript story table schema "
    "premise input_text source_text".split()
)
_ONE_OPTION = re.compile(r"(option|choice|candidate)_?[a-h0-9]|op[a-e]")
_LETTERS = ("a", "b", "c", "d")  # of options, where two at least are there
_OTHER_ANSWERS = tuple(
    "outputs responses completions answers target targets solution solutions reply long_answer "
    "short_answer best_answer correct_answer correct_answers assistant".split()
)
_ONE_OF_ANSWERS = re.compile(r"(output|response|completion|answer)_?([a-h0-9]|[jk])")

AROUND_A_QUESTION = frozenset((*_SYSTEMS, *_HISTORIES, *_INPUTS, "tools", "functions"))
"""Fields of a pair that its question is asked with."""

READ = frozenset((*_TURN_LISTS["auto"], *_PAIR, *_SYSTEMS, *_HISTORIES, *ANSWER_FIELDS))
"""Every field of a record that is read."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a record holds."""

    turns: tuple[Turn, ...]
    unread: tuple[str, ...] = ()
    """Names of the fields that are not known, each once; ``turn.NAME`` of a turn's."""


def parse_line(line: bytes) -> object:
    """Return the value of a JSON line; halves of surrogate pairs are left in.

    Raises:
        DropError: it is too long, not JSON, or not UTF-8.
    """
    try:
        require_short(line)
        return parse_json(line)
    except NotJsonError as error:
        shown = excerpt(line.decode(errors="replace"))
        raise DropError(Drop.NOT_JSON, f"{error.detail}: {shown}") from None


def read_turns(record: object, kind: Format = "auto") -> list[Turn]:
    """Return the turns of a record, as ``read_record`` does."""
    return list(read_record(record, kind).turns)


def read_record(
    record: object, kind: Format = "auto", *, more_read: Collection[str] = ()
) -> Reading:
    """Return the turns of a record, and the names of what was not read.

    Args:
        record: a JSON value, or a row of a table as a dict.
        kind: the shape it must have; "auto" takes any.
        more_read: fields that the caller reads itself.

    Raises:
        DropError: it has no such shape; a turn has an unknown role or no text; or a field changes
            what the record means, and is not read.
    """
    unread: list[str] = []
    if isinstance(record, list) and kind != "alpaca":
        turns = _turns_of_list(record, unread)
    elif isinstance(record, dict):
        fields = by_name(record)
        read = READ.union(more_read) if more_read else READ
        unread += unknown_fields(fields, read=read, level="record")
        unread += odd_marks(fields)
        turns = _turns_of_fields(fields, record, kind, unread)
    else:
        raise DropError(Drop.UNKNOWN_SHAPE, excerpt(record))
    return Reading(turns=tuple(turns), unread=tuple(dict.fromkeys(unread)))


def _turns_of_fields(
    fields: dict[str, object], record: dict[str, object], kind: Format, unread: list[str]
) -> list[Turn]:
    """Return the turns of a record's fields, by its shape."""
    lists = _TURN_LISTS[kind]
    listed = choose({key: _transposed(fields.get(key)) for key in lists}, lists)
    if kind in ("auto", "alpaca") and (listed is None or says_nothing(fields[listed])):
        asks = any(fields.get(key) is not None for key in _QUESTIONS)
        if (asks or not says_nothing(fields.get("input"))) and choose(fields, _ANSWERS):
            unread += _left_aside(fields, _TURN_LISTS["auto"])
            return _turns_of_pair(fields, unread)
    if listed is None:
        names = excerpt(", ".join(map(str, record)))
        raise DropError(Drop.UNKNOWN_SHAPE, f"its fields are {names}")
    turns = _turns_of_list(_transposed(fields[listed]), unread)
    if history := _left_aside(fields, _HISTORIES):
        raise DropError(Drop.AMBIGUOUS, f"it has {listed} and {history[0]}")
    if kind == "auto":
        turns = _with_answer(fields, listed, turns, unread)
    else:  # the user chose, and is told of the others
        unread += _left_aside(fields, {*_TURN_LISTS["auto"], *_PAIR} - {listed})
    return _of_record(fields, _with_system(fields, listed, turns, unread))


def is_record(value: Mapping[str, object]) -> bool:
    """Return whether a JSON object is a record of a known shape, not a wrapping of records."""
    fields = {key: item for key, item in value.items() if item is not None}
    for key in _TURN_LISTS["auto"]:
        turns = fields.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return any(turns[0].get(role) is not None for role in ROLE_FIELDS)
    asks = any(key in fields for key in (*_QUESTIONS, "input"))
    return asks and any(key in fields for key in (*_ANSWERS, "chosen", "rejected"))


def _left_aside(fields: dict[str, object], names: Collection[str]) -> list[str]:
    return [name for name in fields if name in names and not says_nothing(fields[name])]


def _turns_of_pair(fields: dict[str, object], unread: list[str]) -> list[Turn]:
    """Return system text, history, question and answer."""
    others = [*_OTHER_ANSWERS, *filter(_ONE_OF_ANSWERS.fullmatch, fields)]
    key = choose(fields, _ANSWERS, beside=others)
    assert key is not None  # asked before
    said = text_of(fields[key], key, unread)
    asked = _question(fields, said, unread)
    system = _with_system(fields, "", [], unread)
    turns = [*system, *_history(fields, unread), Turn("user", asked), Turn("assistant", said)]
    return _of_record(fields, turns)


def _question(fields: dict[str, object], said: str, unread: list[str]) -> str:
    """Return an instruction and its input, joined as FastChat and its descendants join them."""
    unread += (rendered := _renderings(fields, said))
    fields = {name: value for name, value in fields.items() if name not in rendered}
    first = choose(fields, _QUESTIONS, beside=_OTHER_QUESTIONS)
    asked = text_of(fields[first], first, unread) if first else ""
    others = [*_OTHER_INPUTS, *filter(_ONE_OPTION.fullmatch, fields)]
    others += _LETTERS if "a" in fields and "b" in fields else ()
    second = choose(fields, _INPUTS, beside=others)
    if second is None and (left := _left_aside(fields, others)):
        raise DropError(Drop.AMBIGUOUS, f"it has {' and '.join([first or 'no question', *left])}")
    given = (
        text_of(fields[second], second, unread)
        if second and not says_nothing(fields[second])
        else ""
    )
    return "\n".join(text for text in (asked, given) if text.strip()) or asked


def _renderings(fields: dict[str, object], said: str) -> list[str]:
    """Return what holds the whole pair once more, in a prompt's words, as Alpaca's ``text``."""
    found = []
    for key in ("prompt", "text") if said.strip() else ():
        whole = fields.get(key)
        before, mark, after = (whole if isinstance(whole, str) else "").rpartition(said.strip())
        is_end = not after.strip() or key == "text"  # which may close with an end token
        others = [fields.get(name) for name in _QUESTIONS if name != key]
        asked = next((one.strip() for one in others if isinstance(one, str) and one.strip()), "")
        if mark and is_end and asked and asked in before:
            found.append(key)
    return found


def _history(fields: dict[str, object], unread: list[str]) -> list[Turn]:
    """Return the rounds before the question.

    Raises:
        DropError: they are neither pairs of texts nor turns.
    """
    key = choose(fields, _HISTORIES)
    rounds = _transposed(fields[key]) if key else None
    if says_nothing(rounds) or rounds in EMPTY_JSON:
        return []
    if not isinstance(rounds, list):
        raise DropError(Drop.HISTORY, excerpt(rounds))
    if all(isinstance(turn, dict) and turn.keys() & {*ROLE_FIELDS} for turn in rounds):
        return _turns_of_list(rounds, unread)
    turns: list[Turn] = []
    for number, pair in enumerate(rounds):
        if says_nothing(pair):
            continue
        if not isinstance(pair, list) or len(pair) != 2:
            raise DropError(Drop.HISTORY, f"round {number} is {excerpt(pair)}")
        where = f"round {number} of its {key}"
        question, answer = (text_of(text, where, unread) for text in pair)
        turns += [Turn("user", question), Turn("assistant", answer)]
    return turns


def _with_system(
    fields: dict[str, object], listed: str, turns: list[Turn], unread: list[str]
) -> list[Turn]:
    """Return the turns after the system text that some data sets keep beside them."""
    key = choose(fields, _SYSTEMS)
    if key is None or says_nothing(fields[key]):
        return turns
    text = text_of(fields[key], key, unread)
    if not turns or turns[0].role != "system":
        return [Turn("system", text), *turns]
    if not same(turns[0].content, text) and turns[0].content.strip():
        raise DropError(Drop.AMBIGUOUS, f"it has {key}, and a system turn in {listed}")
    return [Turn("system", text), *turns[1:]] if not turns[0].content.strip() else turns


def _with_answer(
    fields: dict[str, object], listed: str, turns: list[Turn], unread: list[str]
) -> list[Turn]:
    """Return the turns, and the answer to their last where it stands beside them.

    'sft generate' writes it so. Other fields of a pair must say what a turn says.

    Raises:
        DropError: one says something else.
    """
    answer = choose(fields, _ANSWERS)
    if turns and turns[-1].role == "user" and answer and not says_nothing(fields[answer]):
        turns = [*turns, Turn("assistant", text_of(fields[answer], answer, unread))]
    said = {turn.content.strip() for turn in turns}
    said |= {text.replace("<image>", "").strip() for text in said}  # as LLaVA's records add it
    answers = [turn.content for turn in turns if turn.role == "assistant"]
    for key in _left_aside(fields, _PAIR):
        text = fields[key]
        if not isinstance(text, str) or not (
            text.strip() in said
            or (key in _INPUTS and any(text.strip() in content for content in said))
            or (key in _ANSWERS and any(_stands_in(text.strip(), answer) for answer in answers))
        ):
            raise DropError(Drop.AMBIGUOUS, f"it has {listed} and {key}")
    return turns


def _stands_in(text: str, answer: str) -> bool:
    """Return whether a text is a part of an answer, such as the result that it comes to."""
    return bool(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", answer))


def _of_record(fields: dict[str, object], turns: list[Turn]) -> list[Turn]:
    """Return the turns as the record's own marks say: a cut last answer, or none to be learnt."""
    mask = fields.get("mask")
    if isinstance(mask, str) and ROLES.get(mask.lower()) == "user":
        fields = fields | {"mask": None}  # NeMo's: whose turns are not learnt
    if not is_learnt(fields, "it"):
        turns = [replace(turn, learnt=False) for turn in turns]
    if turns and turns[-1].role == "assistant" and is_cut(fields):
        turns = [*turns[:-1], replace(turns[-1], cut=True)]
    return turns


def _turns_of_list(turns: object, unread: list[str]) -> list[Turn]:
    if not isinstance(turns, list):
        raise DropError(Drop.UNKNOWN_SHAPE, f"its turns are not a list but {excerpt(turns)}")
    return [read_turn(turn, number, unread) for number, turn in enumerate(turns)]


def _transposed(turns: object) -> object:
    """Return a list of turns where older ``datasets`` gives a dict of equally long lists."""
    if not isinstance(turns, dict):
        return turns
    columns = [column for column in turns.values() if isinstance(column, list)]
    if len(columns) < len(turns) or len({len(column) for column in columns}) != 1:
        return turns
    return [dict(zip(turns, row, strict=True)) for row in zip(*columns, strict=True)]
