"""What fits into a line, and what is known of the terminal."""

import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mobilellama.log import message_width
from mobilellama.terminal import (
    SHOWN_WIDTH,
    columns,
    fitted,
    is_terminal,
    result_columns,
    without_controls,
    wrapped,
)

PARTS = [(0, "step 1"), (2, "lr 0.1"), (0, "loss 2"), (1, "9 tokens/s"), (1, "")]


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], object]]:
    """Make stderr a terminal; yield what sets its width."""
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setenv("TERM", "xterm")
        patch.delenv("COLUMNS", raising=False)
        yield lambda width: fcntl.ioctl(
            writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0)
        )
    os.close(reader)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (None, "step 1  lr 0.1  loss 2  9 tokens/s"),
        (34, "step 1  lr 0.1  loss 2  9 tokens/s"),
        (33, "step 1  loss 2  9 tokens/s"),
        (26, "step 1  loss 2  9 tokens/s"),
        (25, "step 1  lr 0.1  loss 2"),
        (21, "step 1  loss 2"),
        (0, "step 1  loss 2"),
    ],
)
def test_parts_are_left_out_until_the_line_fits(width: int | None, line: str) -> None:
    assert fitted(PARTS, width) == line


LINE = "12:00 I 2 micro-batches  of 2 samples; logs in /a/folder/whose/name/is/long/x"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, [LINE]),
        (len(LINE), [LINE]),
        (
            40,
            [
                "12:00 I 2 micro-batches  of 2 samples;",
                "    logs in",
                "    /a/folder/whose/name/is/long/x",
            ],
        ),
    ],
)
def test_a_line_that_is_too_long_is_broken_between_words_alone(
    width: int | None, lines: list[str]
) -> None:
    assert wrapped(f"{LINE}\n\n\tshort\n", width).split("\n") == [*lines, "", "\tshort", ""]


def test_a_path_that_no_line_holds_stays_whole() -> None:
    assert wrapped(f"in {'x' * 50} it", 20) == f"in\n    {'x' * 50}\n    it"


def test_a_log_that_a_launcher_shows_is_as_wide_as_its_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open(os.devnull, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setenv(SHOWN_WIDTH, "80")
        assert (columns(), message_width()) == (None, 58)  # its file is no terminal


def test_the_width_is_the_terminals_or_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch) as set_width:
        for told in (200, 40):
            set_width(told)
            assert (columns(), message_width()) == (told, told - 22)
        set_width(0)
        assert columns() == 80  # it does not know
        monkeypatch.setenv("COLUMNS", "132")
        assert columns() == 132


def test_a_dumb_terminal_rewrites_no_line_but_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as set_width:
        assert is_terminal()
        monkeypatch.setenv("TERM", "dumb")
        set_width(72)
        assert not is_terminal() and columns() == 72


def test_a_pipe_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as stream, monkeypatch.context() as patch:
        patch.setenv("COLUMNS", "132")
        patch.setattr(sys, "stderr", stream)
        assert (is_terminal(), columns(), message_width()) == (False, None, None)


def test_a_result_in_a_pipe_has_the_width_of_columns_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open(os.devnull, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        for told, width in ((None, None), ("", None), ("0", None), ("wide", None), ("90", 90)):
            patch.delenv("COLUMNS", raising=False)
            if told is not None:
                patch.setenv("COLUMNS", told)
            assert result_columns() == width
    with terminal(monkeypatch) as set_width, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", sys.stderr)
        set_width(50)
        assert result_columns() == 50
        patch.setenv("COLUMNS", "90")
        assert result_columns() == 90


def test_control_characters_are_replaced_and_newline_and_tab_stay() -> None:
    assert without_controls("a\x1b[2J\tb\n\r\x00\x9bé\u2028") == "a�[2J\tb\n���é\u2028"
