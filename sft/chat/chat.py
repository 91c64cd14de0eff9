r"""Talk to a chat model in the terminal. Its answers appear token by token.

    mobilellama sft chat DIR [--system TEXT] [--temperature 0.7] [--template vicuna_v1]

DIR is a chat model's Hugging Face folder or its name on the Hub, or a run of 'sft run'.

Ctrl-C stops an answer, or deletes the question that you are typing. Ctrl-D ends the chat. A line
that ends with a backslash continues on the next line. Lines that begin with / are commands; /help
lists them. If the input is a pipe, each line is a question, and only the answers are printed:

    printf 'Hello\nWho are you?\n' | mobilellama sft chat DIR --temperature 0
"""

import importlib
import io
import logging
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from mobilellama import log as logs
from mobilellama.config import UserError, did_you_mean, require_at_least
from mobilellama.files.hub_folder import find_model
from mobilellama.pretrain.generation.loading import quieten
from mobilellama.pretrain.generation.sampling import Sampling
from mobilellama.sft.chat.finetuned_model import opened
from mobilellama.sft.chat.model_choice import ModelChoice

if TYPE_CHECKING:
    from mobilellama.sft.chat.dialogue import Dialogue  # which imports torch

log = logging.getLogger(__name__)

COMMANDS = {
    "/reset": "forget what was said; the system text stays",
    "/system": "TEXT: set the system text and go on; without TEXT: the template's own",
    "/undo": "take the last question and its answer back",
    "/retry": "answer the last question again",
    "/save": "FILE: write the conversation as JSON messages",
    "/help": "this list",
    "/quit": "leave (also /exit, Ctrl-D, Ctrl-C twice)",
}
# readline waits in C for keys, and looks for signals only when one breaks its wait off. A Ctrl-C
# that came after the prompt was shown and before the wait began would lie there until Enter, so
# at the prompt a timer breaks the wait off this often.
_TICK_S = 0.1
# What would move the cursor, colour the terminal or turn the text round is shown, not sent.
# Pictures stand for control characters (U+2400 on); newline and tab stay, \r says nothing.
_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x0D: "",
    0x7F: "␡",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�"),
}


