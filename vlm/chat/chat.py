r"""Talk about images in the terminal. The answers appear token by token.

    mobilellama vlm chat DIR --image FILE_OR_URL... [--temperature 0.7]

Each step takes the most likely token, as MobileVLM's own inference. --temperature draws instead.

The images belong to the first question. /image FILE_OR_URL adds an image to the next question. An
image stays with its question during the whole conversation. Ctrl-C stops an answer, or deletes the
question that you are typing. Ctrl-D ends the chat. A line that ends with a backslash continues on
the next line. Lines that begin with / are commands; /help lists them. If the input is a pipe, each
line is a question, and only the answers are printed:

    echo 'What is in the picture?' | mobilellama vlm chat DIR --image bus.jpg
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellama import log as logs
from mobilellama.config import DataError, UserError
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.generation.loading import quieten
from mobilellama.sft.chat.chat import COMMANDS, ChatOptions, Terminal
from mobilellama.vlm.chat.assistant_choice import AssistantChoice

if TYPE_CHECKING:
    from PIL.Image import Image

    from mobilellama.vlm.chat.image_dialogue import ImageDialogue  # which imports torch


@dataclass(frozen=True, kw_only=True)
class Config(AssistantChoice, ChatOptions):
    """Fields of 'vlm chat'."""

    temperature: float = 0.0
    """0: take the most likely token. 1: draw from the model's own distribution."""
    top_p: float = 1.0
    """Draw only from the most likely tokens whose probabilities add up to this."""
    image: list[str] = field(default_factory=list, metadata={"commas": False})
    """Files or http(s) addresses of the first question's images, in order."""

    def __post_init__(self) -> None:
        AssistantChoice.__post_init__(self)
        ChatOptions.__post_init__(self)


def main(config: Config) -> int:
    """Load the model and talk until the input ends."""
    logs.configure()
    quieten()
    found = find_model(config.model, field="model")
    with found.errors_by_name():
        return _talk(replace(config, model=found.path))


def _talk(config: Config) -> int:
    """Talk with the model of a folder."""
    from mobilellama.sft.chat.dialogue import require_system_field
    from mobilellama.vlm.chat.assistant import load_stored
    from mobilellama.vlm.chat.image_dialogue import ImageDialogue
    from mobilellama.vlm.formats.stored_model import open_model

    stored = open_model(
        config.model, template=config.template, tokenizer_as_is=config.tokenizer_as_is
    )
    require_system_field(stored.prompts, config.system)
    images = {source: _open_given(source) for source in config.image}  # before the weights
    dialogue = ImageDialogue(
        load_stored(stored, config),
        sampling=config,
        max_new_tokens=config.max_new_tokens,
        system=config.system,
        seed=config.seed,
    )
    for source in config.image:
        dialogue.show(source, images[source])
    return ImageTerminal(dialogue, interactive=sys.stdin.isatty()).run()


def _open_given(source: str) -> "Image":
    """Decode an image of the command line."""
    from mobilellama.vlm.chat.image_source import open_image

    try:
        return open_image(source)
    except DataError as error:
        raise DataError(f"--image {error}") from None


class ImageTerminal(Terminal):
    """A terminal that shows the model images."""

    commands: Mapping[str, str] = {
        "/image": "FILE_OR_URL: show the model an image with the next question",
        **COMMANDS,
        "/reset": "forget what was said, and the images; the system text stays",
    }

    def __init__(self, dialogue: "ImageDialogue", *, interactive: bool) -> None:
        super().__init__(dialogue, interactive=interactive)
        self._images = dialogue

    def _greet(self) -> None:
        super()._greet()
        self._tell_pending()

    def _tell_pending(self) -> None:
        for shown in self._images.pending:
            size = f"{shown.width} x {shown.height}"
            self._notice(f"{shown.source} ({size}) goes with your next question")

    def _obey(self, name: str, rest: str) -> None:
        if name != "/image":
            super()._obey(name, rest)
            if name == "/undo":
                self._tell_pending()
            return
        if not rest:
            raise UserError("/image needs a file or an address")
        self._images.show(str(Path(rest).expanduser()) if rest.startswith("~") else rest)
        self._tell_pending()

    def _left_out(self) -> str:
        images = self._images.forgotten_images()
        also = f", and with them {images} of the images" if images else ""
        return f"{super()._left_out()}{also}"
