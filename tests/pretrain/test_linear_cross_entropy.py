"""The chunked linear cross-entropy against torch's own on the full logits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mobilellama.pretrain.linear_cross_entropy import linear_cross_entropy

TOKENS, WIDTH, VOCABULARY = 21, 16, 50


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (3, 7, D), the head (V, D), labels (3, 7) of which four are ignored."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype)
    labels = torch.randint(VOCABULARY, (3, 7), generator=generator)
    labels[0, 0] = labels[1, 2] = labels[1, 3] = labels[2, 6] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def reference(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """torch's sum and each token's loss, from logits held whole."""
    logits = (hidden @ weight.T).float().flatten(0, -2)
    losses = F.cross_entropy(logits, labels.flatten(), reduction="none", ignore_index=-100)
    return losses.sum(), losses.view(labels.shape)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 7, 20, 21, 1000])
def test_value_and_gradients_equal_torchs(chunk_tokens: int) -> None:
    hidden, weight, labels = problem()
    total, losses = linear_cross_entropy(hidden, weight, labels, chunk_tokens=chunk_tokens)
    expected, each = reference(hidden, weight, labels)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses, each.detach())
    whole = F.cross_entropy(
        (hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100
    )
    torch.testing.assert_close(total, whole)
    ours = torch.autograd.grad(total, [hidden, weight])
    theirs = torch.autograd.grad(expected, [hidden, weight])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not losses.requires_grad
    assert not ours[0][labels == -100].any()


@pytest.mark.skipif(
    not hasattr(F, "linear_cross_entropy"), reason="torch 2.13 has one of its own, torch 2.11 not"
)
def test_value_and_gradients_equal_those_of_torchs_own_linear_cross_entropy() -> None:
    hidden, weight, labels = problem()
    total, _ = linear_cross_entropy(hidden, weight, labels, chunk_tokens=4)
    rows, targets = hidden.flatten(0, 1), labels.flatten()
    theirs: Tensor = getattr(F, "linear_cross_entropy")(  # noqa: B009  (pyright: may not be there)
        rows, weight, targets, reduction="sum", ignore_index=-100
    )
    torch.testing.assert_close(total, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(total, [hidden, weight]),
        torch.autograd.grad(theirs, [hidden, weight]),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_scaled_loss_scales_the_gradients() -> None:
    hidden, weight, labels = problem()
    total, _ = linear_cross_entropy(hidden, weight, labels, chunk_tokens=4)
    plain = torch.autograd.grad(total, [hidden, weight], retain_graph=True)
    scaled = torch.autograd.grad(total / 17, [hidden, weight])
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one / 17, other)


def test_labels_that_are_all_ignored_give_zeros() -> None:
    hidden, weight, labels = problem()
    total, losses = linear_cross_entropy(
        hidden, weight, torch.full_like(labels, -100), chunk_tokens=4
    )
    assert total.item() == 0 and not losses.any()
    for gradient in torch.autograd.grad(total, [hidden, weight]):
        assert not gradient.any()  # and no NaN


def test_huge_logits_overflow_nothing() -> None:
    hidden = torch.full((1, 2), 300.0, requires_grad=True)
    weight = torch.tensor([[300.0, 0.0], [-300.0, 0.0]], requires_grad=True)
    total, _ = linear_cross_entropy(hidden, weight, torch.tensor([1]), chunk_tokens=1)
    assert total.item() == 180_000.0  # logits 90,000 and -90,000, the label's is the lower
    gradient = torch.autograd.grad(total, hidden)[0]
    assert gradient.tolist() == [[600.0, 0.0]]  # 1 * 300 - 1 * -300


@pytest.mark.parametrize("cause", ["autocast", "bf16 tensors"])
def test_bf16_stays_near_fp32_and_returns_fp32_losses(cause: str) -> None:
    exact = problem()
    expected, each = reference(*exact)
    gradients = torch.autograd.grad(expected, exact[:2])
    autocast = cause == "autocast"
    hidden, weight, labels = problem(torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        total, losses = linear_cross_entropy(hidden, weight, labels, chunk_tokens=4)
    assert total.dtype == losses.dtype == torch.float32
    # The products are rounded to bf16 (8 bits), some 2**-8 of logits that reach 10.
    torch.testing.assert_close(losses, each.detach(), rtol=0.01, atol=0.06)
    for ours, theirs, leaf in zip(
        torch.autograd.grad(total, [hidden, weight]), gradients, [hidden, weight], strict=True
    ):
        assert ours.dtype == leaf.dtype
        torch.testing.assert_close(ours.float(), theirs, rtol=0.05, atol=0.06)


def test_the_scale_of_a_bf16_loss_is_not_itself_rounded_to_bf16() -> None:
    """1/3 is 0.334 in bf16: all gradients of a step would be 0.2 % too large."""
    slopes = torch.arange(128.0, 256.0)  # every bf16 number of one binade
    hidden = torch.ones(1, 128, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.zeros(4, 128, dtype=torch.bfloat16)
    weight[1] = -slopes  # so far the lowest logit that softmax is 0 there: the gradient is slopes
    total, _ = linear_cross_entropy(hidden, weight, torch.tensor([1]), chunk_tokens=1)
    gradient = torch.autograd.grad(total / 3, hidden)[0]
    assert torch.equal(gradient[0], (slopes * (1 / torch.tensor(3.0))).bfloat16())


class Recorder(TorchDispatchMode):
    """Notes each tensor that an operation makes, and counts the matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.largest = max([self.largest, *made])
        self.products += func is torch.ops.aten.mm.default
        return out


