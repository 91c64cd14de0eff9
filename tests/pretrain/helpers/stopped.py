"""What is left of a run: its state, its losses, and a copy as a kill would leave it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder


def state_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Return every weight and the optimizer's tensors of a checkpoint, whole, by name."""
    checkpoint = Checkpoint(RunFolder(run).checkpoint(step))
    state = {}
    for name in checkpoint.names():
        for kind in checkpoint.kinds:
            shape = torch.Size([checkpoint.numel(name)])
            state[f"{name}:{kind}"] = checkpoint.parameter(name, shape, kind)
    return state


def losses_of(run: Path) -> dict[int, dict[str, Any]]:
    """Return what metrics.jsonl says of each step, without times and memory."""
    measured = {"tokens_per_s_per_gpu", "mfu", "memory_gib"}
    steps: dict[int, dict[str, Any]] = {}
    for line in RunFolder(run).metrics.read_text().splitlines():
        record = json.loads(line)
        kept = {n: v for n, v in record.items() if n not in measured and not n.endswith("_s")}
        steps.setdefault(record["step"], {}).update(kept)
    return steps


def cut_back(run: Path, copy: Path, *, step: int) -> Path:
    """Copy a run's folder as it is when every process is killed after `step` was saved."""
    shutil.copytree(run, copy)
    folder = RunFolder(copy)
    for later in folder.checkpoint_steps():
        if later > step:
            shutil.rmtree(folder.checkpoint(later))
    folder.verdict.unlink()
    return copy
