"""Token ids and labels of a conversation, made together, segment by segment.

    vicuna_v1, LLaMA's tokenizer, "hi" answered by "yo there" (^: supervised)

    <s> ▁A ▁chat … . ▁US ER : ▁hi ▁A SS IST ANT : ▁yo ▁there </s>
                                                  ^^^ ^^^^^^ ^^^^

1. Neighbouring texts with the same label are joined, and each stretch is encoded in one call: a
   question and the words around it have the ids of the whole string. Special tokens become
   their ids; what a user spells like one stays text.
2. A text at the start or after a special token is encoded as at a start, any other as going
   on. Where the tokenizer's special tokens swallow the white space beside them (lstrip, rstrip),
   so they do here.
3. The label changes only where a prompt ends and its answer starts, and there alone the text is
   cut into two calls. Nothing is tokenised twice, no length is subtracted, and so there is no
   "tokenization mismatch".

The cut can give other ids than the whole string only where a tokenizer looks across it. For
vicuna_v1, phi2 and mistral none does: the cut is before a space that follows a mark, and no
piece of LLaMA's model has a space after another character, so that the ids are those of the
original's training, whatever the texts. After a prompt that ends in line breaks (chatml, qwen2)
an answer that starts with white space may be joined with them, and for plain nothing parts the
texts at all. The cut is right there too: generation starts from the prompt's own ids, and a
model must be taught to go on from those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilellama.config import ConfigError
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.template import BOS, Segment, Template
from mobilellama.tokenizers.text_tokenizer import SpecialToken, TextTokenizer

# Unicode's White_Space, which is what lstrip and rstrip of a special token swallow; Python's
# str.strip() also takes U+001C to U+001F.
_WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A conversation of T tokens."""

    ids: NDArray[np.int32]
    """Token ids, shape (T,)."""
    supervised: NDArray[np.bool_]
    """Whether the model learns to write the token, shape (T,)."""


def encode(template: Template, tokenizer: TextTokenizer, turns: Sequence[Turn]) -> Encoded:
    """Return a conversation's ids, and which of them are supervised: answers and their ends.

    Raises:
        ConfigError: the template does not fit the tokenizer, or the turns not the template.
    """
    return encode_segments(template.segments(turns), template, tokenizer)


def encode_prompt(
    template: Template, tokenizer: TextTokenizer, turns: Sequence[Turn]
) -> NDArray[np.int32]:
    """Return the ids, shape (T,), that the model continues with its answer to the last turn.

    They are the ids that ``encode`` puts before that answer. The exception is an empty question
    after an answer, in a template without marks: a tokenizer may join the line breaks of the two.

    Raises:
        ConfigError: as ``encode``, or the last turn is not the user's.
    """
    return encode_segments(template.segments(turns, generate=True), template, tokenizer).ids


def stop_ids(template: Template, tokenizer: TextTokenizer) -> list[int]:
    """Return the ids that end generation: the template's stop tokens, then the end of text.

    Raises:
        ConfigError: a stop token is neither special nor one token of text.
    """
    ids: list[int] = []
    for token in template.stop:
        if token in tokenizer.specials:
            ids.append(tokenizer.specials[token].id)
            continue
        encoded = tokenizer.encode(token, begins=False)
        if len(encoded) != 1:
            rule = f"is {len(encoded)} tokens of {tokenizer.path}"
            remedy = "Name special tokens, or texts of one token"
            raise ConfigError(f"template {template.name}: stop", token, rule, remedy)
        ids += encoded
    if tokenizer.eos_id is not None:
        ids.append(tokenizer.eos_id)
    return list(dict.fromkeys(ids))


def stop_texts(template: Template, tokenizer: TextTokenizer) -> tuple[str, ...]:
    """Return the template's stops that are text.

    ``stop_ids`` alone is not enough for them: a tokenizer may join one with the answer's last
    mark, as Llama 3's and Qwen's join a full stop and the line break after it.
    """
    return tuple(token for token in template.stop if token not in tokenizer.specials)


@lru_cache(maxsize=16)
def special_tokens(template: Template, tokenizer: TextTokenizer) -> dict[str, SpecialToken]:
    """Return the tokenizer's facts of each special token of the template, ``BOS`` among them.

    Raises:
        ConfigError: the tokenizer lacks one, or has one that the template takes for text.
    """
    owner, remedy = f"template {template.name}", "take another template, or a copy of its file"
    found: dict[str, SpecialToken] = {}
    for token in template.specials:
        if token not in tokenizer.specials:
            rule = f"is not a special token of {tokenizer.path}"
            remedy = f"Add it to the tokenizer, {remedy} with the tokenizer's own"
            raise ConfigError(f"{owner}: specials", token, rule, remedy)
        found[token] = tokenizer.specials[token]
    if template.bos:
        if tokenizer.bos_id is None or tokenizer.bos_id < 0:
            rule = f"needs a begin token, but {tokenizer.path} has none"
            raise ConfigError(f"{owner}: bos", True, rule, f"{remedy.capitalize()} without it")
        bos = tokenizer.specials.get(tokenizer.bos_token)
        found[BOS] = bos or SpecialToken(id=tokenizer.bos_id)
    for token in tokenizer.specials:
        # Whitespace that a tokenizer adds as tokens is text, whichever way it is marked.
        if token.strip() and any(token in literal for literal in template.literals):
            if token not in found:
                rule = f"does not name {token}, a special token of {tokenizer.path}"
                shown = ", ".join(template.specials) or "(none)"
                remedy = f"{remedy.capitalize()} that names it"
                raise ConfigError(f"{owner}: specials", shown, rule, remedy)
    return found


