"""A record -> its turns as they stand, whatever shape the record has.

    conversations  {"conversations": [{"from": "human", "value": ...}, ...]}     ShareGPT, Vicuna
    messages       {"messages": [{"role": "user", "content": ...}, ...]}         OpenAI
                   content is a string, or a list of {"type": "text", "text": ...}
    pairs          {"instruction": ..., "input": ..., "output": ...}             Alpaca
                   also prompt or question, with response, completion or answer
    a list         [{"from": ..., "value": ...}, ...] or [{"role": ..., "content": ...}, ...]

A turn or a pair may say that its answer stops before its end: ``"cut": true``, as '/save' of
'sft chat' writes, or ``"finish": "length"``, as 'sft generate' does.

A field that is null counts as absent: tables have a column for every field of any record.
Nothing is judged here but the shape; see clean.py.
"""

from collections.abc import Sequence
from typing import Any, Literal

from mobilellama.json_lines import NotJsonError, parse_json
from mobilellama.sft.conversation import Role, Turn
from mobilellama.sft.reasons import Drop, DropError, excerpt

Format = Literal["auto", "sharegpt", "messages", "alpaca"]

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""Every spelling of a role that is understood, in lower case."""

_TURN_LISTS: dict[str, tuple[str, ...]] = {
    "sharegpt": ("conversations", "conversation"),
    "messages": ("messages",),
    "auto": ("conversations", "messages", "conversation"),
    "alpaca": (),
}
_QUESTIONS = ("instruction", "prompt", "question")
_INPUTS = ("input", "context")
_ANSWERS = ("output", "response", "completion", "answer")
_SYSTEMS = ("system", "system_prompt")
_ROLE_KEYS = ("from", "role")
_CONTENT_KEYS = ("value", "content")
_CALL_KEYS = ("tool_calls", "function_call")
_CUTS = {"cut": True, "finish": "length"}

FIELDS = frozenset((*_TURN_LISTS["auto"], *_QUESTIONS, *_INPUTS, *_ANSWERS, *_SYSTEMS, *_CUTS))
"""Every field of a record that is read; a table's other columns need not be."""


def parse_line(line: bytes) -> Any:
    """Return the value of a JSON line; halves of surrogate pairs are left in.

    Raises:
        DropError: it is not JSON, or not UTF-8.
    """
    try:
        return parse_json(line)
    except NotJsonError as error:
        shown = excerpt(line.decode(errors="replace"))
        raise DropError(Drop.NOT_JSON, f"{error.detail}: {shown}") from None


def read_turns(record: Any, kind: Format = "auto") -> list[Turn]:
    """Return the turns of a record.

    Args:
        record: a JSON value, or a row of a table as a dict.
        kind: the shape it must have; "auto" takes any.

    Raises:
        DropError: it has no such shape, or a turn has an unknown role or no text.
    """
    if isinstance(record, list) and kind != "alpaca":
        return _turns_of_list(record)
    if not isinstance(record, dict):
        raise DropError(Drop.UNKNOWN_SHAPE, excerpt(record))
    system = _system_of(record)
    for key in _TURN_LISTS[kind]:
        if record.get(key) is not None:
            turns = _turns_of_list(_transposed(record[key]))
            return turns if turns and turns[0].role == "system" else system + turns
    question, answer = _first(record, _QUESTIONS), _first(record, _ANSWERS)
    if kind in ("auto", "alpaca") and question and answer:
        return system + _turns_of_pair(record, question, answer)
    raise DropError(Drop.UNKNOWN_SHAPE, f"its fields are {excerpt(', '.join(map(str, record)))}")


def is_record(value: dict[str, Any]) -> bool:
    """Return whether a JSON object is a record of a known shape, not a wrapping of records."""
    for key in _TURN_LISTS["auto"]:
        turns = value.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return _first(turns[0], _ROLE_KEYS) is not None
    return bool(_first(value, _QUESTIONS) and _first(value, _ANSWERS))


def _system_of(record: dict[str, Any]) -> list[Turn]:
    """Return the system turn that some data sets keep beside the turns, if there is one."""
    key = _first(record, _SYSTEMS)
    if key is None or record[key] == "":
        return []
    return [Turn("system", _text(record[key], key))]


def _turns_of_pair(record: dict[str, Any], question: str, answer: str) -> list[Turn]:
    asked = _text(record[question], question)
    key = _first(record, _INPUTS)
    if key and (given := _text(record[key], key)):
        asked = f"{asked}\n{given}"  # as FastChat and its descendants join them
    said = Turn("assistant", _text(record[answer], answer), cut=_is_cut(record))
    return [Turn("user", asked), said]


def _turns_of_list(turns: Any) -> list[Turn]:
    if not isinstance(turns, list):
        raise DropError(Drop.UNKNOWN_SHAPE, f"its turns are no list but {excerpt(turns)}")
    return [_turn(turn, number) for number, turn in enumerate(turns)]


def _turn(turn: Any, number: int) -> Turn:
    keys = turn if isinstance(turn, dict) else {}
    role_key, content_key = _first(keys, _ROLE_KEYS), _first(keys, _CONTENT_KEYS)
    if role_key is None:
        raise DropError(Drop.UNKNOWN_SHAPE, f"turn {number} has no role: {excerpt(turn)}")
    spelt = keys[role_key]
    if not isinstance(spelt, str) or spelt.lower() not in ROLES:
        raise DropError(Drop.UNKNOWN_ROLE, f"turn {number} is of {excerpt(spelt)!r}")
    if called := next((key for key in _CALL_KEYS if keys.get(key)), None):
        raise DropError(Drop.TOOL_CALL, f"turn {number} has {called}")
    text = _text(keys[content_key] if content_key else None, f"turn {number}'s content")
    role = ROLES[spelt.lower()]
    return Turn(role, text, cut=role == "assistant" and _is_cut(keys))


def _is_cut(fields: dict[str, Any]) -> bool:
    """Return whether a turn, or a pair, says of its answer that it stops before its end."""
    return any(fields.get(key) == value for key, value in _CUTS.items())


def _text(value: Any, where: str) -> str:
    """Return a content's text: a string, or the text parts of a list joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return "".join(_part(part, where) for part in value)
    raise DropError(Drop.NOT_TEXT, f"{where} is {excerpt(value)}")


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise DropError(Drop.NOT_TEXT, f"{where} holds {excerpt(part)}")


def _transposed(turns: Any) -> Any:
    """Return a list of turns where older ``datasets`` gives a dict of equally long lists."""
    columns = list(turns.values()) if isinstance(turns, dict) else []
    sizes = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(sizes) != 1 or -1 in sizes:
        return turns
    return [dict(zip(turns, row, strict=True)) for row in zip(*columns, strict=True)]


def _first(record: dict[str, Any], keys: Sequence[str]) -> str | None:
    """Return the first of the keys whose value is there and not null."""
    return next((key for key in keys if record.get(key) is not None), None)
