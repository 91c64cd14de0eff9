import itertools
import random
import time
import tracemalloc

import numpy as np
import pytest

from mobilellama.sft.data.packing import pack, waste
from tests.sft.helpers.conversations import make_lengths


def room_left(rows: list[list[int]], lengths: list[int], seq_len: int) -> list[int]:
    return [seq_len - sum(lengths[i] for i in row) for row in rows]


@pytest.mark.parametrize("seed", range(20))
def test_every_sequence_is_in_one_row_and_no_row_is_too_long(seed: int) -> None:
    rng = random.Random(seed)
    seq_len = rng.choice([1, 7, 64, 500])
    lengths = [rng.randint(1, seq_len) for _ in range(rng.randint(0, 400))]
    rows = pack(lengths, seq_len)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert min(room_left(rows, lengths, seq_len), default=0) >= 0


@pytest.mark.parametrize("seed", range(5))
def test_it_is_best_fit_decreasing(seed: int) -> None:
    """Compare the rooms left with a direct search for the best row, on small numbers."""
    rng = random.Random(seed)
    lengths = [rng.randint(1, 50) for _ in range(300)]
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        best = min((room for room in rooms if room >= length), default=None)
        if best is None:
            rooms.append(50 - length)
        else:
            rooms[rooms.index(best)] = best - length
    assert sorted(room_left(pack(lengths, 50), lengths, 50)) == sorted(rooms)


def test_a_table_of_rows() -> None:
    lengths = [3, 7, 5, 5, 2, 8, 1]
    #          0  1  2  3  4  5  6
    assert pack(lengths, 10) == [
        [5, 4],  # 8 + 2
        [1, 0],  # 7 + 3
        [2, 3],  # 5 + 5
        [6],  # 1
    ]
    assert pack([], 10) == []
    assert pack([10], 10) == [[0]]


def test_a_long_row_needs_no_memory_for_the_rooms_that_do_not_occur() -> None:
    tracemalloc.start()
    try:
        rows = pack([1 << 20, 5, 1 << 19, (1 << 19) - 5], 1 << 20)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == [[0], [2, 3, 1]]
    assert most_bytes < 4_000_000  # a list of rows for every room would take 64 MB


def test_the_same_lengths_give_the_same_rows_from_a_list_and_an_array() -> None:
    lengths = make_lengths(500, seed=3, seq_len=2048)
    assert pack(lengths, 2048) == pack(np.array(lengths, dtype=np.int32), 2048)


@pytest.mark.parametrize(
    ("scale", "seq_len", "most"),
    [
        (1.0, 2048, 0.03),  # as ShareGPT
        (1.0, 4096, 0.03),
        (0.1, 2048, 0.03),  # short answers, some fifteen conversations a row
        # Where most parts are longer than half a row, too few short ones are left to fill up
        # with: no way of packing whole parts does much better.
        (1.0, 1024, 0.06),
        (3.0, 2048, 0.07),
    ],
)
def test_few_positions_are_empty(scale: float, seq_len: int, most: float) -> None:
    lengths = make_lengths(3_000, seq_len=seq_len, scale=scale)
    rows = pack(lengths, seq_len)
    assert 0 <= waste(sum(lengths), len(rows), seq_len) < most
    # One part a row, as without packing, leaves many times as much.
    assert waste(sum(lengths), len(lengths), seq_len) > 5 * most or most > 0.03


@pytest.mark.parametrize(("scale", "seq_len"), [(1.0, 1024), (3.0, 2048)])
def test_where_more_is_empty_hardly_fewer_rows_would_do(scale: float, seq_len: int) -> None:
    """Compare with the bound L2 of S. Martello and P. Toth, "Lower bounds", 1990.

    Of parts longer than seq_len - k no two share a row, nor do they share one with a part of k
    or more; so for every k those and the volume of the others need at least so many rows.
    """
    lengths = np.array(make_lengths(3_000, seq_len=seq_len, scale=scale))
    bound = 0
    for k in range(seq_len // 2 + 1):
        alone = np.count_nonzero(lengths > seq_len - k)
        large = lengths[(lengths <= seq_len - k) & (lengths > seq_len // 2)]
        small = lengths[(lengths <= seq_len // 2) & (lengths >= k)]
        volume = int(small.sum()) - (len(large) * seq_len - int(large.sum()))
        bound = max(bound, alone + len(large) + max(0, -(-volume // seq_len)))
    rows = len(pack(lengths, seq_len))
    assert bound <= rows <= 1.005 * bound


def test_waste_is_the_share_of_positions_without_a_token() -> None:
    assert waste(75, 1, 100) == 0.25
    assert waste(0, 0, 100) == 0.0


@pytest.mark.slow
def test_a_million_sequences_are_packed_within_seconds() -> None:
    lengths = np.minimum(np.random.default_rng(0).lognormal(6, 1, 1_000_000) + 1, 2048)
    started_s = time.monotonic()
    rows = pack(lengths.astype(np.int64), 2048)
    assert time.monotonic() - started_s < 20  # about 2 on an idle core
    assert sum(map(len, rows)) == 1_000_000
