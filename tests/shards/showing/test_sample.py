from pathlib import Path

import pytest

from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing.sample import describe_sample


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_document_shown_begins_as_its_source_document_does(
    small_dataset: Path, source_texts: dict[str, list[str]], split: str
) -> None:
    dataset = TokenDataset(small_dataset)
    begun: set[tuple[str, int]] = set()
    whole = 0
    for subset in dataset.subsets:
        windows = dataset.windows(subset, 300, "train" if split == "train" else "heldout")
        for sample in range(0, len(windows), 5):
            shown = describe_sample(dataset, windows, sample)
            for part in shown.parts:
                assert part.number_in_source is not None
                text = source_texts[shown.source][part.number_in_source]
                # A character that the window cuts is shown as U+FFFD.
                visible = part.text.rstrip("\N{REPLACEMENT CHARACTER}")
                if part.first == 0:
                    assert text.startswith(visible)
                    begun.add((shown.source, part.number_in_source))
                if part.first == 0 and part.last == part.tokens:
                    assert part.text == text
                    whole += 1
    if split == "train":
        assert len(begun) > 200 and whole > 100
        assert {source for source, _ in begun} == set(source_texts)


def test_documents_of_a_sample_follow_one_another_without_a_gap(small_dataset: Path) -> None:
    dataset = TokenDataset(small_dataset)
    windows = dataset.windows("common_crawl", 500)
    for sample in range(0, len(windows), 7):
        parts = describe_sample(dataset, windows, sample).parts
        assert sum(part.last - part.first for part in parts) == 501
        assert [part.document for part in parts] == list(
            range(parts[0].document, parts[0].document + len(parts))
        )
        assert all(part.first == 0 for part in parts[1:])
        assert all(part.last == part.tokens for part in parts[:-1])


def test_a_long_document_is_put_together_from_its_samples(
    small_dataset: Path, source_texts: dict[str, list[str]]
) -> None:
    """All of a file's kept documents appear, each once, over the samples of an epoch."""
    dataset = TokenDataset(small_dataset)
    windows = dataset.windows("github", 20_000)
    shown = [describe_sample(dataset, windows, sample) for sample in range(len(windows))]
    first = [one for one in shown if one.span.bucket == "github/00000"]
    numbers = [part.number_in_source for one in first for part in one.parts if part.first == 0]
    assert len(numbers) == len(set(numbers)) > 5
    whole = [p for one in first for p in one.parts if p.first == 0 and p.last == p.tokens]
    assert max(len(part.text) for part in whole) > 10_000
    for part in whole:
        assert part.number_in_source is not None
        assert part.text == source_texts[first[0].source][part.number_in_source]
