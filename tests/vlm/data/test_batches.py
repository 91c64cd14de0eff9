"""Rows of samples and images: packed or not, each sample is whole and the loss is the same."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mobilellama.config import DataError
from mobilellama.pretrain.data import StepBatch
from mobilellama.vlm.architecture import Architecture
from mobilellama.vlm.data.batches import HeldOutSamples, ImageTextBatches, ImageTextInputs
from mobilellama.vlm.data.images import read_image
from mobilellama.vlm.data.labels import IMAGE
from mobilellama.vlm.data.order import SampleOrder
from mobilellama.vlm.data.samples import Samples
from mobilellama.vlm.model import VisionLanguageModel
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.tiny_samples import PAD, PROCESSOR, ROW, TOKENS, Data, build_data
from tests.vlm.helpers.tiny_vlm import LANGUAGE, VISION

BATCH = 8


@pytest.fixture(scope="module")
def data(small_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Forty-one samples, of which every fifth is text only and every fifth has two images."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("batches")
    records, images = write_llava(folder / "data", records=41, images=12)
    return build_data(folder, records, images, small_tokenizer)


def batches_of(data: Data, **fields: Any) -> ImageTextBatches:
    order = SampleOrder(
        data.samples.lengths, data.samples.has_images, global_batch_size=BATCH, seed=3,
        grouping=fields.pop("grouping", "modality_length"),
    )  # fmt: skip
    values = {"micro_batch_size": 2, "rank": 0, "world_size": 1, "row_tokens": None} | fields
    return ImageTextBatches(data.inputs, order, **values)


def positions(data: Data) -> list[int]:
    return list(range(0, len(data.samples), BATCH))


def documents(batch: StepBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (ids, labels) of every sample of a rank's micro-batches, padding left out."""
    found = []
    for micro in batch.micro_batches:
        ids, labels = micro.inputs["input_ids"], micro.inputs["labels"]
        starts = micro.inputs.get("position_ids", torch.arange(ids.shape[1]).expand(ids.shape)) == 0
        for k in range(len(ids)):
            cuts = [*torch.nonzero(starts[k]).flatten().tolist(), ids.shape[1]]
            for a, b in itertools.pairwise(cuts):
                made = ids[k, a:b].tolist()
                end = max((i + 1 for i, token in enumerate(made) if token != PAD), default=0)
                if end:
                    found.append((tuple(made[:end]), tuple(labels[k, a : a + end].tolist())))
    return found


