"""MobileLLaMA: the LLaMA decoder, with the parameter names of Hugging Face's Llama.

Pre-norm RMSNorm, rotary positions, SwiGLU, no biases, untied input and output embeddings
(MobileVLM, arXiv 2312.16886, section 3.3). The names make export a write without renaming.

Shape suffixes: B batch, T time, D d_model, F d_ff, N heads, K key-value heads, H head_dim.
"""

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mobilellama.pretrain.attention import Documents, Kernel, attend, find_kernel, find_loop
from mobilellama.pretrain.linear_cross_entropy import linear_cross_entropy
from mobilellama.pretrain.sections import ModelConfig

INIT_STD = 0.02


class LossSums(NamedTuple):
    """What a forward pass gives to the loop."""

    loss_sum: Tensor
    """fp32 scalar: sum of the losses of the supervised tokens; carries the gradient."""
    sample_loss_sums: Tensor
    """(B,) fp32, detached: the sum of each sample."""
    sample_tokens: Tensor
    """(B,) int64: supervised tokens of each sample."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Rotary self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.kv_heads = config.n_heads, config.kv_heads
        width, kv_width = config.d_model, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_width, bias=False)
        self.v_proj = nn.Linear(width, kv_width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.kernel: Kernel | None = find_kernel()
        self.loop = find_loop()

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], documents: Documents) -> Tensor:
        """Return the attention's output, (B, T, D)."""
        B, T, D = x_BTD.shape
        q_BTNH = rotate(self.q_proj(x_BTD).view(B, T, self.n_heads, -1), rope)
        k_BTKH = rotate(self.k_proj(x_BTD).view(B, T, self.kv_heads, -1), rope)
        v_BTKH = self.v_proj(x_BTD).view(B, T, self.kv_heads, -1)
        out_BTNH = attend(q_BTNH, k_BTKH, v_BTKH, documents, kernel=self.kernel, loop=self.loop)
        return self.o_proj(out_BTNH.reshape(B, T, D))


