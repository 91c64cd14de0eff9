"""Packed rows attended to sample by sample."""

import pytest
import torch
from torch import nn

from mobilellama.config import ConfigError
from mobilellama.distributed import use_deterministic_kernels
from mobilellama.vlm import packed_attention
from mobilellama.vlm.model import VisionLanguageModel, build_on
from tests.pretrain.traced import flash_stand_in
from tests.pretrain.traced.host_syncs import HostSyncs
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


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_stand_in.install_in_transformers(monkeypatch)


def half(attention: str) -> VisionLanguageModel:
    made = VisionLanguageModel(architecture(), attention=attention)
    randomise(made)
    tables = {name: value.clone() for name, value in made.named_buffers()}
    made = made.bfloat16().train()
    for name, value in made.named_buffers():  # rotary positions stay in fp32
        value.data = tables[name]
    return made


@pytest.mark.usefixtures("flash")
def test_flash_attention_is_told_where_samples_begin_once_for_all_layers() -> None:
    made, plain = half("flash_attention_2"), half("sdpa")
    packed_attention.use(plain.language_model)
    given = packed()
    with HostSyncs() as syncs:
        sums = made(**given)
        sums.loss_sum.backward()
    assert flash_stand_in.LENGTHS == [([20, 20, 20, 20], 40)] * 2
    # Where samples begin; whether a mask is needed, which transformers asks once; which tokens are
    # supervised.
    assert syncs.names == ["nonzero", "_local_scalar_dense", "nonzero"]
    expected = plain(**given)
    torch.testing.assert_close(
        sums.sample_loss_sums, expected.sample_loss_sums, rtol=0.02, atol=0.02
    )


@pytest.mark.usefixtures("flash")
def test_a_row_of_one_sample_waits_in_no_layer() -> None:
    """For a batch of one row transformers would look in every layer whether it is packed."""
    made = half("flash_attention_2")
    one = {"input_ids": batch(False)["input_ids"][:1], "labels": batch(False)["labels"][:1]}
    with HostSyncs() as syncs:
        made(**one)
    assert syncs.names == ["_local_scalar_dense", "nonzero"]  # the mask, the supervised tokens
    assert [lengths for lengths, _ in flash_stand_in.LENGTHS] == [[20]] * 2


def test_without_flash_attention_the_samples_are_looked_for_once_for_all_layers() -> None:
    made = build_on(torch.device("cpu"), architecture(), packed=True)
    for given, waits in ((packed(), 2), (batch(), 1)):
        with HostSyncs() as syncs:
            made(**given)
        assert syncs.names == ["nonzero"] * waits


@pytest.mark.usefixtures("flash")
def test_deterministic_training_reaches_the_flash_attention_of_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FLASH_ATTENTION_DETERMINISTIC", "CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO"):
        monkeypatch.setenv(name, "0")  # so that it is put back
        monkeypatch.delenv(name)
    made = half("flash_attention_2")
    made(**packed()).loss_sum.backward()
    assert flash_stand_in.DETERMINISTIC == [False, False]
    try:
        use_deterministic_kernels()
        made(**packed()).loss_sum.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert flash_stand_in.DETERMINISTIC[2:] == [True, True]
