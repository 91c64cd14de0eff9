"""flash-attn's stand-in, for every test of this folder that asks for it."""

import pytest
import torch

from mobilellama.pretrain import attention
from tests.pretrain.traced import flash_stand_in


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models that are built in this test use the stand-in, on a CPU."""
    flash_stand_in.install(monkeypatch)
    monkeypatch.setattr(attention, "takes_kernel", lambda q: q.dtype == torch.bfloat16)
