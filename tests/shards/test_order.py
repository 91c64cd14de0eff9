import logging
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.shards.mixture import PERIOD, PRESETS
from mobilellama.shards.order import open_order, shares_text
from mobilellama.shards.reader import TokenDataset
from tests.shards.conftest import MakeDataset


def test_without_a_mixture_every_subset_has_its_share_of_the_samples(
    make_dataset: MakeDataset,
) -> None:
    dataset = make_dataset({"a": [[11], [21]], "b": [[11]]})
    mixture, windows = open_order(dataset, seq_len=10, mixture=None, seed=0)
    assert {name: len(view) for name, view in windows.items()} == {"a": 3, "b": 1}
    assert mixture.identity() == {"a": PERIOD * 3 // 4, "b": PERIOD // 4}
    assert shares_text(mixture) == "a 75.00 % (49,152), b 25.00 % (16,384) of 65,536 positions"


def test_a_mixture_leaves_out_the_subsets_that_it_does_not_name(
    make_dataset: MakeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text("a: 2\nc: 6\n")
    dataset = make_dataset({"a": [[11]], "b": [[11]], "c": [[11]]})
    with caplog.at_level(logging.INFO):
        mixture, windows = open_order(dataset, seq_len=10, mixture=str(path), seed=0)
    assert set(windows) == {"a", "c"}
    assert mixture.identity() == {"a": PERIOD // 4, "c": PERIOD * 3 // 4}
    assert "the weights sum to 8 and are normalised to 100 %" in caplog.text


def test_a_file_of_epochs_gives_shares_in_proportion_to_epochs_times_samples(
    make_dataset: MakeDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text("epochs:\n  a: 1.5\n  b: 1\n")
    dataset = make_dataset({"a": [[21]], "b": [[11]], "c": [[11]]})
    with caplog.at_level(logging.INFO):
        mixture, windows = open_order(dataset, seq_len=10, mixture=str(path), seed=0)
    assert set(windows) == {"a", "b"}
    # 1.5 times a's 2 samples beside b's one: 3 to 1.
    assert mixture.identity() == {"a": PERIOD * 3 // 4, "b": PERIOD // 4}
    assert f"mixture {path}: its epochs come to 4 samples" in caplog.text
    path.write_text("epochs:\n  tiny: 1\n")
    with pytest.raises(ConfigError, match=r"data.mixture \(epochs\).tiny = 1: the dataset has no"):
        open_order(dataset, seq_len=10, mixture=str(path), seed=0)


def test_a_subset_without_a_whole_sample_is_left_out_with_a_warning(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset({"a": [[11]], "tiny": [[10], [3]]})
    mixture, windows = open_order(dataset, seq_len=10, mixture=None, seed=0)
    assert mixture.subsets == ("a",) and set(windows) == {"a"}
    assert caplog.records[0].levelname == "WARNING"
    assert "subset 'tiny' is left out: it has no whole sample" in caplog.text


def test_a_mixture_that_names_a_subset_without_a_whole_sample_is_refused(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text("a: 1\ntiny: 1\n")
    dataset = make_dataset({"a": [[11]], "tiny": [[10]]})
    with pytest.raises(ConfigError, match=r"data.mixture.tiny = 1: subset 'tiny' has no whole"):
        open_order(dataset, seq_len=10, mixture=str(path), seed=0)


def test_a_dataset_without_any_whole_sample_is_refused(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"a": [[5, 5], [3]], "b": [[7]]})
    with pytest.raises(ConfigError) as caught:
        open_order(dataset, seq_len=10, mixture=None, seed=0)
    assert str(caught.value) == (
        f"train.seq_len = 10: no bucket of {dataset.folder} has a whole sample of 11 tokens "
        "(it has 20 training tokens, 10 in its largest bucket). Lower it or tokenise more text."
    )


def test_a_preset_shares_the_weight_of_absent_subsets_and_says_how(
    small_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 67.7 + 4.5 + 4.5 = 76.7: 57845.9, 3845.0 and 3845.0 of 65,536 positions."""
    dataset = TokenDataset(small_dataset)
    mixture, views = open_order(dataset, seq_len=64, mixture="redpajama", seed=0)
    assert mixture.identity() == {"common_crawl": 57_846, "github": 3845, "wikipedia": 3845}
    assert sorted(views) == ["common_crawl", "github", "wikipedia"]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"{small_dataset}: mixture redpajama: there is no subset 'arxiv' (2.5), 'book' (4.5), "
            "'c4' (15), 'stackexchange' (2). The weights of the others sum to 76.7 and are "
            "normalised to 100 %: common_crawl 88.27 %, github 5.87 %, wikipedia 5.87 %",
        )
    ]


def test_a_file_of_weights_must_fit_even_if_it_is_the_preset_s_copy(
    small_dataset: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_bytes((PRESETS / "redpajama.yaml").read_bytes())
    with pytest.raises(ConfigError) as caught:
        open_order(TokenDataset(small_dataset), seq_len=64, mixture=str(copy), seed=0)
    assert str(caught.value) == (
        "data.mixture.arxiv = 2.5: the dataset has no subset 'arxiv' "
        "(it has common_crawl, github, wikipedia). Name its subsets."
    )
