import json
from pathlib import Path

import numpy as np
import pytest

from mobilellama.shards.reader import TokenDataset
from mobilellama.tokenize.encoding.encoder import Encoder
from mobilellama.tokenize.planning.amounts import Amount, amounts_found
from mobilellama.tokenize.planning.rates import rates_of, sampled_rates, stated_rates
from mobilellama.tokenize.sources.config import SourcesConfig
from mobilellama.tokenize.sources.slices import find_slices
from mobilellama.tokenizers.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def encoder(small_tokenizer: Path) -> Encoder:
    return Encoder(Tokenizer(small_tokenizer), plain=True)


def test_the_sample_of_a_small_corpus_is_the_corpus(
    small_corpus: Path, small_dataset: Path, encoder: Encoder
) -> None:
    """Its counts are those of the dataset that 'tokenize run' makes of it."""
    sources = SourcesConfig(root=str(small_corpus))
    slices = find_slices(sources, 1 << 30)
    amounts = amounts_found(slices)
    rates = rates_of(amounts, slices, sources, encoder, dict.fromkeys(amounts, True))
    manifest = TokenDataset(small_dataset).manifest
    for subset, amount in amounts.items():
        mine = [row for row in manifest if row["subset"] == subset]
        assert rates[subset].basis == "sample"
        for name, rate in (
            ("tokens", rates[subset].tokens),
            ("documents", rates[subset].documents),
            ("bytes_in", rates[subset].text),
        ):
            assert round(rate * amount.size) == sum(row[name] for row in mine), (subset, name)


def test_the_middle_of_a_large_file_stands_for_all_of_it(tmp_path: Path, encoder: Encoder) -> None:
    rng = np.random.default_rng(5)
    folder = tmp_path / "c4"
    folder.mkdir()
    with open(folder / "a.jsonl", "w") as file:
        for size in rng.integers(1, 20_000, 1_500):
            file.write(json.dumps({"text": "word " * size, "meta": {}}) + "\n")
    sources = SourcesConfig(root=str(tmp_path))
    slices = find_slices(sources, 1 << 30)
    assert slices[0].size > 60e6
    rates = sampled_rates(slices, sources, encoder)
    assert rates is not None
    assert rates.text == pytest.approx(1, abs=0.02)
    assert rates.documents * slices[0].size == pytest.approx(1_500, rel=0.15)


def test_a_source_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, encoder: Encoder
) -> None:
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4/a.jsonl.zst").write_bytes(b"not zstd")
    sources = SourcesConfig(root=str(tmp_path))
    assert sampled_rates(find_slices(sources, 1 << 30), sources, encoder) is None
    (tmp_path / "c4/b.jsonl").write_text('{"text": "good"}\n')
    rates = sampled_rates(find_slices(sources, 1 << 30), sources, encoder)
    assert rates is not None and "a.jsonl.zst: is not a .zst file" in rates.remark
    assert rates.documents == 1 / len('{"text": "good"}\n')


def test_published_totals_stand_in_for_a_sample() -> None:
    """175 billion tokens of c4 in 806 GB; of another name a token is 4 bytes."""
    amount = Amount(sources=1, slices=1, size=806, largest=806)
    stated = stated_rates("c4", amount, packed=False)
    assert (stated.tokens, stated.text, stated.basis) == (175 / 806, 1.0, "published")
    assert stated_rates("mine", amount, packed=False).tokens == 0.25
    assert stated_rates("mine", amount, packed=True).tokens == pytest.approx(0.7)
    assert stated_rates("mine", amount, packed=True).basis == "guess"


def test_documents_that_are_larger_than_slices_are_counted_with_all_of_their_bytes(
    tmp_path: Path, encoder: Encoder
) -> None:
    """Most slices have no line's beginning, and a few have one of a very long line."""
    rng = np.random.default_rng(7)
    (tmp_path / "c4").mkdir()
    with open(tmp_path / "c4/a.jsonl", "w") as file:
        for size in rng.integers(20_000, 1_300_000, 12):
            file.write(json.dumps({"text": "word " * size}) + "\n")
    sources = SourcesConfig(root=str(tmp_path))
    slices = find_slices(sources, 1 << 20)
    size = slices[0].size
    assert size > 20 * (1 << 20)
    rates = sampled_rates(slices, sources, encoder)
    assert rates is not None
    (ids, _) = encoder.encode_batch(["word " * 50_000])
    assert rates.tokens * size == pytest.approx(len(ids) * size / 250_000, rel=0.01)
    assert rates.text == pytest.approx(1, abs=0.001)
    assert 3 <= rates.sampled_documents <= 12
    assert rates.documents * size == pytest.approx(12, rel=0.5)


def test_a_subset_of_few_documents_is_sampled_in_more_slices(
    tmp_path: Path, encoder: Encoder
) -> None:
    for folder, documents in (("few", 5), ("many", 200)):
        (tmp_path / folder).mkdir()
        for number in range(30):
            line = json.dumps({"text": "word"}) + "\n"
            (tmp_path / folder / f"{number:02}.jsonl").write_text(line * documents)
    sources = SourcesConfig(root=str(tmp_path))
    slices = find_slices(sources, 1 << 30)
    sampled = {
        subset: sampled_rates([one for one in slices if one.subset == subset], sources, encoder)
        for subset in ("few", "many")
    }
    assert sampled["few"] and sampled["many"]
    assert (sampled["few"].sampled_slices, sampled["few"].sampled_documents) == (16, 80)
    assert (sampled["many"].sampled_slices, sampled["many"].sampled_documents) == (4, 800)
