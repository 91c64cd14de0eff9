"""Packed rows attended to sample by sample."""

import pytest
import torch
from torch import nn

from mobilellama.config import ConfigError
from mobilellama.vlm import packed_attention
from mobilellama.vlm.model import (
    build_on,
)
from tests.vlm.helpers.small_models import KINDS, architecture, batch, packed, randomise, tiny
from tests.vlm.helpers.tiny_vlm import LANGUAGE as LLAMA


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_attended_to_sample_by_sample_give_the_same_losses_and_gradients(
    kind: str,
) -> None:
    """What trains on CPUs, and on GPUs without flash-attn."""
    results = []
    for packs in (False, True):
        built = build_on(
            torch.device("cpu"), architecture(kind), gradient_checkpointing=True, packed=packs
        )
        randomise(built)
        sums = built(**packed())
        sums.loss_sum.backward()
        gradients = {n: p.grad for n, p in built.named_parameters() if p.requires_grad}
        results.append((sums.sample_loss_sums.detach(), gradients))
        plain = built(**batch()).loss_sum  # rows of one sample, as validation has them
        torch.testing.assert_close(plain, tiny(kind)(**batch()).loss_sum)
    (expected, theirs), (found, ours) = results
    torch.testing.assert_close(found, expected)
    for name, gradient in theirs.items():
        assert gradient is not None
        atol = float(2e-5 * gradient.abs().max())
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=atol, msg=name)


def test_a_sliding_window_is_kept_within_each_sample() -> None:
    kind = {"model_type": "mistral", **LLAMA, "num_key_value_heads": 2, "sliding_window": 6}
    losses = []
    for packs in (False, True):
        config = architecture(language=kind)
        built = build_on(torch.device("cpu"), config, packed=packs)
        randomise(built)
        losses.append(built(**packed()).sample_loss_sums)
    torch.testing.assert_close(*losses)
    wide = build_on(torch.device("cpu"), architecture(language=kind | {"sliding_window": None}))
    randomise(wide)
    assert not torch.allclose(wide(**packed()).sample_loss_sums, losses[0], rtol=1e-4)


def test_a_model_that_hands_no_positions_to_its_attention_is_not_trained_on_packed_rows() -> None:
    given = torch.zeros(1, 2, 3, 4)
    with pytest.raises(
        ConfigError, match=r"data\.pack = true: needs to know where samples begin, but Linear"
    ):
        packed_attention.attend(nn.Linear(1, 1), given, given, given, None)
