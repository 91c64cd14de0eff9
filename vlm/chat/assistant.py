"""A vision-language model that answers questions about images.

    from mobilellama.vlm.chat.assistant import load

    model = load("DIR")
    model.answer("bus.jpg", "What is this?")
    model.answer(["a.png", "https://example.org/b.png"], "What differs?", max_new_tokens=200)
    model.answer(None, "Who are you?")

DIR is what 'vlm export' or 'vlm import' writes, a published MobileVLM folder, or a run of 'vlm
run'. Questions are asked with the model's chat template and its own way to make images square.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mobilellama.config import ConfigError, UserError, require_at_least
from mobilellama.cpus import cpu_budget, use_cpu_budget
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.generation.decode import Decoded, decode, naming_memory
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.pretrain.hf.device import find_device
from mobilellama.sft.data.conversation import Turn
from mobilellama.vlm.chat.assistant_choice import AssistantChoice
from mobilellama.vlm.chat.image_source import ImageSource, open_image
from mobilellama.vlm.chat.question import Question, Reply
from mobilellama.vlm.data.images import AspectRatio, ImageError
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.data.prompts import ImageTextTokenizer, with_places
from mobilellama.vlm.data.records import IMAGE_TEXT
from mobilellama.vlm.formats.folder import with_images
from mobilellama.vlm.formats.stored_model import StoredModel, load_model, open_model
from mobilellama.vlm.model import VisionLanguageModel

log = logging.getLogger(__name__)

_DECODERS = 4  # threads at most; Pillow decodes and resizes without Python's lock
_IMAGES_AT_ONCE = 16  # through the tower


class Assistant:
    """A model on its device, with its tokenizer."""

    def __init__(self, model: VisionLanguageModel, tokenizer: ImageTextTokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device = next(model.parameters()).device

    def answer(
        self,
        images: ImageSource | Sequence[ImageSource] | None,
        question: str,
        *,
        system: str | None = None,
        max_new_tokens: int = 512,
        sampling: Sampling | None = None,
        seed: int | None = None,
    ) -> str:
        """Answer a question about images, or about none.

        Args:
            images: one, or several in order: decoded, as a file's path, or as an http(s) address.
            question: with ``<image>`` where each image belongs; without it they come first.
            system: system text; None: the template's own.
            max_new_tokens: most tokens of the answer.
            sampling: how tokens are chosen; None takes the likeliest.
            seed: with a temperature above 0: makes the answer repeatable.

        Raises:
            UserError: an image cannot be had, the numbers of images and places differ, the
                context has no room, or an argument is none of these.
        """
        _require_arguments(question, system, max_new_tokens, seed)
        listed = _listed(images)
        turns = [] if system is None else [Turn("system", system)]
        turns.append(Turn("user", with_places(question, len(listed))))
        prompt = self.tokenizer.prompt(turns)
        room = self.tokenizer.room(len(prompt))
        if room < 1:
            raise UserError(
                f"the question makes a prompt of {len(prompt):,} tokens, and the model's context "
                f"is {self.tokenizer.context_tokens:,}. Shorten it, or ask about fewer images"
            )
        [answer] = self.decode(
            [prompt],
            [self.pixels(open_image(image)) for image in listed],
            limits=[min(max_new_tokens, room)],
            sampling=sampling or Sampling(),
            seeds=[seed],
        )
        return self.tokenizer.text(answer.ids)

    def answer_batch(
        self,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        aspect_ratio: AspectRatio | None = None,
    ) -> list[Reply]:
        """Answer questions together, greedily; one that leaves the context no room with "".

        Args:
            questions: each with as many ``<image>`` as images.
            max_new_tokens: most tokens of an answer.
            aspect_ratio: how images become square; None: as the model was trained.

        Raises:
            ImageError: an image cannot be used.
            UserError: images and their places differ in number, or memory runs out.
        """
        _require_count("max_new_tokens", max_new_tokens, 1)
        for one in questions:
            _require_places(one)
        prompts = [self.tokenizer.prompt([Turn("user", one.text)]) for one in questions]
        rooms = [self.tokenizer.room(len(prompt)) for prompt in prompts]
        fitting = [row for row, room in enumerate(rooms) if room >= 1]
        self._warn_of_too_long(questions, fitting)
        replies = [Reply(text="", finish="too_long") for _ in questions]
        if not fitting:
            return replies
        images = [image for row in fitting for image in questions[row].images]
        answers = self.decode(
            [prompts[row] for row in fitting],
            self.read_all(images, aspect_ratio),
            limits=[min(max_new_tokens, rooms[row]) for row in fitting],
            sampling=Sampling(),
            seeds=[None] * len(fitting),
        )
        for row, answer in zip(fitting, answers, strict=True):
            replies[row] = Reply(text=self.tokenizer.text(answer.ids), finish=answer.finish)
        return replies

    def _warn_of_too_long(self, questions: Sequence[Question], fitting: Sequence[int]) -> None:
        missing = {*range(len(questions))} - {*fitting}
        if too_long := [questions[row].text for row in sorted(missing)]:
            log.warning(
                "%s questions fill the context of %s tokens and get an empty answer; one begins %r",
                f"{len(too_long):,} of {len(questions):,}", f"{self.tokenizer.context_tokens:,}",
                too_long[0][:60],
            )  # fmt: skip

    def pixels(
        self, image: Image.Image, aspect_ratio: AspectRatio | None = None
    ) -> NDArray[np.uint8]:
        """Return what the tower is given of an image, (3, S, S) uint8.

        Args:
            image: decoded.
            aspect_ratio: how it becomes square; None: as the model was trained.

        Raises:
            ImageError: it is too long and thin.
        """
        processor = self.model.config.images
        if aspect_ratio is not None:
            processor = replace(processor, aspect_ratio=aspect_ratio)
        return processor.pixels(image)

    def read_all(
        self, images: Sequence[Image.Image | Path], aspect_ratio: AspectRatio | None = None
    ) -> list[NDArray[np.uint8]]:
        """Return `pixels` of decoded images and files, made on several threads.

        Raises:
            ImageError: one cannot be used; the message names it.
        """
        made = self.try_all([[image] for image in images], aspect_ratio)
        if errors := [one for one in made if isinstance(one, ImageError)]:
            raise errors[0]
        return [one[0] for one in made if not isinstance(one, ImageError)]

    def try_all(
        self,
        images: Sequence[Sequence[Image.Image | Path]],
        aspect_ratio: AspectRatio | None = None,
    ) -> list[list[NDArray[np.uint8]] | ImageError]:
        """Return `pixels` of each question's images, made on several threads, or what is wrong."""

        def read(its: Sequence[Image.Image | Path]) -> list[NDArray[np.uint8]] | ImageError:
            try:
                return [self.pixels(open_image(one), aspect_ratio) for one in its]
            except ImageError as error:
                return error

        with ThreadPoolExecutor(min(cpu_budget().count, _DECODERS)) as pool:
            return [*pool.map(read, images)]

    def features(self, pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return what the language model sees of images, (images, P, D).

        Args:
            pixels: of one image or more.
        """
        parts = [pixels[i : i + _IMAGES_AT_ONCE] for i in range(0, len(pixels), _IMAGES_AT_ONCE)]
        with torch.inference_mode():
            stacked = (torch.from_numpy(np.stack(part)).to(self.device) for part in parts)
            return torch.cat([self.model.image_features(part) for part in stacked])

    def embedding(self, features: Callable[[], Tensor] | None) -> Callable[[Tensor], Tensor]:
        """Return what `decode` embeds prompts with.

        Args:
            features: gives those of all the prompts' images, in order; None: there is none.
        """

        def embed(input_ids: Tensor) -> Tensor:
            found = None if features is None else features()
            tokens = 0 if found is None else found.shape[0] * found.shape[1]
            places = int((input_ids == IMAGE).sum())
            assert places == tokens, f"{places} places for {tokens} tokens of images"
            return self.model.embed(input_ids, found)

        return embed

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        pixels: Sequence[NDArray[np.uint8]],
        *,
        limits: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int | None],
    ) -> list[Decoded]:
        """Answer prompts together.

        Args:
            prompts: ids of each, an ``IMAGE`` for each token of an image.
            pixels: of all their images, in order.
            limits: most tokens of each answer.
            sampling: how tokens are chosen.
            seeds: of each row.

        Raises:
            UserError: the device's memory does not hold them.
        """
        with naming_memory(prompts, self.device):
            return decode(
                self.model.language_model,
                prompts,
                sampling=sampling,
                generators=[np.random.default_rng(seed) for seed in seeds],
                limits=limits,
                ended=self.tokenizer.ended,
                embed=self.embedding((lambda: self.features(pixels)) if pixels else None),
            )


def load(choice: AssistantChoice | str | Path, **fields: Any) -> Assistant:
    """Load a model.

    Args:
        choice: a folder, a name on the Hub, or all that decides.
        fields: of ``AssistantChoice``, beside a folder: template, device, dtype, quantization,
            orientation.

    Raises:
        ConfigError: the folder, the device or bitsandbytes is not there.
        DataError: the weights are damaged, or not those of the folder's config.
    """
    if not isinstance(choice, AssistantChoice):
        choice = AssistantChoice(model=str(choice), **fields)
    found = find_model(choice.model, field="model")
    with found.errors_by_name():
        choice = replace(choice, model=found.path)
        stored = open_model(
            choice.model, template=choice.template, tokenizer_as_is=choice.tokenizer_as_is
        )
        return load_stored(stored, choice)


def load_stored(stored: StoredModel, choice: AssistantChoice) -> Assistant:
    """Load an open model."""
    use_cpu_budget()
    device = find_device(choice.device)
    architecture = with_images(stored.architecture, orientation=choice.orientation)
    model = load_model(
        replace(stored, architecture=architecture),
        device=device,
        dtype=stored.choose_dtype(choice.dtype, device),
        quantization=choice.quantization,
    )
    return Assistant(model, stored.prompts)


def settings_of(choice: AssistantChoice, stored: StoredModel) -> dict[str, object]:
    """Return what answers depend on of a model and its placement, as it is kept beside them."""
    dtype = stored.choose_dtype(choice.dtype, find_device(choice.device))
    own = stored.architecture.images.orientation
    return {
        "model_sha256": stored.sha256,
        "template": stored.template.sha256,
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": choice.quantization,
        # Answers from before this field were given to images as the model takes them.
        **({} if choice.orientation in (None, own) else {"orientation": choice.orientation}),
    }


def _listed(images: ImageSource | Sequence[ImageSource] | None) -> list[ImageSource]:
    if images is None:
        return []
    if isinstance(images, Image.Image | Path | str | bytes):
        return [images]
    if not isinstance(images, Sequence):
        raise _no_image("images", images)
    for number, image in enumerate(images):
        if not isinstance(image, Image.Image | Path | str | bytes):
            raise _no_image(f"images[{number}]", image)
    return list(images)


def _no_image(field: str, value: object) -> ConfigError:
    rule = "must be a PIL image, a path, an http(s) address or an encoded image's bytes"
    remedy = "Give one, several in a list, or None; of an array, PIL's Image.fromarray(array)"
    return ConfigError(field, f"a {type(value).__name__}", rule, remedy)


def _require_arguments(
    question: object, system: object, max_new_tokens: object, seed: object
) -> None:
    """Raise ConfigError unless `Assistant.answer` can do with these, which no command has seen."""
    if not isinstance(question, str):
        raise ConfigError("question", question, "must be text", "Give a string")
    if not isinstance(system, str | None):
        raise ConfigError("system", system, "must be text", "Give a string, or None")
    _require_count("max_new_tokens", max_new_tokens, 1)
    if seed is not None:
        _require_count("seed", seed, 0)


def _require_count(field: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(field, value, "must be a whole number", f"Give {least} or more")
    require_at_least(field, value, least)


def _require_places(question: Question) -> None:
    """Raise UserError unless a question has one ``<image>`` for each of its images."""
    places, images = question.text.count(IMAGE_TEXT), len(question.images)
    if places != images:
        raise UserError(
            f"the question {question.text[:60]!r} has {places} {IMAGE_TEXT} for {images} images: "
            "give it one for each"
        )
