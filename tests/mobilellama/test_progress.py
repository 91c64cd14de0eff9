"""Progress: a line where there is no terminal, a bar where there is one."""

import fcntl
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import textwrap

import pytest

from mobilellama import progress
from mobilellama.progress import Progress, format_count, format_duration

WORK = """
import time
from mobilellama.progress import Progress
with Progress("tokenising", total=4, unit="MB") as bar:
    for _ in range(4):
        bar.advance(1, tokens=1000)
        time.sleep(0.12)
"""


MESSAGE = """
import logging
from mobilellama.log import configure
configure()
log = logging.getLogger("mobilellama")
"""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00:00"),
        (0.6, "00:00:01"),
        (3_599.7, "01:00:00"),
        (86_399, "23:59:59"),
        (86_400, "1d 00:00:00"),
        (93_784, "1d 02:03:04"),
        (864_000, "10d 00:00:00"),
    ],
)
def test_a_duration_reads_as_days_and_a_clock(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_without_a_terminal_there_is_a_line_a_minute_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    now_s = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    with Progress("tokenising", total=100, unit="MB") as shown:
        for _ in range(5):
            now_s += 25
            shown.advance(10, tokens=5_000)
    assert caplog.messages == [
        # Logged at 75 s, the first call past a minute; the next would be due at 135 s.
        "tokenising: 30.0 % of 100.0 MB, 400.0 kB/s  200 tokens/s, 00:01:15 gone, 00:02:55 left",
        "tokenising: 50.0 % of 100.0 MB, 400.0 kB/s  200 tokens/s, 00:02:05 gone, 00:02:05 left",
    ]


def test_an_error_is_not_followed_by_a_line_that_looks_like_an_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    with pytest.raises(RuntimeError), Progress("work", total=2, unit="files") as shown:
        shown.advance(1)
        raise RuntimeError
    assert caplog.messages == []


def test_more_work_than_the_estimate_leaves_no_negative_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    now_s = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    for total in (10, 0):
        shown = Progress("work", total=total, unit="files")
        now_s += 50
        shown.advance(25)
        assert shown.line().endswith(" gone, 00:00:00 left")


def test_no_work_yet_has_no_rate_to_divide_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert Progress("work", total=10, unit="files").line().startswith("work: 0.0 % of 10 files")


@pytest.mark.parametrize(
    ("total", "done", "unit", "said"),
    [
        (0, 0, "MB", "nothing to do"),
        (1, 1, "files", "100.0 % of 1 file, 0.10 files/s"),
        (0.000_34, 0.000_34, "MB", "100.0 % of 340 bytes, 34 bytes/s"),
        (0.04, 0.02, "MB", "50.0 % of 40.0 kB, 2.0 kB/s"),
        (2_500_000, 1_250_000, "MB", "50.0 % of 2.5 TB, 125.0 GB/s"),
        (30, 15, "images", "50.0 % of 30 images, 1.5 images/s"),
        (30, 0.5, "images", "1.7 % of 30 images, 0.05 images/s"),
        (25_000, 20_000, "rows", "80.0 % of 25,000 rows, 2,000 rows/s"),
        (10, 25, "files", "100.0 % of 25 files, 2.5 files/s"),
    ],
)
def test_counts_are_whole_and_bytes_have_the_unit_of_their_size(
    total: float, done: float, unit: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    now_s = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    shown = Progress("work", total=total, unit=unit)
    now_s += 10
    shown.advance(done)
    assert shown.line().partition(": ")[2].startswith(said)


def on_terminal(
    work: str, columns: int, *, term: str = "xterm", interrupt_after: bytes = b""
) -> str:
    """Return what a process wrote to a terminal so wide, interrupted after it wrote some bytes."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment["TERM"] = term
    process = subprocess.Popen([sys.executable, "-c", work], stderr=writer, env=environment)
    os.close(writer)
    shown = b""
    while True:
        try:
            shown += os.read(reader, 65_536)
        except OSError:  # the other end was closed
            break
        if interrupt_after and interrupt_after in shown:
            interrupt_after = b""
            shown += b"^C"  # as the terminal shows it
            process.send_signal(signal.SIGINT)
    os.close(reader)
    assert process.wait(timeout=10) == 0
    return shown.decode()


def screen(written: str) -> list[str]:
    """Return the lines that stand on the terminal in the end."""
    lines, row = [""], 0
    for part in re.split(r"(\r|\n|\x1b\[[0-9;?]*[A-Za-z])", written):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\r" or part.startswith("\x1b"):
            pass  # whatever is written after a return, here, erases the line first
        else:
            lines[row] += part
    return [line for line in lines if line]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (200, r"tokenising  ━+  100\.0 %  [\d.]+ MB/s  [\d,]+ tokens/s  00:00:00 left"),
        (80, r"tokenising  ━+  100\.0 %  [\d.]+ MB/s  [\d,]+ tokens/s  00:00:00 left"),
        (50, r"tokenising  ━+  100\.0 %  00:00:00 left"),
        (40, r"tokenising  100\.0 %  00:00:00 left"),
        (30, r"tok…  100\.0 %  00:00:00 left"),
    ],
)
def test_on_a_terminal_there_is_one_line_that_fits_with_the_time_left(
    columns: int, line: str
) -> None:
    written = screen(on_terminal(WORK, columns))
    assert len(written) == 1 and re.fullmatch(line, written[0]), written
    assert len(written[0]) <= columns - len("^C")


def test_a_message_stands_above_the_bar() -> None:
    first, last = screen(
        on_terminal(MESSAGE + WORK.replace("0.12", "0.12); log.warning('bad'"), 80)
    )[-2:]
    assert first.endswith(" W bad") and last.startswith("tokenising  ━")


def test_a_dumb_terminal_gets_lines() -> None:
    written = on_terminal(MESSAGE + WORK, 80, term="dumb")
    assert "\x1b" not in written and written.count("tokenising") == 1
    assert "I tokenising: 100.0 % of 4.0 MB" in written


def test_ctrl_c_leaves_no_bar_but_its_answer_and_the_cursor() -> None:
    work = WORK.replace("range(4)", "range(400)").replace("total=4", "total=400")
    interruptible = f"""
from mobilellama.signals import answering
def work():
{textwrap.indent(work, "    ")}
with answering("finished buckets stay"):
    try:
        work()
    except KeyboardInterrupt:
        pass
"""
    written = on_terminal(interruptible, 80, interrupt_after=b"MB/s")
    assert screen(written) == ["mobilellama: interrupted: finished buckets stay"]
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")


NESTED = """
from mobilellama import terminal
from mobilellama.progress import Progress
with Progress("outer", total=2, unit="steps") as outer:
    outer.advance(1)
    for name in ("first", "second"):
        with Progress(name, total=1, unit="files") as inner:
            inner.advance(1)
        assert terminal.has_live_line  # the outer one is drawn again
    log.warning("bad")
    outer.advance(1)
assert not terminal.has_live_line
"""


def test_a_bar_within_another_takes_its_line_and_gives_it_back() -> None:
    written = screen(on_terminal(MESSAGE + NESTED, 80))
    first, second, message, outer = written
    assert first.startswith("first  ━") and second.startswith("second  ━"), written
    assert message.endswith(" W bad") and outer.startswith("outer  ━") and "100.0 %" in outer


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "file", "0 files"),
        (1, "file", "1 file"),
        (2_000, "file", "2,000 files"),
        (1, "micro-batch", "1 micro-batch"),
        (2, "micro-batch", "2 micro-batches"),
        (2, "worker process", "2 worker processes"),
    ],
)
def test_one_thing_is_counted_in_the_singular(count: int, noun: str, text: str) -> None:
    assert format_count(count, noun) == text
