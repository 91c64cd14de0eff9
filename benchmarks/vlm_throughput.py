r"""Vision-language training of the second stage: padded, grouped by length and packed, in one run.

    padded           a sample a row, drawn at random; a micro-batch as long as its longest
    grouped          a step's samples all with an image or none, and of similar lengths: the default
    packed           the same steps, several samples in each row of `seq_len` tokens

All three train equal models with the same engine on the same samples, once each; images are
decoded on the way. vlm_samples.py makes them, about as long as llava_v1_5_mix665k's. Those that are
trained on stand at even distances in the order of the lengths of many.

Predicted is that time goes with the positions that the language model computes, padding or not.
Tower, projector and head pull the measured ratio towards 1: the images and the supervised tokens
are as many in all three. Attention pulls away from 1: what is padded is attended to as well.

    python benchmarks/vlm_throughput.py --output benchmarks/results/vlm_throughput.json
    python benchmarks/vlm_throughput.py --shape 1_7b --device cuda --records 2048 --rounds 3 \
        --output benchmarks/results/vlm_throughput_1_7b.json

The second is for a GPU: MobileVLM-1.7B's true shape with random weights in bf16 by its presets,
samples/s of both stages in wall-clock time, images read ahead by threads as in training. Give
--images_pixels 480 or so there, for files as large as photographs.
"""

import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import paired
import torch
from torch import Tensor, nn
from vlm_samples import (
    WAYS,
    describe,
    make_captions,
    make_law,
    pick,
    positions_of,
    write_images,
    write_samples,
)  # fmt: skip

from mobilellama import log as logs
from mobilellama.commandline.parser import parse_config
from mobilellama.distributed import World, close
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain.build_engine import build_engine
from mobilellama.pretrain.data import StepBatch
from mobilellama.pretrain.engines.engine import Engine
from mobilellama.pretrain.model import named_generator
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.pretrain.prefetch import Prefetcher
from mobilellama.pretrain.state.loading import load_first_values
from mobilellama.pretrain.weight_source import DrawnWeights, shapes_of
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.config import Config
from mobilellama.vlm.data.batches import ImageTextBatches, ImageTextInputs
from mobilellama.vlm.data.images import ImageProcessor
from mobilellama.vlm.data.order import SampleOrder
from mobilellama.vlm.data.samples import Samples
from mobilellama.vlm.main import PRESETS
from mobilellama.vlm.model import build_on
from mobilellama.vlm.run import groups_of
from mobilellama.vlm.tuning import tune

LAW_SAMPLES = 20_000
"""Whose lengths the prediction is made from, and the trained samples are picked from."""


# --- the model


def demo_architecture(width: int, layers: int) -> Architecture:
    """Return a small model whose images are 144 tokens, as the published ones'."""
    language = {
        "model_type": "llama", "vocab_size": 4096, "hidden_size": width,
        "intermediate_size": width * 11 // 4, "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64), "max_position_embeddings": 2048,
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 256,
        "num_hidden_layers": 3, "num_attention_heads": 1, "image_size": 96, "patch_size": 4,
    }  # fmt: skip
    return Architecture(
        language=language, vision=vision, projector="ldpnetv2",
        images=ImageProcessor(size_pixels=96, aspect_ratio="pad"),
    )  # fmt: skip


def published_architecture(config: Config) -> Architecture:
    """Return MobileVLM-1.7B's."""
    language = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048,
        "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    }  # fmt: skip
    images = ImageProcessor(size_pixels=336, aspect_ratio=config.data.aspect_ratio)
    kind = config.projector.kind or "ldpnet"
    return Architecture(language=language, vision=vision, projector=kind, images=images)


