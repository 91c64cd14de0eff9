"""A file of prompts answered in batches, sorted by length, gone on with where it was stopped.

What the prompts are, and what answers them, is the caller's: sft/chat/generate.py has a chat model.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilellama.config import ConfigError, DataError, UserError, require_at_least
from mobilellama.files.atomic import sha256_of_file
from mobilellama.files.typed_json import from_json
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.pretrain.stop import StopRequest
from mobilellama.progress import Progress
from mobilellama.sft.chat.answers import FRESH, Answers
from mobilellama.sft.chat.prompts import PromptRow
from mobilellama.sft.chat.tokenizer import DialogueTokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

ADDED = ("answer", "finish", "tokens")
"""The fields of an output row beside those of its input."""
_WINDOW_BATCHES = 8  # sorted by length together; more saves little padding and holds rows back


@dataclass(frozen=True, kw_only=True)
class FileOptions(Sampling):
    """Which file is answered, into which, and how its answers are made."""

    input: str
    """JSON lines of prompts."""
    output: str
    """JSON lines of prompts with answers; gone on with if it exists."""
    system: str | None = None
    """System text of rows without one; None: the template's own, or none."""
    batch_size: int = 8
    """Prompts answered together; changes the speed, not the answers."""
    max_new_tokens: int = 512
    """Most tokens of an answer."""
    seed: int = 0
    """With a temperature above 0: another one gives other answers."""
    overwrite: bool = False
    """Begin again, whatever the output holds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("batch_size", self.batch_size, 1)
        require_at_least("max_new_tokens", self.max_new_tokens, 1)
        require_at_least("seed", self.seed, 0)
        if Path(self.input).resolve() == Path(self.output).resolve():
            raise ConfigError("output", self.output, "is the input file", "Give another file")


@dataclass(frozen=True)
class EncodedPrompt:
    """A row and what the model is given."""

    number: int
    """Of the row in the input, from 0."""
    row: PromptRow
    prompt: list[int]
    """As the tokenizer gave it."""
    tokens: int
    """Of the prompt as the model sees it, where an image is more than its one id."""


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """A row and its answer."""

    fields: dict[str, object]
    """The input's."""
    answer: str
    finish: str
    """How the answer ended, or why there is none."""
    tokens: int
    """Of the answer."""
    error: str | None = None
    """What stood in the way of an answer; None: nothing is written of it."""

    def to_json(self) -> dict[str, object]:
        """Return the output row."""
        added = {"answer": self.answer, "finish": self.finish, "tokens": self.tokens}
        return {**self.fields, **added, **({} if self.error is None else {"error": self.error})}


Answered = dict[int, AnsweredRow]
"""Rows by number; those that a stop has cut are not among them."""
AnswerBatch = Callable[[Sequence[EncodedPrompt], StopRequest], Answered]
"""Answers some prompts together, all of which leave room for an answer."""


def answer_file(
    config: FileOptions,
    rows: Sequence[PromptRow],
    settings: Mapping[str, object],
    *,
    prompt: Callable[[PromptRow], tuple[list[int], int]],
    load: Callable[[], AnswerBatch],
    tokenizer: DialogueTokenizer,
) -> list[AnsweredRow]:
    """Answer the rows that have no answer yet, and report.

    Args:
        config: the output, and how many are answered together.
        rows: all of the input.
        settings: what the answers depend on.
        prompt: gives a row's ids, and how many tokens of the context they take.
        load: called where a row is left to be answered.
        tokenizer: knows the context.

    Returns:
        All rows that have an answer now, fewer than the input's if a stop came first.

    Raises:
        UserError: the output cannot be gone on with, or the template refuses a row.
    """
    path = Path(config.output)
    with _naming(path), Answers(path, settings, overwrite=config.overwrite) as answers:
        done = _kept(answers, rows)
        if done:
            log.info("%s has %s answers already", config.output, f"{len(done):,} of {len(rows):,}")
        asked = ask(rows, prompt, start=len(done))
        stop, started_s = StopRequest(), time.monotonic()
        if asked:
            answer = load()
            started_s = time.monotonic()
            with (
                stop.handling_signals(),
                Progress("answer", total=len(asked), unit="rows") as progress,
            ):
                for answered in answer_all(
                    asked, answer, tokenizer, config.batch_size, stop, progress
                ):
                    answers.write([row.to_json() for row in answered])
                    done += answered
        elapsed_s = time.monotonic() - started_s
    _report(config, done, new=done[len(rows) - len(asked) :], elapsed_s=elapsed_s)
    if len(done) < len(rows):
        log.warning("stopped by %s; the same command goes on", stop.reason)
    return done


