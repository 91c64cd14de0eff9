"""Validation: the held-out windows, all of them and only them, whoever computes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx import GraphModule

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.data import WindowInputs
from mobilellama.pretrain.engines.ddp import DDPEngine
from mobilellama.pretrain.model import LanguageModel, build_on, init_parameter
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.sections import ModelConfig, ValidationConfig
from mobilellama.pretrain.validate import HeldOutViews, Validation
from mobilellama.shards.reader import TokenDataset
from tests.helpers.ranks import run_ranks
from tests.pretrain.traced.host_syncs import HostSyncs

MODEL = ModelConfig(vocab_size=800, d_model=32, n_layers=1, n_heads=2, d_ff=48, max_seq_len=32)


def build_model() -> LanguageModel:
    model = build_on(torch.device("cpu"), MODEL)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(init_parameter(name, parameter.shape, MODEL, seed=1))
    return model


def validation_of(
    folder: Path, num_samples: int, world: World
) -> tuple[Validation, DDPEngine, LanguageModel]:
    model, optimizer = build_model(), OptimizerConfig()
    engine = DDPEngine(
        model, parameter_groups(model.named_parameters(), optimizer), precision="fp32",
        optimizer=open_optimizer(optimizer), rank=world.rank, world_size=world.size,
    )  # fmt: skip
    dataset = TokenDataset(folder)
    inputs = WindowInputs(seq_len=32, eos_id=None)
    validation = Validation(
        ValidationConfig(every_steps=5, samples_per_subset=num_samples),
        HeldOutViews(dataset, dataset.subsets, 32, inputs, is_main=True),
        micro_batch_size=4, max_steps=12, engine=engine, world=world,
    )  # fmt: skip
    return validation, engine, model


def validate(folder: Path, num_samples: int) -> tuple[Any, Any, bool]:
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    validation, _, model = validation_of(folder, num_samples, world)
    due = [step for step in range(1, 13) if validation(step)]
    return dict(validation(5)), due, model.training


def test_validation_leaves_training_its_own_shapes_and_waits_for_the_device_in_no_batch(
    small_dataset: Path, world: World
) -> None:
    """Its last batch, of 3, would make the compiler take any size from then on."""
    validation, engine, model = validation_of(small_dataset, 7, world)
    compiled: list[list[str]] = []

    def compile_for(graph: GraphModule, examples: list[Any]) -> GraphModule:
        compiled.append(
            [str(size) for given in examples for size in getattr(given, "shape", [given])]
        )
        return graph

    torch._dynamo.reset()
    for layer in model.model.layers:
        layer.compile(backend=compile_for)
    validation(5)
    ids = torch.arange(4 * 33).view(4, 33)
    sums = engine.forward({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}, last=True)
    engine.backward(sums.loss_sum)
    assert len(compiled) == 2  # without gradients, and with them
    assert all(size.isdigit() for sizes in compiled for size in sizes)
    with HostSyncs() as syncs:  # under which nothing is compiled
        validation(5)
    assert syncs.names == []


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("num_samples", [7, 10_000])
def test_losses_are_those_of_the_held_out_windows_computed_one_by_one(
    small_dataset: Path, world_size: int, num_samples: int
) -> None:
    results = run_ranks(validate, world_size, small_dataset, num_samples)
    dataset, model = TokenDataset(small_dataset), build_model()
    expected: dict[str, float] = {}
    sums, counts = 0.0, 0
    for subset in dataset.subsets:
        view = dataset.windows(subset, 32, "heldout")
        losses = []
        count = min(len(view), num_samples)
        for i in range(count):
            ids = torch.from_numpy(view.tokens(i * len(view) // count).astype(np.int64))[None]
            with torch.no_grad():
                losses.append(float(model(ids[:, :-1], ids[:, 1:]).loss_sum))
        if losses:
            expected[f"validation_loss/{subset}"] = sum(losses) / (32 * len(losses))
            sums, counts = sums + sum(losses), counts + 32 * len(losses)
    expected["validation_loss"] = sums / counts
    assert len(expected) >= 3
    for losses, due, training in results:
        assert losses == pytest.approx(expected, rel=1e-5)
        assert due == [5, 10, 12]  # every fifth step, and the last
        assert training  # back in training mode
