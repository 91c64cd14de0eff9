"""The state of every random generator of a process, as tensors."""

import hashlib
import math
import random

import numpy as np
import torch
from torch import Tensor


def seed(number: int, *, rank: int, step: int) -> None:
    """Seed every generator from the seed, the rank and the step."""
    digest = hashlib.blake2b(f"{number}/{rank}/{step}".encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little") >> 1
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)  # seeds CUDA's generators too


def capture() -> dict[str, Tensor]:
    """Return the states of Python's, numpy's, torch's and CUDA's generators."""
    # Tensors, because safetensors holds nothing else, and no file of a run is ever unpickled.
    version, words, gauss = random.getstate()
    assert version == 3
    _, keys, next_word, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        # random.gauss makes two numbers at a time and keeps the second. NaN: it keeps none.
        "python_gauss": torch.tensor([math.nan if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        # numpy keeps such a number too. The integers beside it are small, so float64 is exact.
        "numpy_rest": torch.tensor([next_word, has_gauss, cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Tensor]) -> None:
    """Set the generators to states that `capture` returned."""
    gauss = state["python_gauss"].item()
    words = tuple(state["python"].tolist())
    random.setstate((3, words, None if math.isnan(gauss) else gauss))
    next_word, has_gauss, cached = state["numpy_rest"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(next_word), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
