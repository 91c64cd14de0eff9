r"""Answer a file of questions about images in batches.

    mobilellama vlm generate DIR --input questions.jsonl --images DIR --output answers.jsonl

Each input line is {"text": ...}, {"messages": [...]} or {"conversations": [...]}. An answer at its
end is left out. A line can have "image": a path within --images, or a list of paths. Write <image>
in the questions once for each image, or not at all: then the images come before the first
question. As in training, a question with one <image> begins with it. Other fields, such as
"question_id", are copied. Each output line, in the same order, adds

    "answer"   text, without white space around it
    "finish"   "stop"; "length": at --max_new_tokens or the context's end; "too_long": the
               prompt leaves no room in the context; "image_error": an image is missing or damaged;
               with either of the last two the answer is empty
    "tokens"   tokens of the answer, its end included
    "error"    what is wrong with the image, where "finish" is "image_error"

After an interruption or a kill, the same command continues after the last answer. The images must
be the same (a sample of them is compared), but their folder may have moved. A row's answer depends
on its number and the seed, not on the other rows of its batch, except for the last bits of sums:
in bf16 they can sometimes decide between two almost equal tokens. The exit code is 0 if every row
was answered, 1 if images could not be read, and 130 if the command was stopped.
"""

import hashlib
import json
import logging
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellama import log as logs
from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import read_json
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.generation.loading import quieten
from mobilellama.pretrain.stop import StopRequest
from mobilellama.sft.chat.answer_file import (
    ADDED,
    AnswerBatch,
    Answered,
    AnsweredRow,
    EncodedPrompt,
    FileOptions,
    answer_batch,
    answer_file,
    describe_options,
)
from mobilellama.sft.chat.prompts import PromptRow, read_prompts
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.reasons import DropError
from mobilellama.vlm.chat.assistant_choice import AssistantChoice
from mobilellama.vlm.data.images import ImageError
from mobilellama.vlm.data.records import (
    IMAGE_FIELDS,
    IMAGE_TEXT,
    MEANING,
    image_path,
    images_of,
    in_front,
    require_places,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobilellama.vlm.chat.assistant import Assistant

log = logging.getLogger(__name__)

_IMAGE_ERROR = "image_error"
_SHOWN = 3
_SAMPLED_IMAGES = 64
_SAMPLED_BYTES = 1 << 16  # of each, which tell images of one size apart


@dataclass(frozen=True, kw_only=True)
class Config(AssistantChoice, FileOptions):
    """Fields of 'vlm generate'."""

    input: str
    """JSON lines of questions."""
    images: str | None = None
    """Folder to which the rows' image paths are relative; None where no row has an image."""
    output: str
    """JSON lines of questions with answers; gone on with if it exists."""

    def __post_init__(self) -> None:
        AssistantChoice.__post_init__(self)
        FileOptions.__post_init__(self)
        if self.images is not None and not Path(self.images).is_dir():
            rule = "is a file" if Path(self.images).exists() else "does not exist"
            remedy = "Give the folder to which the rows' image paths are relative"
            raise ConfigError("images", self.images, rule, remedy)


def main(config: Config) -> int:
    """Answer the rows that have no answer yet."""
    logs.configure()
    quieten()
    found = find_model(config.model, field="model")
    with found.errors_by_name():
        return _answer(replace(config, model=found.path), found.note)


def _answer(config: Config, note: dict[str, str]) -> int:
    """Answer the rows with the model of a folder.

    Args:
        config: what to do.
        note: what the file of answers notes of a model from the Hub.
    """
    from mobilellama.vlm.chat.assistant import load_stored, settings_of
    from mobilellama.vlm.formats.stored_model import open_model

    stored = open_model(
        config.model, template=config.template, tokenizer_as_is=config.tokenizer_as_is
    )
    tokenizer = stored.prompts
    reserved = (*ADDED, "error")
    rows = read_prompts(
        Path(config.input),
        system=config.system,
        reserved=reserved,
        question="text",
        media=IMAGE_FIELDS,
    )
    folder = None if config.images is None else Path(config.images)
    rows = [place_images(row, folder) for row in rows]
    named = [row for row in rows if images_of(row.fields, folder)]
    if named and config.images is None:
        rule, remedy = "is not given", "Give the folder of the images"
        raise ConfigError("images", "null", f"{rule}, but {named[0].place} has an image", remedy)

    def prompt(row: PromptRow) -> tuple[list[int], int]:
        ids = tokenizer.ids(row.turns)
        return ids, tokenizer.tokens(ids)

    def load() -> AnswerBatch:
        answerer = _Answerer(load_stored(stored, config), config)
        return answerer.answer

    settings = settings_of(config, stored) | describe_options(config) | note
    if named:
        names = dict.fromkeys(name for row in named for name in images_of(row.fields, folder))
        settings["images_sha256"] = fingerprint(Path(config.images or "."), [*names])
    require_same_model(config, stored.sha256)
    answers = answer_file(
        config,
        rows,
        settings,
        prompt=prompt,
        load=load,
        tokenizer=tokenizer,
    )
    if len(answers) < len(rows):
        return 130
    return 1 if report_image_errors(answers) else 0


def fingerprint(folder: Path, names: Sequence[str]) -> str:
    """Return a sha256 that tells images of these names from others, wherever the folder lies.

    It is of the names and sizes, and the beginnings, of 64 of them: all would be read twice.
    """
    count = min(len(names), _SAMPLED_IMAGES)
    sampled = [names[i * len(names) // count] for i in range(count)]
    found = [(name, *_beginning(image_path(folder, name))) for name in sampled]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _beginning(path: Path) -> tuple[int, str]:
    """Return a file's size and the sha256 of its beginning; (-1, "") where it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return -1, ""
        with open(path, "rb") as file:
            return status.st_size, hashlib.sha256(file.read(_SAMPLED_BYTES)).hexdigest()
    except OSError:
        return -1, ""  # its row says why


def require_same_model(config: Config, sha256: str) -> None:
    """Raise ConfigError where another model has made the output.

    ``Answers`` refuses it too, but names what comes first of all that differs, as the dtype.
    """
    output = Path(config.output)
    meta = output.with_name(f"{output.name}.meta.json")
    if config.overwrite or not output.is_file() or not output.stat().st_size:
        return
    try:
        found = read_json(meta)["model_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # which Answers tells
    if found != sha256:
        rule = f"was made with model_sha256 {str(found)[:12]}..., not {sha256[:12]}...: by another"
        remedy = "Give that model, another --output, or --overwrite to begin again"
        raise ConfigError("output", config.output, f"{rule} model", remedy)


def place_images(row: PromptRow, folder: Path | None = None) -> PromptRow:
    """Return a row with ``<image>`` in its questions for each of its images, in `folder`.

    Raises:
        DataError: images and places differ in number, or an image is no path within the folder.
    """
    try:
        images = images_of(row.fields, folder)
        turns = row.turns
        if row.fields.get("images") and not images and IMAGE_TEXT not in str(turns):
            hint = "'images' is not read; 'image' may be a list"
            raise DataError(f"{row.place} has images, but no image: {hint}; fix the line")
        asked = [turn for turn in turns if turn.role == "user"]
        if not any(IMAGE_TEXT in turn.content for turn in asked):
            first = Turn("user", f"{IMAGE_TEXT}\n" * len(images) + asked[0].content)
            turns = tuple(first if turn is asked[0] else turn for turn in turns)
        require_places(turns, images, row.fields)
    except DropError as error:
        detail = f" ({error.detail})" if error.detail else ""
        raise DataError(f"{row.place} {MEANING[error.reason]}{detail}; fix the line") from None
    return replace(row, turns=in_front(turns, images))


class _Answerer:
    """Answers rows with a model, and says which images stand in the way."""

    def __init__(self, assistant: "Assistant", config: Config) -> None:
        self._assistant, self._config = assistant, config

    def answer(self, batch: Sequence[EncodedPrompt], stop: StopRequest) -> Answered:
        """Answer rows together; those with an image that cannot be read are answered so."""
        assistant, tokenizer = self._assistant, self._assistant.tokenizer
        answered: Answered = {}
        fine: list[EncodedPrompt] = []
        pixels: list[NDArray[np.uint8]] = []
        for one, made in zip(batch, assistant.try_all([*map(self._paths, batch)]), strict=True):
            if isinstance(made, ImageError):
                answered[one.number] = AnsweredRow(
                    fields=one.row.fields,
                    answer="",
                    finish=_IMAGE_ERROR,
                    tokens=0,
                    error=str(made),
                )
            else:
                fine.append(one)
                pixels += made
        if not fine:
            return answered
        return answered | answer_batch(
            fine,
            [tokenizer.expand(one.prompt) for one in fine],
            assistant.model.language_model,
            tokenizer,
            self._config,
            stop,
            embed=assistant.embedding((lambda: assistant.features(pixels)) if pixels else None),
        )

    def _paths(self, one: EncodedPrompt) -> list[Path]:
        folder = Path(self._config.images or ".")
        return [image_path(folder, name) for name in images_of(one.row.fields, folder)]


def report_image_errors(answers: Sequence[AnsweredRow]) -> int:
    """Tell how many rows have no answer for their image's sake, and return the number."""
    errors = [str(row.error) for row in answers if row.finish == _IMAGE_ERROR]
    if errors:
        more = ", ..." if len(errors) > _SHOWN else ""
        log.error(
            "%s an image that cannot be read: %s%s. Fix the images and answer those "
            "rows in another --output, or all with --overwrite",
            f"{len(errors):,} rows have" if len(errors) > 1 else "1 row has",
            "; ".join(errors[:_SHOWN]), more,
        )  # fmt: skip
    return len(errors)
