from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mobilellama.config import ConfigError
from mobilellama.shards.mixture import (
    PERIOD,
    Mixture,
    largest_remainder,
    mix,
    normalisation_remark,
    read_epochs,
    read_weights,
    share_among_present,
)

SAMPLES = {"a": 1000, "b": 37, "c": 250_000}
WEIGHTS = {"a": 50, "b": 0.5, "c": 49.5}

GOLDEN_SUBSET = [2, 2, 2, 2, 2, 2, 0]
GOLDEN_EPOCH = [0, 0, 0, 0, 0, 0, 500000000]
GOLDEN_SAMPLE = [119289, 224415, 217128, 83039, 230397, 244358, 274]


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return mix(SAMPLES, seed=5, weights=WEIGHTS)


def test_largest_remainder_equals_the_hand_computed_split() -> None:
    # Quotas of 10: 10/7 = 1.43, 20/7 = 2.86, 40/7 = 5.71 -> 1 + 2 + 5, and the two
    # places left go to the remainders .86 and .71.
    assert largest_remainder([Fraction(1), Fraction(2), Fraction(4)], 10) == [1, 3, 6]
    # Quotas 2.5, 2.5, 5: equal remainders, the first gets the place.
    assert largest_remainder([Fraction(1), Fraction(1), Fraction(2)], 10) == [3, 2, 5]
    assert largest_remainder([Fraction(1, 3)] * 3, 65_536) == [21_846, 21_845, 21_845]


def test_the_paper_s_table_12_is_normalised_and_said_to_be() -> None:
    weights = read_weights("redpajama")
    mixed = mix(dict.fromkeys(weights, 10), seed=0, weights=weights)
    # 65,536 * weight / 100.7, rounded by largest remainder:
    # 1627.01, 2928.62, 9762.07, 44059.46, 2928.62, 1301.61, 2928.62
    assert mixed.identity() == {
        "arxiv": 1627,
        "book": 2929,
        "c4": 9762,
        "common_crawl": 44_059,
        "github": 2929,
        "stackexchange": 1301,
        "wikipedia": 2929,
    }
    assert sum(mixed.shares) == PERIOD
    assert normalisation_remark(weights) == ("the weights sum to 100.7 and are normalised to 100 %")


def test_present_subsets_share_the_weight_of_absent_ones() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 7.0}
    kept, remark = share_among_present(weights, {"a", "b", "more"})
    assert kept == {"a": 1.0, "b": 2.0}
    assert remark == (
        "there is no subset 'c' (7). The weights of the others sum to 3 and are normalised to "
        "100 %: a 33.33 %, b 66.67 %"
    )
    assert share_among_present(weights, {"a", "b", "c", "more"}) == (weights, None)
    assert share_among_present(weights, {"more"}) == (weights, None)


def test_weights_that_sum_to_1_or_100_need_no_remark() -> None:
    assert normalisation_remark({"a": 0.1, "b": 0.2, "c": 0.7}) is None
    assert normalisation_remark({"a": 99.9, "b": 0.1}) is None
    assert normalisation_remark({"a": 1, "b": 1}) is not None


def test_shares_are_exact_at_every_period_s_end(mixture: Mixture) -> None:
    subset = mixture.locate(np.arange(5 * PERIOD)).subset.reshape(5, PERIOD)
    for period in subset:
        assert np.bincount(period).tolist() == list(mixture.shares)


def test_each_sample_comes_once_an_epoch_and_epochs_follow_one_another(mixture: Mixture) -> None:
    """The subset's own stream, cut into blocks of its samples, is permutations."""
    located = mixture.locate(np.arange(9 * PERIOD))
    for i, samples in enumerate(mixture.num_samples):
        stream = located.sample[located.subset == i]
        epochs = len(stream) // samples
        assert epochs >= 1, "the test must see whole epochs"
        blocks = np.sort(stream[: epochs * samples].reshape(epochs, samples), axis=1)
        assert (blocks == np.arange(samples)).all()
        expected = np.arange(len(stream)) // samples
        assert np.array_equal(located.epoch[located.subset == i], expected)


