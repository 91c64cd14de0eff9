"""'vlm run': what trains and what does not, from which start, on which ranks, what is refused."""

import json
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilellama.config import ConfigError
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.pretrain.state.checkpoint import Checkpoint
from mobilellama.pretrain.state.manifest import read_manifest
from mobilellama.run_folder import RunFolder
from mobilellama.vlm.data.order import SampleOrder
from mobilellama.vlm.data.samples import Samples
from mobilellama.vlm.main import main
from mobilellama.vlm.model import LANGUAGE, PROJECTOR, TOWER
from tests.helpers.ranks import run_ranks
from tests.pretrain.helpers.running import contents
from tests.pretrain.helpers.stopped import losses_of
from tests.pretrain.helpers.tiny import train_tiny
from tests.vlm.helpers.llava_data import make_captions, make_images, make_records
from tests.vlm.helpers.tiny_vlm import make_language_model, make_tower, train_vlm

EPOCH: dict[str, Any] = {"train.max_steps": None, "train.epochs": 1}
FIRST: dict[str, Any] = {
    "data.template": "plain", "data.aspect_ratio": "square", "data.grouping": "none",
    "train.language_model": False,
}  # fmt: skip
LORA: dict[str, Any] = {"lora.rank": 4, "lora.alpha": 8, "lora.dropout": 0.0}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of."""

    tower: Path
    language: Path
    records: Path
    captions: Path
    images: Path

    def train(
        self, ranks: int, run: Path, fields: dict[str, Any], *, init: Path | None = None,
        data: Path | None = None,
    ) -> None:  # fmt: skip
        """Run an attempt on so many ranks; it starts from the parts, or a run."""
        tower = {"vision": self.tower} if init is None else {}
        first = init or self.language
        run_ranks(train_vlm, ranks, first, data or self.records, self.images, run, tower | fields)

    def refuse(
        self, match: str, fields: dict[str, Any], *, run: Path, init: Path | None = None
    ) -> None:
        """Assert that the command refuses these fields before any process is started."""
        values = {"vision": self.tower} | fields
        with pytest.raises(ConfigError, match=match):
            train_vlm(init or self.language, self.records, self.images, run, values)


@pytest.fixture(scope="module")
def parts(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    images = make_images(folder / "images", 10)
    made = {"records": make_records(18, images), "captions": make_captions(12, images)}
    for name, records in made.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    return Parts(
        tower=make_tower(folder / "tower"),
        language=make_language_model(folder / "language", small_tokenizer),
        records=folder / "records.json",
        captions=folder / "captions.json",
        images=folder / "images",
    )


# --- what is refused before any process is started


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"vision": None},
            r"vision = null: is not given, and .*language is a language model, which has no tower\."
            r" Give the folder of CLIP",
        ),
        ({"vision": "nowhere"}, r"vision = nowhere: is not a folder"),
        (
            {"projector.kind": None},
            r"projector\.kind = null: is not given, and neither --init nor --projector\.weights has"
            r" a projector",
        ),
        ({"projector.kind": "ldpnetv3"}, r"projector\.kind.*ldpnetv3.*ldpnetv2"),
        ({"projector.weights": "none.bin"}, r"projector\.weights = none\.bin: is not a file"),
        ({"data.images": "nowhere"}, r"data\.images = nowhere: does not exist"),
        ({"data.path": "none.json"}, r"data\.path = none\.json: is not there"),
        ({"data.validation": "none.json"}, r"data\.validation = none\.json: is not there"),
        ({"data.leave_out": "none.json"}, r"data\.leave_out = none\.json: is not a file"),
        ({"data.template": "vicuna"}, r"data\.template.*vicuna.*did you mean 'vicuna_v1'"),
        (
            {"data.template": "qwen2"},
            r"template qwen2: specials = <\|im_start\|>: is not a special token of",
        ),
        (
            {"train.seq_len": 257},
            r"train\.seq_len = 257: exceeds the 256 positions of the language model\. Give 256",
        ),
        ({"train.seq_len": 0}, r"train\.seq_len = 0: must be at least 1"),
        ({"train.epochs": 0}, r"train\.epochs = 0\.0: must be above 0"),
        ({"train.epochs": "nan"}, r"train\.epochs = nan: expected a float"),
        ({"train.max_steps": 0}, r"train\.max_steps = 0: must be at least 1"),
        (
            {"train.global_batch_size": 5},
            r"train\.global_batch_size = 5: must be a multiple of train\.micro_batch_size",
        ),
        (
            {"optimizer.projector_learning_rate": 0},
            r"optimizer\.projector_learning_rate = 0\.0: must be above 0",
        ),
        (
            LORA | {"train.language_model": False},
            r"lora\.rank = 4: has no effect while train\.language_model is false",
        ),
        ({"data.grouping": "length"}, r"data\.grouping.*length.*modality_length"),
        ({"data.aspect_ratio": "anyres"}, r"data\.aspect_ratio.*anyres.*square"),
    ],
)
def test_a_mistake_is_told_once_with_its_remedy(
    fields: dict[str, Any], message: str, parts: Parts, tmp_path: Path
) -> None:
    parts.refuse(message, fields, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_starts_that_are_none_are_named(parts: Parts, tmp_path: Path, small_dataset: Path) -> None:
    run = tmp_path / "run"
    for init, message in (
        (tmp_path / "none", r"init = .*none: is not a folder"),
        (small_dataset, r"init = .*: is neither a checkpoint nor a run's folder"),
        (parts.tower, r"clip_vision_model.*is not a causal model"),
    ):
        parts.refuse(message, {}, run=run, init=init)
    empty = tmp_path / "empty"
    empty.mkdir()
    parts.refuse(r"vision = .*empty: has no config\.json", {"vision": empty}, run=run)
    parts.refuse(r"vision: model_type = llama", {"vision": parts.language}, run=run)


def test_a_tokenizer_with_more_ids_than_the_model_has_embeddings_is_refused(
    parts: Parts, tmp_path: Path, small_tokenizer: Path
) -> None:
    small = make_language_model(tmp_path / "small", small_tokenizer, vocab_size=700)
    message = r"init = .*small: has 700 embeddings, but 800 ids in its tokenizer"
    parts.refuse(message, {}, run=tmp_path / "run", init=small)


def test_help_tells_every_field_of_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--help", "all"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    text = " ".join(out.split())
    for field in ("--init", "--vision", "--data.images", "--data.leave_out", "--data.pack",
                  "--data.grouping", "--projector.kind", "--projector.weights",
                  "--train.language_model", "--lora.rank", "--run.folder",
                  "--optimizer.projector_learning_rate"):  # fmt: skip
        assert field in out, field
    assert "vlm/projectors/table.py names the class of each kind" in text
    assert "mobilevlm_v2_1_7b_pretrain" in text  # the presets
    assert "vlm check-data" in text


# --- what a run meets later


def verdict_of(run: Path) -> str:
    verdict = RunFolder(run).read_verdict()
    assert verdict is not None
    return f"{verdict.kind}: {verdict.message}"


@pytest.mark.parametrize(
    ("orientation", "said"),
    [
        ("as_stored", "images are taken as they are stored: no EXIF orientation turns them"),
        ("as_shown", "images are taken as viewers show them: EXIF orientation turns them"),
        (None, "images are taken as viewers show them: EXIF orientation turns them"),
    ],
)
def test_a_run_says_at_its_start_which_way_it_takes_photographs(
    orientation: str | None, said: str, parts: Parts, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fields = {"images.orientation": orientation, "data.template": "vicuna"}  # refused after it
    parts.refuse("did you mean 'vicuna_v1'", fields, run=tmp_path / "run")
    assert f"{said} (images.orientation)" in capsys.readouterr().err


@pytest.mark.slow
def test_data_that_have_nothing_to_train_on_fail_with_the_reasons(
    parts: Parts, tmp_path: Path
) -> None:
    run, data = tmp_path / "run", write_two_kinds(tmp_path, parts, images=0, texts=3)
    with pytest.raises(AssertionError, match=r"has 3 records, and none can be trained on"):
        parts.train(1, run, {"data.template": "plain"}, data=data)  # texts are no captions
    told = verdict_of(run)
    assert told.startswith("failed: data.path = ") and "which 'plain' takes: 3)" in told
    assert "check-data" in told


@pytest.mark.slow
def test_texts_alone_teach_a_projector_nothing_and_are_refused(
    parts: Parts, tmp_path: Path
) -> None:
    run, data = tmp_path / "run", write_two_kinds(tmp_path, parts, images=0, texts=3)
    with pytest.raises(
        AssertionError, match=r"would train nothing: only the projector learns, and no sample has"
    ):
        parts.train(1, run, {"train.language_model": False}, data=data)
    assert verdict_of(run).startswith("failed: train.language_model = false")


@pytest.mark.slow
def test_an_image_that_is_gone_is_told_before_the_first_step_and_skipped_where_asked(
    parts: Parts, tmp_path: Path
) -> None:
    images = shutil.copytree(parts.images, tmp_path / "images")
    (images / "a/00002.png").unlink()
    run, fields = tmp_path / "run", EPOCH | {"data.images": images}
    with pytest.raises(AssertionError, match=r"a/00002\.png is not there"):
        parts.train(2, run, fields)
    told = verdict_of(run)
    assert told.startswith("failed: data.images = ") and "needed by 2 samples" in told
    assert not RunFolder(run).read_metrics()
    parts.train(2, run, fields | {"data.missing": "skip"})
    assert losses_of(run)[4]["consumed"] == 16  # of the 18 samples
    left_out = dict(read_manifest(RunFolder(run).checkpoint(4)).identity)["data.missing"]
    assert left_out is not None
    # The image comes back: the run goes on with the samples that it began with.
    shutil.copy(parts.images / "a/00002.png", images / "a/00002.png")
    parts.train(1, run, fields | {"data.missing": "skip", "train.epochs": 2})
    assert losses_of(run)[8]["consumed"] == 32
    assert dict(read_manifest(RunFolder(run).checkpoint(8)).identity)["data.missing"] == left_out
    # 1.9 epochs are 30 samples of the 16 that it trains on; of all 18 they would be 34.
    files, shorter = contents(run), fields | {"data.missing": "skip", "train.epochs": 1.9}
    parts.refuse(r"train\.epochs = 1\.9: .* at step 8 \(32 samples\)", shorter, run=run)
    assert contents(run) == files


@pytest.mark.slow
def test_a_run_from_before_images_were_looked_for_goes_on_without_that(
    parts: Parts, tmp_path: Path
) -> None:
    images = shutil.copytree(parts.images, tmp_path / "images")
    run, fields = tmp_path / "run", {"data.images": images}
    parts.train(1, run, fields | {"train.max_steps": 1})
    path = RunFolder(run).checkpoint(1) / "manifest.json"
    manifest = read_sealed_json(path, owner=None)
    assert manifest["identity"].pop("data.missing", "absent") is None
    write_sealed_json(path, manifest)
    (run / "samples/train.images.json").unlink()
    samples = Samples(run / "samples/train.arrow", image_tokens=4)
    order = SampleOrder(
        samples.lengths, samples.has_images, global_batch_size=4,
        seed=manifest["identity"]["data.seed"], grouping="modality_length",
    )  # fmt: skip
    needed = {images / name for number in order.step(4) for name in samples[int(number)].images}
    gone = next(path for path in sorted(images.glob("*/*")) if path not in needed)
    gone.unlink()
    parts.train(1, run, fields | {"train.max_steps": 2})
    assert not (run / "samples/train.images.json").exists()


@pytest.mark.slow
def test_tokenised_records_that_changed_are_found_where_that_is_asked_for(
    parts: Parts, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    parts.train(1, run, {"train.max_steps": 1})
    path = run / "samples/train.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssertionError, match=r"train\.arrow: its sha256 is not the one in its"):
        parts.train(1, run, {"train.max_steps": 2, "data.verify": True})


# --- what trains


def values_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Return every parameter of a checkpoint, flat, by name."""
    checkpoint = Checkpoint(RunFolder(run).checkpoint(step))
    return {
        name: checkpoint.parameter(name, torch.Size([checkpoint.numel(name)])).clone()
        for name in checkpoint.names()
    }


