import numpy as np
import pytest

from mobilellama.shards.permute import Permutation

GOLDEN_10 = [9, 8, 4, 7, 0, 5, 3, 6, 1, 2]
GOLDEN_1000 = [84, 713, 55, 552, 66]
GOLDEN_635M = [183409169, 274622665, 25951137, 117245373]


def test_every_range_up_to_2000_is_permuted_and_inverted() -> None:
    for n in range(1, 2001):
        permute = Permutation(n, 7, "subset", 0)
        images = permute(np.arange(n))
        assert np.array_equal(np.sort(images), np.arange(n)), n
        assert np.array_equal(permute.inverse(images), np.arange(n)), n


@pytest.mark.parametrize("n", [65_536, 635_000_000, 2**32 + 1, 2**53, 2**62])
def test_large_ranges_stay_in_range_and_invert(n: int) -> None:
    index = np.random.default_rng(0).integers(0, n, 20_000)
    permute = Permutation(n, 7, "subset", 0)
    images = permute(index)
    assert images.min() >= 0 and images.max() < n
    assert np.array_equal(permute.inverse(images), index)


def test_the_order_is_fixed_for_ever() -> None:
    """Datasets and runs made by any version depend on these values: never change them."""
    assert Permutation(10, 1337, "c4", 0)(np.arange(10)).tolist() == GOLDEN_10
    assert Permutation(1000, 0, "mixture", 3)([0, 1, 2, 998, 999]).tolist() == GOLDEN_1000
    assert (
        Permutation(635_000_000, 1337, "common_crawl", 2)([0, 1, 2, 634_999_999]).tolist()
        == GOLDEN_635M
    )


@pytest.mark.parametrize("n", [100_000, 1_000_000, 4_000_000_000])
def test_neighbours_are_not_correlated(n: int) -> None:
    """Four rounds leave 0.2 to 0.7 here; chance alone stays within 0.015 (5 sigma)."""
    for seed in range(3):
        images = Permutation(n, seed, "subset", 0)(np.arange(100_000)).astype(float)
        assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.016


def test_keys_that_differ_anywhere_give_other_orders() -> None:
    keys = [
        (3, "a", 1),
        (4, "a", 0),
        (3, "a", 0),
        (3, "b", 1),
        (3, "a", "1"),
        (3, "a, 1"),
        (31, "a"),
    ]
    orders = {tuple(Permutation(50, *key)(np.arange(50)).tolist()) for key in keys}
    assert len(orders) == len(keys)


def test_any_shape_is_mapped_element_by_element() -> None:
    permute = Permutation(1000, 1, "x")
    grid = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(permute(grid).ravel(), permute(np.arange(24)))
    assert permute(5).shape == () and int(permute(5)) == int(permute([5])[0])


def test_an_index_outside_the_range_is_a_defect() -> None:
    for index in (-1, 10):
        with pytest.raises(AssertionError):
            Permutation(10, 1)(np.array([index]))


def test_a_numpy_number_is_refused_as_key() -> None:
    """It would be written otherwise than the same int, and select another order."""
    with pytest.raises(AssertionError):
        Permutation(10, 1, "c4", np.int64(3))  # pyright: ignore[reportArgumentType]
