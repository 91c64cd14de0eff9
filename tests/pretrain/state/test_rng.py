"""Every generator goes on as if the process had never ended."""

import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mobilellama.pretrain.state import rng


def draws() -> list[object]:
    """Numbers of each generator, normal ones included: those keep a spare."""
    return [
        random.random(),
        random.gauss(0, 1),
        random.getrandbits(61),
        np.random.standard_normal(),
        np.random.randint(1 << 30),
        np.random.random_sample(3).tolist(),
        torch.randn(5).tolist(),
        torch.randint(1 << 30, (3,)).tolist(),
    ]


def test_the_generators_go_on_bit_for_bit_through_a_file(tmp_path: Path) -> None:
    outside = rng.capture()
    for spent in range(4):  # with and without a spare normal number, in every pairing
        random.seed(spent)
        np.random.seed(spent)
        torch.manual_seed(spent)
        if spent & 1:
            random.gauss(0, 1)
        if spent & 2:
            np.random.standard_normal()
        save_file(rng.capture(), tmp_path / "rng.safetensors")  # as a checkpoint keeps it
        expected = [draws() for _ in range(300)]  # past a whole block of the Mersenne twister
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)
        rng.restore(load_file(tmp_path / "rng.safetensors"))
        assert [draws() for _ in range(300)] == expected
    rng.restore(outside)


def test_capturing_draws_nothing() -> None:
    state = rng.capture()
    first = draws()
    rng.restore(state)
    rng.capture()
    assert draws() == first
    rng.restore(state)


def test_two_states_that_differ_are_captured_as_different() -> None:
    state = rng.capture()
    for _ in range(300):
        draws()
    random.gauss(0, 1)
    after = rng.capture()
    rng.restore(state)
    for name in ("python", "numpy", "numpy_rest", "torch"):
        assert not torch.equal(state[name], after[name]), name
