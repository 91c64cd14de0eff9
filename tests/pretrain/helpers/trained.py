"""Our model with the weights of a run."""

from pathlib import Path

import torch

from mobilellama.pretrain.model import LanguageModel, build_on
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.run_folder import RunFolder


def trained_model(run: Path, step: int) -> LanguageModel:
    """Return our model with a checkpoint's fp32 weights."""
    checkpoint = Checkpoint(RunFolder(run).checkpoint(step))
    model = build_on(torch.device("cpu"), ModelConfig(**checkpoint.manifest.config["model"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.parameter(name, parameter.shape))
    return model
