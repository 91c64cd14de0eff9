from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.shards.report.recipe import compare_with_recipe


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "weights.yaml"
    path.write_text("a: 3\nb: 1\ngone: 4\n")
    return str(path)


def test_shares_and_epochs_follow_from_weights_tokens_and_budget(weights: str) -> None:
    recipe = compare_with_recipe({"a": 400, "b": 100, "c": 500, "d": 0}, weights, 1600)
    assert recipe is not None
    shown = {
        name: (line.corpus_share, line.recipe_share, line.epochs)
        for name, line in recipe.lines.items()
    }
    # 1,600 tokens: 600 over a's 400, 200 over b's 100, none of c; d has none to be seen.
    assert shown == {
        "a": (0.4, 0.375, 1.5),
        "b": (0.1, 0.125, 2.0),
        "c": (0.5, 0.0, 0.0),
        "d": (0.0, 0.0, None),
        "gone": (0.0, 0.5, None),
    }
    assert recipe.lacking == ("gone",)
    assert recipe.remarks == (
        "the weights sum to 8 and are normalised to 100 %",
        "the dataset has no gone. The recipe takes 50.0 % of its tokens from there",
    )


def test_without_a_budget_a_run_has_the_dataset_s_tokens(weights: str) -> None:
    recipe = compare_with_recipe({"a": 400, "b": 100}, weights, None)
    assert recipe is not None and recipe.budget_tokens == 500
    assert recipe.lines["a"].epochs == pytest.approx(500 * 0.375 / 400)


def test_a_recipe_of_epochs_is_the_run_that_it_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "epochs.yaml"
    path.write_text("epochs:\n  a: 1.5\n  b: 2\n")
    recipe = compare_with_recipe({"a": 400, "b": 100}, str(path), None)
    assert recipe is not None and recipe.budget_tokens == 800 and recipe.remarks == ()
    assert {name: line.epochs for name, line in recipe.lines.items()} == {"a": 1.5, "b": 2}
    assert {name: line.recipe_share for name, line in recipe.lines.items()} == {
        "a": 0.75,
        "b": 0.25,
    }


def test_redpajama_is_compared_where_it_names_all_subsets() -> None:
    assert compare_with_recipe({"c4": 10, "mine": 5}, None, None) is None
    recipe = compare_with_recipe({"c4": 10, "book": 5}, None, None)
    assert recipe is not None and recipe.name == "redpajama"
    # Table 12 of arXiv 2312.16886: c4 15.0 of 100.7.
    assert recipe.lines["c4"].recipe_share == pytest.approx(15.0 / 100.7)
    assert set(recipe.lacking) == {"arxiv", "common_crawl", "github", "stackexchange", "wikipedia"}


def test_a_bad_mixture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mixture = redpyjama: is neither a file nor a preset"):
        compare_with_recipe({"c4": 10}, "redpyjama", None)
