"""Show the text that a step of a run was trained on.

    mobilellama pretrain replay RUN --step 1234

The order of samples depends only on the position, so that nothing has to be recorded. You can look
at a spike in the loss days later, on any machine that has the dataset.
"""

from dataclasses import dataclass
from typing import Any

from mobilellama import log as logs
from mobilellama.config import ConfigError, require_at_least
from mobilellama.run_folder import RunFolder
from mobilellama.run_record import RECORD, record_of
from mobilellama.shards.mixture import Mixture
from mobilellama.shards.reader import TokenDataset
from mobilellama.shards.showing.render import render
from mobilellama.shards.showing.sample import describe_sample


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
    dataset: str | None = None
    """The dataset's folder, if it is elsewhere now; None is where the run had it."""

    def __post_init__(self) -> None:
        require_at_least("step", self.step, 1)
        require_at_least("first", self.first, 0)
        require_at_least("count", self.count, 1)


def main(config: Config) -> int:
    """Print the samples."""
    logs.configure()
    run = RunFolder(config.run)
    facts = read_facts(run)
    if record_of(facts.get(RECORD), facts["config"]).stage == "vlm":
        rule = "was written by 'mobilellama vlm run'; only runs on datasets of text are replayed"
        remedy = f"Its records lie tokenised in {run.path / 'samples' / 'train.arrow'}"
        raise ConfigError("run", config.run, rule, remedy)
    identity, train = facts["identity"], facts["config"]["train"]
    batch = train["global_batch_size"]
    if config.first >= batch:
        rule = f"must be below train.global_batch_size = {batch}"
        raise ConfigError("first", config.first, rule, "Lower it")
    last = last_step(run, train["max_steps"])
    if last is not None and config.step > last:
        raise ConfigError("step", config.step, f"is after the run's last step, {last}", "Lower it")
    start, end = positions_of(run, config.step, batch)
    dataset = open_dataset(config.dataset or facts["config"]["data"]["path"], identity)
    seq_len, shares = identity["train.seq_len"], identity["data.mixture"]
    views = {subset: dataset.view(subset, seq_len) for subset in shares}
    mixture = Mixture(
        subsets=tuple(shares),
        shares=tuple(shares.values()),
        num_samples=tuple(len(views[subset]) for subset in shares),
        seed=identity["data.seed"],
    )
    for position in range(start + config.first, min(start + config.first + config.count, end)):
        located = mixture.locate(position)
        subset, sample = mixture.subsets[int(located.subset)], int(located.sample)
        epoch = f"epoch {int(located.epoch):,} of {subset}"
        print(f"step {config.step}, position {position}, {epoch}")
        print(render(describe_sample(dataset, views[subset], sample)))
    return 0


def positions_of(run: RunFolder, step: int, batch: int) -> tuple[int, int]:
    """Return the first position of a step, and the one after its last.

    A step takes a whole batch, but for the last of a run by epochs, which was recorded; more
    epochs may have followed.
    """
    consumed = {r["step"]: r["consumed"] for r in run.read_metrics() if "consumed" in r}
    before = max((known for known in consumed if known < step), default=0)
    start = consumed.get(before, 0) + (step - 1 - before) * batch
    return start, min(start + batch, consumed.get(step, start + batch))


def last_step(run: RunFolder, max_steps: int | None) -> int | None:
    """Return the run's last step: done already, or to come. None: its epochs decide it.

    A run of an older version can have steps after the max_steps of its newest attempt.

    Args:
        run: the run's folder.
        max_steps: of the newest attempt. None: the run goes by epochs.
    """
    verdict = run.read_verdict()
    if max_steps is None:
        return verdict.step if verdict and verdict.kind == "finished" else None
    done = max((record["step"] for record in run.read_metrics()), default=0)
    return max(max_steps, done, *run.checkpoint_steps())


def read_facts(run: RunFolder) -> dict[str, Any]:
    """Return what the run's newest attempt wrote of itself: its identity and config.

    Raises:
        ConfigError: the folder is not a run's.
    """
    for number in reversed(run.attempt_numbers()):
        if facts := run.read_attempt(number):
            return facts
    rule = f"holds no attempt in {run.attempts.name}/, so it is not a run's folder"
    raise ConfigError("run", str(run.path), rule, "Give the --run.folder of 'pretrain run'")


def open_dataset(path: str, identity: dict[str, Any]) -> TokenDataset:
    """Open the dataset, and make sure that it is the run's.

    Raises:
        ConfigError: it is not there, or is another one.
    """
    try:
        dataset = TokenDataset(path, field="dataset")
    except ConfigError as error:
        field, value, rule, _ = error.args
        remedy = "Say with --dataset where the run's dataset is now"
        raise ConfigError(field, value, rule, remedy) from None
    if dataset.fingerprint != identity["data.fingerprint"]:
        rule = (
            f"has the fingerprint {dataset.fingerprint[:12]}, but the run was trained on "
            f"{identity['data.fingerprint'][:12]}"
        )
        raise ConfigError("dataset", path, rule, "Give the dataset that the run was trained on")
    return dataset
