"""What the name of a field says of a record: nothing, or that it means something else.

Every name of a record, of a turn, and of a part of a turn's content is one of

    read             records.py takes it
    harmless         where a text comes from, when, how long or how good it is: _HARMLESS
    known to matter  it changes what the record means, and is not read: the record is dropped
    unknown          counted by name, and told once at the end

Names are compared as ``canonical`` spells them. A field that says nothing does not matter: null,
an empty text, an empty list or object, or one of such.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Literal

from mobilellama.sft.data.reasons import Drop, DropError, excerpt

Level = Literal["record", "turn", "part"]

EMPTY_JSON = ("[]", "{}", "null", "None")
"""What says nothing where a text stands for a list or an object, as in tables."""

_LONGEST_NAME = 100  # a longer one is no name that is known

_HARMLESS = frozenset(
    """
    id _id ids uid uuid guid key idx index row row_id record_id sample_id item_id example_id
    unique_id original_id source_id conversation_id conv_id dialog_id dialogue_id chat_id session_id
    thread_id prompt_id question_id answer_id response_id task_id problem_id message_id message_uid
    message_tree_id parent_id user_id doc_id document_id image_id video_id audio_id hash md5 sha1
    sha256 conversation_hash index_level_0 unnamed:_0 no number
    source sources src origin dataset dataset_name dataset_id data_source source_dataset subset
    split partition file_name filename category categories topic topics subject field domain task
    tasks task_type task_name tag tags keywords url urls link links license author annotator
    annotator_id version meta metadata meta_data info extra extra_info comment note notes title name
    language lang locale country state region
    timestamp time date datetime created created_at updated_at create_time update_time
    score scores rating ratings rank quality quality_score reward rewards reward_score difficulty
    level perplexity ppl toxicity toxic detoxify openai_moderation moderation redacted synthetic
    verified confidence likes upvotes votes views similarity complexity
    tokens token_count num_tokens n_tokens prompt_tokens completion_tokens total_tokens length
    num_turns turn turn_id round char_count word_count
    model model_name model_id models engine generator llm provider temperature top_p top_k
    max_tokens usage logprobs tool_choice parallel_tool_calls seed error
    image_size image_sizes image_width image_height width height
    cache_control annotations
    """.split()
)

_NAMES: dict[str, Drop] = {
    name: reason
    for reason, names in {
        Drop.PREFERENCE: "label labels preference preferences ranking winner loser accepted worse "
        "conversation_a conversation_b response_a response_b response_0 response_1 "
        "better_response_id safer_response_id is_response_0_safe is_response_1_safe kto_tag "
        "kto_label",
        Drop.TOOL_CALL: "tool_calls tool_call function_call function_calls functions function "
        "tools tool available_tools tool_call_id tool_responses tool_results api_calls",
        Drop.MEDIA: "file files attachment attachments media medias multimodal multi_modal_data "
        "mm_data pixel_values point_cloud point_clouds speech voice sound wav mp3 gif frames",
        Drop.WEIGHT: "train_detail training_detail loss_spans skip loss_weights loss_masks "
        "loss_scales masks sample_weights token_weights turn_weights turn_mask "
        "message_weights train_mask",
    }.items()
    for name in names.split()
}
"""Known to matter wherever they stand."""

_PATTERNS = (
    (re.compile(r"(^|_)(chosen|rejected|reject|preferred|dispreferred|kto|dpo)(_|$)"),
     Drop.PREFERENCE),
    (re.compile(r"(^|_)(reasoning|thinking|think|thoughts?|rationales?|chain_of_thoughts?|cot|"
                r"scratchpad|internal_monologue)"
                r"(_(content|text|details|traces?|steps|process))?$"),
     Drop.REASONING),
    (re.compile(r"(^|_)(images?|imgs?|pictures?|photos?|videos?|audios?|clips?)"
                r"(_?(urls?|uris?|paths?|files?|bytes|data|b64|base64|list|[0-9]+))?$"),
     Drop.MEDIA),
)  # fmt: skip

_AT_ONE_LEVEL: dict[Level, frozenset[str]] = {
    "record": frozenset(("type", "kind", "format")),
    "turn": frozenset(("user", "username")),
    "part": frozenset(("type",)),
}
"""Harmless there alone: a turn's type may say that it is no text."""

_ADDRESSES: dict[str, tuple[Drop, Collection[str]]] = {
    "recipient": (Drop.TOOL_CALL, ("all", "user", "assistant")),
    "channel": (Drop.REASONING, ("final",)),
}
"""What a turn may be addressed to, in its own words, and still be said to the user."""

_VERDICTS = frozenset("true false yes no 1 0 -1 good bad desirable undesirable chosen rejected"
                      .split())  # fmt: skip
