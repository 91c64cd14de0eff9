"""'vlm evaluate' with a clerk in a model's place, who answers as told."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mobilellama.pretrain.hf.fingerprint import identify
from mobilellama.vlm.benchmarks.evaluate import (
    evaluate,
)
from mobilellama.vlm.benchmarks.plan import Config
from mobilellama.vlm.chat.question import Question, QuestionAnswerer, Reply
from mobilellama.vlm.data.images import read_image

QUESTIONS = {"gqa": 4, "scienceqa": 4, "textvqa": 3, "pope": 8, "mme": 28, "mmbench": 5}


class Clerk:
    """Answers from a list what it knows, and "Yes" otherwise.

    Args:
        known: answers by a part of the question's text.
        after_batch: called after each batch, with how many there have been.
    """

    def __init__(
        self,
        known: Mapping[str, str] | None = None,
        after_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.known, self.after_batch = known or {}, after_batch
        self.asked: list[Question] = []
        self.calls: list[tuple[int, int, str | None]] = []
        """Of each batch its size, max_new_tokens and aspect_ratio."""

    def answer_batch(
        self,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        aspect_ratio: Literal["square", "pad"] | None = None,
    ) -> list[Reply]:
        self.calls.append((len(questions), max_new_tokens, aspect_ratio))
        self.asked += questions
        answers = [self._answer(one, max_new_tokens) for one in questions]
        self.after_batch(len(self.calls))
        return answers

    def _answer(self, question: Question, max_new_tokens: int) -> Reply:
        assert question.text.count("<image>") == len(question.images)
        for image in question.images:
            decoded = read_image(image) if isinstance(image, Path) else image
            assert isinstance(decoded, Image.Image)
            assert decoded.size == (8, 6)
        said = next((word for part, word in self.known.items() if part in question.text), "Yes")
        words = said.split(" ")
        finish = "length" if len(words) > max_new_tokens else "stop"
        return Reply(text=" ".join(words[:max_new_tokens]), finish=finish)


KNOWS_ALL = {
    "overcast": " No.</s>", "on the left": "left.", "Which color": "White", "fence": "tall",
    "What is it?\nOptions": "B", "Which is it?": "C", "Who is it?": "A", "Where is it?": "E",
    "brand": "Coca cola", "bottles": "three", "price": "$1000",
    "adversarial 1 ": "No", "adversarial 2 ": "no", "popular 0 ": "No", "random 1 ": "not",
    "0 not here": "No",
    "A. cat": "A", "A. up": "B", "A. dog": "C", "A. down": "A", "A. cow": "B",
}  # fmt: skip


def write_model(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mobilellama_vlm"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


class Evaluate:
    """The command, on one model, with one output."""

    def __init__(self, data: Path, model: Path, output: Path) -> None:
        self.fields: dict[str, Any] = {
            "data": str(data), "model": str(model), "output": str(output),
            "tasks": list(QUESTIONS),
        }  # fmt: skip
        self.output = output

    def __call__(self, assistant: QuestionAnswerer | None = None, **fields: Any) -> int:
        def load() -> QuestionAnswerer:
            assert assistant is not None, "the model must not be loaded"
            return assistant

        config = Config(**(self.fields | fields))
        model = {"model_sha256": identify(config.model), "dtype": config.dtype}
        return evaluate(config, model, load)

    def scores(self) -> dict[str, Any]:
        return json.loads((self.output / "scores.json").read_text())

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output / f"{name}.jsonl").open()]
