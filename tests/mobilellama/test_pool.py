"""Work shared out among processes: order, little held, errors, kills and Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mobilellama.config import ConfigError, UserError
from mobilellama.pool import Lost, Tell, Workers

# Works for ever with two processes, whose numbers it prints; Ctrl-C ends it with code 130.
ENDLESS = """
import itertools, os, sys, time
from mobilellama.pool import Workers

def number(item):
    time.sleep(0.05 if item < 40 else 60)
    return os.getpid()

if __name__ == "__main__":
    try:
        with Workers(2, doing="counting") as workers:
            for _, process in workers.map(number, itertools.count()):
                print(process, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def late_if_early(number: int) -> int:
    """Square a number, the first ones last."""
    time.sleep(0.2 if number == 0 else 0.0)
    return number * number


def where(number: int) -> int:
    del number
    return os.getpid()


def refuse_seven(number: int) -> int:
    if number == 7:
        raise ConfigError("number", number, "is seven", "Give another")
    return number


def die_at_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("count", [0, 1, 2])
def test_results_come_in_the_order_of_the_work_on_any_number_of_processes(count: int) -> None:
    with Workers(count, doing="squaring") as workers:
        assert list(workers.map(late_if_early, range(20))) == [(i, i * i) for i in range(20)]


def test_processes_serve_one_work_after_another_and_one_is_this_process() -> None:
    with Workers(2, doing="looking") as workers:
        first = {process for _, process in workers.map(where, range(40))}
        second = {process for _, process in workers.map(where, range(40))}
        assert list(workers.map(where, ())) == []
    assert len(first | second) <= 2 and os.getpid() not in first | second
    with Workers(1, doing="looking") as workers:
        assert {process for _, process in workers.map(where, range(3))} == {os.getpid()}


@pytest.mark.parametrize(("count", "ahead"), [(1, 1), (2, 9)])
def test_items_are_read_only_a_few_ahead_of_what_is_taken(count: int, ahead: int) -> None:
    """Two processes have four items each under way when the first is waited for."""
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1_000):
            read.append(number)
            yield number

    with Workers(count, doing="reading") as workers:
        made = workers.map(late_if_early, items())
        assert read == []
        for number in range(3):
            assert next(made) == (number, number * number)
            assert len(read) == ahead + number


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_the_work_comes_through_after_the_results_before_it(count: int) -> None:
    seen = []
    with pytest.raises(ConfigError) as caught, Workers(count, doing="reading") as workers:
        seen.extend(number for number, _ in workers.map(refuse_seven, range(100)))
    assert caught.value.args == ("number", 7, "is seven", "Give another")
    assert seen == [0, 1, 2, 3, 4, 5, 6]


def rest_or_refuse(number: int) -> int:
    if number == 1:
        raise ConfigError("number", number, "is one", "Give another")
    time.sleep(60)
    return number


def test_after_an_error_nobody_waits_for_what_is_under_way() -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError), Workers(2, doing="resting") as workers:
        list(workers.map(rest_or_refuse, [1, 2, 3, 4]))
    assert time.monotonic() - started < 30


def test_an_error_of_the_items_comes_through_and_the_processes_end() -> None:
    def items() -> Iterator[int]:
        yield from range(20)
        raise ConfigError("items", 20, "is too many", "Give fewer")

    with pytest.raises(ConfigError, match="is too many"), Workers(2, doing="reading") as workers:
        list(workers.map(late_if_early, items()))


def test_a_killed_process_ends_the_work_and_names_the_item() -> None:
    with pytest.raises(UserError) as caught:
        with Workers(2, doing="counting", remedy="Give fewer --workers") as workers:
            list(workers.map(die_at_seven, range(100), near=lambda number: f"item {number}"))
    assert str(caught.value) == (
        "a worker process was killed while counting, near item 7; was memory short? "
        "Give fewer --workers"
    )


def leave_at_seven(number: int) -> int:
    if number == 7:
        os._exit(3)
    return number


def abort_at_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number


@pytest.mark.parametrize(
    ("work", "end"),
    [(leave_at_seven, "left with code 3"), (abort_at_seven, "was killed by SIGSEGV")],
)
def test_only_a_process_that_was_killed_outright_makes_one_ask_for_memory(
    work: Callable[[int], int], end: str
) -> None:
    with pytest.raises(UserError) as caught, Workers(2, doing="counting") as workers:
        list(workers.map(work, range(100)))
    assert str(caught.value) == (
        f"a worker process {end} while counting. Run the same command again"
    )


