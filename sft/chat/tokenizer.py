"""A chat folder's tokenizer: messages to ids, ids to text, and where an answer ends.

What ends an answer is gathered from all that may say it, since any one of them is wrong in
some published folder: the tokenizer's eos, generation_config.json's, and what the chat
template writes after an answer.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mobilellama.config import ConfigError, UserError, one_line
from mobilellama.files.presets import preset_names
from mobilellama.pretrain.generation.token_text import TokenText
from mobilellama.sft.chat.foreign_tokenizer import (
    can_sanitize,
    context_tokens,
    load_tokenizer,
    read_generation_config,
)
from mobilellama.sft.chat.model_choice import ModelChoice
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.template import TEMPLATES, Template, read_template
from mobilellama.sft.data.template_process import (
    Rendered,
    RenderLimitError,
    TemplateBrokenError,
    TemplateProcess,
    TemplateRefusalError,
)
from mobilellama.tokenizers.hf_files import CHAT_TEMPLATE_FILE, CONFIG_FILE

log = logging.getLogger(__name__)

# Stand-ins for what is said, which no template contains.
_QUESTION, _ANSWER, _NEXT = "1st question", "1st answer", "2nd question"


@dataclass(frozen=True)
class Stop:
    """What ends an answer."""

    ids: frozenset[int]
    """Tokens, each of which ends it."""
    texts: tuple[str, ...] = ()
    """Texts, each of which ends it, however they are cut into tokens."""


class DialogueTokenizer(ABC):
    """What a dialogue asks of a tokenizer, whatever its prompts are made of."""

    stop: Stop
    """What ends an answer."""
    context_tokens: int | None
    """The most tokens that prompt and answer may have together; None: no limit known."""

    @abstractmethod
    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids that the model continues with its answer.

        Raises:
            UserError: the template refuses these turns.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids as it stands; special tokens give nothing."""

    def room(self, tokens: int) -> int:
        """Return how many tokens an answer may have after a prompt of so many; perhaps below 1."""
        return (1 << 62) if self.context_tokens is None else self.context_tokens - tokens

    def text(self, ids: Sequence[int]) -> str:
        """Return an answer's text: no special tokens, no stop, no white space around it."""
        if ids and ids[-1] in self.stop.ids:  # which may be a token of text
            ids = ids[:-1]
        text = self.decode(ids)
        for stop in self.stop.texts:
            text = text.split(stop)[0]
        return text.rstrip("\ufffd").strip()  # half a character, where the answer was cut

    def ended(self, ids: Sequence[int]) -> bool:
        """Return whether an answer's last token ends it."""
        if ids[-1] in self.stop.ids:
            return True
        if not self.stop.texts:
            return False
        # A token stands for one byte or more, or for nothing at the beginning.
        longest = max(len(text.encode()) for text in self.stop.texts)
        tail = self.decode(ids[-longest - 1 :])
        return any(text in tail for text in self.stop.texts)


