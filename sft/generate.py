r"""Answer a file of prompts in batches, with a chat model.

    mobilellama sft generate --model DIR --input prompts.jsonl --output answers.jsonl

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

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mobilellama import log as logs
from mobilellama.config import ConfigError, UserError, require_at_least
from mobilellama.files import sha256_of_file
from mobilellama.pretrain.stop import StopRequest
from mobilellama.progress import Progress
from mobilellama.sft.answers import Answers
from mobilellama.sft.chat_model import ModelChoice, find_dtype, identify, load_model, quieten
from mobilellama.sft.chat_tokenizer import ChatTokenizer
from mobilellama.sft.prompts import Row, read_prompts
from mobilellama.sft.sampling import Sampling

log = logging.getLogger(__name__)

ADDED = ("answer", "finish", "tokens")
_WINDOW_BATCHES = 8  # sorted by length together; more saves little padding and holds rows back


@dataclass(frozen=True, kw_only=True)
class Config(ModelChoice, Sampling):
    """Fields of ``mobilellama sft generate``."""

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
        ModelChoice.__post_init__(self)
        Sampling.__post_init__(self)
        require_at_least("batch_size", self.batch_size, 1)
        require_at_least("max_new_tokens", self.max_new_tokens, 1)
        require_at_least("seed", self.seed, 0)
        if Path(self.input).resolve() == Path(self.output).resolve():
            raise ConfigError("output", self.output, "is the input", "Give another file")


@dataclass(frozen=True)
class Asked:
    """A row and what the model is given."""

    number: int
    """Of the row in the input, from 0."""
    row: Row
    prompt: list[int]


def main(config: Config) -> int:
    """Answer the rows that have no answer yet."""
    logs.configure()
    quieten()
    tokenizer = ChatTokenizer(config)  # first: a template that is broken is no row's fault
    rows = read_prompts(Path(config.input), system=config.system, reserved=ADDED)
    settings = describe(config, tokenizer)
    path = Path(config.output)
    with _naming(path), Answers(path, settings, overwrite=config.overwrite) as answers:
        done = answers.keep([row.fields for row in rows])
        if done:
            log.info("%s has %d of %d answers already", config.output, len(done), len(rows))
        asked = ask(rows, tokenizer, start=len(done))
        stop, started_s = StopRequest(), time.monotonic()
        if asked:
            model = load_model(config)
            started_s = time.monotonic()
            with (
                stop.handling_signals(),
                Progress("answer", total=len(asked), unit="rows") as progress,
            ):
                for answered in answer_all(asked, model, tokenizer, config, stop, progress):
                    answers.write(answered)
                    done += answered
        elapsed_s = time.monotonic() - started_s
    _report(config, done, new=done[len(rows) - len(asked) :], elapsed_s=elapsed_s)
    if len(done) < len(rows):
        log.warning("stopped by %s; the same command goes on", stop.reason)
        return 130
    return 0


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file that is written into an OSError that names none: one of write or close."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def describe(config: Config, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Return what the answers depend on, as it is kept beside them."""
    return {
        "input_sha256": sha256_of_file(Path(config.input)),
        "model_sha256": identify(config.model),
        "chat_template": tokenizer.inner.chat_template,
        "dtype": str(find_dtype(config)).removeprefix("torch."),
        "system": config.system,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        **{field.name: getattr(config, field.name) for field in fields(Sampling)},
    }


def ask(rows: Sequence[Row], tokenizer: ChatTokenizer, *, start: int) -> list[Asked]:
    """Return the prompts of the rows from number `start` on.

    Raises:
        UserError: the template refuses a row, which the message names.
    """
    asked = []
    for number in range(start, len(rows)):
        try:
            asked.append(Asked(number, rows[number], tokenizer.prompt(rows[number].turns)))
        except UserError as error:
            raise UserError(f"{rows[number].place}: {error}; mend or remove the line") from None
    return asked


def answer_all(
    asked: Sequence[Asked],
    model: Any,
    tokenizer: ChatTokenizer,
    config: Config,
    stop: StopRequest,
    progress: Progress,
) -> Iterator[list[dict[str, Any]]]:
    """Yield output rows in the input's order, some after each batch; end early if asked to.

    Prompts of similar length are answered together, the longest of a window first: then a
    batch that does not fit into memory is met early.
    """
    window = config.batch_size * _WINDOW_BATCHES
    for start in range(0, len(asked), window):
        here = asked[start : start + window]
        done: dict[int, dict[str, Any]] = {}
        given = 0
        for batch in _batches(here, tokenizer.context_tokens, config.batch_size):
            answered = answer_batch(batch, model, tokenizer, config, stop)
            done |= answered
            tokens = sum(row["tokens"] for row in answered.values())
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
    asked: Sequence[Asked], context_tokens: int | None, batch_size: int
) -> Iterator[list[Asked]]:
    """Yield the prompts that are too long, then the others, longest first."""
    too_long = [one for one in asked if _room(one, context_tokens) < 1]
    if too_long:
        yield too_long
    fitting = [one for one in asked if _room(one, context_tokens) >= 1]
    fitting.sort(key=lambda one: -len(one.prompt))
    for i in range(0, len(fitting), batch_size):
        yield fitting[i : i + batch_size]


def _room(one: Asked, context_tokens: int | None) -> int:
    """Return how many tokens the answer may have as far as the context goes."""
    return (1 << 62) if context_tokens is None else context_tokens - len(one.prompt)


def answer_batch(
    batch: Sequence[Asked],
    model: Any,
    tokenizer: ChatTokenizer,
    config: Config,
    stop: StopRequest,
) -> dict[int, dict[str, Any]]:
    """Return the output rows of a batch by number; those that a stop has cut are not among them.

    Raises:
        UserError: the batch does not fit into the device's memory.
    """
    import torch

    from mobilellama.sft.decode import decode

    rooms = [_room(one, tokenizer.context_tokens) for one in batch]
    if min(rooms) < 1:
        added = {"answer": "", "finish": "too_long", "tokens": 0}
        return {one.number: one.row.fields | added for one in batch}
    try:
        decoded = decode(
            model,
            [one.prompt for one in batch],
            sampling=config,
            generators=[np.random.default_rng([config.seed, one.number]) for one in batch],
            limits=[min(config.max_new_tokens, room) for room in rooms],
            ended=tokenizer.ended,
            interrupted=stop.requested,
        )
    except torch.OutOfMemoryError:
        longest = max(len(one.prompt) for one in batch)
        raise UserError(
            f"{len(batch)} prompts of up to {longest:,} tokens and their answers do not fit into "
            f"the memory of {model.device}: lower --batch_size, and the command goes on"
        ) from None
    return {
        one.number: one.row.fields
        | {
            "answer": tokenizer.text(answer.ids),
            "finish": answer.finish,
            "tokens": len(answer.ids),
        }
        for one, answer in zip(batch, decoded, strict=True)
        if answer.finish != "cut"
    }


def _report(
    config: Config, done: Sequence[dict[str, Any]], *, new: Sequence[Any], elapsed_s: float
) -> None:
    finishes = Counter(row["finish"] for row in done)
    shown = ", ".join(f"{count:,} {finish}" for finish, count in sorted(finishes.items()))
    print(f"{config.output}: {len(done):,} answers ({shown or 'none'})")
    if tokens := sum(row["tokens"] for row in new):
        rate = tokens / max(elapsed_s, 1e-9)
        print(f"{len(new):,} of them now: {tokens:,} tokens, {rate:,.0f} a second")
