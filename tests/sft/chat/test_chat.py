"""Chatting: history, commands, a full context, and Ctrl-C in a real terminal."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilellama.sft.chat.chat import visible
from tests.pretrain.conftest import Command, Outcome
from tests.sft.helpers.tiny_chat_model import (
    answers_of_transformers,
    write_tiny_chat_model,
)

Chat = Callable[..., Outcome]
Message = dict[str, str]


def says(role: str, content: str) -> Message:
    return {"role": role, "content": content}


@pytest.fixture
def chat(command: Command, tiny_chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Runs the command with lines on its input, greedily unless told otherwise."""

    def run(*lines: str, **fields: object) -> Outcome:
        data = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        given = {"model": tiny_chat_model, "device": "cpu", "temperature": 0} | fields
        given = {"max_new_tokens": 12} | given
        arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
        return command("sft", "chat", *arguments)

    return run


def saved(path: Path) -> list[Message]:
    [line] = path.read_text().splitlines()
    return json.loads(line)["messages"]


def test_each_answer_is_that_of_transformers_to_all_that_was_said(
    chat: Chat, tiny_chat_model: Path, tmp_path: Path
) -> None:
    asked = ["the file", "and its lines", "why"]
    messages: list[Message] = [says("system", "Be kind.")]
    for question in asked:
        messages.append(says("user", question))
        [answer] = answers_of_transformers(tiny_chat_model, [messages], max_new_tokens=12)
        messages.append(says("assistant", answer))
    path = tmp_path / "saved.json"
    outcome = chat(*asked, f"/save {path}", system="Be kind.")
    assert outcome.code == 0
    # Not one of them comes to its end within 12 tokens.
    assert saved(path) == [
        message | {"cut": True} if message["role"] == "assistant" else message
        for message in messages
    ]
    answers = [message["content"] for message in messages[2::2]]
    assert len({*answers}) == 3
    assert outcome.out.split() == visible("\n".join(answers)).split()
    assert [line.rstrip() for line in outcome.out.splitlines()] == [
        line.rstrip() for answer in answers for line in visible(answer).split("\n")
    ]


def test_commands_do_to_the_history_what_they_say(chat: Chat, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.json" for n in range(4)]
    outcome = chat(
        "the file",
        "and then",
        f"/save {paths[0]}",
        "/retry",
        f"/save {paths[1]}",
        "/undo",
        f"/save {paths[2]}",
        "/reset",
        "/undo",
        "/retry",
        "/system Be kind.",
        "the file",
        f"/save {paths[3]}",
    )
    first, again, undone, last = map(saved, paths)
    assert [message["content"] for message in first[::2]] == ["the file", "and then"]
    assert again == first  # greedy, with the same history
    assert undone == first[:2]
    assert last[:2] == [says("system", "Be kind."), says("user", "the file")]
    assert last[2]["content"] != first[1]["content"]
    for notice in (
        "[took back: and then]",
        "[forgotten]",
        "[nothing to undo]",
        "[nothing to retry]",
    ):
        assert notice in outcome.err


def test_misused_commands_are_answered_and_the_chat_goes_on(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    outcome = chat(
        "/sav x", "/save", f"/save {tmp_path / 'there'}", f"/save {tmp_path / 'no' / 'folder'}",
        "/help", "  ", "the file", "/quit", "not answered",
    )  # fmt: skip
    assert outcome.code == 0
    assert "[/sav is not a command; did you mean '/save'? (/help lists them" in outcome.err
    assert "[/save needs the name of a file]" in outcome.err
    assert f"[{tmp_path / 'there'} exists: give another name]" in outcome.err
    assert f"{tmp_path / 'no' / 'folder'} cannot be written (No such file or directory)" in (
        outcome.err
    )
    assert "/retry   answer the last question again" in outcome.err
    assert outcome.out == chat("the file").out != ""


def test_a_backslash_joins_lines_and_bad_bytes_do_not_end_the_chat(
    chat: Chat, tmp_path: Path
) -> None:
    path = tmp_path / "saved.json"
    chat("one\\", "two\\", " three", "caf\udce9", f"/save {path}")
    assert [m["content"] for m in saved(path)[::2]] == ["one\ntwo\n three", "caf\ufffd"]


def test_a_seed_makes_a_warm_chat_repeatable(chat: Chat) -> None:
    lines = ("the file", "and then", "/retry")
    first, again, other = (
        chat(*lines, temperature=1.5, seed=seed).out for seed in (1, 1, 2)
    )  # fmt: skip
    assert first == again != other


def test_a_system_text_that_the_template_refuses_is_told_before_the_model_is_loaded(
    chat: Chat, small_tokenizer: Path, tmp_path: Path
) -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    )
    folder = write_tiny_chat_model(tmp_path / "strict", small_tokenizer, chat_template=template)
    answered = chat("/system Be kind.", "the file", model=folder)
    assert "[the chat template refuses this: no system here]" in answered.err
    assert answered.out == chat("the file", model=folder).out
    (folder / "model.safetensors").unlink()
    outcome = chat(model=folder, system="Be kind.")
    assert outcome.code == 2
    assert outcome.err.startswith("mobilellama: error: system = Be kind.: the chat template")


def test_a_full_context_leaves_the_oldest_out_and_says_so(chat: Chat) -> None:
    """About 45 tokens an exchange, of a context of 256."""
    lines = [f"{n} the file is opened and read" for n in range(12)]
    outcome = chat(*lines, max_new_tokens=30)
    assert outcome.code == 0
    assert "[the context is full: the 1 oldest are left out]" in outcome.err
    counts = [
        int(line.split()[5]) for line in outcome.err.splitlines() if "context is full" in line
    ]
    assert counts == sorted({*counts})
    assert 4 <= counts[-1] <= 11


def test_control_characters_of_an_answer_do_not_reach_the_terminal() -> None:
    assert visible("a\x1b[31mred\x07\n\tb\r\n\x7f\x9b2J\u202e") == "a␛[31mred␇\n\tb\n␡�2J�"
    every = "".join(map(chr, range(0x3000)))
    assert not [c for c in visible(every) if c not in "\n\t" and (c < " " or "\x7f" <= c < "\xa0")]
    assert visible("naïve 日本 🙂") == "naïve 日本 🙂"


class TerminalSession:
    """The command in a pseudo-terminal of its own, as a user has it."""

    def __init__(self, *arguments: object, before: str = "") -> None:
        """``before``: Python to run in the process, ahead of the command."""
        self.master, slave = pty.openpty()
        program = f"{before}\nimport sys\nfrom mobilellama.__main__ import main\nsys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "sft", "chat", *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, close_fds=True, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb"},
            # Ctrl-C goes to the terminal's foreground group: the terminal must be its own.
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def read_until(self, condition: Callable[[str], bool]) -> str:
        """Return what was shown since the last call, once it fulfils the condition."""
        deadline_s = time.monotonic() + 90
        shown = ""
        while not condition(shown):
            assert time.monotonic() < deadline_s, (shown, self.shown)
            if select.select([self.master], [], [], 0.1)[0]:
                shown += os.read(self.master, 4096).decode(errors="replace")
        self.shown += shown
        return shown

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()
            os.close(self.master)


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_not_the_chat(small_tokenizer: Path, tmp_path: Path) -> None:
    folder = write_tiny_chat_model(
        tmp_path / "long", small_tokenizer, max_position_embeddings=100_000
    )
    path = tmp_path / "saved.json"
    terminal = TerminalSession("--model", folder, "--temperature", 0, "--max_new_tokens", 90_000)
    terminal.read_until(lambda shown: shown.endswith("> "))
    terminal.type("the file\n")
    terminal.read_until(lambda shown: len(shown) > 60)
    terminal.type("\x03")
    terminal.read_until(lambda shown: "[stopped]" in shown and shown.endswith("> "))
    for _ in range(30):  # each in the instant in which the prompt appears
        terminal.type("\x03")
        terminal.read_until(lambda shown: "Ctrl-C again" in shown and shown.endswith("> "))
        terminal.type("/help\n")
        terminal.read_until(lambda shown: "/quit" in shown and shown.endswith("> "))
    terminal.type(f"/save {path}\n")
    terminal.read_until(lambda shown: "wrote" in shown and shown.endswith("> "))
    [question, answer] = saved(path)
    assert question == says("user", "the file")
    assert answer["cut"]
    assert len(answer["content"]) > 10
    terminal.type("\x03")
    terminal.read_until(lambda shown: "leaves" in shown and shown.endswith("> "))
    terminal.type("\x03")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown


