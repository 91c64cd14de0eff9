"""One turn as a record has it -> a Turn: its role, its text, and whether it is to be learnt.

    {"from": "gpt", "value": "..."}                  ShareGPT
    {"role": "assistant", "content": "..."}          OpenAI; or content is a list of
                                                     {"type": "text", "text": "..."}

The parts of a list are joined by a line break, as vLLM and TensorRT-LLM do for models of text
alone; where white space stands between two of them already, nothing is added.

``"weight": 0`` (or ``"loss"``, ``"train"``, ... of false) marks an answer that is context: it
stands in the row and is not learnt. A weight between 0 and 1 drops the record: rows know of no
such. Questions are never learnt, so that there a weight of 0 changes nothing, and one of 1 is
counted as not read.
"""

from collections.abc import Sequence

from mobilellama.sft.data.conversation import Role, Turn
from mobilellama.sft.data.fields import by_name, same, says_nothing, unknown_fields
from mobilellama.sft.data.reasons import Drop, DropError, excerpt

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

ROLE_FIELDS = ("from", "role")
CONTENT_FIELDS = ("value", "content")
_PLAIN = frozenset(zip(ROLE_FIELDS, CONTENT_FIELDS, strict=True))
_OTHER_CONTENTS = ("text", "message", "utterance", "refusal")  # two of them are one too many

_ENDS = {"finish": "length", "finish_reason": "length", "stop_reason": "max_tokens"}
"""What says that an answer came to a limit, and so stops before its end."""
_WHOLE = frozenset(("stop", "eos", "eos_token", "end_turn", "stop_sequence"))
_CUT_FLAGS = ("cut", "truncated", "prefix")

_LEARN_FLAGS = tuple(
    "weight sample_weight loss loss_weight loss_mask loss_scale compute_loss calculate_loss train "
    "training trainable train_on_turn train_on should_train is_training learn learnable "
    "supervised supervise".split()
)
_CONTEXT_FLAGS = ("masked", "mask", "ignore", "ignore_loss", "skip_loss", "mask_loss", "no_loss")

ANSWER_FIELDS = (*_ENDS, *_CUT_FLAGS, *_LEARN_FLAGS, *_CONTEXT_FLAGS)
"""Fields of a turn, or of a record, that say something of its answer."""

_READ = frozenset((*ROLE_FIELDS, *CONTENT_FIELDS, *_OTHER_CONTENTS, *ANSWER_FIELDS))
_WORDS = {"true": True, "yes": True, "false": False, "no": False}


def read_turn(turn: object, number: int, unread: list[str]) -> Turn:
    """Return a turn; add the names of its fields that are not known to `unread`.

    Raises:
        DropError: it has no known role or no text, or a field that means something else.
    """
    if isinstance(turn, dict) and tuple(turn) in _PLAIN:  # most are: five times as fast
        spelt, content = turn.values()
        if isinstance(content, str) and isinstance(spelt, str) and spelt in ROLES:
            return Turn(ROLES[spelt], content)
    fields = by_name(turn) if isinstance(turn, dict) else {}
    if not any(fields.get(key) is not None for key in ROLE_FIELDS):
        raise DropError(Drop.UNKNOWN_SHAPE, f"turn {number} has no role: {excerpt(turn)}")
    role = _role(fields, number)
    where = f"turn {number}"
    unread += unknown_fields(fields, read=_READ, level="turn", where=where)
    unread += [f"turn.{key}" for key in odd_marks(fields)]
    text = text_of(_content(fields, where), f"{where}'s content", unread)
    if role != "assistant":
        unread += [
            f"turn.{key} (of a {role})"
            for key in _LEARN_FLAGS
            if not says_nothing(fields.get(key)) and as_flag(fields[key]) is not False
        ]
        return Turn(role, text)
    return Turn(role, text, cut=is_cut(fields), learnt=is_learnt(fields, where))


def _role(fields: dict[str, object], number: int) -> Role:
    roles: set[Role] = set()
    for key in ROLE_FIELDS:
        spelt = fields.get(key)
        if spelt is None:
            continue
        if not isinstance(spelt, str) or spelt.lower() not in ROLES:
            raise DropError(Drop.UNKNOWN_ROLE, f"turn {number} is of {excerpt(spelt)!r}")
        roles.add(ROLES[spelt.lower()])
    if len(roles) > 1:
        raise DropError(Drop.AMBIGUOUS, f"turn {number} is of {' and of '.join(sorted(roles))}")
    return roles.pop()