def initial(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Return a weight that keeps numbers finite: what a value is does not change the time."""
    if "norm" in name and name.endswith("weight"):
        return torch.ones(shape)
    return torch.randn(shape, generator=named_generator(seed, name)) * 0.02


def build(architecture: Architecture, config: Config, world: World) -> Engine:
    """Return the engine with a model of random weights, of which the config's parts train."""
    model = build_on(
        world.device,
        architecture,
        loss_chunk_tokens=config.train.loss_chunk_tokens,
        gradient_checkpointing=config.train.gradient_checkpointing,
        half_precision=config.engine.precision == "bf16",
        packed=config.data.pack,
        adapt=partial(tune, config=config),
    )
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    weights = DrawnWeights(shapes_of(cast(nn.Module, model)), initial, 0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not value.requires_grad:
                value.copy_(weights.parameter(name))
    engine = build_engine(
        cast(nn.Module, model),
        groups_of(trained, config),
        open_optimizer(config.optimizer),
        config,
        world,
        config.engine.precision,
    )
    load_first_values(cast(nn.Module, model), engine, weights)
    engine.train(True)
    return engine


def make_config(options: Namespace, **fields: Any) -> Config:
    """Return the stage's config, all fields but these as a preset or the defaults have them."""
    given = {
        "init": "-", "data.path": "-", "data.images": "-", "run.folder": "-",
        "engine.kind": options.engine,
    }  # fmt: skip
    argv = [part for name, value in (given | fields).items() for part in (f"--{name}", str(value))]
    return parse_config(Config, argv, prog="vlm_throughput", about="", presets=PRESETS)


# --- an epoch


class ImageTextEpoch:
    """Trains on every sample once, when called."""

    def __init__(self, engine: Engine, batches: ImageTextBatches, count: int, world: World) -> None:
        self._engine, self._batches, self._count, self._world = engine, batches, count, world
        self.steps = self.num_tokens = self.supervised = self.images = 0
        self.data_wait_s = 0.0

    def __call__(self) -> None:
        """Train; count what went through the model."""
        self.steps = self.num_tokens = self.supervised = self.images = 0
        for batch in self._read():
            for i, micro in enumerate(batch.micro_batches):
                last = i + 1 == len(batch.micro_batches)
                sums = self._engine.forward(micro.inputs, last=last)
                self._engine.backward(sums.loss_sum / batch.supervised_tokens)
                self.num_tokens += micro.inputs["input_ids"].numel()
                self.images += len(micro.inputs.get("pixel_values", ()))
            self._engine.step(0.001)
            self.supervised += batch.supervised_tokens
            self.steps += 1

    def _read(self) -> Iterator[StepBatch]:
        """Yield the steps; with a GPU, threads read them ahead, as in training."""
        workers = 4 if self._world.device.type == "cuda" else 0
        data = Prefetcher(self._batches, position=0, workers=workers, device=self._world.device)
        position = 0
        try:
            while position < self._count:
                batch = data.next()
                yield batch
                position += batch.num_samples
        finally:
            self.data_wait_s = data.wait_s
            data.close()


def make_epoch(
    engine: Engine,
    architecture: Architecture,
    config: Config,
    files: tuple[Path, Path],
    world: World,
) -> ImageTextEpoch:
    """Return an epoch over the samples of a file, whose images are in a folder."""
    samples = Samples(files[0], image_tokens=architecture.image_tokens)
    inputs = ImageTextInputs(
        samples, files[1], architecture.images, image_tokens=architecture.image_tokens, pad_id=0
    )
    order = SampleOrder(
        samples.lengths, samples.has_images, seed=config.data.seed, end=len(samples),
        global_batch_size=config.train.global_batch_size, grouping=config.data.grouping,
    )  # fmt: skip
    batches = ImageTextBatches(
        inputs, order, micro_batch_size=config.train.micro_batch_size, rank=0, world_size=1,
        row_tokens=config.train.seq_len if config.data.pack else None,
    )  # fmt: skip
    return ImageTextEpoch(engine, batches, len(samples), world)


# --- the two measurements


def compare_ways(options: Namespace, world: World, scratch: Path) -> dict[str, Any]:
    """Train in the three ways at demo size; CPU seconds, each round's relative to the first."""
    architecture = demo_architecture(options.width, options.layers)
    image_tokens, seq_len = architecture.image_tokens, 2048
    law = make_law(LAW_SAMPLES, seed=options.seed, seq_len=seq_len, image_tokens=image_tokens)
    made = pick(law, options.records)
    files = (
        write_samples(scratch / "samples.arrow", made, architecture.vocab_size),
        write_images(scratch / "images", options.images_pixels),
    )
    epochs: dict[str, ImageTextEpoch] = {}
    for way, (grouping, packed) in WAYS.items():
        config = make_config(
            options,
            **{
                "engine.precision": "fp32", "train.global_batch_size": options.batch,
                "train.micro_batch_size": options.micro, "train.seq_len": seq_len,
                "data.grouping": grouping, "data.pack": packed,
            },
        )  # fmt: skip
        engine = build(architecture, config, world)
        epochs[way] = make_epoch(engine, architecture, config, files, world)
    measured: dict[str, dict[str, Any]] = {
        **paired.measure(cast(dict[str, Callable[[], object]], epochs), rounds=options.rounds)
    }
    facts = describe(made, image_tokens)
    sizes = {"seq_len": seq_len, "image_tokens": image_tokens, "micro": options.micro}
    for way, epoch in epochs.items():
        assert epoch.supervised == facts["supervised"], way  # the same work, or no ratio
        assert epoch.images == facts["samples"] - facts["text_only"], way
        assert epoch.num_tokens == positions_of(made, way, batch=options.batch, **sizes), way
        measured[way] |= {
            "steps": epoch.steps,
            "positions": epoch.num_tokens,
            "fill": round(facts["tokens"] / epoch.num_tokens, 4),
            "predicted_ratio": round(epoch.num_tokens / epochs["padded"].num_tokens, 4),
            "samples_per_cpu_s": round(facts["samples"] / measured[way]["median_cpu_s"], 2),
        }
    many = {way: positions_of(law, way, batch=128, **(sizes | {"micro": 16})) for way in WAYS}
    return {
        "what": "CPU seconds to train on the same samples once, and as ratio to padded",
        "samples": facts,
        "all_that_they_were_picked_from": describe(law, image_tokens)
        | {"predicted_ratio_at_batch_128": {w: round(n / many["padded"], 4)
                                            for w, n in many.items()}},
        "measured": measured,
    }  # fmt: skip


def published_shape(options: Namespace, world: World, scratch: Path) -> dict[str, Any]:
    """Train both stages of MobileVLM-1.7B by their presets; samples/s in wall-clock time."""
    images = write_images(scratch / "images", options.images_pixels)
    measured: dict[str, Any] = {}
    for stage, preset, way in (
        ("stage 1", "mobilevlm_1_7b_align", "padded"),
        ("stage 2", "mobilevlm_1_7b_instruct", "padded"),
        ("stage 2", "mobilevlm_1_7b_instruct", "grouped"),
        ("stage 2", "mobilevlm_1_7b_instruct", "packed"),
    ):
        grouping, packed = WAYS[way]
        micro = {"train.micro_batch_size": options.packed_micro} if packed else {}
        fields = {"config": preset, "data.grouping": grouping, "data.pack": packed} | micro
        config = make_config(options, **fields)
        architecture = published_architecture(config)
        tokens = architecture.image_tokens
        if stage == "stage 1":
            made = make_captions(options.records, seed=options.seed)
        else:
            law = make_law(LAW_SAMPLES, seed=options.seed, seq_len=2048, image_tokens=tokens)
            made = pick(law, options.records)
        path = write_samples(scratch / f"{stage}.arrow", made, 32000)
        engine = build(architecture, config, world)
        epoch = make_epoch(engine, architecture, config, (path, images), world)
        seconds = []
        for _ in range(1 + options.rounds):  # the first is not counted
            torch.cuda.synchronize()
            started_s = time.perf_counter()
            epoch()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started_s)
        facts = describe(made, tokens)
        measured[f"{stage}, {way}"] = {
            "preset": preset,
            "micro_batch_size": config.train.micro_batch_size,
            "samples_per_s": round(len(made) / statistics.median(seconds[1:]), 2),
            "tokens_per_s": round(facts["tokens"] / statistics.median(seconds[1:])),
            "range_s": [round(min(seconds[1:]), 2), round(max(seconds[1:]), 2)],
            "data_wait_s": round(epoch.data_wait_s, 2),
            "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
            "fill": round(facts["tokens"] / epoch.num_tokens, 4),
            "samples": facts,
        }
        del engine, epoch
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return {
        "what": "samples/s of MobileVLM-1.7B's shape with random weights on one GPU",
        "gpu": torch.cuda.get_device_name(),
        "measured": measured,
    }


def main() -> None:
    """Measure and save."""
    options = paired.arguments(
        __doc__, shape="demo", device="cpu", records=192, batch=32, micro=16, rounds=3, width=128,
        layers=4, engine="ddp", images_pixels=96, packed_micro=4, seed=0,
    )  # fmt: skip
    if (options.shape, options.device) not in (("demo", "cpu"), ("1_7b", "cuda")):
        sys.exit("Give --shape demo --device cpu (the default), or --shape 1_7b --device cuda")
    logs.configure(rank=1)  # no INFO lines
    # One thread: threads that wait for each other burn CPU seconds on a busy machine.
    threads = 1 if options.device == "cpu" else None
    world = World(DistributedConfig(accelerator=options.device, devices=1, threads=threads))
    measure = compare_ways if options.shape == "demo" else published_shape
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(options, world, Path(scratch))
    paired.save({"options": paired.settings(options), **result}, options)
    close()


if __name__ == "__main__":
    sys.exit(main())
