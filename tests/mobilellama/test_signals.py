"""Signals: a line at once whatever the process does, a tidy end, and a second Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mobilellama import signals

# A call of C's that lets other threads run and that no signal breaks off, as an import of torch, a
# matrix product or a collective: Python runs no handler before its end.
BUSY = """
import hashlib, os, signal, sys, time
from mobilellama import signals
with signals.answering("what is kept", noting=NOTING):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 60_000_000)
    print("done", flush=True)
"""


def started(script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("noting", [True, False])
def test_a_long_call_is_answered_in_its_midst_and_left_by_a_second_ctrl_c(noting: bool) -> None:
    process = started(BUSY.replace("NOTING", str(noting)))
    assert process.stderr is not None
    time.sleep(0.5)  # it is in the call
    process.send_signal(signal.SIGINT)
    again = "asked to stop by Ctrl-C: what is kept; once more to leave now"
    said = again if noting else "interrupted: what is kept"
    assert process.stderr.readline() == f"mobilellama: {said}\n"
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (out, process.returncode) == ("", 130)  # not "done"
    saved = ", without a checkpoint" if noting else ""
    assert err == f"mobilellama: second Ctrl-C: leaving at once{saved}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_that_leaves_nothing_behind_is_left_at_once(number: signal.Signals) -> None:
    script = BUSY.replace("NOTING", "False").replace(
        "hashlib.pbk", "with signals.leaving_at_once(): hashlib.pbk"
    )
    process = started(script)
    time.sleep(0.5)  # it is in the call
    process.send_signal(number)
    out, err = process.communicate()
    assert (out, process.returncode) == ("", 128 + number)
    assert err == "mobilellama: interrupted: what is kept\n"


def test_a_signal_ends_such_a_call_even_if_the_thread_that_reads_signals_is_late() -> None:
    script = (
        "import signal\n"
        "from mobilellama import signals\n"
        "with signals.answering('what is kept') as answer:\n"
        "    answer.hear = lambda number: None  # a busy machine: it looks when all is over\n"
        "    print('ready', flush=True)\n"
        "    with signals.leaving_at_once(): signal.raise_signal(signal.SIGINT)\n"
        "    print('went on')\n"
    )
    process = started(script)
    out, err = process.communicate()
    assert (out, process.returncode) == ("", 130)
    assert err == "mobilellama: interrupted: what is kept\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_does_not_look_is_ended_by_an_exception_and_cleans_up(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals.answering("what is kept") as answer:
        os.kill(os.getpid(), number)
    assert answer.reason == number.name
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err == "mobilellama: interrupted: what is kept\n"


@pytest.mark.parametrize("number", signals.STOPS)
def test_work_that_looks_for_itself_is_not_disturbed(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with signals.answering("saving", noting=True) as answer:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGUSR2)
    assert answer.reason == number.name  # the first one's, told once
    assert capsys.readouterr().err.count("mobilellama: asked to stop by") == 1


def test_long_work_is_broken_off_once_and_what_follows_is_not() -> None:
    with signals.answering("stopping", noting=True):
        cleaned = False
        with pytest.raises(signals.StoppedError), signals.breaking_off():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                cleaned = True
        assert cleaned
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(signals.StoppedError), signals.breaking_off():
            raise AssertionError("a stop was asked for before it began")


def test_a_request_from_a_thread_breaks_off_a_wait() -> None:
    with signals.answering("stopping", noting=True) as answer:
        asks = threading.Timer(0.2, answer.ask_from_thread, ["the file RUN/stop"])
        asks.start()
        with pytest.raises(signals.StoppedError), signals.breaking_off():
            time.sleep(60)
        asks.join()
    assert answer.reason == "the file RUN/stop"


def test_a_verb_that_answers_ctrl_c_itself_is_not_spoken_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with signals.answering("outer"), signals.answering(None):
        former = signal.signal(signal.SIGINT, lambda *_: None)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        signal.signal(signal.SIGINT, former)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err == ""


def test_what_came_in_the_start_is_known_to_the_work_that_follows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with signals.answering(signals.BEFORE_STEPS, noting=True):
        os.kill(os.getpid(), signal.SIGTERM)
        with signals.answering("saving", noting=True) as inner:
            assert inner.reason == "SIGTERM"
    assert capsys.readouterr().err.count("\n") == 1


def test_a_ctrl_c_that_a_script_ignores_stays_ignored() -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.answering("what is kept") as answer:
            os.kill(os.getpid(), signal.SIGINT)
        assert answer.reason is None
    finally:
        signal.signal(signal.SIGINT, former)


def test_a_forked_process_dies_of_its_own_signal_and_the_parent_does_not_hear_of_it() -> None:
    with signals.answering("saving", noting=True) as answer:
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        time.sleep(0.1)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert answer.reason is None


HELD_BACK = """
import os, signal, time
from mobilellama import signals
print("ready", flush=True)
with signals.answering("what is kept"):
    with signals.ctrl_c_held_back():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        print("held back", flush=True)
    print("not answered", flush=True)
"""


def test_a_ctrl_c_that_is_held_back_comes_at_the_end() -> None:
    """Though a thread listens: the signal is the process's, and its main thread holds it back."""
    process = started(HELD_BACK)
    out, err = process.communicate()
    assert out == "held back\n"
    assert err.startswith("mobilellama: interrupted: what is kept\n")


MADE = Path(__file__).parents[1] / "fixtures/made_by_22bff75"
VERBS = [
    "tokenize run --tokenizer MADE/dataset/tokenizer.model --sources.root MADE/corpus --output OUT",
    "tokenize train-tokenizer --sources.root MADE/corpus --output OUT --vocab_size 400",
    "shards verify MADE/dataset",
    "pretrain export --checkpoint MADE/run --output OUT",
    "pretrain evaluate MADE/model --output OUT",
    "sft prepare MADE/chats.json --tokenizer MADE/dataset/tokenizer.model --output OUT",
    "sft merge --checkpoint MADE/chat_run --output OUT",
    "sft generate MADE/model --input MADE/chats.json --output OUT",
    "sft evaluate MADE/chat_run --output OUT",
    "vlm check-data MADE/records.json --images MADE/images --output OUT",
    "vlm export --checkpoint MADE/see_run --output OUT",
    "vlm import MADE/see_model --output OUT",
    "vlm generate MADE/see_model --input MADE/records.json --output OUT",
    "vlm evaluate --tasks all --data MADE --model MADE/see_model --output OUT",
]


@pytest.mark.slow
@pytest.mark.parametrize("words", VERBS, ids=[" ".join(words.split()[:2]) for words in VERBS])
def test_every_long_verb_answers_ctrl_c_at_once_and_leaves_nothing(
    tmp_path: Path, words: str
) -> None:
    filled = words.replace("MADE", str(MADE)).replace("OUT", str(tmp_path / "out"))
    process = subprocess.Popen(
        [sys.executable, "-m", "mobilellama", *filled.split()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    status = Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().split("SigCgt:")[1].split()[0], 16) >> 14 & 1:  # SIGTERM
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.05)  # in the imports
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert re.fullmatch(r"mobilellama: interrupted: [^\n]+\n", err), err
    assert "Traceback" not in err and out == ""
    assert [path for path in tmp_path.iterdir() if ".tmp" in path.name] == []
