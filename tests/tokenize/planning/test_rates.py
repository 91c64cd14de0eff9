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