def _content(fields: dict[str, object], where: str) -> object:
    key = choose(fields, CONTENT_FIELDS, beside=_OTHER_CONTENTS, where=where)
    return None if key is None else fields[key]


def choose(
    fields: dict[str, object],
    keys: Sequence[str],
    *,
    beside: Sequence[str] = (),
    where: str = "it",
) -> str | None:
    """Return which of the fields is there, for one thing that each of them could be.

    One that says something comes before one that says nothing.

    Args:
        fields: by their canonical names.
        keys: what is read.
        beside: what is not read, but would be the same thing.
        where: whose fields they are.

    Raises:
        DropError: two of them are there, and do not say the same.
    """
    said = [key for key in (*keys, *beside) if not says_nothing(fields.get(key))]
    for other in said[1:]:
        if not same(fields[said[0]], fields[other]):
            raise DropError(Drop.AMBIGUOUS, f"{where} has {' and '.join(said)}")
    given = [key for key in keys if fields.get(key) is not None]
    return next((key for key in given if key in said), given[0] if given else None)


def text_of(value: object, where: str, unread: list[str]) -> str:
    """Return a content's text: a string, or the text parts of a list joined.

    Raises:
        DropError: it is no text, or a part of it is none.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return joined([_part(part, where, unread) for part in value])
    raise DropError(Drop.NOT_TEXT, f"{where} is {excerpt(value)}")


def joined(texts: Sequence[str]) -> str:
    """Return texts with a line break wherever no white space stands between two of them."""
    whole = ""
    for text in texts:
        apart = not whole or not text or whole[-1].isspace() or text[0].isspace()
        whole += text if apart else f"\n{text}"
    return whole


def _part(part: object, where: str, unread: list[str]) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        fields = by_name(part)
        flags = [key for key in (*_LEARN_FLAGS, *_CONTEXT_FLAGS) if key in fields]
        if flags := [key for key in flags if as_flag(fields[key]) is not (key in _LEARN_FLAGS)]:
            if not all(says_nothing(fields[key]) for key in flags):
                raise DropError(Drop.WEIGHT, f"{where} has a part with {flags[0]}")
        read = ("text", *_LEARN_FLAGS, *_CONTEXT_FLAGS)
        unread += unknown_fields(fields, read=read, level="part", where=where)
        return part["text"]
    raise DropError(Drop.NOT_TEXT, f"{where} holds {excerpt(part)}")


def is_cut(fields: dict[str, object]) -> bool:
    """Return whether a turn, or a record, says of its answer that it stops before its end."""
    return any(
        isinstance(said := fields.get(key), str) and said.lower() in (limit, "content_filter")
        for key, limit in _ENDS.items()
    ) or any(as_flag(fields.get(key)) is True for key in _CUT_FLAGS)


def odd_marks(fields: dict[str, object]) -> list[str]:
    """Return which marks of an answer's end have a value that is not understood."""
    ends = [key for key in _ENDS if not says_nothing(fields.get(key)) and not is_cut(fields)]
    flags = [key for key in _CUT_FLAGS if not says_nothing(fields.get(key))]
    return [
        *(key for key in ends if not _is_whole(fields[key])),
        *(key for key in flags if as_flag(fields[key]) is None),
    ]


def _is_whole(said: object) -> bool:
    return isinstance(said, str) and said.lower() in _WHOLE


def is_learnt(fields: dict[str, object], where: str) -> bool:
    """Return whether a turn, or a record, lets its answer be learnt.

    Raises:
        DropError: a weight is neither 0 nor 1, or two fields differ.
    """
    found: dict[str, bool] = {}
    for key in (*_LEARN_FLAGS, *_CONTEXT_FLAGS):
        value = fields.get(key)
        if says_nothing(value):
            continue
        said = as_flag(value)
        if key == "mask" and not isinstance(value, bool | str):
            said = None  # of numbers, 1 means learnt here and masked there
        if said is None:
            raise DropError(Drop.WEIGHT, f"{where} has {key}: {excerpt(value)}")
        found[key] = said is (key in _LEARN_FLAGS)
    if len({*found.values()}) > 1:
        raise DropError(Drop.WEIGHT, f"{where} has {' and '.join(found)}, which differ")
    return all(found.values())


def as_flag(value: object) -> bool | None:
    """Return what true, 1, 1.0, "true" or "1" mean, or their opposites; None: it is no flag."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _WORDS:
            return _WORDS[word]
        try:
            value = float(word)
        except ValueError:
            return None
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    return None
