from pathlib import Path

from mobilellama.shards.reader import TokenDataset


def test_a_run_makes_a_dataset_that_the_reader_opens(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    assert dataset.subsets == ("common_crawl", "github", "wikipedia")
    assert len(dataset.windows("github", 128)) > 100