def test_the_full_logits_are_never_held() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 8, generator=generator, requires_grad=True)
    weight = torch.randn(300, 8, generator=generator, requires_grad=True)
    labels = torch.randint(300, (400,), generator=generator)
    with Recorder() as seen:
        linear_cross_entropy(hidden, weight, labels, chunk_tokens=16)[0].backward()
    assert seen.largest == 16 * 300  # a chunk's logits; whole, they are 400 * 300
    with Recorder() as seen:
        reference(hidden, weight, labels)[0].backward()
    assert seen.largest == 400 * 300  # what the recorder says of the plain way


@pytest.mark.parametrize(
    ("case", "products"),
    [("training", 3), ("frozen head", 2), ("frozen states", 2), ("no_grad", 1), ("frozen", 1)],
)
def test_only_the_gradients_that_are_asked_for_are_computed(case: str, products: int) -> None:
    """A chunk takes one product for its logits, and one for each gradient."""
    hidden, weight, labels = problem()
    hidden.requires_grad_(case not in ("frozen states", "frozen"))
    weight.requires_grad_(case not in ("frozen head", "frozen"))
    with Recorder() as seen, torch.set_grad_enabled(case != "no_grad"):
        total, losses = linear_cross_entropy(hidden, weight, labels, chunk_tokens=7)
    assert seen.products == products * 3  # 21 tokens are 3 chunks of 7
    expected, each = reference(hidden, weight, labels)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses, each)
    leaves = [leaf for leaf in (hidden, weight) if leaf.requires_grad]
    if total.requires_grad:
        torch.testing.assert_close(
            torch.autograd.grad(total, leaves), torch.autograd.grad(expected, leaves),
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip
    else:
        assert case in ("no_grad", "frozen")


def test_only_supervised_tokens_take_logits_where_that_is_asked_for() -> None:
    hidden, weight, labels = problem()
    labels[::3] = -100
    hidden.requires_grad_(True)
    weight.requires_grad_(True)
    expected, each = linear_cross_entropy(hidden, weight, labels, chunk_tokens=1000)
    wanted = torch.autograd.grad(expected, (hidden, weight))
    with Recorder() as seen:
        total, losses = linear_cross_entropy(
            hidden, weight, labels, chunk_tokens=1000, supervised_only=True
        )
        got = torch.autograd.grad(total, (hidden, weight))
    # All logits would be 21 * 50; those of the 11 supervised tokens are less than the head.
    assert seen.largest == weight.numel() < labels.numel() * weight.shape[0]
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses, each)
    torch.testing.assert_close(got, wanted)


def test_a_batch_without_any_supervised_token_has_loss_and_gradients_of_zero() -> None:
    hidden, weight, labels = problem()
    hidden.requires_grad_(True)
    weight.requires_grad_(True)
    total, losses = linear_cross_entropy(
        hidden, weight, torch.full_like(labels, -100), chunk_tokens=7, supervised_only=True
    )
    gradients = torch.autograd.grad(total, (hidden, weight))
    assert total.item() == 0 and not losses.any()
    assert not any(gradient.any() for gradient in gradients)