def given_values(parts: Parts) -> dict[str, torch.Tensor]:
    """Return the values that tower and language model start with, by our names, flat."""
    from transformers import CLIPVisionModel, LlamaForCausalLM

    tower = CLIPVisionModel.from_pretrained(parts.tower, dtype=torch.float32)
    language = LlamaForCausalLM.from_pretrained(parts.language, dtype=torch.float32)
    named = {TOWER: tower, LANGUAGE: language}
    return {
        prefix + name: value.detach().flatten()
        for prefix, model in named.items()
        for name, value in model.named_parameters()
    }


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def trained_names(run: Path, step: int) -> set[str]:
    """Return the names that have moments in a checkpoint's files."""
    from safetensors import safe_open

    found = set()
    for path in RunFolder(run).checkpoint(step).glob("rank-*.safetensors"):
        with safe_open(path, "pt") as file:
            names = [key for key in file.keys() if "exp_avg" in key]
        checkpoint = Checkpoint(RunFolder(run).checkpoint(step))
        found |= {n for n in checkpoint.names() if any(n in key for key in names)}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{"engine.kind": "ddp"}, {"engine.kind": "deepspeed"}])
def test_the_first_stage_trains_the_projector_and_the_second_the_language_model_too(
    parts: Parts, tmp_path: Path, engine: dict[str, Any]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    steps = {"train.max_steps": 2, "checkpoint.every_steps": 1}
    parts.train(2, first, FIRST | steps | engine, data=parts.captions)
    given = given_values(parts)
    one, two = values_of(first, 1), values_of(first, 2)
    assert one.keys() == two.keys() == {*given, *(n for n in one if n.startswith(PROJECTOR))}
    assert changed(given, two) == set()  # tower and language model bit for bit
    assert changed(one, two) == {n for n in one if n.startswith(PROJECTOR)}
    assert trained_names(first, 2) == {n for n in one if n.startswith(PROJECTOR)}
    folder = RunFolder(first)
    (frozen,) = folder.frozen.iterdir()  # once, whatever the number of checkpoints
    manifests = [read_manifest(folder.checkpoint(step)) for step in (1, 2)]
    assert {manifest.frozen_sha256 for manifest in manifests} == {frozen.stem}

    parts.train(2, second, steps | engine | {"projector.kind": None}, init=first)
    done = values_of(second, 2)
    assert changed(given, done) == {n for n in given if n.startswith(LANGUAGE)}
    assert changed(two, done) == {n for n in two if not n.startswith(TOWER)}
    assert trained_names(second, 2) == {n for n in done if not n.startswith(TOWER)}
    origin = dict(read_manifest(RunFolder(second).checkpoint(2)).config)["origin"]
    assert origin == {"init": str(first)}


@pytest.mark.slow
def test_the_second_stage_begins_where_the_first_one_ended(parts: Parts, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    held_out = {"data.validation": parts.captions, "validation.every_steps": 2}
    parts.train(1, first, FIRST | held_out | {"train.max_steps": 2}, data=parts.captions)
    fields = FIRST | held_out | {"train.max_steps": 1, "validation.at_start": True}
    parts.train(1, second, fields | {"train.language_model": True}, init=first, data=parts.captions)
    ended, began = losses_of(first)[2], losses_of(second)[0]
    assert began["validation_loss"] == ended["validation_loss"]
    assert began["validation_loss/image"] == ended["validation_loss"]


@pytest.mark.slow
def test_the_projector_has_a_rate_of_its_own(parts: Parts, tmp_path: Path) -> None:
    """AdamW's first step moves a weight by its rate, whatever the gradient."""
    rates = {"optimizer.learning_rate": 1e-3, "optimizer.projector_learning_rate": 2e-2}
    once = {"train.max_steps": 1, "schedule.warmup_ratio": 0.0}
    run, other = tmp_path / "run", tmp_path / "other"
    parts.train(1, run, once | rates)
    parts.train(1, other, once | {"optimizer.learning_rate": 1e-9})
    record, plain = losses_of(run)[1], losses_of(other)[1]
    assert (record["learning_rate"], record["learning_rate/projector"]) == (1e-3, 2e-2)
    assert "learning_rate/projector" not in plain
    before, after = values_of(other, 1), values_of(run, 1)
    for prefix, rate in ((PROJECTOR, 2e-2), (LANGUAGE, 1e-3)):
        moved = [(after[n] - before[n]).abs().max() for n in before if n.startswith(prefix)]
        assert max(moved) == pytest.approx(rate, rel=0.05), prefix


@pytest.mark.slow
def test_lora_is_put_into_the_language_model_alone_and_the_projector_trains_with_it(
    parts: Parts, tmp_path: Path
) -> None:
    """CLIP's layers have projections of the same names."""
    run = tmp_path / "run"
    steps = {"train.max_steps": 2, "checkpoint.every_steps": 1}
    parts.train(2, run, LORA | steps | {"engine.kind": "deepspeed", "engine.zero_stage": 2})
    one, two = values_of(run, 1), values_of(run, 2)
    adapters = {name for name in two if ".lora_" in name}
    assert len(adapters) == 2 * 7 * 2  # A and B of seven linears in two layers
    assert all(name.startswith(f"{LANGUAGE}model.layers.") for name in adapters)
    projector = {name for name in two if name.startswith(PROJECTOR)}
    assert trained_names(run, 2) == adapters | projector
    assert changed(one, two) == adapters | projector
    plain = {n.replace(".base_layer", ""): v for n, v in two.items() if n not in adapters}
    given = given_values(parts)
    assert changed(given, plain) == set() and plain.keys() - given.keys() == projector
    assert len([*RunFolder(run).frozen.iterdir()]) == 1


@pytest.mark.slow
def test_a_lora_run_is_gone_on_from_as_its_merged_model(parts: Parts, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    held_out = {"data.validation": parts.records, "validation.every_steps": 2}
    parts.train(1, first, LORA | held_out | {"train.max_steps": 2})
    fields = held_out | {"train.max_steps": 1, "validation.at_start": True}
    parts.train(1, second, fields, init=first)
    ended, began = losses_of(first)[2], losses_of(second)[0]
    assert began["validation_loss"] == pytest.approx(ended["validation_loss"], rel=1e-5)


# --- how many ranks, which rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ldpnet", "ldpnetv2", "mlp2x_gelu"])
def test_each_projector_trains_and_ddp_has_nothing_to_warn_of(
    kind: str, parts: Parts, tmp_path: Path
) -> None:
    fields = {"vision": parts.tower, "projector.kind": kind, "train.max_steps": 2}
    run = tmp_path / "run"
    told = run_ranks(warnings_of, 2, parts.language, parts.records, parts.images, run, fields)
    assert [text for texts in told for text in texts if "stride" in text or "bucket" in text] == []
    assert sorted(losses_of(run)) == [1, 2]


def warnings_of(*args: Any) -> list[str]:
    """Train on this rank and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_vlm(*args)
    return [str(warning.message) for warning in caught]


def write_two_kinds(folder: Path, parts: Parts, *, images: int, texts: int) -> Path:
    """Write so many records with images and without, those with images longer."""
    long = "Say all about it. " * 4
    names = [p.relative_to(parts.images).as_posix() for p in sorted(parts.images.rglob("*.*"))]
    turns = {
        "image": (f"<image>\n{long}", "It is a picture of one colour."),
        "text": ("What?", "That."),
    }
    records = []
    for kind, (question, answer) in turns.items():
        for number in range(images if kind == "image" else texts):
            pair = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            record: dict[str, Any] = {"id": f"{kind}_{number}", "conversations": pair}
            if kind == "image":
                record["image"] = names[number % len(names)]
            records.append(record)
    path = folder / "two_kinds.json"
    path.write_text(json.dumps(records))
    return path


ENGINES = [
    pytest.param({"engine.kind": "ddp"}, id="ddp"),
    pytest.param({"engine.kind": "deepspeed", "engine.zero_stage": 1}, id="zero1"),
    pytest.param({"engine.kind": "deepspeed", "engine.zero_stage": 2}, id="zero2"),
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_ranks_with_images_and_ranks_without_train_together(
    engine: dict[str, Any], parts: Parts, tmp_path: Path
) -> None:
    """The mixed step has two images for one rank and two texts for the other: none waits."""
    data = write_two_kinds(tmp_path, parts, images=6, texts=6)
    losses = {}
    for ranks in (1, 2):
        run = tmp_path / f"on_{ranks}"
        parts.train(ranks, run, EPOCH | engine, data=data)
        losses[ranks] = losses_of(run)
    samples = Samples(tmp_path / "on_2/samples/train.arrow", image_tokens=4)
    assert samples.lengths[:6].min() > samples.lengths[6:].max()  # so that rank 0 has the images
    assert sorted(losses[1]) == sorted(losses[2]) == [1, 2, 3]
    kinds = [{n for n in losses[2][step] if n.startswith("loss/")} for step in (1, 2, 3)]
    assert kinds[2] == {"loss/image", "loss/text"} and len(kinds[0] | kinds[1]) == 2
    assert [len(kind) for kind in kinds] == [1, 1, 2]
    same_losses(losses[1], losses[2])


def same_losses(
    expected: dict[int, dict[str, Any]], found: dict[int, dict[str, Any]], rel: float = 2e-4
) -> None:
    """Assert that the same samples gave the same losses, to rounding."""
    assert sorted(found) == sorted(expected)
    for step, record in expected.items():
        other = found[step]
        assert record.keys() == other.keys()
        assert record["consumed"] == other["consumed"]
        for name in record:
            if name.startswith("loss"):
                assert other[name] == pytest.approx(record[name], rel=rel), (step, name)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_global_batch_decides_the_losses_not_ranks_micro_batches_or_packing(
    engine: dict[str, Any], parts: Parts, tmp_path: Path
) -> None:
    """Rows of several samples are few: some rank may then have more than another, or none."""
    runs: dict[str, tuple[int, dict[str, Any]]] = {
        "alone": (1, {}),
        "single rows": (1, {"train.micro_batch_size": 1}),
        "two": (2, {}),
        "packed": (1, {"data.pack": True}),
        "two packed": (2, {"data.pack": True, "train.micro_batch_size": 1}),
        "two recomputing": (2, {"train.gradient_checkpointing": True}),
    }
    losses = {}
    for name, (ranks, fields) in runs.items():
        rate = {"optimizer.learning_rate": 1e-3}  # so that rounding does not grow
        parts.train(ranks, tmp_path / name, EPOCH | engine | rate | fields)
        losses[name] = losses_of(tmp_path / name)
        assert sorted(losses[name]) == [1, 2, 3, 4, 5]
        assert losses[name][5]["consumed"] == 18
    for name in runs:
        same_losses(losses["alone"], losses[name])
    assert losses["two"] == losses["two recomputing"]


@pytest.mark.slow
def test_every_sample_is_trained_on_once_an_epoch(parts: Parts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    parts.train(2, run, {"train.max_steps": None, "train.epochs": 1.5})
    records = losses_of(run)
    consumed = [records[step]["consumed"] for step in sorted(records)]
    assert consumed == [4, 8, 12, 16, 18, 22, 26, 27]  # the epoch's last step is short


# --- what defines a run

IDENTITY: list[tuple[dict[str, Any], str]] = [
    ({"train.seq_len": 200}, r"train\.seq_len = 200: .*step-1 was made with 256"),
    ({"train.global_batch_size": 8}, r"train\.global_batch_size = 8: .* made with 4"),
    (
        {"train.language_model": False, "lora.rank": None, "lora.alpha": 256, "lora.dropout": 0.05},
        r"train\.language_model = false: .*made with true",
    ),
    ({"lora.rank": 8}, r"lora\.rank = 8: .*made with 4"),
    ({"lora.alpha": 16}, r"lora\.alpha = 16(\.0)?: .*made with 8"),
    ({"lora.targets": "[q_proj]"}, r"lora\.targets = \['q_proj'\]: .*made with \['q_proj', 'k_"),
    ({"engine.precision": "bf16"}, r"engine\.precision = bf16: .*made with fp32"),
    ({"data.seed": 3}, r"data\.seed = 3: .*made with 1337"),
    ({"data.grouping": "none"}, r"data\.grouping = none: .*made with modality_length"),
    ({"data.aspect_ratio": "square"}, r"model\.images\.aspect_ratio = square: .*made with pad"),
    (
        {"images.orientation": "as_stored"},
        r"model\.images\.orientation = as_stored: .*made with as_shown",
    ),
    ({"data.template": "mistral"}, r"data\.template = [0-9a-f]{64}: .*made with"),
    ({"data.path": "captions"}, r"data\.fingerprint = [0-9a-f]{64}: .*made with"),
]


@pytest.mark.slow
def test_what_defines_a_run_may_not_change_and_is_named(parts: Parts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    parts.train(1, run, LORA | {"train.max_steps": 1})
    manifest = read_manifest(RunFolder(run).checkpoint(1))
    told = run_ranks(refusals_of, 1, parts, run)[0]
    for (fields, message), answer in zip(IDENTITY, told, strict=True):
        assert re.search(message, answer), (fields, answer)
        assert "Use that, or another run.folder" in answer
    assert read_manifest(RunFolder(run).checkpoint(1)) == manifest
    # The rest may change: how the same samples are computed, and how far.
    free = {"data.pack": True, "train.micro_batch_size": 4, "data.workers": 0,
            "train.gradient_checkpointing": True, "optimizer.learning_rate": 1e-3,
            "train.max_steps": 2}  # fmt: skip
    parts.train(1, run, LORA | free)
    assert sorted(losses_of(run)) == [1, 2]


def refusals_of(parts: Parts, run: Path) -> list[str]:
    """Return what the command says to each change, in one process."""
    told = []
    for fields, _ in IDENTITY:
        values = {"vision": parts.tower} | LORA | fields
        if values.get("data.path"):
            values["data.path"] = parts.captions
        try:
            train_vlm(parts.language, parts.records, parts.images, run, values)
        except ConfigError as error:
            told.append(str(error))
        else:
            told.append(f"{fields} were taken")
    return told


@pytest.mark.slow
def test_a_resume_does_not_read_the_start_again(parts: Parts, tmp_path: Path) -> None:
    run, gone = tmp_path / "run", shutil.copytree(parts.language, tmp_path / "gone")
    parts.train(1, run, {"vision": parts.tower, "train.max_steps": 1}, init=gone)
    shutil.rmtree(gone)
    parts.train(1, run, {"vision": "nowhere", "train.max_steps": 2}, init=gone)
    manifest = read_manifest(RunFolder(run).checkpoint(2))
    stored = dict(manifest.config)
    assert stored["origin"] == {"init": str(gone), "vision": str(parts.tower)}
    assert stored["init"] == str(gone) and stored["vision"] == str(parts.tower)


@pytest.mark.slow
def test_a_pretraining_runs_model_may_be_started_from_and_its_folder_is_not_trained_in(
    parts: Parts, tmp_path: Path, small_dataset: Path
) -> None:
    pretrained, run = tmp_path / "pretrained", tmp_path / "run"
    fields = {"train.max_steps": 1, "model.max_seq_len": 256, "validation.every_steps": None}
    run_ranks(train_tiny, 1, small_dataset, pretrained, fields)
    once = {"train.max_steps": 1, "vision": parts.tower}
    parts.train(1, run, once | FIRST, init=pretrained, data=parts.captions)
    theirs, ours = values_of(pretrained, 1), values_of(run, 1)
    assert {f"{LANGUAGE}{name}" for name in theirs} == {n for n in ours if n.startswith(LANGUAGE)}
    assert all(torch.equal(ours[LANGUAGE + name], value) for name, value in theirs.items())
    parts.refuse(r"run\.folder = .*: was written by 'mobilellama pretrain run'", {}, run=pretrained)


def test_a_sink_that_cannot_be_imported_is_refused_before_processes_start(tmp_path: Path) -> None:
    inputs = ["--init=model", "--vision=tower", "--data.path=data", "--data.images=images"]
    given = [*inputs, f"--run.folder={tmp_path}/run"]
    with pytest.raises(ConfigError, match=r"metrics.sinks = no_package.sink: cannot be imported"):
        main(["run", *given, "--metrics.sinks=no_package.sink"])
    assert not (tmp_path / "run").exists()
