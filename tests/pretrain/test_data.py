"""Batches against the order and the bucket files by hand."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilellama.pretrain.data import (
    _LOCATED_AT_ONCE,
    MixedBatches,
    Sample,
    StepBatch,
    WindowInputs,
    document_lengths,
    positions_in_documents,
)
from mobilellama.shards.mixture import PERIOD, Mixture
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
        WindowInputs(seq_len=SEQ_LEN, eos_id=2 if per_document else None),
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


def test_a_step_s_batch_does_not_depend_on_which_steps_are_located_with_it(
    order: tuple[Mixture, Mapping[str, View]],
) -> None:
    """Steps are located many at once; these begin on both sides of where such a table ends."""
    mixture, windows = order
    reader, own = batches(order, rank=3, world_size=4), BATCH // 4
    ends = [_LOCATED_AT_ONCE // own * BATCH, PERIOD, 5 * PERIOD]
    for position in [end + shift for end in ends for shift in (-BATCH - 5, -BATCH, -3, 0, 7)]:
        located = mixture.locate(position + np.arange(BATCH - own, BATCH))
        pairs = zip(located.subset.tolist(), located.sample.tolist(), strict=True)
        expected = [windows[mixture.subsets[i]].tokens(j).tolist() for i, j in pairs]
        got = joined([reader.at(position)])
        assert got["groups"].tolist() == located.subset.tolist()
        assert got["input_ids"].tolist() == [ids[:-1] for ids in expected]
        assert got["labels"].tolist() == [ids[1:] for ids in expected]


def test_a_batch_can_be_written_to_without_changing_what_is_read_next(
    order: tuple[Mixture, Mapping[str, View]],
) -> None:
    reader, kept = batches(order), joined([batches(order).at(0)])
    for micro in reader.at(0).micro_batches:
        micro.groups.fill_(-1)
        for value in micro.inputs.values():
            value.fill_(-1)
    again = joined([reader.at(0)])
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_a_rank_of_pretraining_locates_no_other_rank_s_samples() -> None:
    def others() -> Iterator[Sample]:
        raise AssertionError("a sample is looked at")
        yield

    assert WindowInputs(seq_len=SEQ_LEN, eos_id=None).supervised_tokens(others(), 5) == 5 * SEQ_LEN


@pytest.mark.parametrize(
    ("ids", "lengths", "positions"),
    [
        # 2 is EOS. It belongs to the document that it ends.
        ([[7, 2, 8, 9, 2, 5]], [2, 3, 1], [0, 1, 0, 1, 2, 0]),
        ([[7, 8, 9]], [3], [0, 1, 2]),
        ([[7, 8, 2]], [3], [0, 1, 2]),  # the next document's first token is not here
        ([[2, 2, 2]], [1, 1, 1], [0, 0, 0]),
        # A sample ends the document that it cuts; the next sample begins at 0.
        ([[7, 2, 8], [9, 5, 6]], [2, 1, 3], [0, 1, 0, 0, 1, 2]),
        ([[7, 8, 2], [2, 5, 6]], [3, 1, 2], [0, 1, 2, 0, 0, 1]),
    ],
)
def test_positions_count_from_the_start_of_each_document(
    ids: list[list[int]], lengths: list[int], positions: list[int]
) -> None:
    ends = np.array(ids) == 2
    assert document_lengths(ends).tolist() == lengths
    assert positions_in_documents(lengths).tolist() == positions
    assert (ends == (np.array(ids) == 2)).all()  # what is given is not changed