def as_written(samples: Samples, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a sample's ids with its images' places, and its labels, one token at a time."""
    ids: list[int] = []
    learnt: list[bool] = []
    sample = samples[number]
    for token, supervised in zip(sample.ids.tolist(), sample.supervised.tolist(), strict=True):
        repeats = TOKENS if token == IMAGE else 1
        ids += [token] * repeats
        learnt += [supervised] * repeats
    labels = [ids[i + 1] if learnt[i + 1] else -100 for i in range(len(ids) - 1)] + [-100]
    return tuple(ids), tuple(labels)


@pytest.mark.parametrize("row_tokens", [None, ROW])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_steps_samples_come_whole_and_once_packed_or_not_on_any_number_of_ranks(
    data: Data, row_tokens: int | None, world_size: int
) -> None:
    ranks = [
        batches_of(data, row_tokens=row_tokens, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = []
    for position in positions(data):
        steps = [rank.at(position) for rank in ranks]
        assert len({len(step.micro_batches) for step in steps}) == 1
        (facts,) = {(s.num_samples, s.supervised_tokens, s.tokens, s.first_position) for s in steps}
        found = [document for step in steps for document in documents(step)]
        labels = [m.inputs["labels"] for step in steps for m in step.micro_batches]
        assert facts[1] == sum(int((part != -100).sum()) for part in labels)
        assert facts[2] == sum(len(ids) for ids, _ in found)
        assert facts[0] == len(found) and facts[3] == position
        images = sum(len(m.inputs.get("pixel_values", ())) for s in steps for m in s.micro_batches)
        assert images * TOKENS == sum(ids.count(IMAGE) for ids, _ in found)
        seen += found
    assert sorted(seen) == sorted(as_written(data.samples, i) for i in range(len(data.samples)))


def test_packing_takes_the_same_samples_in_each_step_in_fewer_rows(data: Data) -> None:
    plain, packed = batches_of(data), batches_of(data, row_tokens=ROW)
    fewer = 0
    for position in positions(data):
        a, b = plain.at(position), packed.at(position)
        assert sorted(documents(a)) == sorted(documents(b))
        assert (a.supervised_tokens, a.num_samples) == (b.supervised_tokens, b.num_samples)
        rows = [sum(len(m.groups) for m in step.micro_batches) for step in (a, b)]
        fewer += rows[1] < rows[0]
        for micro in b.micro_batches:
            assert micro.inputs["input_ids"].shape[1] <= ROW
    assert fewer >= 3


def tiny_model() -> VisionLanguageModel:
    torch.manual_seed(0)
    config = Architecture(
        language={"model_type": "llama", **LANGUAGE},
        vision={"model_type": "clip_vision_model", **VISION},
        projector="ldpnetv2",
        images=PROCESSOR,
    )
    model = VisionLanguageModel(config)
    with torch.no_grad():
        for parameter in model.projector.parameters():
            parameter.normal_(0, 0.1)
    return model.train()


@pytest.mark.parametrize("grouping", ["modality_length", "none"])
def test_packing_changes_loss_and_gradients_by_rounding_only(data: Data, grouping: str) -> None:
    model = tiny_model()
    results = []
    for row_tokens in (None, ROW):
        batches = batches_of(data, row_tokens=row_tokens, grouping=grouping)
        model.zero_grad()
        loss, by_group = 0.0, torch.zeros(2)
        for position in (0, 8, 32):  # the last holds texts and images
            for micro in batches.at(position).micro_batches:
                sums = model(**micro.inputs)
                sums.loss_sum.backward()
                loss += sums.loss_sum.item()
                by_group.index_add_(0, micro.groups, sums.sample_loss_sums.detach())
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        results.append((loss, by_group, gradients))
    (loss, groups, gradients), (packed_loss, packed_groups, packed_gradients) = results
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(packed_groups, groups, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        other = packed_gradients[name]
        scale = gradient.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(other, gradient, rtol=0, atol=1e-5 * float(scale))


def test_several_samples_a_row_have_positions_of_their_own_and_so_has_the_padding(
    data: Data,
) -> None:
    short, long = sorted(range(len(data.samples)), key=lambda i: int(data.samples.lengths[i]))[:2]
    a, b = (int(data.samples.lengths[i]) for i in (short, long))
    made = data.inputs.stack([[short, long], [short]])
    assert made["input_ids"].shape == (2, a + b)
    expected = [[*range(a), *range(b)], [*range(a), *range(b)]]
    assert made["position_ids"].tolist() == expected
    assert made["input_ids"][1, a:].tolist() == [PAD] * b
    assert made["labels"][1, a:].tolist() == [-100] * b
    assert made["labels"][0, a - 1] == -100  # the first's end does not predict the second's start
    assert "position_ids" not in data.inputs.stack([[short], [long]])


def pixels_of(data: Data, number: int) -> list[NDArray[np.uint8]]:
    names = data.samples[number].images
    return [PROCESSOR.pixels(read_image(data.images / name)) for name in names]


def test_images_come_in_the_order_of_their_places(data: Data) -> None:
    rows = [[2, 0], [4], [3, 7, 1]]  # 2 and 7 have two images, 4 has none
    made = data.inputs.stack(rows)
    expected = [image for row in rows for number in row for image in pixels_of(data, number)]
    assert len(expected) == 7
    assert torch.equal(made["pixel_values"], torch.from_numpy(np.stack(expected)))
    assert made["pixel_values"].dtype == torch.uint8
    assert (made["input_ids"] == IMAGE).sum(dim=1).tolist() == [12, 0, 16]
    assert "pixel_values" not in data.inputs.stack([[4]])


def test_an_empty_row_is_all_padding_and_costs_nothing(data: Data) -> None:
    model = tiny_model()
    made = data.inputs.stack([[0], []])
    length = int(data.samples.lengths[0])
    assert made["input_ids"][1].tolist() == [PAD] * length
    assert made["labels"][1].tolist() == [-100] * length
    alone, with_empty = (model(**data.inputs.stack(rows)) for rows in ([[0]], [[0], []]))
    assert with_empty.sample_tokens.tolist() == [*alone.sample_tokens.tolist(), 0]
    assert with_empty.sample_loss_sums[1] == 0
    torch.testing.assert_close(with_empty.loss_sum, alone.loss_sum)


def test_a_micro_batch_of_nothing_gives_zero_and_gradients_of_zero(data: Data) -> None:
    """A rank that gets no row of a short step reduces with the others all the same."""
    model, made = tiny_model(), data.inputs.stack([[], []])
    assert made["input_ids"].tolist() == [[PAD], [PAD]]
    sums = model(**made)
    sums.loss_sum.backward()
    assert sums.loss_sum.item() == 0 and sums.sample_tokens.tolist() == [0, 0]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and not parameter.grad.any(), name


def test_a_short_steps_missing_places_are_empty_rows(data: Data) -> None:
    """Forty-one samples: the last step has one, which the last of four ranks gets."""
    steps = [batches_of(data, rank=rank, world_size=4).at(40) for rank in range(4)]
    assert [len(documents(step)) for step in steps] == [0, 0, 0, 1]
    assert {step.num_samples for step in steps} == {1}
    assert [tuple(step.micro_batches[0].groups.shape) for step in steps] == [(1,)] * 4


def test_what_is_read_ahead_of_the_end_is_empty(data: Data) -> None:
    order = SampleOrder(
        data.samples.lengths, data.samples.has_images, global_batch_size=BATCH, seed=3,
        grouping="none", end=10,
    )  # fmt: skip
    batches = ImageTextBatches(
        data.inputs, order, micro_batch_size=2, rank=0, world_size=1, row_tokens=ROW
    )
    step = batches.at(10)
    assert (step.num_samples, step.supervised_tokens, step.tokens) == (0, 0, 0)
    assert (batches.num_samples(8), batches.steps_left(0), batches.steps_left(8)) == (2, 2, 1)


def test_a_row_belongs_to_the_group_of_its_modality(data: Data) -> None:
    batches = batches_of(data, row_tokens=ROW, grouping="none")
    both = set()
    for position in positions(data):
        for micro in batches.at(position).micro_batches:
            has_images = (micro.inputs["input_ids"] == IMAGE).any(dim=1)
            texts = (micro.inputs["labels"] != -100).any(dim=1)
            for row in range(len(micro.groups)):
                if texts[row]:
                    assert batches.group_names[micro.groups[row]] == (
                        "image" if has_images[row] else "text"
                    )
                    both.add(int(micro.groups[row]))
    assert both == {0, 1}


# --- what is wrong is named


def break_one(tmp_path: Path, tokenizer: Path, content: bytes | None) -> Data:
    records, images = write_llava(tmp_path / "data", records=4, images=4)
    made = build_data(tmp_path, records, images, tokenizer)
    path = images / "a/00000.jpg"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    return made


@pytest.mark.parametrize(
    ("content", "what"), [(None, "is not there"), (b"<html>", "is no image that Pillow knows")]
)
def test_a_broken_image_is_named_with_its_sample(
    content: bytes | None, what: str, tmp_path: Path, small_tokenizer: Path
) -> None:
    made = break_one(tmp_path, small_tokenizer, content)
    with pytest.raises(DataError) as caught:
        made.inputs.stack([[1], [0]])
    message = str(caught.value)
    assert message.startswith("sample made_0 (records.json[0]): ")
    assert f"a/00000.jpg: {what}. Replace the image" in message
    assert "'mobilellama vlm check-data'" in message and "--data.leave_out" in message


def test_an_image_that_the_disk_will_not_give_is_named_with_its_sample(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    made = break_one(tmp_path, small_tokenizer, None)
    (made.images / "a/00000.jpg").symlink_to(made.images / "a/00000.jpg")  # a loop
    with pytest.raises(DataError, match=r"^sample made_0 \(records\.json\[0\]\): .*a/00000\.jpg"):
        made.inputs.stack([[0]])


def test_more_places_than_images_are_an_error_that_names_the_sample(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    """The file was made by us and cannot have this; a damaged one is not trained on."""
    import pyarrow as pa

    records, images = write_llava(tmp_path / "data", records=2, images=2)
    build_data(tmp_path, records, images, small_tokenizer)
    table = pa.ipc.open_file(str(tmp_path / "train.arrow")).read_all()
    rows = table.to_pylist()
    rows[1]["images"] = []
    path = tmp_path / "damaged.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    samples = Samples(path, image_tokens=TOKENS)
    inputs = ImageTextInputs(samples, images, PROCESSOR, image_tokens=TOKENS, pad_id=PAD)
    message = r"sample made_1 \(records\.json\[1\]\): 1 places of images, but 0 images"
    with pytest.raises(DataError, match=message):
        inputs.stack([[1]])


def test_a_transparent_or_grey_image_has_three_channels(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    names = ["grey.png", "clear.png"]
    images = tmp_path / "images"
    images.mkdir()
    Image.new("L", (20, 30), 77).save(images / names[0])
    Image.new("RGBA", (20, 30), (0, 0, 0, 0)).save(images / names[1])
    turns = [{"from": "human", "value": "<image> <image> What?"}, {"from": "gpt", "value": "two"}]
    (tmp_path / "d.json").write_text(json.dumps([{"image": names, "conversations": turns}]))
    made = build_data(tmp_path, tmp_path / "d.json", images, small_tokenizer)
    pixels = made.inputs.stack([[0]])["pixel_values"]
    assert pixels.shape == (2, 3, 16, 16)
    assert (pixels[0] == 77).all() and (pixels[1] == 255).all()


def test_held_out_samples_are_told_apart_by_modality(data: Data) -> None:
    held_out = HeldOutSamples(data.inputs)
    assert held_out.counts == {"image": 33, "text": 8}
    made = held_out.stack("text", [0, 7])
    assert "pixel_values" not in made and made["input_ids"].shape[0] == 2
    first = np.flatnonzero(data.samples.has_images)[5]
    expected = data.inputs.stack([[int(first)]])
    found = held_out.stack("image", [5])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
