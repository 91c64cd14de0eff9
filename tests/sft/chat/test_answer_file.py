"""A file of prompts answered: in the input's order, whatever the batches; what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.pretrain.stop import StopRequest
from mobilellama.progress import Progress
from mobilellama.sft.chat.answer_file import (
    Answered,
    AnsweredRow,
    EncodedPrompt,
    FileOptions,
    answer_all,
    ask,
)
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.chat.prompts import PromptRow
from mobilellama.sft.chat.tokenizer import ChatTokenizer
from mobilellama.sft.data.conversation import Turn


def row(number: int) -> PromptRow:
    return PromptRow(f"in.jsonl:{number + 1}", {"id": number}, (Turn("user", "?"),))


def encoded(lengths: list[int]) -> list[EncodedPrompt]:
    return [EncodedPrompt(i, row(i), [5] * n, n) for i, n in enumerate(lengths)]


def test_batches_go_from_long_to_short_and_answers_come_in_the_inputs_order(
    tiny_chat_model: Path,
) -> None:
    tokenizer = ChatTokenizer(ModelChoice(model=str(tiny_chat_model)))
    assert tokenizer.context_tokens == 256
    asked: list[list[int]] = []

    def answer(batch: Sequence[EncodedPrompt], stop: StopRequest) -> Answered:
        asked.append([one.tokens for one in batch])
        return {
            one.number: AnsweredRow(fields=one.row.fields, answer="A", finish="stop", tokens=1)
            for one in batch
        }

    lengths = [3, 256, 9, 1, 7, 300]
    with Progress("answer", total=len(lengths), unit="rows") as progress:
        written = [
            rows
            for rows in answer_all(encoded(lengths), answer, tokenizer, 2, StopRequest(), progress)
        ]
    assert asked == [[9, 7], [3, 1]]  # those without room are not asked
    flat = [one for rows in written for one in rows]
    assert [one.fields["id"] for one in flat] == [0, 1, 2, 3, 4, 5]
    assert flat[1].to_json() == {"id": 1, "answer": "", "finish": "too_long", "tokens": 0}
    assert flat[5].finish == "too_long"


def test_a_row_that_the_template_refuses_is_named_by_its_line() -> None:
    def prompt(one: PromptRow) -> tuple[list[int], int]:
        if one.fields["id"] == 2:
            raise UserError("the template refuses it")
        return [1, 2], 2

    rows = [row(i) for i in range(3)]
    assert [one.number for one in ask(rows[:2], prompt, start=1)] == [1]
    with pytest.raises(
        UserError, match=r"^in\.jsonl:3: the template refuses it; fix or remove the"
    ):
        ask(rows, prompt, start=0)


def test_the_output_is_another_file_than_the_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^output = .*: is the input file\. Give another file"):
        FileOptions(input=str(tmp_path / "a"), output=str(tmp_path / "x/../a"))
    fields: dict[str, Any] = {"input": "a", "output": "b"}
    for field in ("batch_size", "max_new_tokens"):
        with pytest.raises(ConfigError, match=rf"^{field} = 0: must be at least 1"):
            FileOptions(**{**fields, field: 0})
