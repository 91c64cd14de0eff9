r"""Answer a file of prompts in batches, with a chat model.

    mobilellama sft generate DIR --input prompts.jsonl --output answers.jsonl

DIR is a chat model's Hugging Face folder or its name on the Hub, or a run of 'sft run'.

Each input line is {"prompt": ...}, {"messages": [...]} or {"conversations": [...]} (an answer
that ends it is left out); other fields are copied. Each output line, in the same order, adds

    "answer"   text, without white space around it
    "finish"   "stop"; "length": at --max_new_tokens or the context's end; "too_long": the
               prompt leaves no room in the context, and the answer is empty
    "tokens"   tokens of the answer, its end included

Interrupted or killed, the same command goes on after the last answer. A row's answer depends
on its number and the seed, not on the batch around it (but for the last bits of sums, which in
bf16 may now and then turn a near tie).
"""

from dataclasses import dataclass, replace
from pathlib import Path

from mobilellama import log as logs
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.generation.loading import quieten
from mobilellama.sft.chat.answer_file import (
    ADDED,
    AnswerBatch,
    FileOptions,
    answer_batch,
    answer_file,
    describe_options,
)
from mobilellama.sft.chat.finetuned_model import OpenedModel, opened
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.chat.prompts import PromptRow, read_prompts


@dataclass(frozen=True, kw_only=True)
class Config(ModelChoice, FileOptions):
    """Fields of 'sft generate'."""

    def __post_init__(self) -> None:
        ModelChoice.__post_init__(self)
        FileOptions.__post_init__(self)


def main(config: Config) -> int:
    """Answer the rows that have no answer yet."""
    logs.configure()
    quieten()
    found = find_model(config.model, field="model")
    with found.errors_by_name():
        return _answer(replace(config, model=found.path), found.note)


def _answer(config: Config, note: dict[str, str]) -> int:
    """Answer the rows with the model of a folder or of a run.

    Args:
        config: what to do.
        note: what the file of answers notes of a model from the Hub.
    """
    with opened(config) as model:  # first: a template that is broken is no row's fault
        tokenizer = model.tokenizer
        rows = read_prompts(Path(config.input), system=config.system, reserved=ADDED)

        def prompt(row: PromptRow) -> tuple[list[int], int]:
            ids = tokenizer.prompt(row.turns)
            return ids, len(ids)

        def load() -> AnswerBatch:
            loaded = model.load()
            return lambda batch, stop: answer_batch(
                batch, [one.prompt for one in batch], loaded, tokenizer, config, stop
            )

        answers = answer_file(
            config,
            rows,
            describe(config, model) | note,
            prompt=prompt,
            load=load,
            tokenizer=tokenizer,
        )
    return 130 if len(answers) < len(rows) else 0


def describe(config: Config, model: OpenedModel) -> dict[str, object]:
    """Return what the answers depend on, as it is kept beside them."""
    return {
        "model_sha256": model.sha256(),
        "chat_template": model.tokenizer.inner.chat_template,
        "dtype": model.dtype().removeprefix("torch."),
        **describe_options(config),
    }
