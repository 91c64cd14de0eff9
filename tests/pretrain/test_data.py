"""Batches against the order and the bucket files by hand; the prefetcher against no prefetcher."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilellama.config import DataError
from mobilellama.pretrain.data import MicroBatch, MixedBatches, StepBatch, WindowInputs
from mobilellama.pretrain.prefetch import Prefetcher
from mobilellama.shards.mixture import Mixture
from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.windows import View

SEQ_LEN, BATCH, POSITION = 48, 16, 160
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def order(small_dataset: object) -> tuple[Mixture, Mapping[str, View]]:
    dataset = TokenDataset(str(small_dataset))
    return open_order(dataset, seq_len=SEQ_LEN, mixture=None, seed=7)


def batches(
    order: tuple[Mixture, Mapping[str, View]],
    *,
    rank: int = 0,
    world_size: int = 1,
    micro_batch_size: int = 4,
    per_document: bool = True,
) -> MixedBatches:
    return MixedBatches(
        *order,
        WindowInputs(per_document=per_document),
        global_batch_size=BATCH,
        micro_batch_size=micro_batch_size,
        rank=rank,
        world_size=world_size,
    )


def joined(parts: list[StepBatch]) -> dict[str, Tensor]:
    """All ranks' micro-batches, end to end."""
    micro = [micro for part in parts for micro in part.micro_batches]
    names = micro[0].inputs
    return {
        **{name: torch.cat([one.inputs[name] for one in micro]) for name in names},
        "groups": torch.cat([one.groups for one in micro]),
    }


def assert_same(one: StepBatch, other: StepBatch) -> None:
    assert one.first_position == other.first_position
    a, b = joined([one]), joined([other])
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_batch_is_the_windows_at_its_positions(
    order: tuple[Mixture, Mapping[str, View]], small_dataset: Path
) -> None:
    mixture, windows = order
    batch = batches(order).at(POSITION)
    got = joined([batch])
    assert (batch.first_position, batch.num_samples) == (POSITION, BATCH)
    assert batch.supervised_tokens == BATCH * SEQ_LEN == got["labels"].numel()
    assert got["input_ids"].dtype == got["labels"].dtype == got["groups"].dtype == torch.int64
    dataset = TokenDataset(small_dataset)
    for i in range(BATCH):
        located = mixture.locate(POSITION + i)
        subset = mixture.subsets[int(located.subset)]
        span = windows[subset].span(int(located.sample))
        raw = np.fromfile(
            dataset.folder / f"{span.bucket}.bin",
            dtype="<u2",
            count=SEQ_LEN + 1,
            offset=2 * span.start,
        ).astype(np.int64)
        assert got["input_ids"][i].tolist() == raw[:-1].tolist()
        assert got["labels"][i].tolist() == raw[1:].tolist()
        assert batches(order).group_names[int(got["groups"][i])] == subset


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_and_micro_batches_do_not_change_the_global_batch(
    order: tuple[Mixture, Mapping[str, View]], world_size: int, micro_batch_size: int
) -> None:
    whole = joined([batches(order).at(POSITION)])
    parts = [
        batches(order, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size).at(
            POSITION
        )
        for rank in range(world_size)
    ]
    again = joined(parts)
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    for part in parts:
        assert {len(micro.groups) for micro in part.micro_batches} == {micro_batch_size}
        assert len(part.micro_batches) == BATCH // world_size // micro_batch_size
        assert part.supervised_tokens == BATCH * SEQ_LEN  # of all ranks


def test_positions_restart_after_each_eos(order: tuple[Mixture, Mapping[str, View]]) -> None:
    some = joined([batches(order).at(position) for position in range(0, 40 * BATCH, BATCH)])
    restarts = 0
    for ids, positions in zip(some["input_ids"], some["position_ids"], strict=True):
        expected = 0
        for token, position in zip(ids.tolist(), positions.tolist(), strict=True):
            assert position == expected
            expected = 0 if token == 2 else expected + 1
        restarts += int((positions[1:] == 0).sum())
    assert restarts > 20  # the documents are short enough that this says something


def test_causal_batches_have_no_positions(order: tuple[Mixture, Mapping[str, View]]) -> None:
    inputs = batches(order, per_document=False).at(0).micro_batches[0].inputs
    assert inputs.keys() == {"input_ids", "labels"}


@pytest.mark.parametrize("start", [0, 5 * BATCH, 3])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_any_number_of_reader_threads_gives_the_same_batches_in_order(
    order: tuple[Mixture, Mapping[str, View]], workers: int, start: int
) -> None:
    source = batches(order)
    ahead = Prefetcher(source, position=start, workers=workers, device=CPU)
    try:
        for step in range(12):
            assert_same(ahead.next(), source.at(start + step * BATCH))
    finally:
        ahead.close()


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
