"""Turns about images -> the ids that the model continues, and an answer's ids -> text."""

from collections.abc import Sequence

import numpy as np

from mobilellama.config import UserError
from mobilellama.sft.chat.tokenizer import DialogueTokenizer, Stop, readable
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.labels import stop_ids, stop_texts
from mobilellama.sft.data.template import Template
from mobilellama.tokenizers.text_tokenizer import TextTokenizer
from mobilellama.vlm.data.labels import IMAGE, encode_prompt, expand
from mobilellama.vlm.data.records import IMAGE_TEXT


class ImageTextTokenizer(DialogueTokenizer):
    """A vision-language model's tokenizer and template: the ids are those of its training.

    ``<image>`` in a user's turn stands for an image; in an answer it is text.

    Args:
        tokenizer: the model's.
        template: how turns are written.
        image_tokens: places that an image takes.
        context_tokens: the most that prompt and answer may have together.

    Raises:
        ConfigError: the template names tokens that the tokenizer has not.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        template: Template,
        *,
        image_tokens: int,
        context_tokens: int,
    ) -> None:
        self.template = template
        self.stop = Stop(frozenset(stop_ids(template, tokenizer)), stop_texts(template, tokenizer))
        self.image_tokens = image_tokens
        self.context_tokens: int | None = context_tokens
        self._tokenizer = tokenizer

    def ids(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids that the model continues, one ``IMAGE`` for each image.

        Raises:
            UserError: the template refuses these turns, or a system text has an image.
        """
        if any(turn.role == "system" and IMAGE_TEXT in turn.content for turn in turns):
            raise UserError(f"{IMAGE_TEXT} stands in the system text, which has no image")
        said = [Turn(turn.role, readable(turn.content)) for turn in turns]
        return encode_prompt(self.template, self._tokenizer, said).tolist()

    def expand(self, ids: Sequence[int]) -> list[int]:
        """Return ids with every ``IMAGE`` repeated for each token of an image."""
        return expand(np.asarray(ids, np.int32), self.image_tokens).tolist()

    def tokens(self, ids: Sequence[int]) -> int:
        """Return how many there are once every ``IMAGE`` is expanded."""
        return len(ids) + list(ids).count(IMAGE) * (self.image_tokens - 1)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids that the model continues, an ``IMAGE`` for each token of an image.

        Raises:
            UserError: as ``ids``.
        """
        return self.expand(self.ids(turns))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens, and embeddings without a token, give nothing."""
        size = self._tokenizer.vocab_size
        return self._tokenizer.decode([token for token in ids if token < size])


def with_places(question: str, images: int) -> str:
    """Return a question with ``<image>`` for each of its images, in front where it has none.

    Raises:
        UserError: it has more or fewer than there are images.
    """
    places = question.count(IMAGE_TEXT)
    if not places:
        return f"{IMAGE_TEXT}\n" * images + question
    if places != images:
        raise UserError(
            f"the question has {places} {IMAGE_TEXT} for {images} images: give it one for each "
            "image, or none, and the images come first"
        )
    return question
