import pytest

from mobilellama.tokenize.encoding.memo import MEMO_BYTES, make_memo


@pytest.mark.parametrize("memo_bytes", [1 << 14, 1 << 20, 3_000_000, MEMO_BYTES])
def test_a_memo_takes_over_half_of_its_bytes_and_no_more(memo_bytes: int) -> None:
    memo = make_memo(memo_bytes)
    assert memo_bytes // 2 < memo.total_bytes - memo.counts.nbytes <= memo_bytes


def test_the_sizes_of_a_memo_are_powers_of_two_and_a_hash_gives_a_slot() -> None:
    memo = make_memo(1_000_000)
    for size in (len(memo.table), len(memo.keys), len(memo.ids)):
        assert size & (size - 1) == 0
    assert ((1 << 64) - 1) >> int(memo.shift) == len(memo.table) - 1


def test_a_memo_is_never_smaller_than_a_few_of_the_longest_units() -> None:
    assert make_memo(0).total_bytes == make_memo(1 << 14).total_bytes