class ChatTokenizer(DialogueTokenizer):
    """A chat folder's tokenizer and template; no weights are read.

    Raises:
        ConfigError: the folder has no tokenizer that can be read, or no template or one that is
            not Jinja, or the template given has special tokens that the tokenizer has not.
    """

    def __init__(self, choice: ModelChoice) -> None:
        self.model = choice.model
        self.inner = load_tokenizer(choice)
        self._renderer = TemplateProcess(self._apply)
        if choice.template:
            template = read_template(choice.template, field="template")
            self._require_specials(template)
            self.inner.chat_template = template.jinja()
            ends = template.stop
        elif self.inner.chat_template:
            ends = self._ends()
        else:
            raise ConfigError(
                "model",
                choice.model,
                "has no chat template",
                f"Give --template: {', '.join(preset_names(TEMPLATES))}, or a YAML file",
            )
        self.stop = self._stop(ends)
        self.context_tokens = context_tokens(choice.model, self.inner)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids that the model continues with its answer.

        A special token that a message spells out is text, as in training, if this version
        of transformers can tell the two apart; else it is the token.

        Raises:
            UserError: the template refuses these turns, in its own words.
        """
        messages = [{"role": turn.role, "content": readable(turn.content)} for turn in turns]
        if self._spells_special(turns) and can_sanitize(self.inner):
            try:
                ids = self._within_limits(
                    messages,
                    add_generation_prompt=True,
                    return_dict=False,
                    sanitize_control_tokens=True,
                )
                return cast(list[int], ids)  # as `tokenize`, true by default, has it
            except (TemplateRefusalError, NotImplementedError, ValueError) as error:
                if isinstance(error, ConfigError):
                    raise
                log.debug("control tokens stay as they are: %s", one_line(error))
        text = self._render(messages, add_generation_prompt=True)
        return self.inner(text, add_special_tokens=False).input_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids as it stands; special tokens give nothing."""
        return self.inner.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _apply(self, messages: list[dict[str, str]], **options: bool) -> Rendered:
        return self.inner.apply_chat_template(messages, **options)

    def _require_specials(self, template: Template) -> None:
        vocabulary = self.inner.get_vocab()
        if missing := [token for token in template.specials if token not in vocabulary]:
            rule = f"writes {', '.join(missing)}, which {self.model}'s tokenizer does not have"
            remedy = "Take the template that the model was trained with"
            raise ConfigError("template", template.name, rule, remedy)

    def _render(self, messages: list[dict[str, str]], **options: bool) -> str:
        try:
            return readable(cast(str, self._within_limits(messages, tokenize=False, **options)))
        except ConfigError:
            raise
        except (TemplateRefusalError, NotImplementedError, ValueError) as error:
            raise UserError(f"the chat template refuses this: {one_line(error)}") from None

    def _within_limits(self, messages: list[dict[str, str]], **options: bool) -> Rendered:
        """Return what ``apply_chat_template`` gives, from a process that may be stopped."""
        try:
            return self._renderer.call(messages, options)
        except TemplateBrokenError as error:  # whatever is said: no message is to blame
            rule = f"the chat template in {self._template_file} is not Jinja ({error})"
            remedy = "Fix that file, or give --template"
            raise ConfigError("model", self.model, rule, remedy) from None
        except RenderLimitError as error:
            rule = f"the chat template in {self._template_file} {error} for one conversation"
            remedy = "Take another model's, or give --template"
            raise ConfigError("model", self.model, f"{rule}, and was stopped", remedy) from None

    @property
    def _template_file(self) -> Path:
        path = Path(self.model) / CHAT_TEMPLATE_FILE
        return path if path.is_file() else path.with_name(CONFIG_FILE)

    def _ends(self) -> tuple[str, ...]:
        """Return what the template writes between an answer and the next question."""
        asked = {"role": "user", "content": _QUESTION}
        answered = {"role": "assistant", "content": _ANSWER}
        try:
            text = self._render([asked, answered, {"role": "user", "content": _NEXT}])
        except ConfigError:
            raise
        except UserError:  # such turns are refused, in the template's own words
            return ()
        _, answer, after = text.partition(_ANSWER)
        between, question, _ = after.partition(_NEXT)
        return (between,) if answer and question else ()

    def _stop(self, ends: Sequence[str]) -> Stop:
        """Gather what ends an answer.

        Of each end, the first special token counts (<|im_end|> of ChatML's <|im_end|>, newline,
        <|im_start|>); where it has none, its text.
        """
        settings = read_generation_config(self.model)
        ids = {*settings.eos_token_ids, self.inner.eos_token_id}
        texts = [*settings.stop_strings]
        for end in ends:
            tokens = self.inner(end, add_special_tokens=False).input_ids
            special = [token for token in tokens if token in self.inner.added_tokens_decoder]
            if special:
                ids.add(special[0])
            elif text := end.rstrip() or end:
                texts.append(text)
        return Stop(frozenset(ids) - {None}, tuple(texts))

    def _spells_special(self, turns: Sequence[Turn]) -> bool:
        names = [token.content for token in self.inner.added_tokens_decoder.values()]
        return any(name in turn.content for turn in turns for name in names)


def readable(text: str) -> str:
    """Return text that UTF-8 can hold: a command line's bytes come as half surrogate pairs."""
    return text.encode(errors="replace").decode()


class TextStream:
    """An answer's tokens to text as they come; what may yet change is held back.

    Held back are bytes of a character that is not whole, and what may become a stop text.
    """

    def __init__(self, tokenizer: DialogueTokenizer) -> None:
        self._tokenizer = tokenizer
        self._text = TokenText(tokenizer.decode)
        self._held = ""
        self._begun = self._closed = False

    def add(self, token: int) -> str:
        """Return the text that this token makes final."""
        if token in self._tokenizer.stop.ids:
            return ""
        return self._release(self._text.add(token))

    def _release(self, text: str) -> str:
        if self._closed:
            return ""
        held = self._held + text
        if not self._begun:
            held = held.lstrip()
            self._begun = bool(held)
        stops = self._tokenizer.stop.texts
        for stop in stops:
            if stop in held:
                held, self._closed = held.split(stop)[0], True
        keep = 0 if self._closed else _overlap(held, stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def end(self) -> str:
        """Return what was held back, at the end of the answer; half a character is left out."""
        text = self._release(self._text.end())
        held, self._held = self._held, ""
        return text if self._closed else text + held


def _overlap(text: str, stops: Sequence[str]) -> int:
    """Return the length of the longest end of `text` with which a stop begins."""
    lengths = [
        length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length])
    ]
    return max(lengths, default=0)
