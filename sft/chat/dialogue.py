"""A conversation with a chat model: what was said, what of it fits, and the next answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from torch import Tensor

from mobilellama.config import ConfigError, UserError
from mobilellama.files.atomic import write_json
from mobilellama.pretrain.generation.decode import Finish, decode
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.sft.chat.tokenizer import DialogueTokenizer, TextStream
from mobilellama.sft.data.conversation import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AttachedT = TypeVar("AttachedT")
"""What may come with a question, such as an image."""


@dataclass(frozen=True)
class Exchange(Generic[AttachedT]):
    """A question and what was answered."""

    question: str
    answer: str
    finish: Finish
    """"cut" where the user stopped the answer."""
    attached: tuple[AttachedT, ...] = ()
    """What came with the question."""


class Dialogue(Generic[AttachedT]):
    """The exchanges so far, and the model that answers the next question.

    Where the context is full, the oldest exchanges are left out of the prompt; they stay in
    ``exchanges``, and `left_out` counts them.

    Here a dialogue is text. A stage whose questions come with more puts that into ``pending`` and
    says in ``user_turn``, ``embedding`` and ``record`` what becomes of it.
    """

    def __init__(
        self,
        tokenizer: DialogueTokenizer,
        model: "PreTrainedModel",
        *,
        sampling: Sampling,
        max_new_tokens: int,
        system: str | None = None,
        seed: int | None = None,
    ) -> None:
        self.exchanges: list[Exchange[AttachedT]] = []
        self.pending: list[AttachedT] = []
        """What goes with the next question."""
        self.left_out = 0
        self.system = system
        self.model = model
        self._tokenizer = tokenizer
        self._sampling, self._max_new_tokens = sampling, max_new_tokens
        self._generator = np.random.default_rng(seed)

    def ask(
        self,
        question: str,
        *,
        write: Callable[[str], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Exchange[AttachedT]:
        """Answer a question, and keep both.

        Args:
            question: the user's next turn.
            write: told the answer's text as it comes.
            interrupted: asked before each token; True ends the answer there.

        Returns:
            The exchange. One that was cut before its first character is not kept.

        Raises:
            UserError: the question alone fills the context, or the template refuses it.
        """
        prompt, limit = self._fit(question)
        stream = TextStream(self._tokenizer)

        def on_token(row: int, token: int) -> None:
            del row  # the only one
            if text := stream.add(token):
                write(text)

        [decoded] = decode(
            self.model,
            [prompt],
            sampling=self._sampling,
            generators=[self._generator],
            limits=[limit],
            ended=self._tokenizer.ended,
            embed=self.embedding(self._in_prompt()),
            on_token=on_token,
            interrupted=interrupted,
        )
        if rest := stream.end():
            write(rest)
        answer = self._tokenizer.text(decoded.ids)
        exchange = Exchange(question, answer, decoded.finish, tuple(self.pending))
        if exchange.answer or exchange.finish != "cut":
            self.exchanges.append(exchange)
            self.pending = []
        return exchange

    def user_turn(self, question: str, attached: Sequence[AttachedT]) -> Turn:
        """Return a question as the template gets it."""
        del attached
        return Turn("user", question)

    def embedding(self, attached: Sequence[AttachedT]) -> Callable[[Tensor], Tensor] | None:
        """Return what `decode` embeds the prompt with, given what is attached to its questions."""
        del attached
        return None

    def record(self, messages: Sequence[Mapping[str, object]]) -> dict[str, object]:
        """Return the line that is saved of the conversation."""
        return {"messages": messages}

    def _in_prompt(self) -> list[AttachedT]:
        """Return what is attached to the questions of the next prompt, in order."""
        kept = [one for exchange in self.exchanges[self.left_out :] for one in exchange.attached]
        return [*kept, *self.pending]

    def _fit(self, question: str) -> tuple[list[int], int]:
        """Return the prompt, with as many exchanges as fit, and the answer's limit in tokens."""
        context = self._tokenizer.context_tokens
        prompt = self._tokenizer.prompt(self.turns(question))
        if context is None:
            return prompt, self._max_new_tokens
        wanted = min(self._max_new_tokens, context // 4)  # room that an answer should have
        while context - len(prompt) < wanted and self.left_out < len(self.exchanges):
            self.left_out += 1
            prompt = self._tokenizer.prompt(self.turns(question))
        if len(prompt) >= context:
            raise UserError(
                f"your message makes a prompt of {len(prompt):,} tokens, and the model's context "
                f"is {context:,}. Shorten it, or the system text{self._or_attach_less()}"
            )
        return prompt, min(self._max_new_tokens, context - len(prompt))

    def _or_attach_less(self) -> str:
        return ", or attach less" if self.pending else ""

    def turns(self, question: str | None = None) -> list[Turn]:
        """Return all that was said; with a question, what its prompt is made of."""
        turns = [] if self.system is None else [Turn("system", self.system)]
        for exchange in self.exchanges[self.left_out if question is not None else 0 :]:
            turns.append(self.user_turn(exchange.question, exchange.attached))
            turns.append(Turn("assistant", exchange.answer))
        return turns if question is None else [*turns, self.user_turn(question, self.pending)]

    def set_system(self, text: str | None) -> None:
        """Set the system text; None leaves it to the template.

        Raises:
            UserError: the template takes none, in its own words; the former one stays.
        """
        require_system(self._tokenizer, text)
        self.system, self.left_out = text, 0

    def undo(self) -> str | None:
        """Take the last exchange back and return its question; None where there is none.

        What was attached to it goes with the next question.
        """
        if not self.exchanges:
            return None
        self.left_out = 0  # one fewer may make room for an older one
        exchange = self.exchanges.pop()
        self.pending = [*exchange.attached, *self.pending]
        return exchange.question

    def reset(self) -> None:
        """Forget every exchange, and what is attached; the system text stays."""
        self.exchanges, self.pending, self.left_out = [], [], 0

    def save(self, path: Path) -> None:
        """Write the whole conversation as one line of messages, which 'sft prepare' reads.

        An answer without its end has ``"cut": true`` beside its content: the user stopped it,
        or it came to --max_new_tokens or the context's end.

        Raises:
            UserError: the file exists, or cannot be written.
        """
        if path.exists():
            raise UserError(f"{path} exists: give another name")
        messages: list[dict[str, str | bool]] = [
            {"role": turn.role, "content": turn.content} for turn in self.turns()
        ]
        for message, exchange in zip(messages[-1::-2], self.exchanges[::-1], strict=False):
            if exchange.finish != "stop":
                message["cut"] = True
        try:
            write_json(path, self.record(messages), indent=None)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from None


def require_system(tokenizer: DialogueTokenizer, text: str | None) -> None:
    """Raise UserError, in the template's own words, unless it takes this system text."""
    turns = [] if text is None else [Turn("system", text)]
    tokenizer.prompt([*turns, Turn("user", "Hello")])


def require_system_field(tokenizer: DialogueTokenizer, text: str | None) -> None:
    """Raise ConfigError unless the template takes the system text of the command line."""
    try:
        require_system(tokenizer, text)
    except UserError as error:
        if text is None:
            raise
        remedy = "Leave it out, or take another template"
        raise ConfigError("system", text, str(error), remedy) from None
