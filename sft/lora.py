"""LoRA: low-rank updates beside frozen weights (Hu et al., arXiv 2106.09685), through peft.

An adapted linear layer computes ``W x + alpha / rank * B (A (dropout(x)))``. W keeps its value
and gets the name ``MODULE.base_layer.weight``; what trains is ``MODULE.lora_A.default.weight``
(rank, in), which begins kaiming-uniform, and ``MODULE.lora_B.default.weight`` (out, rank), which
begins at zero, so that the first forward pass is the base model's.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mobilellama.config import ConfigError, did_you_mean, require_at_least, require_share
from mobilellama.pretrain.hf_weights import ParameterSource
from mobilellama.pretrain.model import LanguageModel, ModelConfig
from mobilellama.pretrain.rng import named_generator

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder layer of Llama's shape."""

_DEFAULTS: dict[str, Any] = {"alpha": 256, "dropout": 0.05, "targets": list(LINEARS)}
_BASE, _A, _B = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which weights train. The defaults but the rank's are MobileVLM's (its scripts: rank 128)."""

    rank: int | None = None
    """Rank of the updates; None trains every weight of the model (full finetuning)."""
    alpha: int = _DEFAULTS["alpha"]
    """The updates are scaled by alpha / rank."""
    dropout: float = _DEFAULTS["dropout"]
    """Share of an update's inputs that are zeroed in training."""
    targets: list[str] = field(default_factory=lambda: list(LINEARS))
    """Linear layers that get an update, by the last part of their names."""

    def __post_init__(self) -> None:
        if self.rank is not None:
            require_at_least("lora.rank", self.rank, 1)
        require_at_least("lora.alpha", self.alpha, 1)
        require_share("lora.dropout", self.dropout)
        for target in self.targets:
            if target in ("lm_head", "embed_tokens"):
                raise ConfigError(
                    "lora.targets",
                    target,
                    "cannot be adapted: the loss reads the head's weight and the embedding is a "
                    "look-up, neither a call of a linear layer",
                    "Leave it out, or finetune all weights with lora.rank null",
                )
        if not self.targets or len({*self.targets}) < len(self.targets):
            rule = "must name linear layers, each once"
            raise ConfigError("lora.targets", self.targets, rule, "Name at least one, none twice")
        if self.rank is None:
            for name in ("alpha", "dropout", "targets"):
                if getattr(self, name) != (value := _DEFAULTS[name]):
                    rule = f"has no effect while lora.rank is null (the default is {value})"
                    remedy = "Give lora.rank too, or leave it out"
                    raise ConfigError(f"lora.{name}", getattr(self, name), rule, remedy)


def adapted_linears(model: nn.Module, config: LoraConfig, *, prefix: str = "") -> list[str]:
    """Return the linear layers of a model that the config adapts, by name; none for rank None.

    Args:
        model: without adapters; it may be on ``meta``.
        config: which layers, by the last part of their names, and with what rank.
        prefix: of the language model's names, where it is part of another model: a tower's
            layers have the same last parts.

    Raises:
        ConfigError: the language model has no layer of that name, or none that can have the rank.
    """
    if config.rank is None:
        return []
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(prefix)
    }
    leaves = dict.fromkeys(name.rpartition(".")[2] for name in linears)
    for target in config.targets:
        if target not in leaves:
            rule = f"is no linear layer of the model, which has {', '.join(leaves)}"
            remedy = f"Name some of them{did_you_mean(target, leaves)}"
            raise ConfigError("lora.targets", target, rule, remedy)
    chosen = [name for name in linears if name.rpartition(".")[2] in config.targets]
    for name in chosen:
        width = min(linears[name].in_features, linears[name].out_features)
        if config.rank > width:
            leaf = name.rpartition(".")[2]
            rule = f"is above {width}, the most that {leaf} of this model can have"
            raise ConfigError("lora.rank", config.rank, rule, "Lower it")
    return chosen


