"""LoRA in a plan: the parameters that it adds, and what its layers keep for the backward pass.

The base is frozen, so no linear layer keeps its input for the gradient of its weight. With dropout,
each adapted layer keeps its own input after dropout, and the mask: one byte an element on GPUs, and
an element of the input's size on CPUs. Each also keeps the rank-wide result of its first matrix.
"""

from mobilellama.config import ConfigError, did_you_mean
from mobilellama.pretrain.planning.activations import Shape
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.run_record import LLAMA_LINEARS, Adapters

_FP32 = 4
_READ_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",))
"""Linear layers that share an input which nothing else keeps. o_proj's is kept by the attention."""


def linear_widths(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return the widths of input and output of each linear layer of a decoder layer."""
    width, kv_width = config.d_model, config.kv_heads * config.head_dim
    return {
        "q_proj": (width, width),
        "k_proj": (width, kv_width),
        "v_proj": (width, kv_width),
        "o_proj": (width, width),
        "gate_proj": (width, config.d_ff),
        "up_proj": (width, config.d_ff),
        "down_proj": (config.d_ff, width),
    }


def targets_of(adapters: Adapters) -> tuple[str, ...]:
    """Return the adapted linear layers of a decoder layer."""
    return LLAMA_LINEARS if adapters.targets is None else tuple(adapters.targets)


def require_targets(adapters: Adapters) -> None:
    """Raise ConfigError unless a layer of Llama's shape has each of the targets."""
    for target in targets_of(adapters):
        if target not in LLAMA_LINEARS:
            rule = f"is not a linear layer of the model, which has {', '.join(LLAMA_LINEARS)}"
            remedy = f"Name some of them{did_you_mean(target, LLAMA_LINEARS)}"
            raise ConfigError("lora.targets", target, rule, remedy)


def adapter_parameters(config: ModelConfig, adapters: Adapters) -> int:
    """Return the number of parameters that train."""
    widths = linear_widths(config)
    return config.n_layers * sum(
        adapters.rank * sum(widths[target]) for target in targets_of(adapters)
    )


def adapted_layer_bytes(config: ModelConfig, shape: Shape, adapters: Adapters) -> int:
    """Return what one adapted decoder layer keeps, its own input included."""
    tokens, element = shape.tokens, shape.element_bytes
    kv_width = config.kv_heads * config.head_dim
    targets, widths = targets_of(adapters), linear_widths(config)
    # q, k, v and the attention's output; gate, up and silu(gate).
    kept = 2 * config.d_model + 2 * kv_width + 3 * config.d_ff
    kept += adapters.rank * len(targets)
    if adapters.dropout:
        kept += sum(widths[target][0] for target in targets)
    else:
        kept += sum(widths[g[0]][0] for g in _READ_TOGETHER if {*g} & {*targets})
    rope = 4 * shape.seq_len * config.head_dim * element if element < _FP32 else 0
    masks = sum(_mask_bytes(config, shape, adapters, target) for target in targets)
    sums = _FP32 * tokens * config.n_heads
    return kept * tokens * element + rope + masks + sums + 2 * _frozen_norm_bytes(config, shape)


def adapted_bytes(
    config: ModelConfig, shape: Shape, adapters: Adapters, *, checkpointing: bool
) -> int:
    """Return the most that embedding, layers and the last norm keep at a time."""
    layer = adapted_layer_bytes(config, shape, adapters)
    end = _frozen_norm_bytes(config, shape)
    if checkpointing:
        stream = shape.tokens * config.d_model * shape.element_bytes
        return config.n_layers * stream + layer + end
    return config.n_layers * layer - _spared_by_first(config, shape, adapters) + end


def _spared_by_first(config: ModelConfig, shape: Shape, adapters: Adapters) -> int:
    """Return what the first layer does not keep: its input wants no gradient."""
    first = {*_READ_TOGETHER[0]} & {*targets_of(adapters)}
    masks = sum(_mask_bytes(config, shape, adapters, target) for target in first)
    return _frozen_norm_bytes(config, shape) + masks


def _mask_bytes(config: ModelConfig, shape: Shape, adapters: Adapters, target: str) -> int:
    if not adapters.dropout:
        return 0
    element = shape.element_bytes if shape.on_cpu else 1
    return shape.tokens * linear_widths(config)[target][0] * element


def _frozen_norm_bytes(config: ModelConfig, shape: Shape) -> int:
    kept = _FP32 if shape.on_cpu else shape.element_bytes
    return shape.tokens * (config.d_model * kept + _FP32)
