"""The types of tokenizer.json's content, as far as it is read here."""

from typing import Required, TypedDict


class TextStep(TypedDict, total=False):
    """A normaliser, a pre-tokenizer or a decoder."""

    type: Required[str]
    normalizers: "list[TextStep]"
    """The parts of a Sequence."""
    pretokenizers: "list[TextStep]"
    """The parts of a Sequence."""
    decoders: "list[TextStep]"
    """The parts of a Sequence."""
    prepend: str
    prepend_scheme: str
    add_prefix_space: bool
    split: bool
    pattern: dict[str, str]
    content: str
    start: int
    stop: int


class Token(TypedDict, total=False):
    """An added token."""

    id: Required[int]
    content: Required[str]
    lstrip: bool
    rstrip: bool
    special: bool


class MergingModel(TypedDict, total=False):
    """The vocabulary and what decides how pieces are merged."""

    type: str
    vocab: dict[str, int]
    """Of Unigram: a list of [piece, score]."""
    merges: list[str | list[str]]
    """Older files write the two parts of a merge with a space between them."""
    unk_token: str | None
    fuse_unk: bool
    byte_fallback: bool
    ignore_merges: bool


class TokenizerJson(TypedDict, total=False):
    """The whole content."""

    model: Required[MergingModel]
    added_tokens: list[Token]
    normalizer: TextStep | None
    pre_tokenizer: TextStep | None
    decoder: TextStep | None
    post_processor: object
    truncation: object
    padding: object
