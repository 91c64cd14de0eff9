"""The dense peaks by the names that CUDA reports, and the paper's utilisation."""

from pathlib import Path

import pytest

from mobilellama.commandline.parser import parse_config
from mobilellama.pretrain.config import Config
from mobilellama.pretrain.main import PRESETS
from mobilellama.pretrain.monitoring.throughput import dense_peak_tflops, mfu
from mobilellama.pretrain.planning.parameters import flops_per_token


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        # Names that hold another's letters are not it.
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("NVIDIA H1000", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("Tesla V100-SXM2-16GB", None),
        ("", None),
    ],
)
def test_the_peak_is_the_dense_one_of_exactly_this_gpu(name: str, peak: float | None) -> None:
    assert dense_peak_tflops(name) == peak


def preset(name: str) -> Config:
    arguments = ["--config", name, "--data.path", "unused", "--run.folder", "unused"]
    return parse_config(Config, arguments, prog="test", about="", presets=Path(PRESETS))


@pytest.mark.parametrize(
    ("name", "flops", "tokens_per_s", "utilisation"),
    [
        # 6 * (1,364,297,728 - 32,000 * 2048) + 12 * 24 * 2048 * 2048
        # = 6 * 1,298,761,728 + 1,207,959,552
        ("mobilellama_1_4b", 9_000_529_920, 18_800, 54.2),
        # 6 * (2,701,560,320 - 32,000 * 2560) + 12 * 32 * 2560 * 2048
        # = 6 * 2,619,640,320 + 2,013,265,920
        ("mobilellama_2_7b", 17_731_107_840, 8_500, 48.3),
    ],
)
def test_the_papers_tokens_a_second_on_a100_give_its_utilisation(
    name: str, flops: int, tokens_per_s: float, utilisation: float
) -> None:
    config = preset(name)
    counted = flops_per_token(config.model, config.train.seq_len)
    assert counted == flops
    assert round(100 * mfu(tokens_per_s, counted, 312.0), 1) == utilisation
