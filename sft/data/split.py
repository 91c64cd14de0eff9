"""Encode a conversation, and split it between exchanges where it is longer than a row.

    seq_len |--------------------|
    whole   s q a q a q a q a q a          s: system text, q: question, a: answer and its end
    parts   s q a q a q a                  as many exchanges as fit
            s q a q a                      every part begins with the system text and a question

An exchange that is too long by itself loses the tail of its answer; one of which no answer token
is left is left out.

Where an exchange starts the tokens do not depend on what stands before it: a label changes there,
and labels.py encodes each stretch of one label for itself. So a part is its first exchange,
encoded after the system text, and a stretch of the whole conversation's tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import Encoded, encode
from mobilellama.sft.data.template import Template
from mobilellama.tokenizers.text_tokenizer import TextTokenizer

ENCODING_VERSION = 1
"""Rises when other tokens or labels come of the same conversations."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a conversation became."""

    parts: tuple[Encoded, ...]
    """Each of at most seq_len tokens, with at least one supervised; may be none."""
    tokens: int
    """Of the whole conversation, before anything was split or cut."""
    split: bool = False
    """Whether the exchanges did not fit into one part."""
    truncated: int = 0
    """Exchanges that lost the tail of their answer."""
    cut_away: int = 0
    """Exchanges left out, since no answer token lay within seq_len."""
    context_alone: int = 0
    """Parts left out, since none of their answers is to be learnt."""


def split_conversation(
    template: Template,
    tokenizer: TextTokenizer,
    turns: Sequence[Turn],
    seq_len: int,
    *,
    whole: Encoded | None = None,
) -> Parts:
    """Return a cleaned conversation's tokens and labels, in parts of at most `seq_len` tokens.

    Args:
        template: how the turns are written.
        tokenizer: gives the ids.
        turns: the conversation.
        seq_len: tokens.
        whole: what ``labels.encode`` returns for it. None: it is encoded here.

    Raises:
        ConfigError: the template does not fit the tokenizer, or the turns not the template.
    """
    whole = whole or encode(template, tokenizer, turns)
    if len(whole.ids) <= seq_len:
        return Parts(parts=(whole,), tokens=len(whole.ids))
    system, exchanges = _exchanges(turns)
    answered = whole
    if not all(turn.learnt for turn in turns):  # which changes no id
        learnt = [replace(turn, learnt=True) for turn in turns]
        answered = encode(template, tokenizer, learnt)
    ends = _exchange_ends(answered.supervised)
    if len(ends) != len(exchanges):  # a question came to no token, and two answers ran together
        return Parts(parts=(), tokens=len(whole.ids), cut_away=len(exchanges))
    parts: list[Encoded] = []
    truncated = cut_away = context_alone = start = 0
    while start < len(exchanges):
        first = _stretch(whole, 0, ends[0])
        if start:
            first = encode(template, tokenizer, [*system, *exchanges[start]])
        # The last exchange whose end lies within what the first one leaves.
        limit = ends[start] + seq_len - len(first.ids)
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        fits = len(first.ids) <= seq_len
        if fits:
            part = _joined(first, _stretch(whole, ends[start], ends[stop - 1]))
        else:
            part = _stretch(first, 0, seq_len)
        if part.supervised.any():
            parts.append(part)
            truncated += not fits
        elif fits or not exchanges[start][1].learnt:
            context_alone += 1
        else:
            cut_away += 1
        start = stop
    return Parts(
        parts=tuple(parts),
        tokens=len(whole.ids),
        split=len(exchanges) > 1,
        truncated=truncated,
        cut_away=cut_away,
        context_alone=context_alone,
    )


def _exchanges(turns: Sequence[Turn]) -> tuple[Sequence[Turn], list[Sequence[Turn]]]:
    """Return the system turn, if any, and the (question, answer) pairs."""
    first = 1 if turns[0].role == "system" else 0
    return turns[:first], [turns[i : i + 2] for i in range(first, len(turns), 2)]


def _exchange_ends(supervised: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where each run of supervised tokens ends: an answer's, and so its exchange's."""
    runs = np.diff(supervised.astype(np.int8), append=0)
    return np.flatnonzero(runs == -1) + 1


def _stretch(encoded: Encoded, start: int, end: int) -> Encoded:
    return Encoded(ids=encoded.ids[start:end], supervised=encoded.supervised[start:end])


def _joined(first: Encoded, second: Encoded) -> Encoded:
    return Encoded(
        ids=np.concatenate([first.ids, second.ids]),
        supervised=np.concatenate([first.supervised, second.supervised]),
    )
