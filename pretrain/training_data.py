"""A dataset of tokens opened for training: its order, this rank's batches, what is held out."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from mobilellama.config import ConfigError
from mobilellama.distributed import World
from mobilellama.pretrain.config import Config, StageConfig
from mobilellama.pretrain.data import Inputs, MixedBatches, WindowInputs
from mobilellama.pretrain.sections import BatchConfig
from mobilellama.pretrain.validate import HeldOutViews
from mobilellama.shards.mixture import Mixture
from mobilellama.shards.order import open_order, shares_text
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.windows import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The opened dataset, its order, and what becomes of its samples."""

    dataset: TokenDataset
    mixture: Mixture
    views: Mapping[str, View]
    inputs: Inputs
    """Makes the model's arguments of samples."""
    end: int | None = None
    """Samples of the run, whose last step may be short; None where it ends after whole steps."""

    @property
    def seq_len(self) -> int:
        """Tokens per sample that the model predicts."""
        return self.views[self.mixture.subsets[0]].seq_len

    @property
    def order(self) -> str:
        """One line on the order of the samples."""
        return f"mixture {shares_text(self.mixture)}"

    def batches(self, train: BatchConfig, world: World) -> MixedBatches:
        """Return this rank's samples."""
        return MixedBatches(
            self.mixture,
            self.views,
            self.inputs,
            global_batch_size=train.global_batch_size,
            micro_batch_size=train.micro_batch_size,
            rank=world.rank,
            world_size=world.size,
            end=self.end,
        )

    def heldout(self, world: World) -> HeldOutViews:
        """Return what validation looks at."""
        subsets, is_main = self.mixture.subsets, world.is_main
        return HeldOutViews(self.dataset, subsets, self.seq_len, self.inputs, is_main=is_main)


def open_data(
    config: StageConfig,
    dataset: TokenDataset,
    inputs: Inputs,
    *,
    seq_len: int,
    vocab_size: int,
    mixture: str | None = None,
) -> TrainingData:
    """Open the dataset's order and check all about the config that needs no process.

    Raises:
        ConfigError: mixture, batch or vocabulary do not fit.
    """
    if dataset.identity.vocab_size > vocab_size:
        raise ConfigError(
            "model.vocab_size",
            vocab_size,
            f"is below the {dataset.identity.vocab_size:,} pieces of the tokenizer that "
            f"{config.data.path} was made with",
            "Take a model with that many rows of embedding, or another tokenizer for the data",
        )
    mixed, views = open_order(dataset, seq_len=seq_len, mixture=mixture, seed=config.data.seed)
    config.train.grad_accum_steps(config.distributed.world_size)
    return TrainingData(dataset=dataset, mixture=mixed, views=views, inputs=inputs)


def open_windows(config: Config) -> TrainingData:
    """Open pretraining's data.

    Raises:
        ConfigError: it is no dataset of text, or does not fit the config.
    """
    dataset = TokenDataset(config.data.path, field="data.path")
    if dataset.identity.packing is not None:
        rule, remedy = "holds packed conversations", "Finetune on it with 'mobilellama sft run'"
        raise ConfigError("data.path", config.data.path, rule, remedy)
    data = open_data(
        config,
        dataset,
        WindowInputs(
            seq_len=config.train.seq_len,
            eos_id=dataset.identity.eos_id if config.model.attention == "per_document" else None,
        ),
        seq_len=config.train.seq_len,
        vocab_size=config.model.vocab_size,
        mixture=config.data.mixture,
    )
    num_samples = sum(data.mixture.num_samples)
    if num_samples < config.train.global_batch_size:
        raise ConfigError(
            "train.global_batch_size",
            config.train.global_batch_size,
            f"exceeds the {num_samples:,} samples of {data.seq_len} tokens in {config.data.path}",
            "Lower it or train.seq_len, or tokenise more text",
        )
    if unused := unused_rows_text(config, pieces=dataset.identity.vocab_size):
        log.info("%s", unused)
    return data


def unused_rows_text(config: Config, *, pieces: int) -> str:
    """Return one line on the rows of the embedding that stand for no token; empty without such.

    Args:
        config: of the run.
        pieces: of the tokenizer.
    """
    rows = config.model.vocab_size
    if rows == pieces:
        return ""
    # Given weights have the rows that they have.
    remedy = "" if config.init else f". A new run with --model.vocab_size {pieces} has no such rows"
    return (
        f"{rows - pieces:,} of {rows:,} rows of the embedding are never trained: model.vocab_size "
        f"is {rows:,}, but the tokenizer has {pieces:,} pieces{remedy}"
    )
