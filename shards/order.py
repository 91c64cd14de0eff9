"""A run's order of samples over a dataset: the mixture, and the view of each of its subsets.

    mixture, views = open_order(dataset, seq_len=2048, mixture="redpajama", seed=1337)
    located = mixture.locate(position)
    views[mixture.subsets[int(located.subset)]].tokens(int(located.sample))

Training, ``shards info``, ``shards show`` and ``shards plot`` all come here, so that what is
looked at is what is trained on.
"""

import logging
from collections.abc import Collection, Mapping

from mobilellama.config import ConfigError, require_at_least
from mobilellama.shards.mixture import (
    PERIOD,
    Mixture,
    is_preset,
    mix,
    normalisation_remark,
    read_epochs,
    read_weights,
    share_among_present,
)
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.windows import View

log = logging.getLogger(__name__)

DEFAULT_SEED = 1337
"""``data.seed`` where none is given: the order of samples, not the dataset's own seed."""
DEFAULT_SEQ_LEN = 2048
"""Tokens that a sample predicts where nothing else is said."""
_LARGEST_SEQ_LEN = 2**31
_LARGEST_BUDGET = 1e18


def require_seq_len(field: str, seq_len: int | None) -> None:
    """Raise ConfigError unless `seq_len` is a length that a sample may have, or None."""
    if seq_len is None:
        return
    require_at_least(field, seq_len, 1)
    if seq_len > _LARGEST_SEQ_LEN:
        rule = f"must be at most {_LARGEST_SEQ_LEN:,}"
        raise ConfigError(field, seq_len, rule, "Give the run's train.seq_len")


def resolve_seq_len(dataset: TokenDataset, seq_len: int | None) -> int:
    """Return `seq_len`, or where it is None what the dataset's rows were packed to, or 2048."""
    if seq_len is not None:
        return seq_len
    packing = dataset.identity.packing
    return packing.seq_len if packing else DEFAULT_SEQ_LEN


def require_budget(field: str, budget_tokens: float | None) -> None:
    """Raise ConfigError unless `budget_tokens` is None or a number of tokens."""
    if budget_tokens is not None:
        require_at_least(field, budget_tokens, 1)
        if budget_tokens > _LARGEST_BUDGET:
            rule = f"must be at most {_LARGEST_BUDGET:.0e}"
            raise ConfigError(field, budget_tokens, rule, "Give the tokens of a run")


def open_order(
    dataset: TokenDataset,
    *,
    seq_len: int,
    mixture: str | None,
    seed: int,
    mixture_field: str = "data.mixture",
    seq_len_field: str = "train.seq_len",
) -> tuple[Mixture, Mapping[str, View]]:
    """Return the order of training samples, and the samples of each subset in it.

    Args:
        dataset: the finished dataset.
        seq_len: tokens that a sample predicts.
        mixture: a preset or YAML file of weights or epochs; None mixes in proportion to the
            samples, so that every subset ends its epoch at the same time, and leaves out
            (with a warning) subsets without a whole sample.
        seed: ``data.seed``.
        mixture_field: what messages call the mixture.
        seq_len_field: what messages call the sequence length.

    Raises:
        ConfigError: no such mixture, it does not fit the dataset, or the dataset holds no
            whole sample.
    """
    require_seq_len(seq_len_field, seq_len)
    views = {subset: dataset.view(subset, seq_len) for subset in dataset.subsets}
    num_samples = {subset: len(view) for subset, view in views.items()}
    if not any(num_samples.values()):
        _refuse_too_small(dataset, seq_len, seq_len_field)
    mixed, remarks = mix_samples(num_samples, mixture=mixture, seed=seed, field=mixture_field)
    is_complete = mixture is not None and not absent_subsets(mixture, num_samples, mixture_field)
    for remark in remarks:
        log.log(logging.INFO if is_complete else logging.WARNING, "%s: %s", dataset.folder, remark)
    return mixed, {subset: views[subset] for subset in mixed.subsets}


def mix_samples(
    num_samples: Mapping[str, int], *, mixture: str | None, seed: int, field: str
) -> tuple[Mixture, list[str]]:
    """Mix subsets of so many samples as `open_order` does; return also what to tell the user.

    Raises:
        ConfigError: no such mixture, or it does not fit the subsets.
    """
    if mixture is None:
        empty = sorted(name for name, count in num_samples.items() if not count)
        remarks = [f"subset '{name}' is left out: it has no whole sample" for name in empty]
        whole = {name: count for name, count in num_samples.items() if count}
        return mix(whole, seed=seed, field=field), remarks
    epochs = read_epochs(mixture, field=field)
    if epochs is not None:
        mixed = mix(num_samples, seed=seed, epochs=epochs, field=field)
        total = round(samples_for_epochs(num_samples, epochs))
        return mixed, [f"mixture {mixture}: its epochs come to {total:,} samples"]
    weights = read_weights(mixture, field=field)
    remark = normalisation_remark(weights)
    if absent_subsets(mixture, num_samples, field):
        weights, remark = share_among_present(weights, num_samples)
    remarks = [f"mixture {mixture}: {remark}"] if remark else []
    return mix(num_samples, seed=seed, weights=weights, field=field), remarks


def absent_subsets(mixture: str, present: Collection[str], field: str) -> list[str]:
    """Return the subsets of a preset that a dataset does not have; of the user's own file, none.

    Raises:
        ConfigError: there is no such mixture.
    """
    if not is_preset(mixture) or read_epochs(mixture, field=field) is not None:
        return []
    return [name for name in read_weights(mixture, field=field) if name not in present]


def samples_for_epochs(num_samples: Mapping[str, int], epochs: Mapping[str, float]) -> float:
    """Return how many samples a run has that sees each subset so often."""
    return sum(num_samples[name] * often for name, often in epochs.items())


def shares_text(mixture: Mixture) -> str:
    """Return the mixture on one line: each subset's share in percent and in positions."""
    shares = mixture.identity().items()
    parts = [f"{name} {100 * n / PERIOD:.2f} % ({n:,})" for name, n in shares]
    return f"{', '.join(parts)} of {PERIOD:,} positions"


def _refuse_too_small(dataset: TokenDataset, seq_len: int, field: str) -> None:
    largest = max((row["train_tokens"] for row in dataset.manifest), default=0)
    tokens = sum(total["train_tokens"] for total in dataset.totals.values())
    raise ConfigError(
        field,
        seq_len,
        f"no bucket of {dataset.folder} has a whole sample of {seq_len + 1} tokens "
        f"(it has {tokens:,} training tokens, {largest:,} in its largest bucket)",
        "Lower it or tokenise more text",
    )
