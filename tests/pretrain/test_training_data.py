"""A dataset opened for training: the order, the batches of a rank, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.distributed import World
from mobilellama.pretrain.config import Config, RunConfig
from mobilellama.pretrain.sections import MixtureConfig, ModelConfig, TrainConfig
from mobilellama.pretrain.training_data import open_windows, unused_rows_text
from mobilellama.shards.reader import TokenDataset


def config_of(path: Path, **train: Any) -> Config:
    sizes: dict[str, Any] = {"seq_len": 32, "global_batch_size": 8, "micro_batch_size": 2} | train
    return Config(
        run=RunConfig(folder="unused"),
        data=MixtureConfig(path=str(path)),
        model=ModelConfig(vocab_size=832, max_seq_len=10_000_000),
        train=TrainConfig(**sizes),
    )


def test_every_subset_is_in_the_order_and_a_sample_is_as_long_as_asked(
    small_dataset: Path, world: World
) -> None:
    config = config_of(small_dataset)
    data = open_windows(config)
    assert data.seq_len == 32 and data.end is None
    assert data.mixture.subsets == TokenDataset(small_dataset).subsets
    assert data.order.startswith("mixture ") and all(s in data.order for s in data.mixture.subsets)
    batch = data.batches(config.train, world).at(16)
    assert (batch.first_position, batch.num_samples) == (16, 8)
    assert [tuple(micro.inputs["input_ids"].shape) for micro in batch.micro_batches] == [
        (2, 32)
    ] * 4
    assert batch.supervised_tokens == batch.tokens == 8 * 32


def test_a_preset_without_a_subset_says_once_who_takes_its_share(
    small_dataset: Path, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(small_dataset)
    data = open_windows(
        replace(config, data=MixtureConfig(path=str(small_dataset), mixture="redpajama"))
    )
    data.batches(config.train, world).at(16)
    told = [record for record in caplog.records if "mixture redpajama" in record.getMessage()]
    assert len(told) == 1 and told[0].levelname == "WARNING"
    assert "there is no subset 'arxiv' (2.5), 'book' (4.5)" in told[0].getMessage()
    assert data.mixture.identity()["common_crawl"] == 57_846


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"micro_batch_size": 3}, r"^train\.global_batch_size = 8: must be a multiple of"),
        (
            {"global_batch_size": 1_000_000, "micro_batch_size": 1},
            r"^train\.global_batch_size = 1000000: exceeds the [\d,]+ samples of 32 tokens in ",
        ),
        ({"seq_len": 9_000_000}, r"^train\.seq_len = 9000000: no bucket of"),
    ],
)
def test_a_batch_that_the_data_cannot_fill_is_refused(
    small_dataset: Path, train: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_windows(config_of(small_dataset, **train))


def test_a_vocabulary_below_the_tokenizers_is_refused(small_dataset: Path) -> None:
    config = config_of(small_dataset)
    small = Config(
        run=config.run, data=config.data, train=config.train,
        model=ModelConfig(vocab_size=799, max_seq_len=32),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"^model\.vocab_size = 799: is below the 800 pieces"):
        open_windows(small)


def test_rows_of_the_embedding_that_stand_for_no_token_are_told_with_the_remedy(
    small_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    open_windows(config_of(small_dataset))
    told = (
        "32 of 832 rows of the embedding are never trained: model.vocab_size is 832, but the "
        "tokenizer has 800 pieces"
    )
    assert caplog.messages == [f"{told}. A new run with --model.vocab_size 800 has no such rows"]
    config = config_of(small_dataset)
    assert unused_rows_text(replace(config, init="folder"), pieces=800) == told
    assert unused_rows_text(config, pieces=832) == ""
