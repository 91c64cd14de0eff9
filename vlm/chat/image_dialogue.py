"""A conversation about images: each belongs to the question with which it was given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from mobilellama.config import UserError
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.sft.chat.dialogue import Dialogue, Exchange
from mobilellama.sft.data.conversation import Turn
from mobilellama.vlm.chat.assistant import Assistant
from mobilellama.vlm.chat.image_source import open_image
from mobilellama.vlm.data.prompts import with_places
from mobilellama.vlm.data.records import IMAGE_TEXT


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image of the conversation."""

    source: str
    """As the user named it."""
    width: int
    height: int
    features: Tensor
    """What the language model sees, (1, P, D): computed once, however often it is asked about."""


class ImageDialogue(Dialogue[Shown]):
    """A dialogue whose ``pending`` are the images of the next question, before its text."""

    def __init__(
        self,
        assistant: Assistant,
        *,
        sampling: Sampling,
        max_new_tokens: int,
        system: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            assistant.tokenizer,
            assistant.model.language_model,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            system=system,
            seed=seed,
        )
        self._assistant = assistant

    def show(self, source: str, image: Image.Image | None = None) -> Shown:
        """Give the next question an image.

        Args:
            source: a file or an http(s) address.
            image: what is there, where that is known.

        Raises:
            UserError: there is none, or none that is whole.
        """
        image = open_image(source) if image is None else image
        image = self._assistant.model.config.images.oriented(image)
        shown = Shown(
            source=source,
            width=image.width,
            height=image.height,
            features=self._assistant.features([self._assistant.pixels(image)]),
        )
        self.pending.append(shown)
        return shown

    def ask(
        self,
        question: str,
        *,
        write: Callable[[str], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Exchange[Shown]:
        """Answer a question, and keep both; see ``Dialogue``.

        Raises:
            UserError: as there, or the question spells an image's place.
        """
        if IMAGE_TEXT in question:
            raise UserError(
                f"{IMAGE_TEXT} stands for an image: leave it out, and show one with /image"
            )
        return super().ask(question, write=write, interrupted=interrupted)

    def user_turn(self, question: str, attached: Sequence[Shown]) -> Turn:
        """Return a question after the places of its images."""
        return Turn("user", with_places(question, len(attached)))

    def embedding(self, attached: Sequence[Shown]) -> Callable[[Tensor], Tensor]:
        """Return what puts the images' features into the prompt."""
        features = [shown.features for shown in attached]
        return self._assistant.embedding((lambda: torch.cat(features)) if features else None)

    def record(self, messages: Sequence[Mapping[str, object]]) -> dict[str, object]:
        """Return the conversation with its images as they were named, as LLaVA's records have."""
        images = [shown.source for exchange in self.exchanges for shown in exchange.attached]
        return {**({"image": images} if images else {}), **super().record(messages)}

    def forgotten_images(self) -> int:
        """Return how many images were in exchanges that the context has no room for any more."""
        return sum(len(exchange.attached) for exchange in self.exchanges[: self.left_out])