def require_targets(config: LoraConfig, model: ModelConfig) -> None:
    """Raise ConfigError unless a model of this architecture has what the config adapts."""
    with torch.device("meta"):
        adapted_linears(LanguageModel(model), config)


class LowRank(NamedTuple):
    """The update of one weight."""

    rank: int
    scaling: float
    """What B @ A is multiplied by."""


def adapted_weights(names: Iterable[str], config: LoraConfig) -> dict[str, LowRank]:
    """Return the weights that have an adapter, by their plain names.

    Args:
        names: of the parameters of an injected model.
        config: what it was injected with.
    """
    if config.rank is None:
        return {}
    low_rank = LowRank(config.rank, config.alpha / config.rank)
    return {name.removesuffix(_A) + ".weight": low_rank for name in names if name.endswith(_A)}


def inject(model: nn.Module, config: LoraConfig, *, prefix: str = "") -> None:
    """Put adapters beside a model's linear layers and freeze all else; no-op for rank None.

    `prefix` is that of the language model's names, where it is part of another model.

    The adapters have the device and dtype of their base weights and are zero, as
    ``build_on`` leaves all weights: A's first value is ``init_lora_parameter``'s. On ``meta``
    they are on ``meta``. peft computes them in their own dtype and gives the result that of the
    base layer, so that a model cast to bf16 computes all in bf16, and autocast decides as it
    does for any linear layer.
    """
    chosen = adapted_linears(model, config, prefix=prefix)
    if config.rank is None:
        return
    import peft

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=chosen,  # whole names: a suffix alone would match a tower's too
    )
    # On meta first: peft's own draws would move the global random generator.
    peft.inject_adapter_in_model(settings, model, low_cpu_mem_usage=True)
    for name, base in [*model.named_parameters()]:
        if name.startswith(prefix) and name.endswith(_BASE) and base.device.type != "meta":
            for suffix in (_A, _B):
                adapter = model.get_submodule(_layer_of(name.removesuffix(_BASE) + suffix))
                adapter.to_empty(device=base.device).to(base.dtype)
                nn.init.zeros_(adapter.get_parameter("weight"))


def _layer_of(name: str) -> str:
    """Return the module of a plain weight."""
    return name.removesuffix(".weight")


def base_name(name: str) -> str:
    """Return the plain name of a base weight of an adapted layer; other names as they are."""
    return name.removesuffix(_BASE) + ".weight" if name.endswith(_BASE) else name


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter's A or B."""
    return name.endswith((_A, _B))


def init_lora_parameter(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Return an adapter's first value in fp32: a function of its name and the seed alone.

    A is uniform in +-1 / sqrt(in), which is peft's kaiming-uniform with a = sqrt(5); B is zero.
    """
    assert is_adapter(name)
    if name.endswith(_B):
        return torch.zeros(shape)
    generator = named_generator(seed, name)
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[1])


class Merged:
    """A ``ParameterSource`` by plain names: the base with its updates added, in fp32."""

    def __init__(self, source: ParameterSource, adapted: Mapping[str, LowRank]) -> None:
        """Merge as parameters are asked for.

        Args:
            source: gives base and adapters by the names of an injected model.
            adapted: the updated weights, by plain names.
        """
        self._source, self._adapted = source, adapted

    def parameter(self, name: str, shape: torch.Size) -> Tensor:
        """Return W, or W + scaling * B @ A, fp32."""
        low_rank = self._adapted.get(name)
        if low_rank is None:
            return self._source.parameter(name, shape)
        layer, (out_width, in_width) = _layer_of(name), shape
        weight = self._source.parameter(layer + _BASE, shape)
        a = self._source.parameter(layer + _A, torch.Size((low_rank.rank, in_width)))
        b = self._source.parameter(layer + _B, torch.Size((out_width, low_rank.rank)))
        return torch.addmm(weight, b, a, alpha=low_rank.scaling)