class TwoWordsError(Exception):
    """Takes more arguments than it keeps, as errors of libraries do."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fail_with_two_words(number: int) -> int:
    raise TwoWordsError("first", f"second{number}")


def fail_with_a_lock(number: int) -> int:
    raise ValueError("locked", number, threading.Lock())


@pytest.mark.parametrize(
    ("work", "name", "text"),
    [
        (fail_with_two_words, "TwoWordsError", "first second0"),
        (fail_with_a_lock, "ValueError", "locked"),
    ],
)
def test_an_error_that_cannot_be_sent_is_told_with_its_stack(
    work: Callable[[int], int], name: str, text: str
) -> None:
    with pytest.raises(RuntimeError) as caught, Workers(2, doing="failing") as workers:
        list(workers.map(work, range(3)))
    assert str(caught.value).startswith(f"{name}, which cannot be sent back:")
    assert text in str(caught.value) and work.__name__ in str(caught.value)


def die_while_sending(delay_s: float) -> bytes:
    """Return what takes longer to send than its process lives."""
    threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(128 << 20)


@pytest.mark.parametrize("delay_s", [0.01, 0.06, 0.12])
def test_a_process_killed_in_the_middle_of_its_result_is_noticed_too(delay_s: float) -> None:
    """The delays meet the copying of the result, and its way through the pipe."""
    with pytest.raises(UserError, match="was killed while sending"):
        with Workers(2, doing="sending") as workers:
            list(workers.map(die_while_sending, [delay_s] * 8))


def give_a_lambda(number: int) -> object:
    return lambda: number


def test_what_cannot_be_sent_is_an_error_and_no_hang() -> None:
    with Workers(2, doing="sending") as workers:
        with pytest.raises(TypeError, match=r"give_a_lambda.* cannot be sent back"):
            list(workers.map(give_a_lambda, range(3)))
        assert list(workers.map(late_if_early, [3])) == [(3, 9)]  # it goes on with other work


def say_and_square(number: int, tell: Tell) -> int:
    tell(("half", number))
    time.sleep(0.3 if number == 0 else 0.0)
    if number == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    if number == 5:
        os._exit(4)
    tell(("all", number))
    return number * number


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_process_costs_each_one_item_and_tells_its_number_and_signal(count: int) -> None:
    news: list[tuple[str, int]] = []
    with Workers(count, doing="squaring") as workers:
        made = dict(workers.each(say_and_square, range(8), on_news=news.append))
        pids = workers.pids
    squares = {number: end for number, end in made.items() if not isinstance(end, Lost)}
    assert squares == {number: number * number for number in (0, 1, 2, 4, 6, 7)}
    killed, left = made[3], made[5]
    assert isinstance(killed, Lost) and (killed.signal_name, killed.exit_code) == ("SIGTERM", -15)
    assert isinstance(left, Lost) and (left.signal_name, left.exit_code) == (None, 4)
    assert {killed.pid, left.pid} <= pids and os.getpid() not in pids
    assert len(pids) == count + 2  # two took the places of those that are gone
    halves = {number for kind, number in news if kind == "half"}
    assert halves == set(range(8))  # news of lost items came through before their end
    assert {number for kind, number in news if kind == "all"} == set(squares)


def test_each_gives_what_ends_first_and_takes_the_next_item_when_a_process_is_free() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in (0, 1, 2, 4):
            taken.append(number)
            yield number

    with Workers(2, doing="squaring") as workers:
        ends = workers.each(say_and_square, items(), on_news=lambda news: None)
        first = next(ends)
        assert (first, taken) == ((1, 1), [0, 1])  # 0 sleeps
        assert sorted([first, *ends]) == [(0, 0), (1, 1), (2, 4), (4, 16)]


def refuse_with_news(number: int, tell: Tell) -> int:
    del tell
    return refuse_seven(number)


def test_an_error_of_the_work_comes_through_each_too() -> None:
    with pytest.raises(ConfigError, match="is seven"), Workers(2, doing="reading") as workers:
        list(workers.each(refuse_with_news, range(100), on_news=lambda news: None))


def begin_endless(folder: Path) -> tuple[subprocess.Popen[str], set[int]]:
    """Start the work that never ends; return it, and its processes once both are at work."""
    script = folder / "endless.py"
    script.write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    found: set[int] = set()
    while len(found) < 2:
        found.add(int(process.stdout.readline()))
    return process, found


def test_ctrl_c_ends_the_processes_and_prints_nothing(tmp_path: Path) -> None:
    process, workers = begin_endless(tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_the_processes_end_with_their_parent(tmp_path: Path) -> None:
    process, workers = begin_endless(tmp_path)
    process.kill()
    process.communicate(timeout=30)  # its pipes are the workers' too, and close with the last
    limit = time.monotonic() + 10
    while any(is_alive(worker) for worker in workers) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not any(is_alive(worker) for worker in workers)


def is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