@pytest.mark.slow
def test_a_ctrl_c_between_the_prompt_and_the_wait_for_keys_is_heard(tiny_chat_model: Path) -> None:
    """readline calls the hook there, and no bytecode runs before it waits."""
    hook = "import _thread, readline; readline.set_pre_input_hook(_thread.interrupt_main)"
    terminal = TerminalSession("--model", tiny_chat_model, before=hook)
    terminal.read_until(lambda shown: "Ctrl-C again" in shown)
    assert terminal.end() == 0  # by the second, at the second prompt


@pytest.mark.slow
def test_ctrl_c_drops_a_question_of_several_lines(tiny_chat_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    terminal = TerminalSession("--model", tiny_chat_model, "--max_new_tokens", 4)
    terminal.read_until(lambda shown: shown.endswith("> "))
    terminal.type("the file\\\n")
    terminal.read_until(lambda shown: shown.endswith(". "))
    terminal.type("\x03")
    terminal.read_until(lambda shown: "Ctrl-C again" in shown and shown.endswith("> "))
    terminal.type("why\n")
    terminal.read_until(lambda shown: "at its limit" in shown and shown.endswith("> "))
    terminal.type(f"/save {path}\n")
    terminal.read_until(lambda shown: "wrote" in shown and shown.endswith("> "))
    assert saved(path)[0] == says("user", "why")
    terminal.type("and then\\\n")
    terminal.read_until(lambda shown: shown.endswith(". "))
    terminal.type("\x03")
    terminal.read_until(lambda shown: "Ctrl-C again" in shown and shown.endswith("> "))
    terminal.type("\x03")
    assert terminal.end() == 0


@pytest.mark.slow
def test_ctrl_d_leaves(tiny_chat_model: Path) -> None:
    terminal = TerminalSession("--model", tiny_chat_model)
    terminal.read_until(lambda shown: shown.endswith("> "))
    terminal.type("\x04")
    assert terminal.end() == 0


@pytest.mark.slow
def test_in_a_pipe_ctrl_c_ends_the_program(small_tokenizer: Path, tmp_path: Path) -> None:
    folder = write_tiny_chat_model(
        tmp_path / "long", small_tokenizer, max_position_embeddings=100_000
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "mobilellama", "sft", "chat", "--model", str(folder),
         "--temperature", "0", "--max_new_tokens", "90000"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"the file\n")
    process.stdin.flush()
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
