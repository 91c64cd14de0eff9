"""Token ids and labels of a conversation about images, segment by segment as in sft/data/labels.py.

An image's place, ``<image>`` in a question, is like a special token that is no token: the texts
on both sides of it are encoded by themselves, the one after it as at a start where the tokenizer
does that after special tokens. With LLaMA's model these are LLaVA's and MobileVLM's ids, which
encode the text between two images by itself (their ``tokenizer_image_token``).

    vicuna_v1, LLaMA's tokenizer, an image of 2 tokens (^: supervised)

    <s> … ▁US ER : ▁ IMAGE IMAGE ▁ <0x0A> What ? ▁A SS IST ANT : ▁A ▁bus . </s>
                                                                  ^^ ^^^^ ^ ^^^^
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import Encoded, encode_segments
from mobilellama.sft.data.template import Segment, Template
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.vlm.data.records import IMAGE_TEXT

IMAGE = -200
"""The id that stands in a sample's ids for one token of an image, as in LLaVA."""


def encode(template: Template, tokenizer: TextTokenizer, turns: Sequence[Turn]) -> Encoded:
    """Return a conversation's ids, one ``IMAGE`` for each image, and which are supervised.

    Raises:
        ConfigError: the template does not fit the tokenizer, or the turns not the template.
    """
    return _encode(template.segments(turns), template, tokenizer)


def encode_prompt(
    template: Template, tokenizer: TextTokenizer, turns: Sequence[Turn]
) -> NDArray[np.int32]:
    """Return the ids that the model continues with its answer, one ``IMAGE`` for each image.

    Raises:
        ConfigError: as ``encode``, or the last turn is not the user's.
    """
    return _encode(template.segments(turns, generate=True), template, tokenizer).ids


def _encode(segments: Sequence[Segment], template: Template, tokenizer: TextTokenizer) -> Encoded:
    # Without tokenize's encoder: sentencepiece takes 35 of 107 us a record of two questions, which
    # is 25 s of CPU time for LLaVA's 665,000, and decoding the images takes far longer.
    cut = [part for segment in segments for part in _cut(segment)]
    return encode_segments(cut, template, tokenizer, places={IMAGE_TEXT: IMAGE})


def _cut(segment: Segment) -> Iterator[Segment]:
    """Cut the text of what is no answer at the places of images."""
    if segment.special or segment.supervised or segment.context:
        yield segment
        return
    for text in re.split(f"({IMAGE_TEXT})", segment.text):
        if text:
            yield segment._replace(text=text, special=text == IMAGE_TEXT)


def expand(ids: NDArray[np.int32], image_tokens: int) -> NDArray[np.int32]:
    """Return ids with every ``IMAGE`` repeated for each token of an image."""
    return np.repeat(ids, np.where(ids == IMAGE, image_tokens, 1))
