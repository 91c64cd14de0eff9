"""Steps of an engine on a tiny model, and the state that its ranks own."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.ddp import DDPEngine
from mobilellama.pretrain.engines.deepspeed import DeepSpeedEngine
from mobilellama.pretrain.engines.engine import Engine, Fragment, StepReport
from mobilellama.pretrain.model import LanguageModel, build_on, init_parameter
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.sections import ModelConfig

MODEL = ModelConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=2, d_ff=48, max_seq_len=16)
# A large eps: Adam would turn the rounding of a gradient near zero into a whole step.
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, max_grad_norm=0.5, eps=1e-4)
SAMPLES, SEQ_LEN, STEPS = 8, 16, 3


class Initial:
    """The first state, by name."""

    optimizer_step = 0

    def read(self, fragment: Fragment) -> None:
        shapes = {n: p.shape for n, p in LanguageModel(MODEL).named_parameters()}
        whole = init_parameter(fragment.name, shapes[fragment.name], MODEL, seed=1).view(-1)
        fragment.weight.copy_(whole[fragment.start : fragment.start + len(fragment.weight)])


def make_engine(
    kind: str,
    precision: str,
    world: World,
    *,
    micro: int,
    zero: int = 1,
    optimizer: OptimizerConfig = OPTIMIZER,
    **fields: Any,
) -> Engine:
    """Make an engine with the first state; the fields are those of ``EngineConfig``."""
    model = build_on(world.device, MODEL)
    groups = parameter_groups(model.named_parameters(), optimizer)
    if kind == "ddp":
        engine: Engine = DDPEngine(
            model, groups, precision=precision, optimizer=open_optimizer(optimizer),
            rank=world.rank, world_size=world.size,
        )  # fmt: skip
    else:
        config = EngineConfig(zero_stage=2 if zero == 2 else 1, **fields)
        engine = DeepSpeedEngine(
            model, groups, config=config, precision=precision, optimizer=open_optimizer(optimizer),
            micro_batch_size=micro, world_size=world.size,
        )  # fmt: skip
    engine.load(Initial())
    return engine


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    """Return (input_ids, labels) of a whole global batch; some labels are not supervised."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 64, (SAMPLES, SEQ_LEN + 1), generator=generator)
    labels = ids[:, 1:].clone()
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = -100  # unevenly over samples
    return ids[:, :-1], labels


def micro_batches(step: int, world: World, micro: int) -> Iterator[tuple[bool, dict[str, Tensor]]]:
    ids, labels = (x.chunk(world.size)[world.rank] for x in batch_of(step))
    for k in range(0, len(ids), micro):
        inputs = {"input_ids": ids[k : k + micro], "labels": labels[k : k + micro]}
        yield k + micro >= len(ids), inputs


def take_step(engine: Engine, world: World, step: int, micro: int) -> StepReport:
    supervised = int((batch_of(step)[1] != -100).sum())
    for last, inputs in micro_batches(step, world, micro):
        engine.backward(engine.forward(inputs, last=last).loss_sum / supervised)
    return engine.step(lr_factor=1.0 / (step + 1))


def state_of(engine: Engine) -> dict[str, tuple[int, *tuple[Tensor, ...]]]:
    """Return of each fragment its start, its weight and the optimizer's tensors."""
    return {
        f.name: (f.start, f.weight.clone(), *(moment.clone() for moment in f.state.values()))
        for f in engine.fragments()
    }


def train_some(kind: str, precision: str, micro: int, zero: int = 1) -> Any:
    torch.set_num_threads(1)
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    engine = make_engine(kind, precision, world, micro=micro, zero=zero)
    reports = [take_step(engine, world, step, micro) for step in range(STEPS)]
    return [report.grad_norm for report in reports], state_of(engine), engine.optimizer_step


def whole(states: list[dict[str, tuple[int, *tuple[Tensor, ...]]]], kind: int) -> dict[str, Tensor]:
    """Join the ranks' fragments; assert that each element is owned exactly once."""
    shapes = {name: p.shape for name, p in LanguageModel(MODEL).named_parameters()}
    joined = {}
    for name, shape in shapes.items():
        flat, owners = torch.zeros(shape.numel()), torch.zeros(shape.numel())
        for state in states:
            if name in state:
                start, *values = state[name]
                value = values[kind]
                flat[start : start + len(value)] = value
                owners[start : start + len(value)] += 1
        assert (owners == 1).all(), name
        joined[name] = flat.view(shape)
    return joined
