"""The three projectors written a second time, from the formulas, on one image in float64.

numpy alone, pixel by pixel; weights come by name. Nothing here is shared with vlm/projectors/.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]

_erf: Any = np.vectorize(math.erf)


def gelu(x: Array) -> Array:
    """x times the normal distribution's share below x: the exact form."""
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))


def hard_sigmoid(x: Array) -> Array:
    """A line from 0 at -3 to 1 at 3."""
    return np.minimum(np.maximum(x + 3, 0), 6) / 6


def perceptron(patches_PD: Array, weights: Weights) -> Array:
    hidden = gelu(patches_PD @ weights["mlp.0.weight"].T + weights["mlp.0.bias"])
    return hidden @ weights["mlp.2.weight"].T + weights["mlp.2.bias"]


def as_map(tokens_PD: Array) -> Array:
    """(P, D) row by row -> (S, S, D)."""
    side = math.isqrt(len(tokens_PD))
    return np.array([[tokens_PD[row * side + column] for column in range(side)]
                     for row in range(side)])  # fmt: skip


def as_tokens(map_SSD: Array) -> Array:
    return np.array([pixel for row in map_SSD for pixel in row])


def depthwise(map_SSD: Array, weight_D133: Array, stride: int) -> Array:
    """3 x 3, zeros around: the output at (i, j) is centred on the input at (i, j) * stride."""
    side, _, width = map_SSD.shape
    framed = np.zeros((side + 2, side + 2, width))
    framed[1:-1, 1:-1] = map_SSD
    outputs = range(0, side, stride)
    return np.array([[sum(framed[i + di, j + dj] * weight_D133[:, 0, di, dj]
                          for di in range(3) for dj in range(3))
                      for j in outputs] for i in outputs])  # fmt: skip


def channel_norm(map_SSD: Array, weight: Array, bias: Array) -> Array:
    out = np.empty_like(map_SSD)
    for i, row in enumerate(map_SSD):
        for j, pixel in enumerate(row):
            centred = pixel - pixel.mean()
            out[i, j] = centred / math.sqrt((centred**2).mean() + 1e-5) * weight + bias
    return out


def squeeze_excitation(map_SSD: Array, weights: Weights, prefix: str) -> Array:
    mean_D = as_tokens(map_SSD).mean(axis=0)
    narrow = weights[f"{prefix}.reduce.weight"][:, :, 0, 0] @ mean_D
    narrow = np.maximum(narrow + weights[f"{prefix}.reduce.bias"], 0)
    wide = weights[f"{prefix}.expand.weight"][:, :, 0, 0] @ narrow
    return map_SSD * hard_sigmoid(wide + weights[f"{prefix}.expand.bias"])


def block(map_SSD: Array, weights: Weights, prefix: str, stride: int) -> Array:
    y = depthwise(map_SSD, weights[f"{prefix}.depthwise.weight"], stride)
    y = channel_norm(y, weights[f"{prefix}.norm1.weight"], weights[f"{prefix}.norm1.bias"])
    y = squeeze_excitation(y * hard_sigmoid(y), weights, f"{prefix}.squeeze")
    y = np.einsum("ijc,dc->ijd", y, weights[f"{prefix}.pointwise.weight"][:, :, 0, 0])
    y = channel_norm(y, weights[f"{prefix}.norm2.weight"], weights[f"{prefix}.norm2.bias"])
    return map_SSD + y if stride == 1 else y


def ldp(patches_PD: Array, weights: Weights) -> Array:
    x = block(as_map(perceptron(patches_PD, weights)), weights, "blocks.0", stride=1)
    return as_tokens(block(x, weights, "blocks.1", stride=2))


def pooled_2x2(x: Array) -> Array:
    half = range(0, len(x), 2)
    return np.array([[(x[i, j] + x[i, j + 1] + x[i + 1, j] + x[i + 1, j + 1]) / 4
                      for j in half] for i in half])  # fmt: skip


def pooled_12x12(x: Array) -> Array:
    """Pixel (i, j) is the mean over the patches that the 12 x 12 grid's cell (i, j) touches."""
    side = len(x)
    reach = [(i * side // 12, -(-(i + 1) * side // 12)) for i in range(12)]
    return np.array([[x[top:bottom, left:right].mean(axis=(0, 1)) for left, right in reach]
                     for top, bottom in reach])  # fmt: skip


def ldp_v2(patches_PD: Array, weights: Weights, pooling: str) -> Array:
    x = as_map(perceptron(patches_PD, weights))
    pooled = {"2x2": pooled_2x2, "12x12": pooled_12x12}[pooling](x)
    position = depthwise(pooled, weights["position.weight"], 1) + weights["position.bias"]
    return as_tokens(pooled + position)


def plain(kind: str, patches_PD: Array, weights: Weights, *, pooling: str) -> Array:
    """Return the tokens of one image; LDP's squeeze is as wide as its weights are."""
    if kind == "ldpnetv2":
        return ldp_v2(patches_PD, weights, pooling)
    return {"ldpnet": ldp, "mlp2x_gelu": perceptron}[kind](patches_PD, weights)


def original_squeeze(width: int) -> int:
    """Return the channels of the original LDP's squeeze, as torchvision's code has it."""
    value, divisor = width // 4, 8
    new_value = max(divisor, int(value + divisor / 2) // divisor * divisor)
    if new_value < 0.9 * value:
        new_value += divisor
    return new_value
