"""A run of pretraining as a model that can be used: its tokenizer, and its weights on a device."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellama.pretrain.generation.loading import HfChoice, build_model

if TYPE_CHECKING:  # they import torch, which --help does without
    from transformers import PreTrainedModel

    from mobilellama.pretrain.sections import ModelConfig
    from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
    from mobilellama.tokenizers.text_tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """A checkpoint that is open."""

    weights: "CheckpointWeights"
    config: "ModelConfig"
    """The architecture."""
    tokenizer: "TextTokenizer"

    def build(self, choice: HfChoice) -> "PreTrainedModel":
        """Return the model as transformers' LLaMA; see ``build_model``."""
        return build_model(choice, self.weights, self.config, self.tokenizer)


@contextmanager
def open_run_model(path: str, *, tokenizer: str | None, remedy: str) -> Iterator[RunModel]:
    """Open the checkpoint that a path names, until the block ends.

    Args:
        path: a run's folder, whose newest checkpoint is taken, or a checkpoint's own.
        tokenizer: the dataset's; None: the run's own copy.
        remedy: what to do with the run of another stage. ``{stage}`` is replaced by the stage.

    Raises:
        ConfigError: it is neither, the run is of another stage, or the tokenizer is another one.
        DataError: a file of the checkpoint is damaged.
    """
    from mobilellama.pretrain.hf.export_folder import (
        find_checkpoint,
        find_tokenizer,
        parameter_shapes,
        run_of,
    )
    from mobilellama.pretrain.sections import ModelConfig
    from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights

    checkpoint = find_checkpoint(
        path,
        field="model",
        remedy="Give a Hugging Face folder, a name on the Hub, RUN or RUN/checkpoints/step-N",
    )
    record = checkpoint.manifest.record
    record.require("pretrain", field="model", value=path, remedy=remedy)
    found = find_tokenizer(tokenizer, checkpoint, run_of(checkpoint))
    config = ModelConfig(**checkpoint.manifest.config["model"])
    with closing(CheckpointWeights(checkpoint, parameter_shapes(config))) as weights:
        yield RunModel(weights=weights, config=config, tokenizer=found)
