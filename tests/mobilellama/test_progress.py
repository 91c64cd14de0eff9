"""Progress: a line where there is no terminal, a bar where there is one."""

import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from mobilellama import progress
from mobilellama.progress import Progress, format_duration

WORK = """
import time
from mobilellama.progress import Progress
with Progress("tokenising", total=4, unit="MB") as bar:
    for _ in range(4):
        bar.advance(1, tokens=1000)
        time.sleep(0.12)
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
        "tokenising: 30.0 % of 100.0 MB, 0.4 MB/s  200 tokens/s, 00:01:15 gone, 00:02:55 left",
        "tokenising: 50.0 % of 100.0 MB, 0.4 MB/s  200 tokens/s, 00:02:05 gone, 00:02:05 left",
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
    assert Progress("work", total=10, unit="files").line().startswith("work: 0.0 % of 10.0 files")


def test_on_a_terminal_there_is_a_bar_with_rates_and_time_left() -> None:
    reader, writer = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", WORK], stderr=writer, env=environment)
    os.close(writer)
    shown = b""
    while True:
        try:
            shown += os.read(reader, 65_536)
        except OSError:  # the other end was closed
            break
    os.close(reader)
    assert process.wait(timeout=10) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    last = re.split(r"[\r\n]+", text.strip())[-1]
    assert re.search(r"tokenising ━+ +100\.0 % [\d.]+ MB/s +[\d,]+ tokens/s +0:00:00 left", last), (
        last
    )
