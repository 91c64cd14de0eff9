"""Say what vision-language training needs before it starts. Nothing is written or downloaded.

  mobilellama vlm plan --config mobilevlm_v2_1_7b_instruct --base mobilellama_1_4b
      --samples 2429000 --gpus 8 --gpu a100-80g

BASE is the language model: a preset of 'pretrain run', or a YAML file such as the config.yaml of
its run. --tower names the vision tower, by default CLIP ViT-L/14-336.

It prints what 'pretrain plan' prints. Parameters are those of the model, built without memory.
Activations are counted in small forward passes on the CPU, which take half a minute. They are those
of rows of --row_tokens tokens with one image each. Real rows are mostly shorter than train.seq_len,
so that they need less memory and fewer hours. The exit code is 1 if the run does not fit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from mobilellama import log as logs
from mobilellama.config import ConfigError, did_you_mean
from mobilellama.pretrain.hf.config import llama_sizes
from mobilellama.pretrain.optimizer import trained
from mobilellama.pretrain.planning.activations import Shape
from mobilellama.pretrain.planning.machine import print_plan
from mobilellama.pretrain.planning.outline import PlannedTraining
from mobilellama.pretrain.planning.plan import model_of
from mobilellama.pretrain.sections import ModelConfig, TrainConfig
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.formats.known_towers import KNOWN_TOWERS
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER, VisionLanguageModel
from mobilellama.vlm.plan_config import Config
from mobilellama.vlm.plan_memory import SavedBytes, checkpointed_bytes, count_saved
from mobilellama.vlm.projectors.rules import ORIGINAL
from mobilellama.vlm.run import groups_of
from mobilellama.vlm.tuning import tune


def main(config: Config) -> int:
    """Print the plan; return 1 if the run does not fit."""
    logs.configure()
    return print_plan(planned_sight(config), config, config.checkpoint)


@dataclass(frozen=True, kw_only=True)
class PlannedSight(PlannedTraining):
    """A vision-language model's training: frozen tower, projector, language model."""

    config: Config
    architecture: Architecture

    @cached_property
    def built(self) -> VisionLanguageModel:
        """The model as it trains, on ``meta``."""
        with torch.device("meta"):
            model = VisionLanguageModel(self.architecture)
            tune(model, self.config)
        return model

    @property
    def parts(self) -> dict[str, int]:
        """Parameters by part."""
        named = {"tower": TOWER, "projector": PROJECTOR, "language model": LANGUAGE}
        counts = dict.fromkeys([*named, "adapters"], 0)
        for name, parameter in self.built.named_parameters():
            part = next(part for part, prefix in named.items() if name.startswith(prefix))
            counts["adapters" if ".lora_" in name else part] += parameter.numel()
        return {part: count for part, count in counts.items() if count}

    @property
    def groups(self) -> tuple[int, ...]:
        """Parameters that train, of each of the optimizer's groups."""
        groups = groups_of(trained(self.built), self.config)
        return tuple(sum(one.numel() for one in group.parameters) for group in groups)

    @property
    def frozen(self) -> int:
        """Parameters that do not train."""
        return sum(self.parts.values()) - sum(self.groups)

    @property
    def head_is_frozen(self) -> bool:
        """Whether the head does not train."""
        return not self.config.train.language_model or self.adapters is not None

    @property
    def flops_per_token(self) -> float:
        """FLOPs of forward and backward pass, the tower's forward pass of one image included."""
        parts, tokens = self.parts, self.train.seq_len
        width, layers = self.model.d_model, self.model.n_layers
        language = parts["language model"] - self.model.vocab_size * width
        each = (4.0 if self.head_is_frozen else 6.0) * language + 6.0 * parts.get("adapters", 0)
        patches = self.architecture.patches
        image = (2.0 * parts["tower"] + 6.0 * parts["projector"]) * patches
        return each + 12.0 * layers * width * tokens + image / tokens

    def activations(self, shape: Shape, *, checkpointing: bool) -> int:
        """Return the most bytes that tower, projector and language model keep."""
        if checkpointing:
            stream = 4 if self.autocast else shape.element_bytes
            return checkpointed_bytes(self.saved, self.model, shape, stream_bytes=stream)
        return self.saved.total(
            samples=shape.samples, seq_len=shape.seq_len, layers=self.model.n_layers
        )

    @property
    def autocast(self) -> bool:
        """Whether bf16 is computed by autocast."""
        return self.engine.kind == "ddp" and self.precision == "bf16"

    @cached_property
    def saved(self) -> SavedBytes:
        """What the forward pass saves, counted once."""
        full = self.precision == "fp32" or self.autocast
        return count_saved(
            self.architecture,
            self.model,
            adapt=partial(tune, config=self.config),
            dtype=torch.float32 if full else torch.bfloat16,
            autocast=self.autocast,
            head_is_frozen=self.head_is_frozen,
        )


def planned_sight(config: Config) -> PlannedSight:
    """Return what a run trains.

    Raises:
        ConfigError: base, tower or projector are not known or do not fit each other.
    """
    model = model_of(config.base)
    train = config.train
    row_tokens = config.row_tokens or train.seq_len
    if row_tokens > train.seq_len:
        rule = f"exceeds train.seq_len = {train.seq_len}, where samples are cut"
        raise ConfigError("row_tokens", row_tokens, rule, "Lower it")
    steps = train.max_steps
    if steps is None:
        assert config.samples is not None  # by __post_init__
        steps = max(1, math.ceil(round(train.epochs * config.samples) / train.global_batch_size))
    return PlannedSight(
        config=config,
        architecture=architecture_of(config, model),
        model=model,
        train=TrainConfig(
            global_batch_size=train.global_batch_size,
            micro_batch_size=train.micro_batch_size,
            loss_chunk_tokens=train.loss_chunk_tokens,
            gradient_checkpointing=train.gradient_checkpointing,
            seq_len=row_tokens,
            max_steps=steps,
        ),
        engine=config.engine,
        optimizer=config.optimizer,
        adapters=config.lora.adapters,
    )


def architecture_of(config: Config, model: ModelConfig) -> Architecture:
    """Return the model that a run would train.

    Raises:
        ConfigError: tower or projector are not known or do not fit each other.
    """
    vision = tower_named(config.tower)
    assert config.projector.kind is not None  # by Config
    size = vision["image_size"]
    assert isinstance(size, int)
    return Architecture(
        language={**llama_sizes(model), "max_position_embeddings": model.max_seq_len},
        vision=dict(vision),
        projector=config.projector.kind,
        squeeze=config.projector.squeeze or ORIGINAL.squeeze,
        pooling=config.projector.pooling or ORIGINAL.pooling,
        images=ImageProcessor(size_pixels=size),
    )


def tower_named(name: str) -> Mapping[str, object]:
    """Return the config of a published tower.

    Raises:
        ConfigError: it is not known.
    """
    towers = {tower.name: tower.config for tower in KNOWN_TOWERS}
    if name not in towers:
        remedy = f"Choose one of them{did_you_mean(name, towers)}"
        raise ConfigError("tower", name, f"must be one of {', '.join(towers)}", remedy)
    return towers[name]
