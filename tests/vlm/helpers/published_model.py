"""A model that takes the published files as they are, put together from the layers described.

Its modules nest so that its parameters have the published names, and are loaded strictly. Tower
and language model are transformers'; images go in where the sequence is cut, not by a mask. It is
what the original code computes, as far as it is described, and shares nothing with vlm/.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from tests.vlm.helpers.plain_projectors import original_squeeze
from tests.vlm.helpers.published import TINY, Sizes, stored


class _ChannelNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        x = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class _Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = original_squeeze(width)
        self.fc1, self.fc2 = nn.Conv2d(width, narrow, 1), nn.Conv2d(narrow, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        return nn.functional.hardsigmoid(self.fc2(self.fc1(mean).relu())) * x


class _Residual(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.block = nn.Sequential(
            nn.Sequential(depthwise, _ChannelNorm(width), nn.Hardswish()),
            _Gate(width),
            nn.Sequential(pointwise, _ChannelNorm(width)),
        )
        self.keeps = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.keeps else self.block(x)


def _as_map(x: Tensor) -> Tensor:
    side = round(x.shape[1] ** 0.5)
    return x.transpose(1, 2).reshape(len(x), -1, side, side)


class _First(nn.Module):
    """ldpnet: below ``model``, with an identity before the perceptron and before the blocks."""

    def __init__(self, wide: int, width: int) -> None:
        super().__init__()
        perceptron = nn.Sequential(
            nn.Identity(), nn.Linear(wide, width), nn.GELU(), nn.Linear(width, width)
        )
        blocks = nn.Sequential(nn.Identity(), _Residual(width, 1), _Residual(width, 2))
        self.model = nn.ModuleDict({"mlp": perceptron, "mb_block": blocks})

    def forward(self, x: Tensor) -> Tensor:
        x = self.model["mb_block"](_as_map(self.model["mlp"](x)))
        return x.flatten(2).transpose(1, 2)


class _Second(nn.Module):
    """ldpnetv2: each step below a module of its own."""

    def __init__(self, wide: int, width: int) -> None:
        super().__init__()
        perceptron = nn.Sequential(nn.Linear(wide, width), nn.GELU(), nn.Linear(width, width))
        position = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.mlp = nn.ModuleDict({"mlp": perceptron})
        self.peg = nn.ModuleDict({"peg": nn.Sequential(position)})

    def forward(self, x: Tensor) -> Tensor:
        x = _as_map(self.mlp["mlp"](x))
        x = nn.functional.adaptive_avg_pool2d(x, (12, 12))
        return (self.peg["peg"](x) + x).flatten(2).transpose(1, 2)


def _perceptron(wide: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(wide, width), nn.GELU(), nn.Linear(width, width))


_PROJECTORS: dict[str, Any] = {"ldpnet": _First, "ldpnetv2": _Second, "mlp2x_gelu": _perceptron}


class PublishedModel:
    """The model of a published folder of these sizes, in fp32."""

    def __init__(self, folder: Path, kind: str, its: Sizes = TINY) -> None:
        weights = {name: value.float() for name, value in stored(folder).items()}
        self.tower: Any = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=its.vision_width,
                intermediate_size=its.vision_hidden,
                num_hidden_layers=its.vision_layers,
                num_attention_heads=its.vision_width // 64,
                image_size=its.image,
                patch_size=its.patch,
            )
        ).eval()
        self.language: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=its.vocab,
                hidden_size=its.width,
                intermediate_size=its.hidden,
                num_hidden_layers=its.layers,
                num_attention_heads=its.heads,
                max_position_embeddings=its.context,
                rms_norm_eps=its.norm_eps,
            )
        ).eval()
        self.projector: nn.Module = _PROJECTORS[kind](its.vision_width, its.width)
        parts = {
            "model.vision_tower.vision_tower.vision_model.": self.tower,
            "model.mm_projector.": self.projector,
            "": self.language,
        }
        for prefix, module in parts.items():
            mine = [name for name in weights if name.startswith(prefix)]
            module.load_state_dict({n.removeprefix(prefix): weights.pop(n) for n in mine})

    @torch.no_grad()
    def logits(self, before: Tensor, pixels: Tensor, after: Tensor) -> Tensor:
        """Return logits of text, an image and text, (1, T, V).

        Args:
            before: (1, T) ids.
            pixels: (1, 3, S, S), normalised.
            after: (1, T) ids.
        """
        hidden = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        image = self.projector(hidden[:, 1:])
        embed = self.language.get_input_embeddings()
        embeddings = torch.cat([embed(before), image, embed(after)], dim=1)
        return self.language(inputs_embeds=embeddings).logits
