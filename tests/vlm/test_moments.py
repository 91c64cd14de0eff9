"""Moments after one step on two ranks: DDP's, with every engine, stage and kind of batch.

A loss does not show a gradient that went to another parameter before the step after, if then; the
moments do. All is in fp32, so that what differs is the order of sums alone.
"""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mobilellama.distributed import World
from mobilellama.distributed_config import DistributedConfig
from mobilellama.pretrain import model as language
from mobilellama.pretrain.config import RunConfig
from mobilellama.pretrain.engines.config import EngineConfig
from mobilellama.pretrain.engines.ddp import DDPEngine
from mobilellama.pretrain.engines.deepspeed import DeepSpeedEngine
from mobilellama.pretrain.engines.engine import Engine, Fragment
from mobilellama.pretrain.optimizer import parameter_groups
from mobilellama.pretrain.optimizers.config import OptimizerConfig
from mobilellama.pretrain.optimizers.kind import open_optimizer
from mobilellama.sft.lora import inject
from mobilellama.sft.lora_config import LoraConfig
from mobilellama.sft.row_inputs import RowInputs
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.config import Config, ImageTextData, TuneConfig, TwoRates
from mobilellama.vlm.data.batches import ImageTextBatches
from mobilellama.vlm.data.order import SampleOrder
from mobilellama.vlm.model import build_on
from mobilellama.vlm.run import groups_of
from mobilellama.vlm.tuning import tune
from tests.helpers.ranks import run_ranks
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.tiny_samples import PROCESSOR, ROW, build_data, open_data
from tests.vlm.helpers.tiny_vlm import LANGUAGE, VISION

pytestmark = pytest.mark.slow

