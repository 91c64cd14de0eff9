"""The order of samples: from a position in the run to (subset, epoch, sample), by arithmetic.

A mixture is a YAML file (or a preset) of one of two kinds:

    c4: 15.0                   weights: relative shares of the samples that are drawn,
    wikipedia: 4.5             which need not sum to 1 or 100

    epochs:                    epochs: how often each subset is seen,
      c4: 1                    in a run of as many samples as that makes
      wikipedia: 2.5

Subsets that it does not name are left out. If a preset names a subset that the dataset does not
have (RedPajama's books were removed), the others share its weight, and the user is told how. In a
file of the user's own such a name is an error.

1. Weights, or epochs times samples, become integers n_i that sum to a period of 65,536
   positions (largest remainder, from exact fractions), once. They are part of a run's identity.
2. Within period t, a permutation keyed by (seed, "mixture", t) deals the positions out to the
   subsets, n_i to subset i: every subset's share is exact at every period's end.
3. The subset's positions are numbered in the order in which they come: position k of subset i
   belongs to epoch k // num_samples_i, and is sample
   permute(k % num_samples_i; seed, subset, epoch). A subset's epoch thus ends before its next
   begins, whatever the period.

Memory and time do not depend on the corpus: one period's deal has 65,536 entries and is
remade, in two milliseconds, whenever it is needed.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobilellama.config import ConfigError, did_you_mean, one_line
from mobilellama.files.presets import find_preset
from mobilellama.files.yaml_file import read_yaml
from mobilellama.shards.permute import Permutation

# Shares are exact to 1/65,536, and the deal of a period takes milliseconds. Another number would be
# another order of every run.
PERIOD = 65_536
PRESETS = Path(__file__).parent / "mixtures"
_LARGEST_WEIGHT = 10**12
_REMEDY = "See the preset 'redpajama' for an example"


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where positions lead; three arrays of the positions' shape."""

    subset: NDArray[np.int64]
    """Index into ``Mixture.subsets``."""
    epoch: NDArray[np.int64]
    sample: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The infinite order of samples drawn from several subsets."""

    subsets: tuple[str, ...]
    """Names, sorted."""
    shares: tuple[int, ...]
    """Positions of each subset in a period; they sum to 65,536."""
    num_samples: tuple[int, ...]
    """Samples of each subset in one epoch."""
    seed: int
    """``data.seed``."""

    def __post_init__(self) -> None:
        assert sum(self.shares) == PERIOD and min(self.num_samples) > 0

    def locate(self, positions: ArrayLike) -> Located:
        """Return the sample at each position (any shape, each at least 0).

        A call costs 0.1 ms; of many positions in one call, each costs 0.3 microseconds.
        """
        positions = np.asarray(positions, dtype=np.int64)
        assert positions.size == 0 or positions.min() >= 0, positions.min()
        subset, rank, period = self._deal_out(positions.reshape(-1))
        # Which of its subset's samples, counted from the run's start. Every period before this one
        # gave the subset exactly its share, so nothing has to be added up.
        k = period * np.array(self.shares)[subset] + rank
        epoch, within = np.divmod(k, np.array(self.num_samples)[subset])
        sample = np.empty_like(k)
        # One permutation for each subset and epoch that occur: seldom more than the subsets.
        for places in _groups(epoch * len(self.subsets) + subset):
            i, e = int(subset[places[0]]), int(epoch[places[0]])
            permute = Permutation(self.num_samples[i], self.seed, self.subsets[i], e)
            sample[places] = permute(within[places])
        subset, epoch, sample = (x.reshape(positions.shape) for x in (subset, epoch, sample))
        return Located(subset=subset, epoch=epoch, sample=sample)

    def _deal_out(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return each position's subset, its rank among the subset's in its period, the period."""
        period, offset = np.divmod(positions, PERIOD)
        subset, rank = np.empty_like(offset), np.empty_like(offset)
        for places in _groups(period):
            subsets, ranks = _deal(self, int(period[places[0]]))
            subset[places], rank[places] = subsets[offset[places]], ranks[offset[places]]
        return subset, rank, period

    def identity(self) -> dict[str, int]:
        """Return what a run must not change: each subset's share of a period."""
        return dict(zip(self.subsets, self.shares, strict=True))


