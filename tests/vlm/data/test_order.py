"""Which samples a step takes: each once an epoch, one modality a step, the same on any resume."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilellama.vlm.data.order import SampleOrder, deal_rows

rng = np.random.default_rng(0)
LENGTHS = rng.integers(10, 500, size=203)
HAS_IMAGES = rng.random(203) < 0.8
BATCH = 8


def make_order(**fields: Any) -> SampleOrder:
    values = {"global_batch_size": BATCH, "seed": 5, "grouping": "modality_length"} | fields
    lengths, has_images = values.pop("lengths", LENGTHS), values.pop("has_images", HAS_IMAGES)
    return SampleOrder(lengths, has_images, **values)


def steps(order: SampleOrder, epochs: int = 1, start: int = 0) -> list[NDArray[np.int64]]:
    """Return the steps from a position to the end of an epoch."""
    position, made = start, []
    while position < epochs * len(LENGTHS):
        made.append(order.step(position))
        assert len(made[-1]) == order.num_samples(position)
        position += len(made[-1])
    assert position == epochs * len(LENGTHS)
    return made


@pytest.mark.parametrize("grouping", ["modality_length", "none"])
def test_an_epoch_has_every_sample_once_and_its_last_step_may_be_short(grouping: str) -> None:
    order = make_order(grouping=grouping)
    made = steps(order, epochs=3)
    per_epoch = -(-len(LENGTHS) // BATCH)
    assert len(made) == 3 * per_epoch
    for epoch in range(3):
        mine = made[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(np.concatenate(mine)) == list(range(len(LENGTHS)))
        assert [len(step) for step in mine] == [BATCH] * (per_epoch - 1) + [len(LENGTHS) % BATCH]
    first, second = np.concatenate(made[:per_epoch]), np.concatenate(made[per_epoch:])
    assert first.tolist() != second[: len(first)].tolist()  # another order each epoch


def test_a_step_has_one_modality_but_for_one_of_an_epochs_last_two() -> None:
    made = steps(make_order())
    mixed = [i for i, step in enumerate(made) if len({*HAS_IMAGES[step]}) == 2]
    assert HAS_IMAGES.sum() % BATCH and (~HAS_IMAGES).sum() % BATCH  # so that there are rests
    assert len(mixed) == 1 and mixed[0] >= len(made) - 2
    kinds = [bool(HAS_IMAGES[step][0]) for step in made[:-2]]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    assert changes > 4  # and the two take turns: the modalities are not one after the other


def test_without_grouping_steps_are_mixed_and_lie_as_they_were_drawn() -> None:
    made = steps(make_order(grouping="none"))
    assert sum(len({*HAS_IMAGES[step]}) == 2 for step in made) > len(made) // 2
    assert any((np.diff(LENGTHS[step]) > 0).any() for step in made)


@pytest.mark.parametrize("only", [True, False])
def test_one_modality_alone_is_no_special_case(only: bool) -> None:
    order = make_order(has_images=np.full(len(LENGTHS), only))
    made = steps(order)
    assert sorted(np.concatenate(made)) == list(range(len(LENGTHS)))


def test_fewer_samples_than_a_batch_are_one_short_step() -> None:
    order = make_order(lengths=LENGTHS[:3], has_images=np.array([True, False, True]))
    assert sorted(order.step(0)) == [0, 1, 2] == sorted(order.step(3))
    assert order.num_samples(0) == 3


def test_within_a_step_lengths_fall_and_ties_do_not_depend_on_the_sort() -> None:
    for step in steps(make_order()):
        assert (np.diff(LENGTHS[step]) <= 0).all()
    # Equal lengths are left as they were drawn, whatever sorts them.
    equal = steps(make_order(lengths=np.full(len(LENGTHS), 7)))
    assert [s.tolist() for s in equal] == [
        s.tolist() for s in steps(make_order(lengths=np.full(len(LENGTHS), 900)))
    ]


def test_a_steps_samples_have_similar_lengths_and_come_from_a_window_of_sixteen() -> None:
    count, batch = 64 * 16 * 3, 64
    lengths = np.random.default_rng(3).integers(10, 500, size=count)
    order = make_order(
        lengths=lengths, has_images=np.ones(count, bool), global_batch_size=batch, end=count
    )
    made = [order.step(position) for position in range(0, count, batch)]
    spreads = [int(np.ptp(lengths[step])) for step in made]
    assert max(spreads) < 60  # of 490: a sixteenth of the range, and a little
    means = [float(lengths[step].mean()) for step in made]
    assert np.corrcoef(means, np.arange(len(means)))[0, 1] ** 2 < 0.2  # long and short take turns
    drawn = make_order(
        lengths=np.full(count, 1), has_images=np.ones(count, bool), global_batch_size=batch
    )
    assert {*made[0].tolist()} != {*drawn.step(0).tolist()}


def test_a_step_is_a_pure_function_of_its_position() -> None:
    whole = steps(make_order(), epochs=2)
    positions = np.cumsum([0, *map(len, whole)])[:-1]
    for number in np.random.default_rng(1).permutation(len(whole)):
        fresh = make_order()  # a resumed process, at any step
        assert fresh.step(int(positions[number])).tolist() == whole[number].tolist()


def test_the_seed_decides_the_order() -> None:
    a, again, b = (steps(make_order(seed=seed)) for seed in (5, 5, 6))
    assert [s.tolist() for s in a] == [s.tolist() for s in again]
    assert [s.tolist() for s in a] != [s.tolist() for s in b]


@pytest.mark.parametrize("end", [1, 8, 100, 203, 204, 350, 406])
def test_a_run_ends_after_its_samples_and_knows_how_many_steps_are_left(end: int) -> None:
    order = make_order(end=end)
    position, left = 0, [order.steps_left(0)]
    while position < end:
        position += order.num_samples(position)
        left.append(order.steps_left(position))
    assert position == end
    assert left == list(range(len(left) - 1, -1, -1))
    assert (
        len(order.step(end)) == order.num_samples(end) == 0
    )  # what is read ahead of the last step


def test_a_million_samples_are_ordered_whole() -> None:
    count = 1_000_000
    lengths = np.random.default_rng(2).integers(10, 2000, size=count)
    order = make_order(lengths=lengths, has_images=lengths % 10 > 0, global_batch_size=128)
    assert np.array_equal(np.sort(order.epoch(0)), np.arange(count))
    assert order.epoch(0) is order.epoch(0)  # not made again for each step


# --- how rows come to the ranks


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 16, 17, 48])
def test_every_row_goes_to_one_rank_and_all_ranks_have_equally_many_parts(
    count: int, ranks: int
) -> None:
    size, rows = 2, [[i, 100 + i] for i in range(count)]
    parts = deal_rows(rows, size, ranks)
    assert len(parts) % ranks == 0 and parts
    assert [row for part in parts for row in part if row] == rows
    sizes = [len([row for row in part if row]) for part in parts]
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1  # none waits for one that has all
    assert all(len(part) == max(count, 1) for part, count in zip(parts, sizes, strict=True))
    assert len(parts) < count / size + ranks or count == 0  # no more parts than must be


@pytest.mark.parametrize("size", [4, 16])
def test_the_ranks_micro_batches_have_similar_lengths(size: int) -> None:
    """Four micro-batches a rank, or one, as the published recipes have on 8 GPUs."""
    count, batch, ranks = 64 * 16, 64, 4
    lengths = np.random.default_rng(4).integers(10, 500, size=count)
    order = make_order(
        lengths=lengths, has_images=np.ones(count, bool), global_batch_size=batch, end=count
    )

    def slowest(steps: list[NDArray[np.int64]]) -> int:
        """Return the padded tokens of the slowest rank of each turn, added up."""
        total = 0
        for step in steps:
            parts = deal_rows([[int(i)] for i in step], size, ranks)
            padded = [len(part) * max(lengths[row[0]] for row in part) for part in parts]
            total += int(np.array(padded).reshape(-1, ranks).max(axis=1).sum())
        return total

    grouped = [order.step(position) for position in range(0, count, batch)]
    shuffled = np.split(np.random.default_rng(0).permutation(count), count // batch)
    best = lengths.sum() / ranks
    assert slowest(grouped) < 1.15 * best < 1.5 * best < slowest(shuffled)


def test_which_samples_a_step_has_does_not_depend_on_the_ranks() -> None:
    (step, *_) = steps(make_order())
    rows = [[int(i)] for i in step]
    seen = {
        ranks: sorted(i for part in deal_rows(rows, 2, ranks) for row in part for i in row)
        for ranks in (1, 2, 4)
    }
    assert seen[1] == seen[2] == seen[4] == sorted(step.tolist())
