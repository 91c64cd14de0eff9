"""Load the state that an attempt begins with: from a checkpoint, or from initial weights.

Parameters that train are loaded through the engine, which holds their fp32 masters. Parameters
that do not train are set in the model itself. The first attempt of a run writes these to a file.
"""

import logging
from collections.abc import Mapping

import torch
from torch import nn

from mobilellama.distributed import World
from mobilellama.pretrain.engines.engine import Engine, Fragment
from mobilellama.pretrain.state import rng
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.frozen import write_frozen
from mobilellama.pretrain.weight_source import WeightSource, require_shapes, shapes_of
from mobilellama.progress import format_count
from mobilellama.run_folder import RunFolder

log = logging.getLogger(__name__)


@torch.no_grad()
def restore(model: nn.Module, engine: Engine, checkpoint: Checkpoint, rank: int) -> None:
    """Load a checkpoint into model, engine and random generators, and close it."""
    engine.load(checkpoint)
    for name, parameter in frozen_parameters(model).items():
        parameter.copy_(checkpoint.parameter(name, parameter.shape))
    # A larger world has ranks that the checkpoint did not have. They keep their seeded state.
    if states := checkpoint.rng(rank):
        rng.restore(states)
    checkpoint.close()
    consumed = checkpoint.manifest.consumed
    log.info("resuming from %s, %s consumed", checkpoint.folder, format_count(consumed, "sample"))


def load_first_values(model: nn.Module, engine: Engine, weights: WeightSource) -> None:
    """Load initial weights into the engine. The optimizer's state is its first.

    Raises:
        DataError: names or shapes of the weights and the model differ.
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
    """Set the parameters that do not train, and write them into the run.

    Returns:
        The file's sha256 on rank 0; None on other ranks, and if all parameters train.
    """
    frozen = frozen_parameters(model)
    if not frozen:
        return None
    # Every rank reads the source, as every rank holds these parameters whole. Rank 0 alone writes.
    for name, parameter in frozen.items():
        parameter.copy_(weights.stored(name))
    sha256: str | None = None

    def write() -> None:
        nonlocal sha256
        sha256 = write_frozen(run, weights, [*frozen], attempt=attempt)

    world.run_on_main(write)
    return sha256  # only rank 0 writes manifests, so only rank 0 needs it


class FirstState:
    """The state before the first step: initial weights, and the optimizer's first state."""

    optimizer_step = 0

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights

    def read(self, fragment: Fragment) -> None:
        """Fill a fragment's weight. The engine has made the optimizer's first state."""
        whole = self._weights.parameter(fragment.name)
        part = slice(fragment.start, fragment.start + fragment.weight.numel())
        fragment.weight.copy_(whole.reshape(-1)[part])


def report_changes(before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Log the config fields that differ from the checkpoint's.

    The identity was checked before. A field that an older version did not store counts as
    unchanged.
    """
    for section in (name for name in now if name in before):
        fields, old = now[section], before[section]
        if not isinstance(fields, dict) or not isinstance(old, dict):
            fields, old = {"": fields}, {"": old}
        for name, value in fields.items():
            if name == "steps" and value == fields.get("max_steps"):
                continue  # the resolved length, which max_steps tells under the user's own name
            if name in old and old[name] != value:
                field = f"{section}.{name}".rstrip(".")
                log.info("changed since the checkpoint: %s = %s, was %s", field, value, old[name])