def _kept(answers: Answers, rows: Sequence[PromptRow]) -> list[AnsweredRow]:
    """Return the rows that the output holds.

    Raises:
        DataError: one is no answer to its row.
    """
    kept = answers.keep([row.fields for row in rows], added=ADDED)
    done: list[AnsweredRow] = []
    for row, answer in zip(rows, kept, strict=False):
        added = {name: answer[name] for name in (*ADDED, "error") if name in answer}
        if "error" in row.fields:  # copied
            del added["error"]
        try:
            done.append(from_json(AnsweredRow, {"fields": row.fields, **added}))
        except TypeError as error:
            what = f"line {len(done) + 1} is not an answer ({error})"
            raise DataError(f"{answers.path}: {what}. {FRESH}") from None
    return done


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file that is written into an OSError that names none: one of write or close."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def describe_options(config: FileOptions) -> dict[str, object]:
    """Return what the answers depend on beside the model."""
    return {
        "input_sha256": sha256_of_file(Path(config.input)),
        "system": config.system,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        **{field.name: getattr(config, field.name) for field in fields(Sampling)},
    }


def ask(
    rows: Sequence[PromptRow], prompt: Callable[[PromptRow], tuple[list[int], int]], *, start: int
) -> list[EncodedPrompt]:
    """Return the prompts of the rows from number `start` on.

    Raises:
        UserError: the template refuses a row, which the message names.
    """
    asked = []
    for number in range(start, len(rows)):
        try:
            asked.append(EncodedPrompt(number, rows[number], *prompt(rows[number])))
        except UserError as error:
            raise UserError(f"{rows[number].place}: {error}; fix or remove the line") from None
    return asked


def answer_all(
    asked: Sequence[EncodedPrompt],
    answer: AnswerBatch,
    tokenizer: DialogueTokenizer,
    batch_size: int,
    stop: StopRequest,
    progress: Progress,
) -> Iterator[list[AnsweredRow]]:
    """Yield answered rows in the input's order, some after each batch; end early if asked to.

    Prompts of similar length are answered together, the longest of a window first: then a
    batch that does not fit into memory is met early.
    """
    window = batch_size * _WINDOW_BATCHES
    for start in range(0, len(asked), window):
        here = asked[start : start + window]
        done: Answered = {}
        given = 0
        for batch in _batches(here, tokenizer, batch_size):
            fits = tokenizer.room(batch[0].tokens) >= 1
            answered = answer(batch, stop) if fits else _refuse(batch)
            done |= answered
            tokens = sum(row.tokens for row in answered.values())
            progress.advance(len(answered), tokens=tokens)
            ready = []
            while given < len(here) and here[given].number in done:
                ready.append(done.pop(here[given].number))
                given += 1
            if ready:
                yield ready
            if stop.requested():
                return


def _batches(
    asked: Sequence[EncodedPrompt], tokenizer: DialogueTokenizer, batch_size: int
) -> Iterator[list[EncodedPrompt]]:
    """Yield the prompts that are too long, then the others, longest first."""
    too_long = [one for one in asked if tokenizer.room(one.tokens) < 1]
    if too_long:
        yield too_long
    fitting = [one for one in asked if tokenizer.room(one.tokens) >= 1]
    fitting.sort(key=lambda one: -one.tokens)
    for i in range(0, len(fitting), batch_size):
        yield fitting[i : i + batch_size]


def _refuse(too_long: Sequence[EncodedPrompt]) -> Answered:
    return {
        one.number: AnsweredRow(fields=one.row.fields, answer="", finish="too_long", tokens=0)
        for one in too_long
    }


def answer_batch(
    batch: Sequence[EncodedPrompt],
    prompts: Sequence[list[int]],
    model: "PreTrainedModel",
    tokenizer: DialogueTokenizer,
    config: FileOptions,
    stop: StopRequest,
    *,
    embed: "Callable[[Tensor], Tensor] | None" = None,
) -> Answered:
    """Answer prompts together.

    Args:
        batch: the rows.
        prompts: their ids as the model sees them.
        model: a causal language model.
        tokenizer: makes text of ids, and knows where an answer ends.
        config: how tokens are chosen.
        stop: looked at before each token.
        embed: see `decode`.

    Raises:
        UserError: the batch does not fit into the device's memory.
    """
    from mobilellama.pretrain.generation.decode import decode, naming_memory

    rooms = [tokenizer.room(one.tokens) for one in batch]
    with naming_memory(prompts, model.device):
        decoded = decode(
            model,
            prompts,
            sampling=config,
            generators=[np.random.default_rng([config.seed, one.number]) for one in batch],
            limits=[min(config.max_new_tokens, limit) for limit in rooms],
            ended=tokenizer.ended,
            embed=embed,
            interrupted=stop.requested,
        )
    return {
        one.number: AnsweredRow(
            fields=one.row.fields,
            answer=tokenizer.text(answer.ids),
            finish=answer.finish,
            tokens=len(answer.ids),
        )
        for one, answer in zip(batch, decoded, strict=True)
        if answer.finish != "cut"
    }


def _report(
    config: FileOptions,
    done: Sequence[AnsweredRow],
    *,
    new: Sequence[AnsweredRow],
    elapsed_s: float,
) -> None:
    finishes = Counter(row.finish for row in done)
    shown = ", ".join(f"{count:,} {finish}" for finish, count in sorted(finishes.items()))
    print(f"{config.output}: {len(done):,} answers ({shown or 'none'})")
    if tokens := sum(row.tokens for row in new):
        rate = tokens / max(elapsed_s, 1e-9)
        print(f"{len(new):,} of them now: {tokens:,} tokens, {rate:,.0f} a second")
