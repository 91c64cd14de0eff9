"""Bytes of the tensors that a process holds, by dtype, each storage counted once."""

import gc
from collections import Counter
from typing import Any

import torch

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.engines.engine import Engine
from tests.pretrain.helpers.engine_steps import make_engine, micro_batches, take_step


def held_bytes() -> Counter[str]:
    """Return the bytes of all storages that Python's objects reach, by their dtype."""
    gc.collect()
    storages: dict[int, tuple[str, int]] = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor):
            for tensor in (one, one.grad if one.is_leaf else None):
                if tensor is not None and tensor.device.type != "meta":
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = (str(tensor.dtype), storage.nbytes())
    held: Counter[str] = Counter()
    for dtype, nbytes in storages.values():
        held[dtype] += nbytes
    return held


def held_by_engine(kind: str, precision: str, zero: int) -> Any:
    """Return what an engine holds before its step, after the last backward, and after the step."""
    torch.set_num_threads(1)
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    before = held_bytes()
    engine = make_engine(kind, precision, world, micro=2, zero=zero)
    take_step(engine, world, 0, 2)
    run_micro_batches(engine, world)
    full = held_bytes() - before
    engine.step(1.0)
    return full, held_bytes() - before


def run_micro_batches(engine: Engine, world: World) -> None:
    """Compute the gradients of a step. The batch is freed on return."""
    for last, inputs in micro_batches(1, world, 2):
        engine.backward(engine.forward(inputs, last=last).loss_sum / 100)