# 4: a step may reach into the next period, while threads read ahead.
@lru_cache(maxsize=4)
def _deal(mixture: Mixture, period: int) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Return, for each position of a period, its subset and its rank among that subset's."""
    ticket = Permutation(PERIOD, mixture.seed, "mixture", period)(np.arange(PERIOD))
    # Each position draws a ticket; the first shares[0] tickets are subset 0's, and so on.
    # Small types, since the time goes into memory; with 16 bits the stable sort is a radix sort.
    owner = np.repeat(np.arange(len(mixture.shares), dtype=np.uint16), mixture.shares)
    subset = owner[ticket]
    rank = np.empty(PERIOD, np.int32)
    order = np.argsort(subset, kind="stable")
    rank[order] = np.concatenate([np.arange(n, dtype=np.int32) for n in mixture.shares])
    return subset, rank


def _groups(keys: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Return the places of each distinct key."""
    order = np.argsort(keys, kind="stable")
    (cuts,) = np.nonzero(np.diff(keys[order]))
    return np.split(order, cuts + 1) if keys.size else []


def mix(
    num_samples: Mapping[str, int],
    *,
    seed: int,
    weights: Mapping[str, float] | None = None,
    epochs: Mapping[str, float] | None = None,
    field: str = "data.mixture",
) -> Mixture:
    """Make the mixture of subsets.

    Args:
        num_samples: samples of each subset in one epoch.
        seed: ``data.seed``.
        weights: relative share of each subset; need not sum to 1.
        epochs: instead, how often each subset is seen; neither given means once each.
        field: what messages call the mixture.

    Raises:
        ConfigError: an unknown subset, one without samples, or a weight that rounds to 0.
    """
    assert weights is None or epochs is None
    if epochs is not None:
        field = _epochs_field(field)
    given = weights if weights is not None else epochs
    if given is None:
        given = dict.fromkeys(num_samples, 1)
    if not given:
        raise ConfigError(field, "(empty)", "names no subset", "Name one or more")
    for name, value in given.items():
        _check_weight(f"{field}.{name}", name, value, num_samples)
    names = tuple(sorted(given))
    # str() takes 67.7 for the 677/10 that was written, not for the binary fraction nearest to it.
    exact = [Fraction(str(given[name])) for name in names]
    if weights is None:  # epochs, as samples drawn
        exact = [value * num_samples[name] for name, value in zip(names, exact, strict=True)]
    shares = largest_remainder(exact, PERIOD)
    for name, value, share in zip(names, exact, shares, strict=True):
        if share == 0:
            portion = float(value / sum(exact))
            rule = f"is {portion:.2g} of the mixture, less than one position in {PERIOD:,}"
            raise ConfigError(f"{field}.{name}", given[name], rule, "Raise it or leave it out")
    return Mixture(
        subsets=names,
        shares=tuple(shares),
        num_samples=tuple(num_samples[n] for n in names),
        seed=seed,
    )


def _check_weight(field: str, name: str, value: float, num_samples: Mapping[str, int]) -> None:
    if not 0 < value < math.inf:  # also catches NaN
        raise ConfigError(field, value, "must be a number above 0", "Leave the subset out instead")
    if name not in num_samples:
        raise ConfigError(
            field,
            value,
            f"the dataset has no subset '{name}' (it has {', '.join(sorted(num_samples))})",
            f"Name its subsets{did_you_mean(name, num_samples)}",
        )
    if num_samples[name] == 0:
        rule = f"subset '{name}' has no whole sample of this seq_len"
        raise ConfigError(field, value, rule, "Leave it out or lower seq_len")


def largest_remainder(weights: list[Fraction], total: int) -> list[int]:
    """Return integers in proportion to the weights that sum to `total` exactly.

    Each gets the whole part of its quota; the largest remainders get one more, the first of
    equals first.
    """
    whole = sum(weights)
    quotas = [weight * total / whole for weight in weights]
    parts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(parts)), key=lambda i: parts[i] - quotas[i])
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def read_weights(name_or_file: str, *, field: str = "data.mixture") -> dict[str, float]:
    """Read a mixture of weights: a preset, or a YAML file of ``subset: weight`` lines.

    Raises:
        ConfigError: no such preset or file, or it is no mapping of names to numbers.
    """
    path, lines = _read_lines(name_or_file, field)
    return _numbers(lines, path, field)


def read_epochs(name_or_file: str, *, field: str = "data.mixture") -> dict[str, float] | None:
    """Read a mixture of epochs: ``subset: epochs`` lines below ``epochs:``; None if of weights.

    Raises:
        ConfigError: no such preset or file, or what stands at ``epochs`` is no such mapping.
    """
    path, lines = _read_lines(name_or_file, field)
    # With a number it is the weight of a subset that is called 'epochs'.
    if "epochs" not in lines or isinstance(lines["epochs"], int | float):
        return None
    epochs = lines.pop("epochs")
    if lines:
        rule = f"{path} holds 'epochs:' and also {', '.join(map(str, lines))}"
        raise ConfigError(
            field, name_or_file, rule, "Indent the lines below 'epochs:', or remove it"
        )
    if not isinstance(epochs, dict) or not epochs:
        rule = f"{path} must hold lines of 'subset: epochs' below 'epochs:'"
        raise ConfigError(field, name_or_file, rule, "Indent them")
    return _numbers(epochs, path, _epochs_field(field))


def _epochs_field(field: str) -> str:
    return f"{field} (epochs)"


def _read_lines(name_or_file: str, field: str) -> tuple[Path, dict[object, object]]:
    path = find_preset(name_or_file, PRESETS, field)
    try:
        value: object = read_yaml(path)
    except ValueError as error:
        rule = f"{path} is not YAML ({one_line(error)})"
        raise ConfigError(field, name_or_file, rule, _REMEDY) from None
    if not isinstance(value, dict) or not value:
        rule = f"{path} must hold lines of 'subset: weight'"
        raise ConfigError(field, name_or_file, rule, _REMEDY)
    return path, value


def _numbers(lines: Mapping[object, object], path: Path, field: str) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in lines.items():
        place = f"{field}.{name}"
        if isinstance(value, str) and (meant := _number_in(value)) is not None:
            rule = f"{path} must give a number, but YAML reads this as text"
            raise ConfigError(place, value, rule, f"Write {meant}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(place, value, f"{path} must give a number", _REMEDY)
        if not 0 < value <= _LARGEST_WEIGHT:  # also catches NaN
            rule = f"{path} must give a number above 0, at most {_LARGEST_WEIGHT:,}"
            raise ConfigError(place, value, rule, "To leave a subset out, remove its line")
        numbers[str(name)] = value
    return numbers


def _number_in(text: str) -> float | None:
    """Return the number that a string spells, as 1.0e3 does, which is none in YAML 1.1."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= _LARGEST_WEIGHT else None


def is_preset(name_or_file: str) -> bool:
    """Return whether a mixture is a preset, and not a file of the user's own."""
    return not Path(name_or_file).is_file()


def share_among_present(
    weights: Mapping[str, float], present: Collection[str]
) -> tuple[dict[str, float], str | None]:
    """Leave out the weights of subsets that are not there.

    Args:
        weights: of a preset.
        present: names of the subsets that are there.

    Returns:
        The other weights, and what was done; None if all subsets are there. Without a single
        subset of the preset, the weights are returned as they are: they do not fit at all.
    """
    kept = {name: weight for name, weight in weights.items() if name in present}
    if not kept or len(kept) == len(weights):
        return dict(weights), None
    total = sum(Fraction(str(weight)) for weight in kept.values())
    absent = ", ".join(f"'{name}' ({weights[name]:g})" for name in weights if name not in kept)
    shares = (f"{name} {float(100 * Fraction(str(w)) / total):.2f} %" for name, w in kept.items())
    return kept, (
        f"there is no subset {absent}. The weights of the others sum to {float(total):.10g} and "
        f"are normalised to 100 %: {', '.join(shares)}"
    )


def normalisation_remark(weights: Mapping[str, float]) -> str | None:
    """Return what was done to weights that sum neither to 1 nor to 100, or None."""
    total = sum(Fraction(str(weight)) for weight in weights.values())
    if total in (1, 100):
        return None
    return f"the weights sum to {float(total):.10g} and are normalised to 100 %"
