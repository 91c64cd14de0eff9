"""One suite for both engines: each must do what plain AdamW does on the whole batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mobilellama.config import ConfigError
from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.model import build_on, init_parameter
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import OptimizerKind
from mobilellama.pretrain.optimizers.table import OPTIMIZERS
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.engine_steps import (
    MODEL,
    STEPS,
    batch_of,
    make_engine,
    micro_batches,
    state_of,
    take_step,
    train_some,
    whole,
)

KINDS = ["deepspeed", "ddp"]


def reference() -> tuple[list[float], dict[str, Tensor]]:
    """Train with nothing but torch, on the whole batch at once."""
    model = build_on(torch.device("cpu"), MODEL)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(init_parameter(name, parameter.shape, MODEL, seed=1))
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        betas=(0.9, 0.95), eps=1e-4,
    )  # fmt: skip
    grad_norms = []
    for step in range(STEPS):
        ids, labels = batch_of(step)
        logits = model.logits(ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        grad_norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        for group in adamw.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        adamw.step()
        adamw.zero_grad()
    return grad_norms, {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("world_size", "micro"), [(1, 2), (2, 2), (2, 4)])
def test_an_engine_takes_the_steps_of_plain_adamw_on_the_whole_batch(
    kind: str, world_size: int, micro: int
) -> None:
    """Accumulation, averaging over ranks, clipping, decay and rate: all as without an engine."""
    results = run_ranks(train_some, world_size, kind, "fp32", micro)
    grad_norms, weights = reference()
    assert all(norm > 0.5 for norm in grad_norms[:1])  # so that clipping is at work
    for norms, _, optimizer_step in results:
        assert norms == pytest.approx(grad_norms, rel=1e-4)
        assert optimizer_step == STEPS
    joined = whole([state for _, state, _ in results], 0)
    for name, expected in weights.items():
        torch.testing.assert_close(joined[name], expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("kind", "zero"), [("deepspeed", 1), ("deepspeed", 2), ("ddp", 1)])
def test_bf16_follows_fp32(kind: str, zero: int) -> None:
    results = run_ranks(train_some, 2, kind, "bf16", 2, zero)
    grad_norms, weights = reference()
    assert results[0][0] == pytest.approx(grad_norms, rel=0.05)
    joined = whole([state for _, state, _ in results], 0)
    for name, expected in weights.items():
        # Three Adam steps of at most 1e-2, 5e-3, 3.3e-3; signs of tiny gradients may differ.
        assert (joined[name] - expected).abs().mean() < 2e-3, name


def masters_after_load(kind: str) -> Any:
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    return state_of(make_engine(kind, "bf16", world, micro=2))


@pytest.mark.parametrize("kind", KINDS)
def test_masters_under_bf16_are_the_unrounded_initial_weights(kind: str) -> None:
    """DeepSpeed itself would have made them from the weights already rounded to bf16."""
    masters = whole(run_ranks(masters_after_load, 2, kind), 0)
    for name, master in masters.items():
        expected = init_parameter(name, master.shape, MODEL, seed=1)
        assert torch.equal(master, expected), name
    assert any(not torch.equal(m, m.bfloat16().float()) for m in masters.values())


def step_with_a_gradient_that_is_not_finite(kind: str, precision: str, zero: int) -> Any:
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    engine = make_engine(kind, precision, world, micro=2, zero=zero)
    take_step(engine, world, 0, 2)
    before = state_of(engine)
    poison = float("nan") if world.rank == 1 else 1.0  # on one rank only
    for last, inputs in micro_batches(1, world, 2):
        engine.backward(engine.forward(inputs, last=last).loss_sum * poison)
    report = engine.step(1.0)
    same = all(
        torch.equal(a, b)
        for name, pieces in state_of(engine).items()
        for a, b in zip(pieces[1:], before[name][1:], strict=True)
    )
    healthy = take_step(engine, world, 2, 2)
    return report.applied, same, engine.optimizer_step, healthy.applied, healthy.grad_norm


@pytest.mark.parametrize(("kind", "zero"), [("deepspeed", 1), ("deepspeed", 2), ("ddp", 1)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_skips_the_step_on_every_rank(
    kind: str, zero: int, precision: str
) -> None:
    for applied, same, count, healthy, norm in run_ranks(
        step_with_a_gradient_that_is_not_finite, 2, kind, precision, zero
    ):
        assert (applied, same, count, healthy) == (False, True, 2, True)
        assert 0 < norm < float("inf")


class Adagrad(OptimizerKind):
    """An optimizer that a user adds: one class, and one line in the table."""

    state_names = ("sum",)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(groups)

    def describe(self) -> str:
        return "Adagrad"

    def first_state(self, values: Tensor, steps: int) -> dict[str, Any]:
        return {"step": torch.tensor(float(steps))} | super().first_state(values, steps)


def steps_of_adagrad(kind: str) -> Any:
    OPTIMIZERS["adagrad"] = f"{__name__}:Adagrad"
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    own = OptimizerConfig(kind="adagrad", learning_rate=1e-2, max_grad_norm=0.5, weight_decay=0.0)
    try:
        engine = make_engine(kind, "fp32", world, micro=2, optimizer=own)
    except ConfigError as error:
        return str(error)
    grad_norms = [take_step(engine, world, step, 2).grad_norm for step in range(STEPS)]
    return grad_norms, state_of(engine)


def test_an_added_optimizer_keeps_its_own_state_by_its_line_in_the_table_alone() -> None:
    """Adagrad's sum after three steps is that of the squares of three clipped gradients."""
    results = run_ranks(steps_of_adagrad, 2, "ddp")
    sums = whole([state for _, state in results], 1)
    total = float(sum(value.sum() for value in sums.values()))
    assert total == pytest.approx(sum(min(norm, 0.5) ** 2 for norm in results[0][0]), rel=1e-4)


def test_an_optimizer_that_deepspeed_replaces_is_refused() -> None:
    for said in run_ranks(steps_of_adagrad, 2, "deepspeed"):
        assert said.startswith("engine.kind = deepspeed: builds its own optimizer in the place of")
        assert said.endswith("optimizer.kind = adagrad. Use --engine.kind ddp.")
