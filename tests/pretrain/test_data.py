"""Batches against the order and the bucket files by hand."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilellama.pretrain.data import (
    _LOCATED_AT_ONCE,
    _PERIODS_AT_ONCE,
    MicroBatch,
    MixedBatches,
    Sample,
    StepBatch,
    WindowInputs,
    document_bounds,
    positions_in_documents,
)
from mobilellama.shards.dataset import Plan, bucket_name, read_receipt
from mobilellama.shards.format import write_index
from mobilellama.shards.manifest import write_dataset
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
    whole = {
        name: torch.cat([one.inputs[name] for one in micro]) for name in ("input_ids", "labels")
    }
    if "document_bounds" in micro[0].inputs:
        whole["position_ids"] = torch.cat([positions(one) for one in micro])
    return {**whole, "groups": torch.cat([one.groups for one in micro])}


def positions(micro: MicroBatch) -> Tensor:
    """Count from each bound to the next, one token after another."""
    bounds, shape = micro.inputs["document_bounds"].tolist(), micro.inputs["input_ids"].shape
    counted = [torch.arange(end - start) for start, end in pairwise(bounds)]
    return torch.cat(counted).view(shape)


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


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_documents_begin_where_the_idx_says(
    dtype: str, tmp_path: Path, small_dataset: Path
) -> None:
    """The real ids of a dataset, in both widths; most windows begin within a document."""
    dataset = TokenDataset(widened(small_dataset, tmp_path) if dtype == "int32" else small_dataset)
    inputs = WindowInputs(seq_len=SEQ_LEN, eos_id=dataset.identity.eos_id)
    begun_within = found = 0
    for subset in dataset.subsets:
        windows = dataset.windows(subset, SEQ_LEN)
        assert windows.tokens(0).dtype == dtype
        for i in range(0, len(windows) - 1, max(1, len(windows) // 300)):
            expected = [0]
            for row, span in enumerate((windows.span(i), windows.span(i + 1))):
                starts = dataset.bucket_index(span.bucket).starts - span.start
                inside = starts[(starts > 0) & (starts < SEQ_LEN)] + row * SEQ_LEN
                expected += [*inside.tolist(), (row + 1) * SEQ_LEN]
                begun_within += int(0 not in starts)
                found += len(inside)
            got = inputs.stack([(windows, i), (windows, i + 1)])["document_bounds"]
            assert got.dtype == torch.int32  # what the variable-length kernels take
            assert got.tolist() == expected
    assert begun_within > 100 and found > 20, "the documents are short and long enough to say so"


def widened(folder: Path, to: Path) -> Path:
    """Write the dataset again in int32, as vocabularies above 65,500 pieces have it."""
    dataset = TokenDataset(folder)
    identity = replace(dataset.identity, dtype="int32")
    found = [read_receipt(folder, one, dataset.identity) for one in Plan.read(folder).slices]
    receipts = [receipt for receipt in found if receipt is not None]
    assert len(receipts) == len(found)
    for receipt in receipts:
        name = bucket_name(receipt.subset, receipt.bucket)
        (to / name).parent.mkdir(exist_ok=True)
        np.fromfile(folder / f"{name}.bin", "<u2").astype("<i4").tofile(to / f"{name}.bin")
        with open(to / f"{name}.idx", "wb") as file:
            write_index(file, dataset.bucket_index(name).lengths, "int32")
    write_dataset(to, identity, receipts)
    return to


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


def test_a_rank_of_many_finds_its_samples_on_both_sides_of_a_block(
    order: tuple[Mixture, Mapping[str, View]],
) -> None:
    mixture, windows = order
    whole, own, rank = 2560, 16, 90
    reader = MixedBatches(
        mixture, windows, WindowInputs(seq_len=SEQ_LEN, eos_id=None), global_batch_size=whole,
        micro_batch_size=8, rank=rank, world_size=whole // own,
    )  # fmt: skip
    end = _PERIODS_AT_ONCE * PERIOD // whole * whole
    for position in (0, end - whole, end, end + 5):
        first = position + rank * own
        located = mixture.locate(np.arange(first, first + own))
        pairs = zip(located.subset.tolist(), located.sample.tolist(), strict=True)
        expected = [windows[mixture.subsets[i]].tokens(j)[:-1].tolist() for i, j in pairs]
        assert joined([reader.at(position)])["input_ids"].tolist() == expected
    assert reader._located.cache_info().misses == 3  # of a block each, and one at another offset


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
    ("ids", "bounds"),
    [
        # 2 is EOS. It belongs to the document that it ends.
        ([[7, 2, 8, 9, 2, 5]], [0, 2, 5, 6]),
        ([[7, 8, 9]], [0, 3]),
        ([[7, 8, 2]], [0, 3]),  # the next document's first token is not here
        ([[2, 2, 2]], [0, 1, 2, 3]),
        ([[2]], [0, 1]),
        # A sample ends the document that it cuts; the next sample begins one.
        ([[7, 2, 8], [9, 5, 6]], [0, 2, 3, 6]),
        ([[7, 8, 2], [2, 5, 6]], [0, 3, 4, 6]),
    ],
)
def test_bounds_are_the_first_token_of_each_document_and_the_end(
    ids: list[list[int]], bounds: list[int]
) -> None:
    for label in (2, 7):  # what follows a sample's inputs changes nothing
        ends = np.array([[*row, label] for row in ids]) == 2
        assert document_bounds(ends).tolist() == bounds


def test_positions_count_from_the_start_of_each_document() -> None:
    assert positions_in_documents([2, 3, 1]).tolist() == [0, 1, 0, 1, 2, 0]
    assert positions_in_documents([1, 0, 2]).tolist() == [0, 0, 1]
