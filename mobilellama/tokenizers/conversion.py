"""Check whether a tokenizer.json gives the ids of the sentencepiece model that it was made from.

transformers 5 ignores the scores of a sentencepiece model when it makes tokenizer.json, and orders
merges by id. LLaMA's pieces of only spaces have low ids, but are merged last. So "    return" gets
other ids than in training. If a text begins with a space, that space is lost too.

The file is compared with the first of these that applies:

1. the tokenizer.model beside it, if it has the same pieces;
2. LLaMA's scores, if the vocabulary is LLaMA's;
3. nothing: if all merges are in the order of ids, as version 5 writes them, the scores are lost;
   if pieces have no merge, merges are missing.

Other kinds (byte-level, Unigram, merges that were learnt one by one) are not checked.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from typing import cast

from mobilellama.tokenizers.fast_tokenizer import Piece, broken_rules, fast_tokenizer, merges_of
from mobilellama.tokenizers.hf_tokenizer import HfTokenizer
from mobilellama.tokenizers.same_ids import PROBES
from mobilellama.tokenizers.sentencepiece_model import NORMAL, SentencepieceModel
from mobilellama.tokenizers.tokenizer_json import TokenizerJson

_SPACE = "▁"
_FIRST_PIECE = 259  # <unk>, <s>, </s> and 256 bytes come before it
_NUM_LLAMA_PIECES = 32_000
_LLAMA_SHA256 = "4c5badf7b7df213a9f36147f73f7b7ccf4ef2d5986a765923be08e8c05969278"
"""sha256 of LLaMA's pieces after the byte pieces, in the order of their ids, one a line.

LLaMA 1, LLaMA 2 and the models built on them have these pieces."""
_LAST = -1e9  # LLaMA's score of a piece of only spaces, which is merged last
_SHOWN = 12  # number of ids in a message
_DISPUTED = 20_000  # number of texts of each kind to try where merges differ
_MERGING = ("type", "unk_token", "fuse_unk", "byte_fallback", "ignore_merges", "merges")
_STEPS = ("normalizer", "pre_tokenizer", "decoder")
_CODE = ("def f(x):\n    return x", " x")  # the first gives the clearest message

Merge = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class _ScoredPiece:
    piece: str
    score: float
    type: int = NORMAL


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A text that gets other ids from a tokenizer.json than from its model."""

    text: str
    found: list[int]
    """The ids that the file gives."""
    expected: list[int]
    """The ids that the model gives. If the file lost its scores: other ids that are possible."""
    corrected: TokenizerJson | None
    """The content that gives the model's ids. None: it cannot be known."""

    @property
    def ids(self) -> str:
        """Both ids, for a message."""
        return f"{self.text!r} the ids {_shown(self.found)}, not {_shown(self.expected)}"

    def refusal(self, weights: str | None) -> tuple[str, str]:
        """Return the rule that is broken, and the remedy.

        Args:
            weights: a file of weights in the folder. None: there is none.
        """
        wanted = "or give --tokenizer_as_is true to take the ids of tokenizer.json"
        if weights is None:
            rule = f"its tokenizer.json gives {self.ids}, or the other way round: it has lost the "
            remedy = "Put the tokenizer.model that it was made from beside it, "
            return rule + "order of its model's merges", remedy + wanted
        rule = f"its tokenizer.json gives {self.ids} as the model does that it was made from, and "
        remedy = "Put the tokenizer files there that the weights were trained with, "
        return f"{rule}{weights} may have learnt either", remedy + wanted


def find_fault(tokenizer: HfTokenizer, model: SentencepieceModel | None) -> Fault | None:
    """Return a text on which a tokenizer.json and its model differ. None: they agree.

    Args:
        tokenizer: the file.
        model: the tokenizer.model beside it, of any kind. None: there is none.
    """
    part = tokenizer.content.get("model") or {}
    vocabulary = part.get("vocab")
    if part.get("type", "BPE") != "BPE" or not isinstance(vocabulary, dict):
        return None
    if model is not None and _holds(vocabulary, model) and not broken_rules(model):
        fast = json.loads(fast_tokenizer(model, add_bos=False).to_str())
        return _compare(tokenizer, _as(tokenizer, fast))
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    if _is_llamas(pieces):
        fast = _fast(merges_of(_scored(pieces[:_NUM_LLAMA_PIECES], spaces_last=True)))
        return _compare(tokenizer, _as(tokenizer, fast))
    return _fault_without_scores(tokenizer, pieces) if is_llamas_kind(tokenizer.content) else None


def is_llamas_kind(content: TokenizerJson) -> bool:
    """Whether a tokenizer.json comes from sentencepiece: byte pieces, and no split at spaces."""
    part = content.get("model") or {}
    has_bytes = part.get("byte_fallback") and "<0x00>" in (part.get("vocab") or {})
    before = content.get("pre_tokenizer")
    uncut = before is None or (before.get("type") == "Metaspace" and before.get("split") is False)
    steps = json.dumps([before, content.get("normalizer")])
    marks = '"Metaspace"' in steps or '"Prepend"' in steps
    return bool(part.get("type", "BPE") == "BPE" and has_bytes and uncut and marks)


