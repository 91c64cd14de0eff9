"""What is told of DeepSpeed alone; what both engines do is in test_engines.py."""

import os
from pathlib import Path
from typing import Any

from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.engine_steps import (
    STEPS,
    train_some,
)


def test_deepspeed_needs_no_compiler(tmp_path: Path) -> None:
    """Nothing is compiled: not even ninja or a C++ compiler need be on the PATH."""
    (norms, _, _), *_ = run_ranks(without_tools, 1, str(tmp_path))
    assert len(norms) == STEPS


def without_tools(empty: str) -> Any:
    os.environ["PATH"] = empty
    return train_some("deepspeed", "fp32", 2)
