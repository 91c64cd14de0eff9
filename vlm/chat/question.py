"""A question about images, and what answers it.

The text holds ``<image>`` once for each image, where the image stands; a question without images
holds none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image

AspectRatio = Literal["square", "pad"]

FINISHES = ("stop", "length", "too_long")
"""How an answer may end; see ``Reply``."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One turn of a user, with its images."""

    images: tuple[Image.Image | Path, ...]
    """Decoded, or the files that hold them, in the order of the text."""
    text: str
    """What the user says; ``<image>`` stands once for each image."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model answered."""

    text: str
    finish: str | None
    """"stop"; "length": cut at the most tokens of an answer, or at the context's end; "too_long":
    the prompt left no room in the context, and the text is empty. None: nothing tells."""


class QuestionAnswerer(Protocol):
    """A vision-language model that answers questions, each on its own."""

    def answer_batch(
        self,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        aspect_ratio: AspectRatio | None = None,
    ) -> list[Reply]:
        """Return an answer for each question, greedily decoded.

        Args:
            questions: answered together; an answer does not depend on the others.
            max_new_tokens: most tokens of an answer.
            aspect_ratio: how images become square; None: as the model was trained.
        """
        ...