ENGINES = {"ddp": 0, "zero 1": 1, "zero 2": 2}
RECORDS, BATCH, RANKS = 42, 8, 2
LORA = LoraConfig(rank=4, alpha=8, dropout=0.0)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3)
MODEL = language.ModelConfig(
    vocab_size=64, d_model=32, n_layers=2, n_heads=2, d_ff=48, max_seq_len=16
)
STAGES: dict[str, dict[str, Any]] = {
    "pretrain": {},
    "sft": {},
    "sft lora": {"lora": LORA},
    "vlm first stage": {"projector": "ldpnet", "language_model": False},
    "vlm second stage": {"projector": "ldpnetv2", "checkpointing": True},
    "vlm tied": {
        "projector": "ldpnet", "kind": "qwen2", "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "vlm lora": {"projector": "mlp2x_gelu", "lora": LORA},
    "vlm experts": {
        "projector": "ldpnetv2", "kind": "mixtral", "num_local_experts": 16,
        "num_experts_per_tok": 1, "num_key_value_heads": 2,
    },
}  # fmt: skip
KINDS = {
    "pretrain": ["windows", "documents"],
    "sft": ["rows", "short last step"],
    "vlm": ["images", "texts", "mixed", "packed", "short last step"],
}
Found = dict[tuple[str, str, str], tuple[float, dict[str, tuple[Tensor, Tensor]]]]


def kinds_of(stage: str) -> list[str]:
    return KINDS[stage.partition(" ")[0]]


class Values:
    """Weights to begin with; moments of zero."""

    optimizer_step = 0

    def __init__(self, model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)
        self._values: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                is_norm = "norm" in name and name.endswith("weight")
                noise = torch.randn(parameter.shape, generator=generator) * 0.1
                parameter.copy_(noise + float(is_norm))
                self._values[name] = parameter.detach().clone().view(-1)

    def read(self, fragment: Fragment) -> None:
        value = self._values[fragment.name]
        fragment.weight.copy_(value[fragment.start : fragment.start + len(fragment.weight)])
        for moment in fragment.state.values():
            moment.zero_()


def config_of(fields: dict[str, Any]) -> Config:
    return Config(
        init="-",
        run=RunConfig(folder="-"),
        data=ImageTextData(path="-", images="-"),
        train=TuneConfig(language_model=fields.get("language_model", True)),
        lora=fields.get("lora", LoraConfig()),
        optimizer=TwoRates(learning_rate=1e-3),
    )


def build_model(stage: str) -> tuple[nn.Module, list[Any]]:
    """Return a stage's model and its groups of parameters."""
    fields, device = STAGES[stage], torch.device("cpu")
    if not stage.startswith("vlm"):
        lora = fields.get("lora", LoraConfig())
        model: nn.Module = language.build_on(device, MODEL, adapt=partial(inject, config=lora))
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return model, parameter_groups(named, OPTIMIZER)
    config = config_of(fields)
    own = {"kind", "projector", "language_model", "lora", "checkpointing"}
    architecture = Architecture(
        language={"model_type": fields.get("kind", "llama"), **LANGUAGE}
        | {name: value for name, value in fields.items() if name not in own},
        vision={"model_type": "clip_vision_model", **VISION},
        projector=fields["projector"],
        images=PROCESSOR,
    )
    model = build_on(
        device,
        architecture,
        gradient_checkpointing=fields.get("checkpointing", False),
        packed=True,
        adapt=partial(tune, config=config),
    )
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return model, groups_of(named, config)


def build_engine(model: nn.Module, groups: list[Any], kind: str, world: World) -> Engine:
    if kind == "ddp":
        return DDPEngine(
            model, groups, precision="fp32", optimizer=open_optimizer(OPTIMIZER), rank=world.rank,
            world_size=world.size,
        )  # fmt: skip
    config = EngineConfig(zero_stage=2 if ENGINES[kind] == 2 else 1)
    return DeepSpeedEngine(
        model, groups, config=config, precision="fp32", optimizer=open_optimizer(OPTIMIZER),
        micro_batch_size=2, world_size=world.size,
    )  # fmt: skip


def text_rows(kind: str, rank: int) -> Iterator[dict[str, Tensor]]:
    """Yield two micro-batches of a language model's rows."""
    generator = torch.Generator().manual_seed(rank)
    for k in range(2):
        if kind == "short last step" and (rank or k):
            yield RowInputs(seq_len=16, pad_id=0).stack([None, None])
            continue
        ids = torch.randint(0, 64, (2, 17), generator=generator)
        rows = {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}
        if kind != "windows":
            rows["position_ids"] = (torch.arange(16) % (4 + rank + k)).expand(2, 16).contiguous()
        yield rows


@cache
def image_rows(kind: str, folder: Path, rank: int) -> list[dict[str, Tensor]]:
    """Return this rank's micro-batches of a step of a kind, as a run has them."""
    data = open_data(folder, folder / "data/images")
    packed = kind == "packed"
    orders = {
        grouping: SampleOrder(
            data.samples.lengths, data.samples.has_images, global_batch_size=BATCH, seed=3,
            grouping=grouping, end=RECORDS - 1,
        )
        for grouping in ("modality_length", "none")
    }  # fmt: skip
    order = orders["modality_length" if kind in ("images", "texts") else "none"]
    ranks = [
        ImageTextBatches(
            data.inputs, order, micro_batch_size=1, rank=r, world_size=RANKS,
            row_tokens=ROW if packed else None,
        )
        for r in range(RANKS)
    ]  # fmt: skip
    for position in range(0, RECORDS - 1, BATCH):
        steps = [
            [micro.inputs for micro in batches.at(position).micro_batches] for batches in ranks
        ]
        if is_of_kind(kind, steps):
            return steps[rank]
    raise AssertionError(f"no step is {kind}")


def is_of_kind(kind: str, steps: list[list[dict[str, Tensor]]]) -> bool:
    images = [["pixel_values" in inputs for inputs in step] for step in steps]
    supervised = [any((i["labels"] != -100).any() for i in step) for step in steps]
    if kind in ("images", "texts"):
        return all(supervised) and all(all(i if kind == "images" else not i for i in step)
                                       for step in images)  # fmt: skip
    if kind == "short last step":
        return not all(supervised)
    has_packed = any("position_ids" in inputs for step in steps for inputs in step)
    return all(supervised) and images[0] != images[1] and has_packed == (kind == "packed")


def moments_of_all(folder: str) -> Found:
    """Take one step of each; return grad norm and moments, whole, on every rank."""
    torch.set_num_threads(1)
    world = World(DistributedConfig(accelerator="cpu", threads=1))
    found: Found = {}
    for stage in STAGES:
        for kind in ENGINES:
            model, groups = build_model(stage)
            values = Values(model)
            engine = build_engine(model, groups, kind, world)
            for batch in kinds_of(stage):
                engine.load(values)
                found[stage, batch, kind] = one_step(engine, stage, batch, Path(folder), world.rank)
    return found


def one_step(
    engine: Engine, stage: str, batch: str, folder: Path, rank: int
) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    is_text = not stage.startswith("vlm")
    micro = [*text_rows(batch, rank)] if is_text else image_rows(batch, folder, rank)
    for k, inputs in enumerate(micro):
        sums = engine.forward(inputs, last=k + 1 == len(micro))
        engine.backward(sums.loss_sum / 50)
    report = engine.step(1.0)
    mine = [
        (f.name, f.start, f.state["exp_avg"].clone(), f.state["exp_avg_sq"].clone())
        for f in engine.fragments()
    ]
    parts: list[list[tuple[str, int, Tensor, Tensor]]] = [[] for _ in range(RANKS)]
    dist.all_gather_object(parts, mine)
    pieces: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
    for name, start, first, second in (piece for part in parts for piece in part):
        pieces.setdefault(name, []).append((start, first, second))
    whole = {}
    for name, held in pieces.items():
        held.sort(key=lambda piece: piece[0])
        whole[name] = torch.cat([a for _, a, _ in held]), torch.cat([b for _, _, b in held])
    return report.grad_norm, whole


@pytest.fixture(scope="module")
def found(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Grad norm and moments by stage, kind of batch and engine, of one start of two ranks."""
    folder = tmp_path_factory.mktemp("moments")
    records, images = write_llava(folder / "data", records=RECORDS, images=8)
    build_data(folder, records, images, small_tokenizer)
    return run_ranks(moments_of_all, RANKS, str(folder))[0]


@pytest.mark.parametrize("engine", ["zero 1", "zero 2"])
@pytest.mark.parametrize(("stage", "batch"), [(s, b) for s in STAGES for b in kinds_of(s)])
def test_the_moments_after_a_step_are_those_of_ddp(
    found: Found, stage: str, batch: str, engine: str
) -> None:
    (norm, moments), (expected, theirs) = found[stage, batch, engine], found[stage, batch, "ddp"]
    assert norm == pytest.approx(expected, rel=1e-5)
    assert moments.keys() == theirs.keys()
    for name, pair in moments.items():
        for ours, their in zip(pair, theirs[name], strict=True):
            bound = float(2e-5 * their.abs().max())
            torch.testing.assert_close(ours, their, rtol=0, atol=bound, msg=name)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.startswith("vlm")])
def test_a_step_without_an_image_leaves_the_projectors_moments_at_zero(
    found: Found, stage: str
) -> None:
    for engine in ENGINES:
        _, moments = found[stage, "texts", engine]
        _, others = found[stage, "mixed", engine]
        for name in moments:
            if name.startswith("projector."):
                assert not any(moment.any() for moment in moments[name]), name
                assert others[name][0].any(), name
