"""The GPUs have the figures of the datasheets, and a wrong name is told."""

import pytest

from mobilellama.config import ConfigError
from mobilellama.pretrain.planning.gpus import gpu_named


@pytest.mark.parametrize(
    ("name", "memory_gb", "peak_tflops"),
    [("a100-40g", 40, 312), ("a100-80g", 80, 312), ("h100", 80, 989), ("h200", 141, 989),
     ("l40s", 48, 362)],
)  # fmt: skip
def test_a_gpu_has_the_figures_of_its_datasheet(
    name: str, memory_gb: int, peak_tflops: float
) -> None:
    gpu = gpu_named(name)
    assert (gpu.memory_bytes, gpu.peak_tflops) == (memory_gb * 10**9, peak_tflops)


def test_a_wrong_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"gpu = a100-80gb: must be one of a100-40g, .*'a100-80g"):
        gpu_named("a100-80gb")
