"""A dataset's tokens beside those of a recipe: shares, and how often a run sees each subset.

The recipe is a mixture (mixture.py), read as it is written: a subset that the dataset lacks keeps
its share here, so that the lack is seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mobilellama.shards.mixture import normalisation_remark, read_epochs, read_weights

DEFAULT_RECIPE = "redpajama"


@dataclass(frozen=True, kw_only=True)
class RecipeLine:
    """A subset of the dataset, or of the recipe alone."""

    corpus_share: float
    """Of the dataset's training tokens."""
    recipe_share: float
    """Of a run's tokens; 0 where the recipe does not name the subset."""
    epochs: float | None
    """How often `budget_tokens` of the recipe go through it; None: it has no training tokens."""


@dataclass(frozen=True, kw_only=True)
class RecipeComparison:
    """A mixture and a dataset, compared."""

    name: str
    """A preset's, or the path of a file."""
    budget_tokens: float
    """Tokens of the run."""
    lines: dict[str, RecipeLine]
    """By subset: those of the dataset, then those that only the recipe names."""
    lacking: tuple[str, ...]
    """Subsets that only the recipe names."""
    remarks: tuple[str, ...]


def compare_with_recipe(
    train_tokens: Mapping[str, int], mixture: str | None, budget_tokens: float | None
) -> RecipeComparison | None:
    """Compare the training tokens of each subset with a mixture.

    Args:
        train_tokens: of each subset of the dataset.
        mixture: a preset, or a YAML file of weights or epochs. None: the preset 'redpajama', if it
            names every subset.
        budget_tokens: of the run. None: of a mixture of epochs, what they come to; else as many as
            the dataset has.

    Returns:
        None where no mixture is given and 'redpajama' is not that of this dataset.

    Raises:
        ConfigError: there is no such mixture, or it is not one.
    """
    if mixture is None:
        if not train_tokens.keys() <= read_weights(DEFAULT_RECIPE, field="mixture").keys():
            return None
        mixture = DEFAULT_RECIPE
    epochs = read_epochs(mixture, field="mixture")
    remarks: list[str] = []
    if epochs is not None:
        drawn = {name: train_tokens.get(name, 0) * often for name, often in epochs.items()}
        default_budget = sum(drawn.values())
    else:
        drawn = read_weights(mixture, field="mixture")
        default_budget = sum(train_tokens.values())
        if remark := normalisation_remark(drawn):
            remarks.append(remark)
    shares = {name: amount / (sum(drawn.values()) or 1) for name, amount in drawn.items()}
    lacking = tuple(name for name in drawn if name not in train_tokens)
    budget = default_budget if budget_tokens is None else budget_tokens
    return RecipeComparison(
        name=mixture,
        budget_tokens=budget,
        lines=_lines(train_tokens, shares, lacking, budget),
        lacking=lacking,
        remarks=(*remarks, *_told_lacks(lacking, shares)),
    )


def _lines(
    train_tokens: Mapping[str, int], shares: Mapping[str, float], lacking: tuple[str, ...],
    budget: float,
) -> dict[str, RecipeLine]:  # fmt: skip
    total = sum(train_tokens.values()) or 1
    lines = {}
    for name in (*train_tokens, *lacking):
        tokens, share = train_tokens.get(name, 0), shares.get(name, 0.0)
        epochs = budget * share / tokens if tokens else None
        lines[name] = RecipeLine(corpus_share=tokens / total, recipe_share=share, epochs=epochs)
    return lines


def _told_lacks(lacking: tuple[str, ...], shares: Mapping[str, float]) -> list[str]:
    if not lacking:
        return []
    percent = 100 * sum(shares[name] for name in lacking)
    return [
        f"the dataset has no {', '.join(lacking)}. The recipe takes {percent:.1f} % of its tokens "
        "from there"
    ]
