"""A JSON-lines file of prompts -> rows, each with the turns that ask for an answer.

A row is an object with one of

    {"prompt": "..."}                                        one question
    {"messages": [{"role": "user", "content": "..."}, ...]}  a conversation
    {"conversations": [{"from": "human", "value": "..."}, ...]}

and any other fields, which are copied; a medium that the model would not see, such as a video, is
refused, and a warning counts what a question is asked with elsewhere, such as ``history``. A
conversation ends with the user's turn; an answer after it is left out: it is what the model is to
write.
"""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellama.config import ConfigError, DataError
from mobilellama.files.json_lines import read_json_lines
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.fields import canonical, medium_of, says_nothing
from mobilellama.sft.data.reasons import MEANING, DropError
from mobilellama.sft.data.records import AROUND_A_QUESTION, read_turns
from mobilellama.sft.data.turns import ROLE_FIELDS, ROLES

log = logging.getLogger(__name__)

_CONVERSATIONS = ("messages", "conversations")


@dataclass(frozen=True)
class PromptRow:
    """One line of the input."""

    place: str
    """FILE:LINE, for messages."""
    fields: dict[str, object]
    """All that the line holds."""
    turns: tuple[Turn, ...]
    """Perhaps a system turn, then user and assistant in turn, the user's last."""


def read_prompts(
    path: Path,
    *,
    system: str | None,
    reserved: Sequence[str],
    question: str = "prompt",
    media: Collection[str] = (),
) -> list[PromptRow]:
    """Return the rows of a file; empty lines are no rows.

    Args:
        path: the file.
        system: system text of rows that have none of their own; None: none.
        reserved: fields that the output adds, which a row must not have.
        question: the field of a row that is one question.
        media: fields of media that the caller reads.

    Raises:
        ConfigError: there is no such file, or it has no row.
        DataError: a line is not a row; the message names it.
    """
    if not path.is_file():
        raise ConfigError("input", str(path), "is not a file", "Give a JSON-lines file of prompts")
    rows: list[PromptRow] = []
    unread: Counter[str] = Counter()
    for place, fields in read_json_lines(path):
        if name := medium_of(fields, read=media):
            raise DataError(f"{place} has {name}, which is not read here; fix the line")
        rows.append(_row(fields, place, system, reserved, question))
        unread.update(
            name
            for name in fields
            if canonical(name) in AROUND_A_QUESTION and not says_nothing(fields[name])
        )
    if not rows:
        remedy = f'Give a JSON-lines file such as {{"{question}": "..."}} on every line'
        raise ConfigError("input", str(path), "has no prompts", remedy)
    for name, count in unread.items():
        told = "%s: %s of its rows have %s, which is copied, and not shown to the model. "
        log.warning(told + "Write it into 'messages' to have it read", path, f"{count:,}", name)
    return rows


def _row(
    fields: dict[str, object],
    place: str,
    system: str | None,
    reserved: Sequence[str],
    question: str,
) -> PromptRow:
    known = (question, *_CONVERSATIONS)
    asking = [name for name in known if fields.get(name) is not None]
    if len(asking) != 1:
        found = " and ".join(asking) or ", ".join(fields) or "nothing"
        raise DataError(f"{place} must have one of {', '.join(known)}; it has {found}")
    if taken := [name for name in reserved if name in fields]:
        raise DataError(f"{place} has the field {taken[0]}, which the output adds; rename it")
    if asking[0] == question:
        asked = fields[question]
        if not isinstance(asked, str):
            raise DataError(f"{place}: {question} must be a string; fix the line")
        turns = [Turn("user", asked)]
    else:
        turns = _turns({asking[0]: fields[asking[0]]}, place)
    if system is not None and turns[0].role != "system":
        turns = [Turn("system", system), *turns]
    return PromptRow(place, fields, tuple(turns))


def _without_answer(record: dict[str, object]) -> dict[str, object]:
    """Return a conversation without its last answer, whatever else that has in it."""
    ((name, turns),) = record.items()
    last = turns[-1] if isinstance(turns, list) and turns else None
    fields = last if isinstance(last, dict) else {}
    role = next((fields[key] for key in ROLE_FIELDS if fields.get(key) is not None), None)
    is_answer = isinstance(role, str) and ROLES.get(role.lower()) == "assistant"
    return {name: turns[:-1]} if is_answer and isinstance(turns, list) else record


def _turns(record: dict[str, object], place: str) -> list[Turn]:
    """Return a conversation's turns up to the user's last."""
    try:
        turns = read_turns(_without_answer(record))
    except DropError as error:
        detail = f" ({error.detail})" if error.detail else ""
        raise DataError(f"{place} {MEANING[error.reason]}{detail}; fix the line") from None
    roles = [turn.role for turn in turns]
    said = roles[1:] if roles[:1] == ["system"] else roles
    if not said or said != ["user", "assistant"] * (len(said) // 2) + ["user"]:
        raise DataError(
            f"{place}: the turns must be the user's and the assistant's in turn, after at most one "
            f"of the system, and begin and end with the user's; they are "
            f"{', '.join(roles) or 'none'}; fix the line"
        )
    return turns
