"""Cross-entropy of a linear head, without ever holding the full logits.

For a chunk of tokens at a time, the forward pass computes the logits, the losses and, where
a gradient will be asked for, the gradients of the losses' sum with respect to the hidden
states and the head; the backward pass only scales them. At 32,000 pieces the logits of 16k
tokens would take 2 GB in fp32; a chunk of 1,024 takes 131 MB.
"""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    chunk_tokens: int,
    supervised_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses, which carries the gradient, and each token's loss, detached.

    Args:
        hidden: (..., D).
        weight: (V, D), the head.
        labels: (...), int64; a token with label -100 has loss 0 and no gradient.
        chunk_tokens: tokens whose logits are held at a time.
        supervised_only: compute no logits for tokens with label -100, which in finetuning are
            the larger part; to find the others costs a host-device sync.

    Returns:
        A scalar and a tensor of the labels' shape, both fp32.
    """
    rows, targets = hidden.flatten(0, -2), labels.flatten()
    if not supervised_only:
        total, losses = _LinearCrossEntropy.apply(
            rows, weight, targets, chunk_tokens, torch.is_grad_enabled()
        )
        return total, losses.view(labels.shape)
    places = (targets != IGNORED).nonzero().squeeze(1)  # host-device sync
    total, some = _LinearCrossEntropy.apply(
        rows[places], weight, targets[places], chunk_tokens, torch.is_grad_enabled()
    )
    losses = torch.zeros(targets.shape, device=some.device).index_copy(0, places, some)
    return total, losses.view(labels.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, grad_enabled: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.dtypes = hidden.dtype, weight.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        head = weight.to(hidden.dtype)
        # needs_input_grad is true under no_grad too, for whatever requires a gradient.
        for_hidden, for_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        losses = torch.empty(labels.shape, dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(hidden) if for_hidden else None
        # fp32, because every chunk adds to it.
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            # fp32: exp and its sum over the vocabulary need more than the 8 bits of bf16.
            logits = (hidden[part] @ head.T).float()
            supervised = labels[part] != IGNORED
            target = labels[part].where(supervised, 0)[:, None]
            log_total = logits.logsumexp(dim=-1, keepdim=True)
            loss = (log_total - logits.gather(1, target)).squeeze(1)
            losses[part] = loss.where(supervised, 0.0)
            if for_hidden or for_weight:
                # d loss / d logits = softmax - onehot(label), in place of the logits.
                logits.sub_(log_total).exp_()
                logits.scatter_add_(1, target, torch.full_like(target, -1, dtype=logits.dtype))
                logits.mul_(supervised[:, None])
                gradient = logits.to(hidden.dtype)
                if hidden_grad is not None:
                    hidden_grad[part] = gradient @ head
                if weight_grad is not None:
                    weight_grad += (gradient.T @ hidden[part]).float()
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        scale = grads[0]  # in fp32: rounded to bf16, 1 / tokens would be off by up to 0.4 %
        if hidden_grad is not None:
            hidden_grad = (hidden_grad.float() * scale).to(hidden_dtype)
        if weight_grad is not None:
            weight_grad = (weight_grad * scale).to(weight_dtype)
        return hidden_grad, weight_grad, None, None, None
