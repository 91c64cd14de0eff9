"""Parameters of the model by part, from its config alone: a login node has no torch."""

from mobilellama.pretrain.sections import ModelConfig


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Return the number of parameters of each part; their sum is the whole model."""
    width, layers = config.d_model, config.n_layers
    kv_width = config.kv_heads * config.head_dim
    return {
        "embedding": config.vocab_size * width,
        "attention": layers * (2 * width * width + 2 * width * kv_width),
        "mlp": layers * 3 * width * config.d_ff,
        "norms": (2 * layers + 1) * width,
        "head": width * config.vocab_size,
    }


def parameter_groups_of(config: ModelConfig) -> tuple[int, int]:
    """Return the sizes of the optimizer's groups: the matrices and the norms."""
    parts = parameters_by_part(config)
    return sum(parts.values()) - parts["norms"], parts["norms"]


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Return forward and backward FLOPs a token: 6 N + 12 L d_model seq_len.

    N leaves the input embedding out. No causal discount and no recompute are counted (PaLM,
    arXiv 2204.02311, appendix B).
    """
    parts = parameters_by_part(config)
    without_embedding = sum(parts.values()) - parts["embedding"]
    return 6.0 * without_embedding + 12.0 * config.n_layers * config.d_model * seq_len


def adapter_flops_per_token(config: ModelConfig, seq_len: int, *, adapters: int) -> float:
    """Return FLOPs a token where adapters train and the model is frozen.

    A frozen weight has no gradient, so 4 FLOPs a parameter are computed and not 6.
    """
    parts = parameters_by_part(config)
    base = sum(parts.values()) - parts["embedding"]
    return flops_per_token(config, seq_len) - 2.0 * base + 6.0 * adapters
