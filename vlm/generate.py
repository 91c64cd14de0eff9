r"""Answer a file of questions about images in batches.

    mobilellama vlm generate --model DIR --input questions.jsonl --images DIR --output answers.jsonl

Each input line is {"text": ...}, {"messages": [...]} or {"conversations": [...]} (an answer that
ends it is left out), and most have "image": a path within --images, or a list of paths. <image>
stands in the questions once for each image, or nowhere: the images then come before the first
question. As in training, a question with one <image> begins with it. Other fields, such as
"question_id", are copied. Each output line, in the same order, adds

    "answer"   text, without white space around it
    "finish"   "stop"; "length": at --max_new_tokens or the context's end; "too_long": the
               prompt leaves no room in the context; "image_error": an image is missing or damaged;
               with either of the last two the answer is empty
    "tokens"   tokens of the answer, its end included
    "error"    what is wrong with the image, where "finish" is "image_error"

Interrupted or killed, the same command goes on after the last answer. A row's answer depends
on its number and the seed, not on the batch around it (but for the last bits of sums, which in
bf16 may now and then turn a near tie). The command ends with 0 if every row could be answered, with
1 if images could not be read, and with 130 if it was stopped.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellama import log as logs
from mobilellama.config import ConfigError, DataError
from mobilellama.pretrain.stop import StopRequest
from mobilellama.sft.answer_file import (
    ADDED,
    AnswerBatch,
    Answered,
    Asked,
    FileOptions,
    answer_batch,
    answer_file,
    describe_options,
)
from mobilellama.sft.chat_model import quieten
from mobilellama.sft.conversation import Turn
from mobilellama.sft.prompts import Row, read_prompts
from mobilellama.vlm.assistant_choice import AssistantChoice
from mobilellama.vlm.images import ImageError
from mobilellama.vlm.records import (
    IMAGE_TEXT,
    MEANING,
    RefusedError,
    image_path,
    images_of,
    in_front,
    require_places,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobilellama.vlm.assistant import Assistant

log = logging.getLogger(__name__)

_IMAGE_ERROR = "image_error"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Config(AssistantChoice, FileOptions):
    """Fields of ``mobilellama vlm generate``."""

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
    from mobilellama.vlm.assistant import load_stored, settings_of
    from mobilellama.vlm.stored_model import open_model

    logs.configure()
    quieten()
    stored = open_model(config.model, template=config.template)
    tokenizer = stored.prompts
    reserved = (*ADDED, "error")
    rows = read_prompts(
        Path(config.input), system=config.system, reserved=reserved, question="text"
    )
    rows = [place_images(row) for row in rows]
    named = [row for row in rows if images_of(row.fields)]
    if named and config.images is None:
        rule, remedy = "is not given", "Give the folder of the images"
        raise ConfigError("images", "null", f"{rule}, but {named[0].place} has an image", remedy)

    def prompt(row: Row) -> tuple[list[int], int]:
        ids = tokenizer.ids(row.turns)
        return ids, tokenizer.tokens(ids)

    def load() -> AnswerBatch:
        answerer = _Answerer(load_stored(stored, config), config)
        return answerer.answer

    answers = answer_file(
        config,
        rows,
        settings_of(config, stored) | describe_options(config),
        prompt=prompt,
        load=load,
        tokenizer=tokenizer,
    )
    if len(answers) < len(rows):
        return 130
    return 1 if report_image_errors(answers) else 0


def place_images(row: Row) -> Row:
    """Return a row with ``<image>`` in its questions for each of its images.

    Raises:
        DataError: images and places differ in number, or an image is no path within the folder.
    """
    try:
        images = images_of(row.fields)
        turns = row.turns
        asked = [turn for turn in turns if turn.role == "user"]
        if not any(IMAGE_TEXT in turn.content for turn in asked):
            first = Turn("user", f"{IMAGE_TEXT}\n" * len(images) + asked[0].content)
            turns = tuple(first if turn is asked[0] else turn for turn in turns)
        require_places(turns, images, row.fields)
    except RefusedError as error:
        detail = f" ({error.detail})" if error.detail else ""
        raise DataError(f"{row.place} {MEANING[error.reason]}{detail}; mend the line") from None
    return replace(row, turns=in_front(turns, images))


class _Answerer:
    """Answers rows with a model, and says which images stand in the way."""

    def __init__(self, assistant: "Assistant", config: Config) -> None:
        self._assistant, self._config = assistant, config

    def answer(self, batch: Sequence[Asked], stop: StopRequest) -> Answered:
        """Answer rows together; those with an image that cannot be read are answered so."""
        assistant, tokenizer = self._assistant, self._assistant.tokenizer
        answered: Answered = {}
        fine: list[Asked] = []
        pixels: list[NDArray[np.uint8]] = []
        for one, made in zip(batch, assistant.try_all([*map(self._paths, batch)]), strict=True):
            if isinstance(made, ImageError):
                added = {"answer": "", "finish": _IMAGE_ERROR, "tokens": 0, "error": str(made)}
                answered[one.number] = one.row.fields | added
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

    def _paths(self, one: Asked) -> list[Path]:
        folder = Path(self._config.images or ".")
        return [image_path(folder, name) for name in images_of(one.row.fields)]


def report_image_errors(answers: Sequence[dict[str, Any]]) -> int:
    """Tell how many rows have no answer for their image's sake, and return the number."""
    errors = [row["error"] for row in answers if row["finish"] == _IMAGE_ERROR]
    if errors:
        more = ", ..." if len(errors) > _SHOWN else ""
        log.error(
            "%d rows have an image that cannot be read: %s%s. Mend the images and answer those "
            "rows in another --output, or all with --overwrite",
            len(errors), "; ".join(errors[:_SHOWN]), more,
        )  # fmt: skip
    return len(errors)