def rotate(x_BTNH: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each head's pairs (i, i + H/2) by their position's angles, in x's precision as HF does.

    Args:
        x_BTNH: queries or keys.
        rope: cosines and sines, each (B or 1, T, 1, H).
    """
    # Under autocast the stream is fp32 and x is not: flash attention must get x's precision.
    cos, sin = (table.to(x_BTNH.dtype) for table in rope)
    first, second = x_BTNH.chunk(2, dim=-1)
    return x_BTNH * cos + torch.cat([-second, first], dim=-1) * sin


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return (B, T, D)."""
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class DecoderLayer(nn.Module):
    """Attention and SwiGLU, each on the normalised stream and added back to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], documents: Documents) -> Tensor:
        """Return the stream after this layer, (B, T, D)."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rope, documents)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Decoder(nn.Module):
    """Embedding, layers and the last norm."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.n_layers)])
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        # Not in the checkpoint: a function of the config. fp32 under bf16 too.
        table = torch.empty(config.max_seq_len, config.head_dim)
        self.register_buffer("cos", table, persistent=False)
        self.register_buffer("sin", table.clone(), persistent=False)
        self.reset_rope()
        self.gradient_checkpointing = False

    def reset_rope(self) -> None:
        """Fill the tables of cosines and sines (again, once the model has left ``meta``)."""
        config, device = self.config, self.cos.device
        exponents = torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim
        frequencies = 1.0 / config.rope_theta**exponents
        angles = torch.outer(torch.arange(config.max_seq_len, device=device).float(), frequencies)
        angles = torch.cat([angles, angles], dim=-1)
        self.cos.copy_(angles.cos())
        self.sin.copy_(angles.sin())

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None, document_bounds: Tensor | None
    ) -> Tensor:
        """Return the normalised last hidden states, (B, T, D)."""
        if document_bounds is None:
            documents = Documents.from_positions(position_ids)
        else:
            documents = Documents.from_bounds(document_bounds, input_ids.shape[1])
            position_ids = documents.positions(*input_ids.shape)
        x_BTD = self.embed_tokens(input_ids)
        if position_ids is None:
            T = input_ids.shape[1]
            rope = self.cos[None, :T, None], self.sin[None, :T, None]
        else:
            rope = self.cos[position_ids][:, :, None], self.sin[position_ids][:, :, None]
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            if recompute:
                x_BTD = checkpoint(layer, x_BTD, rope, documents, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD, rope, documents)
        return self.norm(x_BTD)


class LanguageModel(nn.Module):
    """The decoder and its head; ``forward`` gives losses, ``logits`` gives logits."""

    def __init__(self, config: ModelConfig, *, loss_chunk_tokens: int = 1024) -> None:
        """Build the model; its weights are not initialised (see ``init_parameter``).

        Args:
            config: the architecture.
            loss_chunk_tokens: tokens whose logits are held at a time.
        """
        super().__init__()
        self.config, self.loss_chunk_tokens = config, loss_chunk_tokens
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor | None = None,
        document_bounds: Tensor | None = None,
    ) -> LossSums:
        """Return the sums of the next-token losses.

        Args:
            input_ids: (B, T) int64.
            labels: (B, T) int64; the token that follows each input token, -100 = not supervised.
            position_ids: (B, T) int64; None is 0 ... T-1. Where it is given, each 0 begins a
                document, and attention does not cross from one into the next.
            document_bounds: (documents + 1,) int32, instead of position_ids: the first token of
                each document in the rows laid end to end, then B * T. Each row begins one.
        """
        hidden_BTD = self.model(input_ids, position_ids, document_bounds)
        # Where documents are found in positions, the attention has synchronised already.
        loss_sum, losses_BT = linear_cross_entropy(
            hidden_BTD,
            self.lm_head.weight,
            labels,
            chunk_tokens=self.loss_chunk_tokens,
            supervised_only=position_ids is not None,
        )
        return LossSums(
            loss_sum=loss_sum,
            sample_loss_sums=losses_BT.sum(dim=1),
            sample_tokens=(labels != -100).sum(dim=1),
        )

    def logits(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Return the logits, (B, T, V)."""
        return self.lm_head(self.model(input_ids, position_ids, None))


def build_on(
    device: torch.device,
    config: ModelConfig,
    *,
    loss_chunk_tokens: int = 1024,
    gradient_checkpointing: bool = False,
    adapt: Callable[[LanguageModel], object] | None = None,
) -> LanguageModel:
    """Build the model on a device with zeros for weights; an engine's ``load`` fills them.

    Args:
        device: where to.
        config: the architecture.
        loss_chunk_tokens: tokens whose logits are held at a time.
        gradient_checkpointing: compute each layer again in the backward pass.
        adapt: changes the model while it is on ``meta``: adds adapters, freezes parameters.
    """
    with torch.device("meta"):
        model = LanguageModel(config, loss_chunk_tokens=loss_chunk_tokens)
        if adapt:
            adapt(model)
    model.model.gradient_checkpointing = gradient_checkpointing
    model.to_empty(device=device)
    model.model.reset_rope()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def named_generator(number: int, name: str) -> torch.Generator:
    """Return a generator for one parameter's first values: of seed and name, and nothing else."""
    digest = hashlib.blake2b(f"{number}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def init_parameter(name: str, shape: torch.Size, config: ModelConfig, seed: int) -> Tensor:
    """Return a parameter's first value in fp32: a function of its name and the seed alone.

    Norms are 1. Matrices are normal(0, 0.02); the two that write to the residual stream,
    o_proj and down_proj, are divided by sqrt(2 * n_layers) as in GPT-2. The paper is silent.
    """
    if len(shape) == 1:
        return torch.ones(shape)
    generator = named_generator(seed, name)
    std = INIT_STD
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        std /= math.sqrt(2 * config.n_layers)
    return torch.randn(shape, generator=generator) * std


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """Return (all parameters, those without the input embedding)."""
    with torch.device("meta"):
        model = LanguageModel(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - model.model.embed_tokens.weight.numel()
