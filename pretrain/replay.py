"""Show the text that a step of a run was trained on.

    mobilellama pretrain replay --run RUN --step 1234

The order of samples is a pure function of the position, so nothing need have been recorded:
a spike in the loss can be looked at days later, on any machine that has the dataset.
"""

from dataclasses import dataclass
from pathlib import Path

from mobilellama import log as logs
from mobilellama.cli import parse_config
from mobilellama.config import ConfigError, require_at_least
from mobilellama.pretrain.config import Config as PretrainConfig
from mobilellama.run_folder import RunFolder
from mobilellama.shards.order import open_order
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.show import describe_sample, render


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which step of which run."""

    run: str
    """The run's folder."""
    step: int
    """Step as the console and metrics.jsonl count them: the first is 1."""
    first: int = 0
    """First sample of the step's global batch to show."""
    count: int = 4
    """Samples to show."""

    def __post_init__(self) -> None:
        require_at_least("step", self.step, 1)
        require_at_least("first", self.first, 0)
        require_at_least("count", self.count, 1)


def main(config: Config) -> int:
    """Print the samples."""
    logs.configure()
    run = read_run_config(config.run, field="run")
    batch = run.train.global_batch_size
    if config.first >= batch:
        rule = f"must be below train.global_batch_size = {batch}"
        raise ConfigError("first", config.first, rule, "Lower it")
    dataset = TokenDataset(run.data.path)
    mixture, windows = open_order(
        dataset, seq_len=run.train.seq_len, mixture=run.data.mixture, seed=run.data.seed
    )
    start = (config.step - 1) * batch
    for position in range(start + config.first, start + min(config.first + config.count, batch)):
        located = mixture.locate(position)
        subset, sample = mixture.subsets[int(located.subset)], int(located.sample)
        print(f"step {config.step}, position {position}, epoch {int(located.epoch)} of {subset}")
        print(render(describe_sample(dataset, windows[subset], sample)))
    return 0


def read_run_config(folder: str | Path, *, field: str) -> PretrainConfig:
    """Return the config that a run's newest attempt used.

    Raises:
        ConfigError: the folder is not a run's.
    """
    path = RunFolder(folder).config
    if not path.is_file():
        rule = f"holds no {path.name}, so it is not a run's folder"
        raise ConfigError(field, str(folder), rule, "Give the --run.folder of 'pretrain run'")
    return parse_config(PretrainConfig, ["--config", str(path)], prog=str(path), about="")
