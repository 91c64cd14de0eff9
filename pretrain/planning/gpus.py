"""GPUs by name: memory by the vendor's datasheets, and the dense bf16 peaks that MFU uses.

Datasheets of NVIDIA: A100, H100, H200, L40S, and the product briefs of A10 and L4. A gigabyte is
taken as 10^9 bytes. CUDA reports a little more or less.
"""

from dataclasses import dataclass

from mobilellama.config import ConfigError, did_you_mean
from mobilellama.pretrain.monitoring.throughput import DENSE_BF16_TFLOPS


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU."""

    memory_bytes: float
    """Memory of the card."""
    peak_tflops: float
    """Dense bf16 TFLOP/s."""


_PEAKS = dict(DENSE_BF16_TFLOPS)


def _gpu(memory_gb: float, device: str) -> Gpu:
    return Gpu(memory_bytes=memory_gb * 1e9, peak_tflops=_PEAKS[device])


GPUS = {
    "a100-40g": _gpu(40, "A100"),
    "a100-80g": _gpu(80, "A100"),
    "h100": _gpu(80, "H100"),
    "h100-pcie": _gpu(80, "H100 PCIe"),
    "h100-nvl": _gpu(94, "H100 NVL"),
    "h200": _gpu(141, "H200"),
    "h200-nvl": _gpu(141, "H200 NVL"),
    "l40s": _gpu(48, "L40S"),
    "a10": _gpu(24, "A10"),
    "l4": _gpu(24, "L4"),
}
"""A GPU's kind by the value of ``gpu``."""


def gpu_named(name: str) -> Gpu:
    """Return the GPU of a name.

    Raises:
        ConfigError: the table has no such name.
    """
    if name not in GPUS:
        rule = f"must be one of {', '.join(GPUS)}"
        remedy = f"Choose the one with the memory and the speed of yours{did_you_mean(name, GPUS)}"
        raise ConfigError("gpu", name, rule, remedy)
    return GPUS[name]