def encode_segments(
    segments: Sequence[Segment],
    template: Template,
    tokenizer: TextTokenizer,
    *,
    places: Mapping[str, int] | None = None,
) -> Encoded:
    """Return the ids of a template's segments, and which of them are supervised.

    Args:
        segments: special tokens and texts.
        template: whose they are.
        tokenizer: gives the ids.
        places: special segments that are no token, and the id that stands for each (an image's).

    Raises:
        ConfigError: the template does not fit the tokenizer.
    """
    stretches = cut_stretches(segments, template, tokenizer, places=places)
    return join_ids(
        stretches,
        [
            [stretch.special_id]
            if stretch.special_id is not None
            else tokenizer.encode(stretch.text, begins=stretch.begins)
            for stretch in stretches
        ],
    )


class Stretch(NamedTuple):
    """What is encoded in one call, or a special token."""

    text: str
    begins: bool
    """Whether it is encoded as at a start."""
    supervised: bool
    special_id: int | None = None
    """The id of a special token. None: it is text."""


def cut_stretches(
    segments: Sequence[Segment],
    template: Template,
    tokenizer: TextTokenizer,
    *,
    places: Mapping[str, int] | None = None,
) -> list[Stretch]:
    """Return what ``encode_segments`` encodes, with the same arguments and errors."""
    specials = dict(special_tokens(template, tokenizer))
    specials |= {text: SpecialToken(id=place) for text, place in (places or {}).items()}
    spelt = [token for token, facts in specials.items() if facts.read_from_text]
    stretches: list[Stretch] = []
    begins = True
    for segment in _swallow(_join(segments), specials):
        if segment.special:
            special_id = specials[segment.text].id
            stretches.append(Stretch(segment.text, False, segment.supervised, special_id))
            begins = tokenizer.begins_after_special
            continue
        for text in _break(segment.text, spelt):
            stretches.append(Stretch(text, begins, segment.supervised))
            begins = False
    return stretches


def join_ids(
    stretches: Sequence[Stretch], ids: Sequence[Sequence[int] | NDArray[np.int32]]
) -> Encoded:
    """Return a conversation of its stretches and the ids of each."""
    joined = np.concatenate([np.empty(0, np.int32), *(np.asarray(one, np.int32) for one in ids)])
    labels = [stretch.supervised for stretch in stretches]
    supervised = np.repeat(np.array(labels, np.bool_), [len(one) for one in ids])
    supervised[:1] = False  # nothing stands before it that could predict it
    return Encoded(ids=joined, supervised=supervised)


def _join(segments: Sequence[Segment]) -> list[Segment]:
    """Join neighbouring texts with the same label; an answer that is context is no prompt's."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if last and not (last.special or segment.special) and last[2:] == segment[2:]:
            joined[-1] = last._replace(text=last.text + segment.text)
        else:
            joined.append(segment)
    return joined


def _swallow(segments: Sequence[Segment], specials: dict[str, SpecialToken]) -> list[Segment]:
    """Drop the white space that special tokens swallow, and the texts of nothing else."""
    kept = list(segments)
    for i, segment in enumerate(segments):
        if not segment.special:
            continue
        facts = specials[segment.text]
        before, after = range(i - 1, -1, -1), range(i + 1, len(kept))
        for swallows, places, side in (
            (facts.lstrip, before, str.rstrip),
            (facts.rstrip, after, str.lstrip),
        ):
            for j in places if swallows else ():
                if kept[j].special:
                    break
                kept[j] = kept[j]._replace(text=side(kept[j].text, _WHITE_SPACE))
                if kept[j].text:
                    break
    return [segment for segment in kept if segment.text]


def _break(text: str, tokens: Sequence[str]) -> list[str]:
    """Cut a text inside every spelling of `tokens`, so that no encoding can read one."""
    parts = [text]
    for token in tokens:
        half = len(token) // 2
        cut: list[str] = []
        for part in parts:
            between = part.split(token)
            cut += [
                (token[half:] if i else "")
                + stretch
                + (token[:half] if i < len(between) - 1 else "")
                for i, stretch in enumerate(between)
            ]
        parts = cut
    return [part for part in parts if part]