def _fault_without_scores(tokenizer: HfTokenizer, pieces: Sequence[str]) -> Fault | None:
    """Return the fault of a vocabulary that is not LLaMA's, and has no tokenizer.model beside it.

    Args:
        tokenizer: a tokenizer of LLaMA's kind.
        pieces: its vocabulary in the order of the ids.
    """
    part = tokenizer.content["model"]
    ids = part.get("vocab", {})
    merges = [_pair(merge) for merge in part.get("merges", [])]
    by_ids = merges_of(_scored(pieces, spaces_last=False))
    if not {*merges} <= {*by_ids}:
        return None  # the merges were not made from the pieces
    added = {token["content"] for token in tokenizer.content.get("added_tokens", [])}
    made = {"".join(merge) for merge in merges} | added
    if missing := [piece for piece in map("".join, by_ids) if piece not in made]:
        text = missing[0].replace(_SPACE, " ")
        found = tokenizer.encode(text, begins=False)
        return Fault(text=text, found=found, expected=[ids[missing[0]]], corrected=None)
    places = [(ids[left + right], len(left)) for left, right in merges]
    if places != sorted(places):
        return None  # ordered by scores: other writers put the longer left part first
    natural = _as(tokenizer, _fast(by_ids))
    last = _as(tokenizer, _fast(merges_of(_scored(pieces, spaces_last=True))))
    if fault := _compare(HfTokenizer(tokenizer.path, content=natural), last):
        return replace(fault, corrected=None)
    return _compare(tokenizer, natural)


def _compare(tokenizer: HfTokenizer, corrected: TokenizerJson) -> Fault | None:
    """Return the first text on which a file and its correction differ."""
    parts = ("normalizer", "pre_tokenizer")
    content = tokenizer.content
    if all(content.get(name) == corrected.get(name) for name in parts) and (
        [_pair(merge) for merge in content["model"].get("merges", [])]
        == [_pair(merge) for merge in corrected["model"].get("merges", [])]
    ):
        return None
    right = HfTokenizer(tokenizer.path, content=corrected)
    for text in (*_CODE, *PROBES, *_disputed(tokenizer.content, corrected)):
        found, expected = tokenizer.encode(text, begins=True), right.encode(text, begins=True)
        if found != expected:
            return Fault(text=text, found=found, expected=expected, corrected=corrected)
    return None


def _disputed(found: TokenizerJson, expected: TokenizerJson) -> Iterator[str]:
    """Yield texts on which the merges of two files may differ.

    These are pieces that one file merges at another place in the order, or never, and longer
    texts with such a piece.
    """
    ours = [_pair(merge) for merge in found["model"].get("merges", [])]
    theirs = [_pair(merge) for merge in expected["model"].get("merges", [])]
    pairs = zip_longest(ours, theirs, fillvalue=("", ""))
    moved = [pair for pair in pairs if "".join(pair[0]) != "".join(pair[1])]
    merges = [merge for pair in moved for merge in pair if merge != ("", "")]
    before, after = defaultdict(list), defaultdict(list)
    for left, right in {*ours, *theirs}:
        before[right].append(left)
        after[left].append(right)
    longer = (
        text
        for left, right in merges
        for text in (
            *(left + right + more for more in after[right]),
            *(more + left + right for more in before[left]),
        )
    )
    pieces = map("".join, merges)
    # No merge crosses a line break. So the space before a text does not become part of a piece.
    for text in chain(islice(pieces, _DISPUTED), islice(longer, _DISPUTED)):
        yield "\n" + text.replace(_SPACE, " ")


def _as(tokenizer: HfTokenizer, fast: TokenizerJson) -> TokenizerJson:
    """Return a file's content with the merges and the steps of another. Its added tokens stay.

    With "legacy": false in tokenizer_config.json, the file's own steps are right and stay too.
    """
    merges_alone = tokenizer.config.get("legacy") is False
    return with_steps(tokenizer.content, fast, merges_alone=merges_alone)


def with_steps(
    content: TokenizerJson, other: TokenizerJson, *, merges_alone: bool
) -> TokenizerJson:
    """Return the content of a tokenizer.json with another's merges and steps.

    Args:
        content: the content. Its vocabulary and added tokens stay.
        other: the content with the merges and the steps to use.
        merges_alone: take only the merges; the steps stay too.
    """
    merging = cast(Mapping[str, object], other["model"])
    chosen = {name: merging[name] for name in _MERGING if name in merging}
    steps = {} if merges_alone else {name: other.get(name) for name in _STEPS}
    return cast(TokenizerJson, {**content, **steps, "model": {**content["model"], **chosen}})


def _fast(merges: list[Merge]) -> TokenizerJson:
    """Return the parts that decide the ids, for a model with LLaMA's steps."""
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    before = [{"type": "Prepend", "prepend": _SPACE}, spaces]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    after = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    return {
        "normalizer": {"type": "Sequence", "normalizers": before},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": after},
        "model": {"fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "merges": [list(merge) for merge in merges]},
    }  # fmt: skip


def _holds(vocabulary: Mapping[str, int], model: SentencepieceModel) -> bool:
    """Whether every piece of a model has its id in a vocabulary."""
    return all(vocabulary.get(piece.piece) == i for i, piece in enumerate(model.proto.pieces))


def _is_llamas(pieces: Sequence[str]) -> bool:
    text = "\n".join(pieces[_FIRST_PIECE:_NUM_LLAMA_PIECES])
    digest = hashlib.sha256(text.encode(errors="replace"))
    return digest.hexdigest() == _LLAMA_SHA256


def _scored(pieces: Sequence[str], *, spaces_last: bool) -> Sequence[Piece]:
    """Return pieces with falling scores. Pieces of only spaces can get the lowest score."""
    return [
        _ScoredPiece(piece=piece, score=_LAST if spaces_last and not piece.strip(_SPACE) else -i)
        for i, piece in enumerate(pieces)
    ]


def _pair(merge: str | Sequence[str]) -> Merge:
    """Return the two parts of a merge. Older files write them with a space between them."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _shown(ids: Sequence[int]) -> str:
    more = ", ..." if len(ids) > _SHOWN else ""
    return f"[{', '.join(map(str, ids[:_SHOWN]))}{more}]"