@dataclass(frozen=True, kw_only=True)
class ChatOptions(Sampling):
    """How a chat's answers are made."""

    system: str | None = None
    """System text. None: that of the template, if it has one."""
    temperature: float = 0.7
    """0: take the most likely token. 1: draw from the model's own distribution."""
    top_p: float = 0.9
    """Draw only from the most likely tokens whose probabilities add up to this. FastChat's command
    line draws from all (1)."""
    max_new_tokens: int = 512
    """The most tokens of an answer."""
    seed: int | None = None
    """Seed of the draws. The same seed gives the same answers. None: a new seed each time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("max_new_tokens", self.max_new_tokens, 1)
        if self.seed is not None:
            require_at_least("seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True)
class Config(ModelChoice, ChatOptions):
    """Fields of 'sft chat'."""

    def __post_init__(self) -> None:
        ModelChoice.__post_init__(self)
        ChatOptions.__post_init__(self)


def main(config: Config) -> int:
    """Load the model and talk until the input ends."""
    from mobilellama.sft.chat.dialogue import Dialogue, require_system_field

    logs.configure()
    quieten()
    found = find_model(config.model, field="model")
    with (
        found.errors_by_name(),
        opened(replace(config, model=found.path)) as model,
    ):
        require_system_field(model.tokenizer, config.system)
        dialogue = Dialogue(
            model.tokenizer,
            model.load(),
            sampling=config,
            max_new_tokens=config.max_new_tokens,
            system=config.system,
            seed=config.seed,
        )
        return Terminal(dialogue, interactive=sys.stdin.isatty()).run()


def visible(text: str) -> str:
    """Return text that a terminal shows as it stands, control characters as pictures."""
    return text.translate(_VISIBLE)


def _on_tick(number: int, frame: FrameType | None) -> None:
    """Do nothing: that a signal came is what counts."""
    del number, frame


class Terminal:
    """Reads questions and commands, writes answers to stdout and notices to stderr."""

    commands: Mapping[str, str] = COMMANDS

    def __init__(self, dialogue: "Dialogue", *, interactive: bool) -> None:
        self._dialogue, self._interactive = dialogue, interactive
        self._at_prompt = False  # where Ctrl-C raises; elsewhere it is noted
        self._pressed = False  # Ctrl-C, noted and not acted upon
        self._leaving = False  # Ctrl-C at the prompt, and nothing entered since

    def run(self) -> int:
        """Answer until the input ends or the user leaves."""
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        if not self._interactive:  # Ctrl-C ends the program, as it does others in a pipe
            self._talk()
            return 0
        try:
            importlib.import_module("readline")  # gives input() a history and line editing
        except ImportError:
            log.debug("no readline: lines cannot be edited")
        former = signal.signal(signal.SIGINT, self._on_ctrl_c)
        former_alarm = signal.signal(signal.SIGALRM, _on_tick)
        try:
            self._greet()
            self._talk()
        finally:
            signal.signal(signal.SIGALRM, former_alarm)
            signal.signal(signal.SIGINT, former)
        return 0

    def _greet(self) -> None:
        self._notice("Ctrl-C stops an answer, Ctrl-D leaves, /help lists the commands.")

    def _on_ctrl_c(self, number: int, frame: FrameType | None) -> None:
        """Raise at the prompt, once; elsewhere an exception could end the program: note it."""
        del number, frame
        if self._at_prompt:
            self._at_prompt = False
            raise KeyboardInterrupt
        self._pressed = True

    def _talk(self) -> None:
        while (entered := self._read()) is not None:
            if not entered.strip():
                continue
            if entered.startswith("/"):
                name, _, rest = entered.strip().partition(" ")
                if name in ("/quit", "/exit"):
                    break
                self._command(name, rest.strip())
            else:
                self._answer(entered.strip())

    def _read(self) -> str | None:
        """Return the next question or command; None: the input's end, or Ctrl-C twice."""
        if not self._interactive:
            return self._read_lines()
        while True:
            signal.setitimer(signal.ITIMER_REAL, _TICK_S, _TICK_S)
            try:
                self._at_prompt = True
                if self._pressed:  # after an answer's end, or during a command
                    self._at_prompt = self._pressed = False
                    raise KeyboardInterrupt
                entered = self._read_lines()
                self._at_prompt = False
            except KeyboardInterrupt:
                print()
                if self._leaving:
                    return None
                self._leaving = True
                self._notice("Ctrl-C again, Ctrl-D or /quit leaves")
            else:
                self._leaving = False
                return entered
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _read_lines(self) -> str | None:
        """Return what is entered, joined where lines end in a backslash."""
        lines: list[str] = []
        while (line := self._read_line("> " if not lines else ". ")) is not None:
            lines.append(line.removesuffix("\\"))
            if not line.endswith("\\"):
                break
        return "\n".join(lines) if lines else None

    def _read_line(self, prompt: str) -> str | None:
        if not self._interactive:
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        try:
            return input(prompt)
        except EOFError:
            print()
            return None

    def _answer(self, question: str) -> None:
        dialogue, left_out = self._dialogue, self._dialogue.left_out
        try:
            exchange = dialogue.ask(question, write=self._write, interrupted=lambda: self._pressed)
        except UserError as error:
            self._notice(str(error))
            return
        self._write("\n")
        if exchange.finish == "cut":
            self._pressed = False  # acted upon; what comes after it counts at the prompt
            self._notice("stopped" if exchange.answer else "stopped; the question is taken back")
        elif exchange.finish == "length":
            self._notice("the answer is at its limit: --max_new_tokens, or the context's end")
        if dialogue.left_out > left_out:
            self._notice(self._left_out())

    def _left_out(self) -> str:
        return f"the context is full: the {self._dialogue.left_out} oldest are left out"

    def _command(self, name: str, rest: str) -> None:
        try:
            self._obey(name, rest)
        except UserError as error:
            self._notice(str(error))

    def _obey(self, name: str, rest: str) -> None:
        """Do what a command says.

        Raises:
            UserError: it cannot be done.
        """
        dialogue = self._dialogue
        if name == "/reset":
            dialogue.reset()
            self._notice("forgotten")
        elif name == "/system":
            dialogue.set_system(rest or None)
            self._notice("the system text is set" if rest else "the template's system text")
        elif name == "/undo":
            question = dialogue.undo()
            self._notice("nothing to undo" if question is None else f"took back: {question}")
        elif name == "/retry":
            self._retry()
        elif name == "/save":
            self._save(rest)
        elif name == "/help":
            self._notice("\n".join(f"{name:<8} {what}" for name, what in self.commands.items()))
        else:
            near = did_you_mean(name, self.commands)
            self._notice(
                f"{name} is not a command{near} (/help lists them; to send it as text, put a space "
                "before it)"
            )

    def _retry(self) -> None:
        dialogue = self._dialogue
        later, dialogue.pending = dialogue.pending, []  # belongs to the question after this one
        question = dialogue.undo()
        self._notice("nothing to retry") if question is None else self._answer(question)
        dialogue.pending += later

    def _save(self, name: str) -> None:
        if not name:
            raise UserError("/save needs the name of a file")
        path = Path(name).expanduser()
        self._dialogue.save(path)
        self._notice(f"wrote {path}")

    def _write(self, text: str) -> None:
        sys.stdout.write(visible(text))
        sys.stdout.flush()

    def _notice(self, text: str) -> None:
        sys.stdout.flush()
        print(f"[{visible(text)}]" if "\n" not in text else visible(text), file=sys.stderr)
        sys.stderr.flush()