def test_two_epochs_differ(mixture: Mixture) -> None:
    located = mixture.locate(np.arange(PERIOD))
    stream = located.sample[located.subset == 0]
    assert not np.array_equal(stream[:1000], stream[1000:2000])


def test_two_periods_deal_the_subsets_differently(mixture: Mixture) -> None:
    subset = mixture.locate(np.arange(2 * PERIOD)).subset
    assert not np.array_equal(subset[:PERIOD], subset[PERIOD:])


def test_different_seeds_differ_and_equal_seeds_do_not(mixture: Mixture) -> None:
    same = mix(SAMPLES, seed=5, weights=WEIGHTS).locate(np.arange(1000))
    other = mix(SAMPLES, seed=6, weights=WEIGHTS).locate(np.arange(1000))
    mine = mixture.locate(np.arange(1000))
    assert np.array_equal(mine.sample, same.sample)
    assert not np.array_equal(mine.sample, other.sample)
    assert not np.array_equal(mine.subset, other.subset)


def test_the_order_of_a_mixture_is_fixed_for_ever(mixture: Mixture) -> None:
    """Runs made by any version depend on these values: never change them."""
    located = mixture.locate([0, 1, 2, 8191, 8192, PERIOD, 10**12])
    assert located.subset.tolist() == GOLDEN_SUBSET
    assert located.epoch.tolist() == GOLDEN_EPOCH
    assert located.sample.tolist() == GOLDEN_SAMPLE


def test_a_position_leads_to_the_same_sample_however_positions_are_batched(
    mixture: Mixture,
) -> None:
    positions = np.arange(PERIOD - 9000, PERIOD + 9000)
    whole = mixture.locate(positions)
    shuffled = np.random.default_rng(0).permutation(len(positions))
    batches = [
        *np.array_split(np.arange(len(positions)), 23),
        *np.array_split(shuffled, 5),
        *np.arange(len(positions))[::997],
    ]
    for batch in batches:
        part = mixture.locate(positions[batch])
        for name in ("subset", "epoch", "sample"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[batch])
    grid = mixture.locate(positions.reshape(180, 100))
    assert np.array_equal(grid.sample.ravel(), whole.sample)


def test_positions_far_into_a_run_are_located_at_once(mixture: Mixture) -> None:
    """Position 10**15 is answered by arithmetic: nothing before it is computed."""
    located = mixture.locate(10**15)
    name = mixture.subsets[int(located.subset)]
    assert 0 <= int(located.sample) < SAMPLES[name]
    assert int(located.epoch) == pytest.approx(
        10**15 * mixture.identity()[name] / PERIOD / SAMPLES[name], abs=40
    )


def test_a_subset_of_one_sample_repeats_it() -> None:
    located = mix({"a": 1, "b": 3}, seed=0, weights={"a": 1, "b": 1}).locate(np.arange(1000))
    assert set(located.sample[located.subset == 0].tolist()) == {0}


def test_epochs_give_each_subset_that_many_times_its_samples() -> None:
    # 100 samples twice beside 300 once: 200 to 300 positions of 500.
    mixed = mix({"a": 100, "b": 300}, seed=0, epochs={"a": 2, "b": 1})
    assert mixed.shares == (26_214, 39_322)  # 65,536 * 0.4 = 26,214.4 and 39,321.6


