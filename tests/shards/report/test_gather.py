import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mobilellama.config import ConfigError
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.report.gather import ReportOptions, gather
from tests.shards.report.conftest import HOSTILE, SHARED_TEXT

OPTIONS = ReportOptions(
    mixture=None, budget_tokens=None, sources=None, samples=2, max_tokens=1e9, seed=1
)


def test_the_content_is_the_dataset_s(odd_dataset: Path) -> None:
    dataset = TokenDataset(odd_dataset)
    content = gather(dataset, dataset.tokenizer, OPTIONS)
    assert content.fingerprint == dataset.fingerprint and content.tokenizer == "tokenizer.model"
    assert content.total("documents") == 54 == content.duplicates.total.documents
    assert content.total("bad_records") == 4 == sum(one.count for one in content.bad)
    assert [one.text for one in content.repeated][:2] in (
        [HOSTILE, SHARED_TEXT], [SHARED_TEXT, HOSTILE],
    )  # fmt: skip
    assert [one.bucket for one in content.samples] == [
        "c4/00000", "c4/00000", "common_crawl/00000", "common_crawl/00000", "wikipedia/00000",
    ]  # fmt: skip
    assert content.recipe is not None and content.recipe.name == "redpajama"


def test_a_bad_option_is_refused_before_the_long_work(odd_dataset: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(odd_dataset, tmp_path / "copy")
    dataset = TokenDataset(copy)
    (copy / "c4/00000.bin").unlink()  # which the search for equal documents would miss
    for options in (replace(OPTIONS, mixture="none.yaml"), replace(OPTIONS, sources="gone")):
        with pytest.raises(
            ConfigError, match=r"^(mixture = none\.yaml|sources = gone): is neither"
        ):
            gather(dataset, dataset.tokenizer, options)
