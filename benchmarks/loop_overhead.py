r"""Our training loop beside a bare loop around the same engine, on two processes.

The bare loop has its batches in memory and does nothing but forward, backward and step. Ours
also reads the data, adds up losses by subset, reduces them with the stop flag, watches the
loss, and writes metrics. DeepSpeed beside DDP is reported too. Checkpoints and validation
have costs of their own and are left out.

After make demo:

    python benchmarks/loop_overhead.py --dataset runs/demo/dataset \
        --output benchmarks/results/loop_overhead_fp32_width_256.json

The loop's cost does not depend on the model's width: with ``--width 32`` a step is short, and
what the loop adds stands out of a noisy machine's noise, in seconds a step.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import paired

from mobilellama import log as logs
from mobilellama.commandline.parser import parse_config
from mobilellama.distributed import World, close
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.assemble import assemble
from mobilellama.pretrain.attempt import begin, save_dataset_texts
from mobilellama.pretrain.config import Config
from mobilellama.pretrain.loop import Attempt, Training, TrainState, train
from mobilellama.pretrain.main import PRESETS
from mobilellama.pretrain.monitoring.config import WatchdogConfig
from mobilellama.pretrain.monitoring.watchdog import Watchdog
from mobilellama.pretrain.run import facts_of, pretraining
from mobilellama.pretrain.stop import StopRequest
from mobilellama.pretrain.training_data import open_windows
from mobilellama.run_folder import RunFolder


class StepClock(StopRequest):
    """Is asked once a step, after it; notes the CPU time and stops after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.cpu_s: list[float] = []
        self._steps = steps

    def requested(self) -> bool:
        """Note the time; ask for the stop once enough steps are done."""
        self.cpu_s.append(time.process_time())
        return len(self.cpu_s) > self._steps


def ours(job: Training, attempt: Attempt, steps: int) -> float:
    """Return this process's CPU seconds for so many steps of our loop."""
    clock = StepClock(steps)
    run, world = attempt.run, attempt.world
    watchdog = Watchdog(WatchdogConfig(), run=run, world=world, attempt=attempt.number, step=0)
    train(job, attempt, TrainState(), clock, watchdog)
    # The stop saved a checkpoint, outside the time measured; make room for the next.
    world.run_on_main(lambda: shutil.rmtree(run.checkpoint(steps + 1)))
    return clock.cpu_s[steps] - clock.cpu_s[0]


def bare(job: Training, attempt: Attempt, steps: int) -> float:
    """Return this process's CPU seconds for so many bare steps."""
    batches = [job.batches.at(i * job.batches.num_samples(0)) for i in range(steps + 1)]
    engine, started_s = attempt.engine, 0.0
    for i, batch in enumerate(batches):
        for k, micro in enumerate(batch.micro_batches):
            sums = engine.forward(micro.inputs, last=k + 1 == len(batch.micro_batches))
            engine.backward(sums.loss_sum / batch.supervised_tokens)
        engine.step(0.1)
        if i == 0:
            started_s = time.process_time()
    return time.process_time() - started_s


def make_job(
    kind: str, dataset: str, folder: Path, precision: str, width: int, world: World
) -> tuple[Training, Attempt]:
    """Assemble the demo preset as 'pretrain run' does."""
    fields = {
        "data.path": dataset, "run.folder": folder, "engine.kind": kind,
        "engine.precision": precision, "train.max_steps": 1_000_000,
        "model.d_model": width, "checkpoint.every_steps": 1_000_000,
        "validation.every_steps": "null",
    }  # fmt: skip
    argv = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    config = parse_config(
        Config, ["--config", "demo", *argv], prog="loop_overhead", about="", presets=PRESETS
    )
    data, run = open_windows(config), RunFolder(folder)
    facts = facts_of(config, data, precision)
    number = begin(config, world, run, facts, partial(save_dataset_texts, data.dataset))
    job = pretraining(config, data, world, facts)
    return job, assemble(job, run, world, number, None)


def main() -> None:
    """Measure and, on rank 0, save."""
    options = paired.arguments(
        __doc__, dataset="runs/demo/dataset", rounds=8, steps=4, precision="fp32", width=256
    )
    logs.configure(rank=1)  # no INFO lines: what is timed writes metrics, not a log
    # The launcher starts this script again for the second process; both must use one folder.
    scratch = os.environ.setdefault("LOOP_OVERHEAD_SCRATCH", tempfile.mkdtemp())
    world = World(DistributedConfig(accelerator="cpu", devices=2))
    candidates: dict[str, Any] = {}
    for kind in ("deepspeed", "ddp"):
        folder = Path(scratch) / kind
        job = make_job(kind, options.dataset, folder, options.precision, options.width, world)
        candidates[f"bare loop, {kind}"] = (bare, job)
        candidates[f"our loop, {kind}"] = (ours, job)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(options.rounds + 1):
        # In turn, and every other round the other way round: neither always comes first.
        for name, (run, job) in list(candidates.items())[:: 1 if i % 2 else -1]:
            spent_s = world.sum([run(*job, options.steps)])[0]
            if i:  # the first round warms up
                seconds[name].append(spent_s)
    if world.is_main:
        ratios = {
            "our loop / bare loop, deepspeed": ("bare loop, deepspeed", "our loop, deepspeed"),
            "our loop / bare loop, ddp": ("bare loop, ddp", "our loop, ddp"),
            "deepspeed / ddp, our loop": ("our loop, ddp", "our loop, deepspeed"),
        }
        result = {
            name: paired.relate({below: seconds[below], above: seconds[above]})[above]
            for name, (below, above) in ratios.items()
        }
        for kind in ("deepspeed", "ddp"):
            both = zip(seconds[f"our loop, {kind}"], seconds[f"bare loop, {kind}"], strict=True)
            added_s = statistics.median(a - b for a, b in both) / options.steps
            result[f"our loop / bare loop, {kind}"]["added_cpu_s_per_step"] = round(added_s, 5)
        paired.save(
            {
                "what": "CPU seconds of both processes, demo preset, 2 processes",
                "steps_per_round": options.steps,
                "rounds": options.rounds,
                "ratios": result,
            },
            options,
        )
        shutil.rmtree(scratch)
    close()


if __name__ == "__main__":
    sys.exit(main())