"""What a label says of an answer; any other is a class, or a tag."""


@lru_cache(maxsize=4096)
def _spelt(name: str) -> str:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name.strip())
    return re.sub(r"[\s.\-]+", "_", parted).strip("_").lower() or name


def canonical(name: object) -> str:
    """Return a name in lower case, its words joined by ``_``: ``toolCalls`` is ``tool_calls``."""
    name = str(name)
    return _spelt(name) if len(name) <= _LONGEST_NAME else name


def says_nothing(value: object) -> bool:
    """Return whether a field is as good as absent."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(item is None or item in ("", [], {}) for item in value.values())
    if isinstance(value, list | tuple):
        return all(item is None or item in ("", [], {}) for item in value)
    return value is None


def same(one: object, other: object) -> bool:
    """Return whether two values say the same; space around texts says nothing."""
    if isinstance(one, str) and isinstance(other, str):
        return one.strip() == other.strip()
    try:
        return bool(one == other)
    except RecursionError:  # nested too deeply for a comparison
        return False


def by_name(fields: dict[str, object]) -> dict[str, object]:
    """Return fields by their canonical names; those that say nothing stay if none of theirs does.

    Raises:
        DropError: two names are one, and differ in what they say.
    """
    found: dict[str, object] = {}
    for name, value in fields.items():
        key = canonical(name)
        if key in found and not says_nothing(found[key]):
            if not says_nothing(value) and not same(value, found[key]):
                raise DropError(Drop.AMBIGUOUS, f"it has {key} in two spellings")
            continue
        found[key] = value
    return found


@lru_cache(maxsize=4096)
def _matters(name: str) -> Drop | None:
    if name in _NAMES:
        return _NAMES[name]
    return next((reason for pattern, reason in _PATTERNS if pattern.search(name)), None)


def medium_of(fields: dict[str, object], *, read: Collection[str] = ()) -> str | None:
    """Return the name of the first field that holds a medium, other than those that are read."""
    for name, value in fields.items():
        spelt = canonical(name)
        if spelt in read or spelt in _HARMLESS or says_nothing(value):
            continue
        if _matters(spelt) is Drop.MEDIA and _holds(spelt, value, Drop.MEDIA):
            return str(name)
    return None


def _holds(name: str, value: object, reason: Drop) -> bool:
    """Return whether a field that says something holds what its name is known for."""
    if isinstance(value, str) and value.strip() in EMPTY_JSON:
        return False
    if reason is Drop.PREFERENCE:
        if name in ("label", "labels"):
            return _is_verdict(value)
        is_mark = isinstance(value, bool | int | float)  # a kto_tag of false is one
        return not (is_mark and name in ("accepted", "worse", "loser"))
    if reason is Drop.REASONING:
        return not isinstance(value, bool | int | float)  # which switch it on, or measure it
    if name == "masks":
        return _is_verdict(value)  # else of a picture's parts
    return bool(value) or not isinstance(value, bool | int | float)  # 0 pictures are none


def _is_verdict(value: object) -> bool:
    values = value if isinstance(value, list | tuple) else (value,)
    return any(
        one.strip().lower() in _VERDICTS
        if isinstance(one, str)
        else isinstance(one, int | float) and one in (-1, 0, 1)
        for one in values
    )


def unknown_fields(
    fields: dict[str, object], *, read: Collection[str], level: Level, where: str = "it"
) -> list[str]:
    """Return the names that are neither read nor known, of fields that say something.

    Args:
        fields: by their canonical names.
        read: names that are read.
        level: whose fields they are.
        where: of which turn, for the example of a record that is dropped.

    Raises:
        DropError: one is known to matter, and is not read.
    """
    unknown: list[str] = []
    for name, value in fields.items():
        if name in read or name in _HARMLESS or name in _AT_ONE_LEVEL[level]:
            continue
        if says_nothing(value):
            continue
        reason = _matters(name)
        if reason is not None and _holds(name, value, reason):
            raise DropError(reason, f"{where} has {name}: {excerpt(value)}")
        if level == "turn" and name in _ADDRESSES:
            _require_said(name, value, where)
        elif name == "masks" or reason in (None, Drop.PREFERENCE):
            unknown.append(_named(name, level))
        elif reason is Drop.REASONING and value is not False:
            unknown.append(_named(name, level))
    return unknown


def _named(name: str, level: Level) -> str:
    return excerpt(name) if level == "record" else f"{level}.{excerpt(name)}"


def _require_said(name: str, value: object, where: str) -> None:
    """Raise DropError where a turn is said to a tool, or to nobody."""
    reason, ordinary = _ADDRESSES[name]
    if not isinstance(value, str) or value.strip().lower() not in ordinary:
        raise DropError(reason, f"{where} has {name}: {excerpt(value)}")