def test_no_weights_mix_in_proportion_to_the_samples() -> None:
    assert mix({"a": 1, "b": 3}, seed=0).shares == (16_384, 49_152)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"a": 1, "d": 1},
            "data.mixture.d = 1: the dataset has no subset 'd' (it has a, b, c). Name its subsets.",
        ),
        ({"a": 1, "bb": 1}, "did you mean 'b'?"),
        ({"a": 0}, "data.mixture.a = 0: must be a number above 0. Leave the subset out instead."),
        ({"a": float("nan")}, "data.mixture.a = nan: must be a number above 0"),
        ({"a": float("inf")}, "data.mixture.a = inf: must be a number above 0"),
        (
            {"a": 1e6, "b": 1},
            "data.mixture.b = 1: is 1e-06 of the mixture, less than one position in 65,536. "
            "Raise it or leave it out.",
        ),
        ({}, "data.mixture = (empty): names no subset. Name one or more."),
    ],
)
def test_weights_that_cannot_be_are_named(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mix(SAMPLES, seed=0, weights=weights)
    assert message in str(caught.value)


def test_a_subset_without_a_whole_sample_is_named() -> None:
    with pytest.raises(ConfigError, match=r"mixture.b = 2: subset 'b' has no whole sample"):
        mix({"a": 5, "b": 0}, seed=0, weights={"a": 1, "b": 2}, field="mixture")


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ({"a": -1}, "data.mixture (epochs).a = -1: must be a number above 0"),
        ({"d": 1}, "data.mixture (epochs).d = 1: the dataset has no subset 'd'"),
        ({"b": 1e-4, "c": 1}, "data.mixture (epochs).b = 0.0001: is 1.5e-08 of the mixture"),
        ({}, "data.mixture (epochs) = (empty): names no subset. Name one or more."),
    ],
)
def test_epochs_that_cannot_be_are_named(epochs: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mix(SAMPLES, seed=0, epochs=epochs)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: many\n", "data.mixture.a = many: {path} must give a number"),
        ("a: true\n", "data.mixture.a = true: {path} must give a number"),
        ("- a\n- b\n", "data.mixture = {path}: {path} must hold lines of 'subset: weight'"),
        ("", "data.mixture = {path}: {path} must hold lines of 'subset: weight'"),
        ("a: [1\n", "data.mixture = {path}: {path} is not YAML"),
    ],
)
def test_a_mixture_file_that_is_none_is_explained(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_weights(str(path))
    assert message.format(path=path) in str(caught.value)


def test_a_file_holds_weights_or_epochs(tmp_path: Path) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text("c4: 15.0\nbook: 3\n")
    assert read_epochs(str(path)) is None
    assert read_weights(str(path)) == {"c4": 15.0, "book": 3}
    path.write_text("epochs:\n  c4: 1\n  book: 2.5\n")
    assert read_epochs(str(path)) == {"c4": 1, "book": 2.5}
    path.write_text("epochs: 2\nbook: 3\n")  # the weight of a subset of this name
    assert read_epochs(str(path)) is None
    assert read_weights(str(path)) == {"epochs": 2, "book": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "epochs:\n  a: 1\nb: 2\n",
            "data.mixture = {path}: {path} holds 'epochs:' and also b. "
            "Indent the lines below 'epochs:', or remove it.",
        ),
        (
            "epochs:\n",
            "data.mixture = {path}: {path} must hold lines of 'subset: epochs' below 'epochs:'.",
        ),
        ("epochs: [a]\n", "must hold lines of 'subset: epochs' below 'epochs:'"),
        ("epochs: twice\n", "must hold lines of 'subset: epochs' below 'epochs:'"),
        ("epochs:\n  a: many\n", "data.mixture (epochs).a = many: {path} must give a number"),
    ],
)
def test_a_file_of_epochs_that_is_none_is_explained(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_epochs(str(path))
    assert message.format(path=path) in str(caught.value)


def test_a_preset_s_name_is_suggested() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'redpajama'\?"):
        read_weights("redpyjama")


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "0", "-1", "1" + "0" * 400])
@pytest.mark.parametrize("lines", ["a: {}", "epochs:\n  a: {}"])
def test_a_file_with_a_weight_that_is_no_number_above_0_is_refused(
    tmp_path: Path, lines: str, value: str
) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(lines.format(value))
    read = read_epochs if "epochs" in lines else read_weights
    with pytest.raises(ConfigError, match=r"\.a = .*must give a number above 0, at most 1,000,"):
        read(str(path))


@pytest.mark.parametrize("text", ["1.0e3", "1e3", "'1000'"])
def test_a_number_that_is_text_to_yaml_is_refused_with_how_to_write_it(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(f"a: {text}")
    with pytest.raises(ConfigError, match=r"YAML reads this as text. Write 1000.0\.$"):
        read_weights(str(path))
