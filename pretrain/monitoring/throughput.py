"""Model FLOPs utilisation against the *dense* peak of the GPU at hand.

Peers have published figures against sparse or mistaken peaks; this table is tested.
"""

# Dense bf16 TFLOP/s by the vendor's datasheets; the first pattern found in the device's name wins.
DENSE_BF16_TFLOPS = (
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("A10", 125.0),
    ("L4", 121.0),
)


def dense_peak_tflops(device_name: str) -> float | None:
    """Return the dense bf16 peak of a GPU in TFLOP/s, None for one that is not in the table."""
    words = device_name.replace("-", " ").split()
    for pattern, peak in DENSE_BF16_TFLOPS:
        wanted = pattern.split()
        # Whole words, so that "A10" is not found in "A100" nor "L4" in "L40S".
        if any(words[i : i + len(wanted)] == wanted for i in range(len(words))):
            return peak
    return None


def mfu(tokens_per_s_per_gpu: float, flops: float, peak_tflops: float) -> float:
    """Return the share of the peak that the model's own FLOPs use."""
    return tokens_per_s_per_gpu * flops / (peak_tflops * 1e12)
