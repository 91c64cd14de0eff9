"""Score a chat model on language benchmarks, beside the published scores.

    mobilellama sft evaluate MODEL --output results.json [--data DIR]

It is 'mobilellama pretrain evaluate' for the runs of this stage. 'mobilellama pretrain evaluate
--help' explains the tasks and the layout of DIR. The adapter of a LoRA run is added to its base in
memory; no export is written. The chat template is not used, as in the published scores.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mobilellama.files.atomic import sha256_of_json
from mobilellama.files.hub_folder import ModelFolder
from mobilellama.pretrain.evaluation import evaluate
from mobilellama.pretrain.evaluation.scored_model import RUN_DTYPE, ScoredModel, open_scored_model
from mobilellama.pretrain.generation.loading import HfChoice, build_model
from mobilellama.pretrain.hf.fingerprint import identify
from mobilellama.sft.chat.finetuned_model import small_files


@dataclass(frozen=True, kw_only=True)
class Config(evaluate.Config):
    """Fields of 'sft evaluate'."""

    model: str
    """A Hugging Face folder, such as 'sft export' writes, a name on the Hub (OWNER/NAME or
    OWNER/NAME@REVISION), the folder of an 'sft run', for its newest checkpoint, or the folder of
    one checkpoint. With --data, a name must have been downloaded before."""


def main(config: Config) -> int:
    """Score the model on every task, print the table."""
    return evaluate.score(config, open_scored_chat)


@contextmanager
def open_scored_chat(found: ModelFolder) -> Iterator[ScoredModel]:
    """Give the model of a folder, or of a run of 'sft run', until the block ends.

    The small files of an export of the run are written into a temporary folder, so that a run and
    its export get the same ids.

    Raises:
        ConfigError: it is neither, or has no tokenizer.
        DataError: a file of the checkpoint is damaged.
    """
    if (Path(found.path) / "config.json").is_file():
        with open_scored_model(found) as model:
            yield model
        return
    from mobilellama.sft.finetuned import open_finetuned

    remedy = "Score it with 'mobilellama {stage} evaluate'"
    run = open_finetuned(found.path, field="model", remedy=remedy)
    with small_files(run, RUN_DTYPE) as folder:
        weights = run.weights
        yield ScoredModel(
            name=found.name,
            folder=str(folder),
            fingerprint=sha256_of_json([weights.fingerprint, identify(str(folder))]),
            load=lambda device, dtype: build_model(
                HfChoice(model=found.name, device=device, dtype=dtype),
                weights, run.model, run.tokenizer,
            ),
        )  # fmt: skip
