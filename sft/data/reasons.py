"""Why a record is dropped, what is fixed in one that is kept, and the tally of both.

Every record that is read is either kept or dropped for one ``Drop``; a kept one may have been
fixed in several ways. Nothing is dropped or fixed without being counted here.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mobilellama.config import DataError

LEAST_DROPPED_RECORDS = 10
"""So many records of a file may be dropped, whatever `max_bad_share` says."""

MOST_NAMES = 200
"""So many names of fields that were not read are told apart."""

_OTHER_NAMES = "(other names)"
_EXAMPLES = 5  # kept of each reason
_FIRST_PLACES = 3  # shown in an error
_EXCERPT_CHARACTERS = 80


class Drop(StrEnum):
    """Why a record gives no conversation; the value is a column of the manifest."""

    NOT_JSON = "dropped_not_json"
    UNKNOWN_SHAPE = "dropped_unknown_shape"
    NOT_TEXT = "dropped_not_text"
    UNKNOWN_ROLE = "dropped_unknown_role"
    TOOL_CALL = "dropped_tool_call"
    REASONING = "dropped_reasoning"
    MEDIA = "dropped_media"
    PREFERENCE = "dropped_preference"
    AMBIGUOUS = "dropped_ambiguous"
    HISTORY = "dropped_history"
    WEIGHT = "dropped_weight"
    NOT_LEARNT = "dropped_not_learnt"
    MISPLACED_SYSTEM = "dropped_misplaced_system"
    UNPLACED_SYSTEM = "dropped_unplaced_system"
    NOT_ALTERNATING = "dropped_not_alternating"
    EMPTY_QUESTION = "dropped_empty_question"
    EMPTY_ANSWER = "dropped_empty_answer"
    UNFINISHED = "dropped_unfinished"
    NO_EXCHANGE = "dropped_no_exchange"
    NOTHING_SUPERVISED = "dropped_nothing_supervised"


class Fix(StrEnum):
    """What is changed in a conversation that is kept; the value is a column of the manifest."""

    LEADING_TURNS = "mended_leading_turns"
    TRAILING_TURN = "mended_trailing_turn"
    UNFINISHED = "mended_unfinished"
    EMPTY_SYSTEM = "mended_empty_system"
    SURROGATES = "mended_surrogates"
    SPLIT = "mended_split"
    TRUNCATED = "mended_truncated"
    CUT_AWAY = "mended_cut_away"
    CONTEXT_ALONE = "mended_context_alone"


MEANING: dict[str, str] = {
    Drop.NOT_JSON: "is not JSON in UTF-8",
    Drop.UNKNOWN_SHAPE: "has none of the known shapes",
    Drop.NOT_TEXT: "has a turn whose content is not text",
    Drop.UNKNOWN_ROLE: "has a turn of an unknown role",
    Drop.TOOL_CALL: "calls a tool, or is given tools",
    Drop.REASONING: "has a reasoning beside an answer, which no template has a place for",
    Drop.MEDIA: "has a medium that cannot be read here",
    Drop.PREFERENCE: "is of preference data, which does not say what to learn",
    Drop.AMBIGUOUS: "has two fields for one thing",
    Drop.HISTORY: "has a history that is no list of rounds",
    Drop.WEIGHT: "has a weight that is neither 0 nor 1, or is of parts",
    Drop.NOT_LEARNT: "has no answer that is to be learnt",
    Drop.MISPLACED_SYSTEM: "has a system turn that is not its first turn",
    Drop.UNPLACED_SYSTEM: "has a system turn, for which the template has no place",
    Drop.NOT_ALTERNATING: "has two questions or two answers in a row",
    Drop.EMPTY_QUESTION: "has an empty question",
    Drop.EMPTY_ANSWER: "has an empty answer",
    Drop.UNFINISHED: "begins with an answer that is marked as cut short",
    Drop.NO_EXCHANGE: "has no question that is followed by an answer",
    Drop.NOTHING_SUPERVISED: "has no answer that begins within seq_len",
    Fix.LEADING_TURNS: "answers before the first question left out",
    Fix.TRAILING_TURN: "last question without an answer left out",
    Fix.UNFINISHED: "an answer that is marked as cut short left out, with all after it",
    Fix.EMPTY_SYSTEM: "empty system turn left out",
    Fix.SURROGATES: "half surrogate pairs replaced by U+FFFD",
    Fix.SPLIT: "longer than seq_len, split between exchanges",
    Fix.TRUNCATED: "one exchange longer than seq_len, its tail cut off",
    Fix.CUT_AWAY: "an exchange left out: its answer begins after seq_len",
    Fix.CONTEXT_ALONE: "a part left out: it has no answer that is to be learnt",
}
"""What each reason means, for the report: a record that ..., or what was done to it."""


class DropError(Exception):
    """This record gives no conversation, for a ``Drop`` or for a reason of a stage's own."""

    def __init__(self, reason: StrEnum, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass
class ReasonTally:
    """What was dropped and fixed so far, with the first places of each reason."""

    records: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """By the value of ``Drop`` or ``Fix``: records dropped, conversations fixed."""
    examples: list[list[str]] = field(default_factory=list)
    """[place, reason, detail] of the first five of each reason, in order of appearance."""
    unread: Counter[str] = field(default_factory=Counter)
    """By the name of a field that was not read: records that were kept all the same."""
    _shown: Counter[str] = field(default_factory=Counter)

    @property
    def dropped(self) -> int:
        """Records that gave no conversation."""
        return sum(self.counts[reason] for reason in Drop)

    def add(self, reason: StrEnum, place: str, detail: str = "") -> None:
        """Count a record that was dropped or fixed."""
        self.counts[reason.value] += 1
        if self._shown[reason.value] < _EXAMPLES:
            self._shown[reason.value] += 1
            self.examples.append([place, reason.value, detail])

    def add_unread(self, names: Sequence[str]) -> None:
        """Count the fields of a record that were not read."""
        count_names(self.unread, names)

    def examples_by_reason(self) -> list[list[str]]:
        """Return the examples in the order of the reasons; of one reason, in that of the records.

        So they do not depend on how far reading was ahead of encoding.
        """
        order = {reason.value: i for i, reason in enumerate((*Drop, *Fix))}
        return sorted(self.examples, key=lambda example: order[example[1]])

    def columns(self) -> dict[str, int]:
        """Return the count of every reason there is, 0 included."""
        return {reason.value: self.counts[reason.value] for reason in (*Drop, *Fix)}

    def too_many(self, max_bad_share: float) -> bool:
        """Return whether more records were dropped than `max_bad_share` of them, and than 10."""
        return self.dropped > max(LEAST_DROPPED_RECORDS, int(max_bad_share * self.records))

    def require_few_dropped(self, source: str, max_bad_share: float) -> None:
        """Raise DataError where ``too_many`` were dropped, naming the first places."""
        if not self.too_many(max_bad_share):
            return
        raise DataError(
            f"{source}: {self.dropped:,} of {self.records:,} records give no conversation, more "
            f"than max_bad_share = {max_bad_share} allows ({self.first_places()}). "
            "Fix the file, see --data.format, or raise --max_bad_share"
        )

    def first_places(self) -> str:
        """Return the first few dropped records and why, for an error."""
        dropped = [example for example in self.examples if example[1] in set(Drop)]
        return "; ".join(describe_example(*example) for example in dropped[:_FIRST_PLACES])


def count_names(counts: dict[str, int], names: Sequence[str]) -> None:
    """Count names, each once; all that come after ``MOST_NAMES`` go by one."""
    for name in names:
        known = name in counts or len(counts) < MOST_NAMES
        name = name if known else _OTHER_NAMES
        counts[name] = counts.get(name, 0) + 1


def most_first(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counted names, the most frequent first, then in order of the name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def describe_example(place: str, reason: str, detail: str) -> str:
    """Return ``PLACE meaning: detail``."""
    return f"{place} {MEANING[reason]}" + (f": {detail}" if detail else "")


def excerpt(value: object) -> str:
    """Return the beginning of a record or a text on one line, for an example."""
    text = value if isinstance(value, str) else _as_json(value)
    text = " ".join(text[: 4 * _EXCERPT_CHARACTERS].split())
    text = text.encode(errors="replace").decode()  # half a surrogate pair cannot be printed
    cut = len(text) > _EXCERPT_CHARACTERS
    return text[:_EXCERPT_CHARACTERS] + "..." * cut


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return f"{'an object' if isinstance(value, dict) else 'a list'} that is nested too deeply"
    except (TypeError, ValueError):  # of keys that JSON has not
        return f"a {type(value).__name__}"
