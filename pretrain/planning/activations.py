"""Bytes that the forward pass keeps for the backward pass, and those of the loss head.

The count is of eager layers. torch.compile keeps less, by an amount that depends on its version, so
this is an upper bound for compiled layers. M is the number of tokens of a micro-batch, D d_model,
K the width of keys, F d_ff, N heads, e the bytes of an element. A layer keeps

    normalised x, q, attention's output, normalised x of the MLP    4 M D e
    k, v                                                            2 M K e
    gate, up, silu(gate), their product                             4 M F e
    the logarithms of the softmax' sums, fp32                       4 M N
    rotary tables in bf16 (in fp32 they are the model's own)        4 T H e
    for each of two norms: its input, and 1 / rms in fp32           M D e + 4 M

CUDA's norm keeps its input as it is: by reading, torch's _fused_rms_norm_backward takes it and 1 /
rms. A CPU's norm keeps two fp32 tensors of the input's shape. ddp with bf16 works by autocast: the
stream between layers stays fp32, and bf16 copies of the matrices live until the backward pass. That
is added by ``autocast_bytes``.
"""

from dataclasses import dataclass

from mobilellama.pretrain.sections import ModelConfig

_FP32, _INT64 = 4, 8


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a micro-batch, and how its numbers are held."""

    samples: int
    seq_len: int
    element_bytes: int
    """2 for bf16, 4 for fp32."""
    on_cpu: bool = False
    """Whether the norms are those of a CPU."""

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.samples * self.seq_len


def layer_bytes(config: ModelConfig, shape: Shape) -> int:
    """Return what one decoder layer keeps, its own input included."""
    tokens, element = shape.tokens, shape.element_bytes
    kv_width = config.kv_heads * config.head_dim
    stream = (4 * config.d_model + 2 * kv_width + 4 * config.d_ff) * tokens * element
    rope = 4 * shape.seq_len * config.head_dim * element if element < _FP32 else 0
    return stream + rope + _FP32 * tokens * config.n_heads + 2 * _norm_bytes(config, shape)


def _norm_bytes(config: ModelConfig, shape: Shape) -> int:
    kept = 2 * _FP32 if shape.on_cpu else shape.element_bytes
    return shape.tokens * (config.d_model * kept + _FP32)


def activation_bytes(config: ModelConfig, shape: Shape, *, checkpointing: bool) -> int:
    """Return the most that is kept at a time by embedding, layers and the last norm.

    With checkpointing each layer keeps its input, and one layer at a time is computed again.
    """
    layer = layer_bytes(config, shape)
    ends = _norm_bytes(config, shape) + _INT64 * shape.tokens
    if not checkpointing:
        return config.n_layers * layer + ends
    return config.n_layers * input_bytes(config, shape) + layer + ends


def input_bytes(config: ModelConfig, shape: Shape) -> int:
    """Return what a layer keeps with checkpointing: its input."""
    return shape.tokens * config.d_model * shape.element_bytes


def kept_by_head(config: ModelConfig, shape: Shape, *, frozen: bool = False) -> int:
    """Return what the loss keeps: the gradients of the hidden states, and of the head in fp32."""
    head = 0 if frozen else config.vocab_size * config.d_model
    return input_bytes(config, shape) + _FP32 * head


def head_bytes(
    config: ModelConfig, shape: Shape, *, chunk_tokens: int, frozen: bool = False
) -> int:
    """Return the most that the loss holds at a time.

    That is what it keeps, and of one chunk: the logits in both precisions, and the chunk's gradient
    of the head in both.

    Args:
        config: the architecture.
        shape: of the micro-batch.
        chunk_tokens: tokens whose logits are held at a time.
        frozen: whether the head does not train, and so has no gradient.
    """
    both = shape.element_bytes + _FP32
    logits = min(chunk_tokens, shape.tokens) * config.vocab_size * both
    head = 0 if frozen else config.vocab_size * config.d_model
    return kept_by_head(config, shape, frozen=frozen) + logits + both * head


def batch_bytes(shape: Shape) -> int:
    """Return the bytes of input ids and labels."""
    return 2 * _INT64 * shape.tokens


def autocast_bytes(config: ModelConfig, shape: Shape, *, matrices: int, checkpointing: bool) -> int:
    """Return what bf16 by autocast keeps beside the rest.

    Each of the five matrices that read a norm's output keeps a bf16 copy of it: three copies more
    than without autocast. The inputs of norms are fp32, not bf16; on a CPU they always are.

    Args:
        config: the architecture.
        shape: of the micro-batch, in bf16.
        matrices: parameters of the layers' matrices, each of which has a bf16 copy.
        checkpointing: whether only the inputs of layers are kept.
    """
    stream = 2 * shape.tokens * config.d_model
    layers = 1 if checkpointing else config.n_layers
    norms = 0 if shape.on_cpu else 2 * layers + 1
    inputs = config.n_layers if checkpointing else 0
    return 2 * matrices + stream * (3 * layers + norms + inputs)
