"""A checkpoint's parameters as a source of weights."""

from pathlib import Path

import pytest
import torch

from mobilellama.config import DataError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.pretrain.hf.export_folder import parameter_shapes
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.checkpoint_weights import CheckpointWeights
from mobilellama.pretrain.state.manifest import MANIFEST
from mobilellama.run_folder import RunFolder
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.tiny import train_tiny


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with checkpoints after 1 and 2 steps."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    fields = {"train.max_steps": 2, "checkpoint.every_steps": 1}
    run_ranks(train_tiny, 1, small_dataset, folder, fields)
    return RunFolder(folder)


def shapes_in(checkpoint: Checkpoint) -> dict[str, torch.Size]:
    return parameter_shapes(ModelConfig(**checkpoint.manifest.config["model"]))


def test_parameters_come_in_the_models_order_and_shapes_and_in_fp32(run: RunFolder) -> None:
    checkpoint = Checkpoint(run.checkpoint(2))
    shapes = shapes_in(checkpoint)
    weights = CheckpointWeights(checkpoint, shapes)
    assert weights.names() == [*shapes]
    for name, shape in shapes.items():
        value = weights.parameter(name)
        assert weights.shape(name) == value.shape == shape
        assert weights.dtype(name) == value.dtype == torch.float32
        assert torch.equal(value, checkpoint.parameter(name, shape))
        assert torch.equal(weights.stored(name), value)
    assert weights.fingerprint == sha256_of_file(checkpoint.folder / MANIFEST)
    weights.verify()
    weights.verify(share=1, shares=2)  # a rank that has no file to check
    weights.close()


def test_a_checkpoint_of_another_model_is_refused_by_its_names_and_sizes(run: RunFolder) -> None:
    checkpoint = Checkpoint(run.checkpoint(2))
    shapes = shapes_in(checkpoint)
    refusals = {
        "it lacks more.weight, unlike the model of its config": {
            **shapes,
            "more.weight": torch.Size([1]),
        },
        "it also has model.norm.weight, unlike": {
            name: shape for name, shape in shapes.items() if name != "model.norm.weight"
        },
        r"it has sizes of model.norm.weight \(64 elements, not 65\)": shapes
        | {"model.norm.weight": torch.Size([65])},
    }
    for message, others in refusals.items():
        with pytest.raises(DataError, match=message):
            CheckpointWeights(checkpoint, others)


def test_a_flipped_bit_is_found_and_the_runs_other_steps_are_named(run: RunFolder) -> None:
    checkpoint = Checkpoint(run.checkpoint(2))
    weights = CheckpointWeights(checkpoint, shapes_in(checkpoint))
    file = checkpoint.folder / "rank-0.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    for shares in (1, 2):
        with pytest.raises(
            DataError, match=r"its sha256 is not .* Other checkpoints of the run: step-1$"
        ):
            weights.verify(share=0, shares=shares)
