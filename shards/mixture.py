"""The order of samples: from a position in the run to (subset, epoch, sample), by arithmetic.

1. Weights become integers n_i that sum to a period of 65,536 positions (largest remainder,
   from exact fractions), once. They are part of a run's identity.
2. Within period t, a permutation keyed by (seed, "mixture", t) deals the positions out to the
   subsets, n_i to subset i: every subset's share is exact at every period's end.
3. The subset's positions are numbered in the order in which they come: position k of subset i
   belongs to epoch k // samples_i, and is sample permute(k % samples_i; seed, subset, epoch).
   A subset's epoch thus ends before its next begins, whatever the period.

Memory and time do not depend on the corpus: one period's table has 65,536 entries and is
remade, in milliseconds, whenever it is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobilellama.cli import find_preset
from mobilellama.config import ConfigError, did_you_mean
from mobilellama.shards.permute import Permutation

PERIOD = 65_536
PRESETS = Path(__file__).parent / "mixtures"


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
    samples: tuple[int, ...]
    """Samples of each subset in one epoch."""
    seed: int
    """``data.seed``."""

    def __post_init__(self) -> None:
        assert sum(self.shares) == PERIOD and min(self.samples) > 0

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.shares)[:-1]]).astype(np.int64)

    def locate(self, positions: ArrayLike) -> Located:
        """Return the sample at each position (any shape, each at least 0)."""
        positions = np.asarray(positions, dtype=np.int64)
        period, offset = np.divmod(positions, PERIOD)
        subset = np.empty_like(positions)
        rank = np.empty_like(positions)
        for t in np.unique(period):
            here = period == t
            dealt, ranks = _deal(self, int(t))
            subset[here], rank[here] = dealt[offset[here]], ranks[offset[here]]
        k = period * np.asarray(self.shares)[subset] + rank
        epoch, within = np.divmod(k, np.asarray(self.samples)[subset])
        sample = np.empty_like(positions)
        for i, e in {(int(i), int(e)) for i, e in zip(subset.flat, epoch.flat, strict=True)}:
            here = (subset == i) & (epoch == e)
            permutation = Permutation(self.samples[i], self.seed, self.subsets[i], e)
            sample[here] = permutation(within[here])
        return Located(subset=subset, epoch=epoch, sample=sample)

    def identity(self) -> dict[str, int]:
        """Return what a run must not change: each subset's share of a period."""
        return dict(zip(self.subsets, self.shares, strict=True))


@lru_cache(maxsize=8)
def _deal(mixture: Mixture, period: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each position of a period, its subset and its rank among that subset's."""
    ticket = Permutation(PERIOD, mixture.seed, "mixture", period)(np.arange(PERIOD))
    subset = np.searchsorted(mixture._starts, ticket, side="right") - 1
    order = np.argsort(subset, kind="stable")
    rank = np.empty(PERIOD, np.int64)
    rank[order] = np.arange(PERIOD) - np.repeat(mixture._starts, mixture.shares)
    return subset, rank


def mix(
    samples: Mapping[str, int],
    *,
    seed: int,
    weights: Mapping[str, float] | None = None,
    epochs: Mapping[str, float] | None = None,
) -> Mixture:
    """Make the mixture of subsets.

    Args:
        samples: samples of each subset in one epoch.
        seed: ``data.seed``.
        weights: relative share of each subset; need not sum to 1.
        epochs: instead, how often each subset is seen; neither given means once each.

    Raises:
        ConfigError: an unknown subset, one without samples, or a weight that rounds to 0.
    """
    field = "data.epochs" if epochs is not None else "data.mixture"
    given = {name: Fraction(1) for name in samples} if weights is None and epochs is None else {
        name: Fraction(str(value)) for name, value in (weights or epochs or {}).items()
    }  # fmt: skip
    for name, value in given.items():
        _check_weight(f"{field}.{name}", name, value, samples)
    if weights is None:  # epochs, as samples drawn
        given = {name: value * samples[name] for name, value in given.items()}
    names = tuple(sorted(given))
    shares = largest_remainder([given[name] for name in names], PERIOD)
    for name, share in zip(names, shares, strict=True):
        if share == 0:
            rule = f"rounds to no position in a period of {PERIOD}"
            raise ConfigError(
                f"{field}.{name}", float(given[name]), rule, "Raise it or leave it out"
            )
    return Mixture(
        subsets=names, shares=tuple(shares), samples=tuple(samples[n] for n in names), seed=seed
    )


def _check_weight(field: str, name: str, value: Fraction, samples: Mapping[str, int]) -> None:
    if value <= 0:
        raise ConfigError(field, float(value), "must be above 0", "Leave the subset out instead")
    if name not in samples:
        raise ConfigError(
            field,
            float(value),
            f"the dataset has no subset '{name}' (it has {', '.join(sorted(samples))})",
            f"Name its subsets{did_you_mean(name, samples)}",
        )
    if samples[name] == 0:
        rule = f"subset '{name}' has no whole sample of this train.seq_len"
        raise ConfigError(field, float(value), rule, "Leave it out or lower train.seq_len")


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
    """Read a mixture preset, or a YAML file of ``subset: weight`` lines.

    Raises:
        ConfigError: no such preset or file, or it is no mapping of names to numbers.
    """
    import yaml

    path = find_preset(name_or_file, PRESETS, field)
    value: Any = yaml.safe_load(path.read_text())
    good = isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(weight, int | float) for name, weight in value.items()
    )
    if not good or not value:
        rule = f"{path} must hold lines of 'subset: weight'"
        raise ConfigError(field, name_or_file, rule, "See the preset 'redpajama' for an example")
    return value
