"""Batches against the order and the bucket files by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilellama.pretrain.data import MixedBatches, StepBatch, WindowInputs
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
