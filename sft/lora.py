"""LoRA: low-rank updates beside frozen weights (Hu et al., arXiv 2106.09685), through peft.

An adapted linear layer computes ``W x + alpha / rank * B (A (dropout(x)))``. W keeps its value
and gets the name ``MODULE.base_layer.weight`` (its bias: ``MODULE.base_layer.bias``). What trains
is ``MODULE.lora_A.default.weight`` (rank, in), which begins kaiming-uniform, and
``MODULE.lora_B.default.weight`` (out, rank), which begins at zero, so that the first forward pass
is the base model's.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mobilellama.config import ConfigError, did_you_mean
from mobilellama.pretrain.model import LanguageModel, named_generator
from mobilellama.pretrain.sections import ModelConfig
from mobilellama.pretrain.weight_source import (
    DrawnWeights,
    LayeredWeights,
    RenamedWeights,
    WeightSource,
    shapes_of,
)
from mobilellama.sft.lora_config import LoraConfig, not_adaptable

log = logging.getLogger(__name__)


_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


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
        if isinstance(module, nn.Linear) and name.startswith(prefix) and _is_linear(module)
    }
    head = _head_of(model.get_submodule(prefix.removesuffix(".")))
    heads = {name.rpartition(".")[2] for name, module in linears.items() if module is head}
    leaves = dict.fromkeys(name.rpartition(".")[2] for name, m in linears.items() if m is not head)
    for target in config.targets or []:
        if target in heads - {*leaves}:
            raise not_adaptable(target)
        if target not in leaves:
            rule = f"is not a linear layer of the model, which has {', '.join(leaves)}"
            remedy = f"Name some of them{did_you_mean(target, leaves)}"
            raise ConfigError("lora.targets", target, rule, remedy)
    wanted = {*leaves} if config.targets is None else {*config.targets}
    chosen = [
        name
        for name, module in linears.items()
        if name.rpartition(".")[2] in wanted
        and module is not head
        # A gate with one output is a vector: no update of it is of lower rank.
        and (config.targets is not None or _width(module) > 1)
    ]
    if not chosen:
        rule = "finds no linear layer in this language model"
        raise ConfigError("lora.targets", "null", rule, "Finetune all weights with lora.rank null")
    for name in chosen:
        if config.rank > (width := _width(linears[name])):
            leaf = name.rpartition(".")[2]
            rule = f"is above {width}, the most that {leaf} of this model can have"
            remedy = "Lower it" if config.targets else f"Lower it, or name targets without {leaf}"
            raise ConfigError("lora.rank", config.rank, rule, remedy)
    return chosen


def _is_linear(module: nn.Linear) -> bool:
    """Whether a layer gives W x + b; a router of experts that is made of one gives its choice."""
    if type(module).forward is nn.Linear.forward:
        return True
    copied = deepcopy(module).to("meta")  # where nothing is drawn or computed
    try:
        made = copied(
            torch.empty(1, 1, module.in_features, dtype=module.weight.dtype, device="meta")
        )
    except Exception:  # whatever it wants instead of an x
        return False
    return isinstance(made, Tensor) and made.shape == (1, 1, module.out_features)


def _width(linear: nn.Linear) -> int:
    """Return the largest rank that the weight can have."""
    return min(linear.in_features, linear.out_features)


def _head_of(language_model: nn.Module) -> nn.Module | None:
    """Return the layer that makes logits: of ours, or as transformers names it."""
    get = getattr(language_model, "get_output_embeddings", None)
    return get() if get else getattr(language_model, "lm_head", None)


def with_targets(
    config: LoraConfig, model: nn.Module, *, prefix: str = "", before: LoraConfig | None = None
) -> LoraConfig:
    """Return the config with its targets named, so that it says the same of any later version.

    Args:
        config: what is asked for.
        model: without adapters; it may be on ``meta``.
        prefix: of the language model's names, where it is part of another model.
        before: what a run that is resumed began with, whose targets stay.

    Raises:
        ConfigError: the model does not have what the config adapts.
    """
    if config.targets is None and before and before.rank is not None:
        config = replace(config, targets=before.targets)
    chosen = adapted_linears(model, config, prefix=prefix)
    if config.rank is None or config.targets is not None:
        return config
    targets = [*dict.fromkeys(name.rpartition(".")[2] for name in chosen)]
    log.info("LoRA adapts %d linear layers: %s", len(chosen), ", ".join(targets))
    others = [n for n, p in model.named_parameters() if n.startswith(prefix) and p.dim() > 2]
    if others:  # experts, whose weights are one tensor
        log.info("%d weights of other layers do not train, such as %s", len(others), others[0])
    return replace(config, targets=targets)


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
        layer, is_base, leaf = name.partition(_BASE)
        if name.startswith(prefix) and is_base and leaf == "weight" and base.device.type != "meta":
            for suffix in (_A, _B):
                adapter = model.get_submodule(_layer_of(layer + suffix))
                adapter.to_empty(device=base.device).to(base.dtype)
                nn.init.zeros_(adapter.get_parameter("weight"))


def injected_shapes(model: ModelConfig, config: LoraConfig) -> dict[str, torch.Size]:
    """Return name and shape of every parameter of a language model that the config adapts."""
    with torch.device("meta"):
        injected = LanguageModel(model)
        inject(injected, config)
    return shapes_of(injected)


def _layer_of(name: str) -> str:
    """Return the module of a plain weight."""
    return name.removesuffix(".weight")


def base_name(name: str) -> str:
    """Return the plain name of a base layer's weight or bias; other names as they are."""
    return name.replace(_BASE, ".")


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


class Merged(RenamedWeights):
    """A model with adapters as one without: the base with its updates added, all in fp32.

    Args:
        source: gives base and adapters by the names of an injected model.
        adapted: the updated weights, by plain names.
    """

    def __init__(self, source: WeightSource, adapted: Mapping[str, LowRank]) -> None:
        injected = [name for name in source.names() if not is_adapter(name)]
        super().__init__(source, {base_name(name): name for name in injected})
        self._adapted = adapted

    def dtype(self, name: str) -> torch.dtype:
        """Return fp32."""
        del name
        return torch.float32

    def stored(self, name: str) -> Tensor:
        """Return W, or W + scaling * B @ A, fp32."""
        base = self._source.parameter(self._names[name])
        low_rank = self._adapted.get(name)
        if low_rank is None:
            return base
        layer = _layer_of(name)
        a, b = (self._source.parameter(layer + suffix) for suffix in (_A, _B))
        return torch.addmm(base, b, a, alpha=low_rank.scaling)

    def parameter(self, name: str) -> Tensor:
        """Return the same, which is a copy of its own already."""
        return self.stored(name)


def merged(source: WeightSource, config: LoraConfig) -> WeightSource:
    """Return what a run trained by plain names, with its adapters added where it has any.

    Args:
        source: the run's parameters by the names of the injected model.
        config: what it was injected with.
    """
    adapted = adapted_weights(source.names(), config)
    return Merged(source, adapted) if adapted else source


def with_new_adapters(
    base: WeightSource, shapes: Mapping[str, torch.Size], seed: int
) -> WeightSource:
    """Return the first values of a model's parameters: a base's weights, and adapters if any.

    Args:
        base: gives the weights by plain names.
        shapes: name and shape of every parameter of the model, injected or not.
        seed: of the adapters.
    """
    adapters = {name: shape for name, shape in shapes.items() if is_adapter(name)}
    plain = {name: base_name(name) for name in shapes if name not in adapters}
    drawn = DrawnWeights(adapters, init_lora_parameter, seed)
    return LayeredWeights(RenamedWeights(base, plain), drawn)
