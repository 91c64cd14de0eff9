"""The state that a run's attempt begins with: a checkpoint's, or first values.

Parameters that train go through the engine, which holds their fp32 masters. Those that do not are
set in the model itself; at a run's first attempt they are written once, and named by their hash.
"""

import logging
from typing import Any

import torch
from torch import nn

from mobilellama.distributed import World
from mobilellama.pretrain.engines.engine import Engine, Fragment
from mobilellama.pretrain.state import rng
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.frozen import write_frozen
from mobilellama.pretrain.weight_source import WeightSource, require_shapes, shapes_of
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)


@torch.no_grad()
def restore(model: nn.Module, engine: Engine, checkpoint: Checkpoint, rank: int) -> None:
    """Give model, engine and random generators the state of a checkpoint, and close it."""
    engine.load(checkpoint)
    for name, parameter in frozen_parameters(model).items():
        parameter.copy_(checkpoint.parameter(name, parameter.shape))
    if states := checkpoint.rng(rank):  # a rank that the checkpoint did not have is seeded
        rng.restore(states)
    checkpoint.close()
    consumed = checkpoint.manifest.consumed
    log.info("resuming from %s, %d samples consumed", checkpoint.folder, consumed)


def begin(model: nn.Module, engine: Engine, weights: WeightSource) -> None:
    """Give the engine the first values of what trains, with moments of zero.

    Raises:
        DataError: the weights are not those of the model.
    """
    require_shapes(weights, shapes_of(model))
    engine.load(FirstState(weights))


def frozen_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that do not train, by name."""
    return {name: value for name, value in model.named_parameters() if not value.requires_grad}


@torch.no_grad()
def freeze(
    model: nn.Module, weights: WeightSource, world: World, run: RunFolder, attempt: int
) -> str | None:
    """Set the parameters that do not train, write them into the run, return the file's sha256."""
    frozen = frozen_parameters(model)
    if not frozen:
        return None
    for name, parameter in frozen.items():
        parameter.copy_(weights.stored(name))
    sha256: str | None = None

    def write() -> None:
        nonlocal sha256
        sha256 = write_frozen(run, weights, [*frozen], attempt=attempt)

    world.run_on_main(write)
    return sha256  # rank 0 alone writes manifests


class FirstState:
    """The state before the first step: initial weights, moments of zero."""

    optimizer_step = 0

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights

    def read(self, fragment: Fragment) -> None:
        """Fill a fragment's weight; its moments are zeros already."""
        whole = self._weights.parameter(fragment.name)
        piece = slice(fragment.start, fragment.start + fragment.weight.numel())
        fragment.weight.copy_(whole.reshape(-1)[piece])


def report_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Log the fields that this attempt changes; those of the identity were checked before.

    A field that the checkpoint's version did not have yet has not changed.
    """
    for section in (name for name in now if name in before):
        fields, old = now[section], before[section]
        if not isinstance(fields, dict) or not isinstance(old, dict):
            fields, old = {"": fields}, {"": old}
        for name, value in fields.items():
            if name in old and old[name] != value:
                field = f"{section}.{name}".rstrip(".")
                log.info("changed since the checkpoint: %s = %s, was %s", field, value, old[name])
