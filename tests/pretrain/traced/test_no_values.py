"""What trains runs on tensors without values: it mixes no devices, and reads nothing back.

The device is ``meta``. A tensor of the CPU among its tensors is an error there, and so is whatever
makes the CPU wait for a GPU. Fake tensors on CUDA would be nearer, but PyTorch without CUDA cannot
index them.
"""

import pytest
import torch
from torch import Tensor, nn

from mobilellama.pretrain import attention
from mobilellama.pretrain.model import Attention, LanguageModel, LossSums
from mobilellama.pretrain.monitoring.tally import Tally
from mobilellama.sft.lora import inject
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.vlm.model import VisionLanguageModel
from mobilellama.vlm.projectors.table import PROJECTORS
from tests.pretrain.traced.small import CONFIG
from tests.vlm.helpers.small_models import architecture

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # unknown on meta


def without_values(model: nn.Module) -> None:
    model.to(torch.bfloat16).to(META)


def ids(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64, device=META)


def train(model: LanguageModel, **inputs: Tensor) -> LossSums:
    """Run a forward and a backward pass, and add up the losses as the loop does."""
    sums = model(ids(2, 32), ids(2, 32), **inputs)
    (sums.loss_sum / 64).backward()
    tally = Tally(3, META)
    tally.add(ids(2), sums.sample_loss_sums, sums.sample_tokens)
    assert tally.with_flag(True).device == META
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert not parameter.requires_grad or (grad is not None and grad.device == META), name
    return sums


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_pretraining_and_of_finetuning_reads_nothing_back(
    lora: bool, checkpointing: bool
) -> None:
    model = LanguageModel(CONFIG)
    if lora:
        inject(model, LoraConfig(rank=4))
    model.model.gradient_checkpointing = checkpointing
    without_values(model)
    sums = train(model)
    assert {value.device for value in sums} == {META}
    assert sums.loss_sum.dtype == torch.float32


def test_documents_in_a_kernel_read_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's kernel; its backward pass has no form without values."""
    monkeypatch.setattr(attention, "takes_kernel", lambda q: q.dtype == torch.bfloat16)
    model = LanguageModel(CONFIG)
    for module in model.modules():
        if isinstance(module, Attention):
            module.kernel = "torch"
    without_values(model)
    bounds = torch.empty(4, dtype=torch.int32, device=META)
    with torch.no_grad():
        sums = model(ids(2, 32), ids(2, 32), document_bounds=bounds)
    assert {value.device for value in sums} == {META}


@pytest.mark.parametrize("projector", sorted(PROJECTORS))
def test_tower_projector_and_places_of_images_read_nothing_back(projector: str) -> None:
    model = VisionLanguageModel(architecture(projector=projector))
    without_values(model)
    pixels = torch.empty(3, 3, 16, 16, dtype=torch.uint8, device=META)
    features = model.image_features(pixels)
    assert features.shape == (3, model.config.image_tokens, 32)
    embeddings = model.embed(ids(2, 20), features)
    embeddings.float().sum().backward()
    assert (embeddings.device, embeddings.shape) == (META, (2, 20, 32))
    assert all(p.grad is not None for p in model.projector.parameters())


def test_what_reads_back_or_mixes_devices_is_seen() -> None:
    """Positions, in which documents are looked for, do the one; a tensor of the CPU the other."""
    model = LanguageModel(CONFIG)
    without_values(model)
    with pytest.raises(NotImplementedError, match="nonzero"):
        model(ids(2, 32), ids(2, 32), position_ids=ids(2, 32))
    model.model.norm.to_empty(device="cpu")
    with pytest.raises(RuntimeError, match="device"):
        train(model)
