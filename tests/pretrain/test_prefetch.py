"""The prefetcher against no prefetcher: order, errors, waiting and the end of its threads."""

import threading
import time

import pytest
import torch

from mobilellama.config import DataError
from mobilellama.pretrain.data import MicroBatch, StepBatch
from mobilellama.pretrain.prefetch import Prefetcher, read_in_order

CPU = torch.device("cpu")


class Recorded:
    """Batches that are nothing but their position; reading can be slow, blocked or fail."""

    group_names: tuple[str, ...] = ("only",)

    def __init__(self, *, fail_at: int | None = None, slow: bool = False) -> None:
        self.read: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self._fail_at, self._slow = fail_at, slow

    def at(self, position: int) -> StepBatch:
        self.read.append(position)
        self.gate.wait(10)
        if self._slow:  # later positions are read faster than earlier ones
            time.sleep(0.02 * (3 - position // 2 % 4))
        if position == self._fail_at:
            raise DataError(f"bad bucket at {position}")
        micro = MicroBatch(
            inputs={"input_ids": torch.tensor([[position]])}, groups=torch.zeros(1).long()
        )
        return StepBatch(
            micro_batches=[micro],
            supervised_tokens=1,
            first_position=position,
            num_samples=2,
            tokens=2,
        )

    def num_samples(self, position: int) -> int:
        return 2

    def steps_left(self, position: int) -> int:
        raise NotImplementedError("these go on for ever")


@pytest.mark.parametrize("start", [0, 10, 3])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_any_number_of_reader_threads_gives_the_same_batches_in_order(
    workers: int, start: int
) -> None:
    source = Recorded()
    ahead = Prefetcher(source, position=start, workers=workers, device=CPU)
    taken = [ahead.next() for _ in range(12)]
    ahead.close()
    assert [batch.first_position for batch in taken] == list(range(start, start + 24, 2))
    for batch in taken:
        expected = source.at(batch.first_position).micro_batches[0].inputs["input_ids"]
        assert torch.equal(batch.micro_batches[0].inputs["input_ids"], expected)


def test_batches_come_in_order_though_later_ones_are_read_faster() -> None:
    ahead = Prefetcher(Recorded(slow=True), position=0, workers=4, device=CPU)
    assert [ahead.next().first_position for _ in range(8)] == list(range(0, 16, 2))
    ahead.close()


def test_only_as_many_batches_as_workers_are_read_ahead() -> None:
    source = Recorded()
    ahead = Prefetcher(source, position=10, workers=3, device=CPU)
    ahead.next()
    ahead.close()  # waits for what is being read
    assert set(source.read) <= {10, 12, 14, 16} and source.read.count(10) == 1
    idle = Recorded()
    Prefetcher(idle, position=10, workers=0, device=CPU).close()
    assert idle.read == []


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_error_in_a_reader_reaches_the_loop_at_its_own_step(workers: int) -> None:
    ahead = Prefetcher(Recorded(fail_at=4), position=0, workers=workers, device=CPU)
    assert [ahead.next().first_position for _ in range(2)] == [0, 2]
    with pytest.raises(DataError, match="bad bucket at 4"):
        ahead.next()
    ahead.close()


def test_the_time_that_the_loop_waits_is_counted() -> None:
    source = Recorded()
    source.gate.clear()
    ahead = Prefetcher(source, position=0, workers=1, device=CPU)
    threading.Timer(0.2, source.gate.set).start()
    ahead.next()
    waited_s = ahead.wait_s
    assert 0.1 < waited_s < 5
    time.sleep(0.1)  # the next batch is read meanwhile
    ahead.next()
    ahead.close()
    assert ahead.wait_s - waited_s < 0.1


def test_close_leaves_no_thread_and_does_not_hang_on_batches_never_taken() -> None:
    before = threading.active_count()
    ahead = Prefetcher(Recorded(slow=True), position=0, workers=4, device=CPU)
    closing = threading.Thread(target=ahead.close)
    closing.start()
    closing.join(5)
    assert not closing.is_alive()
    assert threading.active_count() == before


def test_items_are_read_ahead_in_order_and_no_further() -> None:
    read, enough = list[int](), threading.Event()

    def one(item: int) -> dict[str, torch.Tensor]:
        read.append(item)
        if item == 2:
            enough.set()
        return {"input_ids": torch.tensor([item])}

    batches = read_in_order(one, range(9), device=CPU, ahead=2)
    assert read == []  # nothing before the first is asked for
    assert next(batches)["input_ids"].tolist() == [0]
    assert enough.wait(10)  # 1 and 2, although nobody has asked for them
    time.sleep(0.05)
    assert read == [0, 1, 2]
    assert [batch["input_ids"].item() for batch in batches] == list(range(1, 9))
    assert read == list(range(9))


def test_an_item_that_cannot_be_read_is_an_error_at_its_turn_and_ends_the_thread() -> None:
    def one(item: int) -> dict[str, torch.Tensor]:
        if item == 2:
            raise DataError("bad image")
        return {"input_ids": torch.tensor([item])}

    batches = read_in_order(one, range(9), device=CPU)
    assert [next(batches)["input_ids"].item() for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match="bad image"):
        next(batches)
    left = read_in_order(one, [0, 1], device=CPU)
    next(left)
    left.close()
    assert not [it for it in threading.enumerate() if it.name.startswith("read-ahead")]
