"""Where a model runs, and in which dtype."""

import pytest
import torch
from transformers import LlamaConfig

from mobilellama.config import ConfigError
from mobilellama.pretrain.hf.device import choose_dtype, find_device

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_device_that_is_not_there_is_told() -> None:
    for name in ("gpu", "cuda:-1", ""):
        with pytest.raises(ConfigError, match=f"^device = {name}: is not a device. Use auto, cpu"):
            find_device(name)
    with pytest.raises(ConfigError, match=r"device = cudaa: .*did you mean 'cuda'"):
        find_device("cudaa")
    with pytest.raises(ConfigError, match=r"device = cuda:99: does not exist: torch sees \d+ GPUs"):
        find_device("cuda:99")
    with pytest.raises(ConfigError, match=r"device = xla: cannot be used \(.*\)\. Use auto, cpu"):
        find_device("xla")
    assert find_device("cpu") == CPU
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("stored", "scored_on_gpu", "talks_on_cpu"),
    [
        ("bfloat16", "bf16", "bf16"),
        ("float16", "fp16", "fp32"),
        ("float32", "fp32", "fp32"),
        (None, "fp32", "fp32"),
        ("float64", "fp32", "fp32"),
    ],
)
def test_the_dtype_follows_the_stored_one_where_that_matters(
    stored: str | None, scored_on_gpu: str, talks_on_cpu: str
) -> None:
    config = LlamaConfig(dtype=stored)

    assert choose_dtype("auto", GPU, lambda: config, prefer="precision") == scored_on_gpu
    assert choose_dtype("auto", CPU, lambda: config, prefer="precision") == "fp32"
    assert choose_dtype("auto", CPU, lambda: config, prefer="speed") == talks_on_cpu
    for device in (CPU, GPU):
        for asked in ("bf16", "fp16", "fp32"):
            assert choose_dtype(asked, device, lambda: config, prefer="speed") == asked
            assert choose_dtype(asked, device, lambda: config, prefer="precision") == asked


def test_a_config_with_a_torch_dtype_is_understood_too() -> None:
    config = LlamaConfig()
    config.dtype = torch.bfloat16
    assert choose_dtype("auto", CPU, lambda: config, prefer="speed") == "bf16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_for_speed_a_gpu_takes_half_precision_whatever_is_stored() -> None:
    config = LlamaConfig(dtype="float32")
    assert choose_dtype("auto", GPU, lambda: config, prefer="speed") in ("bf16", "fp16")
