"""Attention within documents equals the documents run one by one; nothing sees the future."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mobilellama.pretrain.attention import (
    Documents,
    Kernel,
    attend,
    import_flash_attn,
    one_by_one,
)
from mobilellama.pretrain.model import LanguageModel, build_on, init_parameter
from mobilellama.pretrain.sections import ModelConfig

CONFIG = ModelConfig(
    vocab_size=50, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_seq_len=32
)
LENGTHS = [[5, 1, 6], [12]]  # of the documents in each row


def model() -> LanguageModel:
    made = build_on(torch.device("cpu"), CONFIG)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(init_parameter(name, parameter.shape, CONFIG, 3))
    return made


def positions(lengths: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_attention_equals_softmax_under_the_mask_written_out() -> None:
    """Rows of documents a a b b b c: each token sees its document's past and itself.

    a 1 . . . . .
    a 1 1 . . . .
    b . . 1 . . .
    b . . 1 1 . .
    b . . 1 1 1 .
    c . . . . . 1
    """
    mask = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    ).bool()
    q, k, v = (random(1, 6, 2, 8, seed=i) for i in range(3))
    scores = torch.einsum("btnh,bsnh->bnts", q, k) / 8**0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    expected = torch.einsum("bnts,bsnh->btnh", weights, v)
    documents = Documents.from_positions(torch.tensor([[0, 1, 0, 1, 2, 0]]))
    torch.testing.assert_close(attend(q, k, v, documents, kernel=None, loop=one_by_one), expected)
    causal = scores.masked_fill(~torch.ones(6, 6).tril().bool(), float("-inf")).softmax(dim=-1)
    torch.testing.assert_close(
        attend(q, k, v, Documents(None), kernel=None, loop=one_by_one),
        torch.einsum("bnts,bsnh->btnh", causal, v),
    )


def test_documents_are_found_where_positions_restart() -> None:
    documents = Documents.from_positions(positions(LENGTHS))
    assert documents.bounds is not None
    # Rows of 12 laid end to end: 0, 0+5, 5+1, then the second row at 12, and the end.
    assert documents.bounds.tolist() == [0, 5, 6, 12, 24]
    assert documents.bounds.dtype == torch.int32  # what the variable-length kernels take
    assert documents.longest == 12
    assert Documents.from_positions(None).bounds is None


def test_documents_in_one_batch_equal_documents_run_one_by_one() -> None:
    together, alone = model(), model()
    ids = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(5))
    labels = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(6))
    sums = together(ids, labels, positions(LENGTHS))
    sums.loss_sum.backward()
    logits = together.logits(ids, positions(LENGTHS)).detach()

    total, sample_sums = torch.zeros(()), torch.zeros(2)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            part = (slice(row, row + 1), slice(start, start + length))
            torch.testing.assert_close(logits[part], alone.logits(ids[part]))
            loss_sum = alone(ids[part], labels[part]).loss_sum
            loss_sum.backward()
            total, start = total + loss_sum.detach(), start + length
            sample_sums[row] += loss_sum.detach()
    torch.testing.assert_close(sums.loss_sum.detach(), total)
    torch.testing.assert_close(sums.sample_loss_sums, sample_sums)
    for (name, one), other in zip(together.named_parameters(), alone.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        # fp32 sums in another order.
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_bounds_give_the_losses_and_gradients_of_the_positions_to_the_last_bit() -> None:
    by_bounds, by_positions = model(), model()
    ids = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(5))
    labels = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(6))
    bounds = torch.tensor([0, 5, 6, 12, 24], dtype=torch.int32)
    documents = Documents.from_bounds(bounds, 12)
    assert documents.longest == 12
    assert torch.equal(documents.positions(2, 12), positions(LENGTHS))
    one = by_bounds(ids, labels, document_bounds=bounds)
    other = by_positions(ids, labels, positions(LENGTHS))
    one.loss_sum.backward()
    other.loss_sum.backward()
    for got, expected in zip(one, other, strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(by_bounds.parameters(), by_positions.parameters(), strict=True):
        assert got.grad is not None and expected.grad is not None
        assert torch.equal(got.grad, expected.grad)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["causal", "per_document"])
def test_no_token_sees_the_future(lengths: list[list[int]] | None) -> None:
    made = model()
    position_ids = positions(lengths) if lengths else None
    ids = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(5))
    changed = ids.clone()
    changed[:, 8] = (ids[:, 8] + 1) % 50
    with torch.no_grad():
        before, after = made.logits(ids, position_ids), made.logits(changed, position_ids)
    assert torch.equal(before[:, :8], after[:, :8])
    assert (before[:, 8:] - after[:, 8:]).abs().amax(dim=-1).min() > 0  # but the past, it does


def test_no_token_sees_another_document() -> None:
    made = model()
    ids = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(5))
    changed = ids.clone()
    changed[0, 2] = (ids[0, 2] + 1) % 50  # in the first of row 0's three documents
    with torch.no_grad():
        before, after = (made.logits(x, positions(LENGTHS)) for x in (ids, changed))
    differs = (before != after).any(dim=-1)
    assert differs[0].tolist() == [False] * 2 + [True] * 3 + [False] * 7
    assert not differs[1].any()


def test_a_decoder_layer_compiles_without_a_break() -> None:
    """On CUDA each layer is compiled; whatever cannot be traced would cut it to pieces."""
    compiled, ids = model(), torch.arange(24).view(2, 12)
    expected = compiled.logits(ids)
    for layer in compiled.model.layers:
        layer.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled.logits(ids), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
def test_the_kernels_give_the_gradients_of_the_loop() -> None:
    documents = Documents.from_positions(positions(LENGTHS).cuda())
    found = dict[str, list[torch.Tensor]]()
    kernels: list[Kernel | None] = [None, "torch", *(["flash_attn"] if import_flash_attn() else [])]
    for kernel in kernels:
        q, k, v = leaves = [
            random(2, 12, heads, 16, seed=i).cuda().bfloat16().requires_grad_()
            for i, heads in enumerate((4, 2, 2))
        ]
        out = attend(q, k, v, documents, kernel=kernel, loop=one_by_one)
        out.backward(random(2, 12, 4, 16, seed=4).cuda().bfloat16())
        found[str(kernel)] = [out, *(leaf.grad for leaf in leaves if leaf.grad is not None)]
    for name, got in found.items():
        torch.testing.assert_close(got, found["None"], rtol=0.02, atol=0.02, msg=name)


def test_torchs_kernel_takes_what_it_is_given() -> None:
    """As far as is known without a GPU: the shapes, on tensors without bits."""
    with FakeTensorMode():
        bounds = torch.empty(5, dtype=torch.int32, device="cuda")
        q = torch.empty(2, 12, 4, 16, dtype=torch.bfloat16, device="cuda")
        k = torch.empty(2, 12, 2, 16, dtype=torch.bfloat16, device="cuda")
        documents = Documents.from_bounds(bounds, 12)
        out = attend(q, k, k.clone(), documents, kernel="torch", loop=one_by_one)
    assert (out.shape, out.dtype, out.device.type) == (q.shape, q.dtype, "cuda")
