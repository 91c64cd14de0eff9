"""Tokenised records: which are taken, what they hold, when the file is made anew."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mobilellama.config import ConfigError
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.data.labels import IMAGE, encode
from mobilellama.vlm.data.records import Record, read_vlm_records
from mobilellama.vlm.data.report import read_leave_out
from mobilellama.vlm.data.sample_file import (
    Recipe,
    report_refusals,
)
from mobilellama.vlm.data.samples import Samples
from mobilellama.vlm.main import main
from tests.helpers.hf_tokenizers import write_tokenizer
from tests.vlm.helpers.llava_data import write_llava
from tests.vlm.helpers.recipes import TOKENS, build, recipe_of, write


def record(question: str, answer: str, image: Any = None, name: str = "r") -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, **({"image": image} if image else {}), "conversations": turns}


def test_a_sample_is_its_records_ids_labels_and_images(recipe: Recipe, tmp_path: Path) -> None:
    samples, report = build(tmp_path, recipe)
    records = [r for r in read_vlm_records(recipe.data, folder=None) if isinstance(r, Record)]
    tokenizer = Tokenizer(recipe.tokenizer)
    assert len(samples) == len(records) == report.samples == report.records == 20
    for number, made in enumerate(records):
        sample, expected = samples[number], encode(recipe.template, tokenizer, made.turns)
        assert (sample.id, sample.place, sample.images) == (made.id, made.place, made.images)
        assert sample.ids.tolist() == expected.ids.tolist()
        assert sample.supervised.tolist() == expected.supervised.tolist()
        assert samples.lengths[number] == len(expected.ids) + (TOKENS - 1) * len(made.images)
        assert samples.supervised[number] == expected.supervised.sum()
        assert samples.has_images[number] == bool(made.images)
    assert report.images == sum(len(r.images) for r in records)
    assert report.text_only == sum(not r.images for r in records) == 4
    assert report.tokens == samples.lengths.sum()
    assert report.supervised == samples.supervised.sum()
    assert (report.cut, report.left_out, report.refused) == (0, 0, {})


def test_a_long_sample_is_cut_at_its_end_and_never_within_an_image(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    given = [
        record("<image>\nWhat?", "a long answer " * 40, "a.png", "cut"),
        record("What is 1 plus 1? " * 40, "two", name="no answer left"),
        record("x " * 400 + "<image> <image>", "two", ["a.png", "b.png"], "image beyond"),
        record("<image>\nWhat?", "short", "a.png", "whole"),
    ]
    data = write(tmp_path / "d.json", given)
    whole, _ = build(tmp_path / "w", recipe_of(data, tmp_path, small_tokenizer, seq_len=10**6))
    length = 170
    samples, report = build(tmp_path, recipe_of(data, tmp_path, small_tokenizer, seq_len=length))
    assert [samples[i].id for i in range(len(samples))] == ["cut", "whole"]
    assert samples.lengths.tolist() == [length, whole.lengths[3]]
    kept = length - (TOKENS - 1)
    assert samples[0].ids.tolist() == whole[0].ids[:kept].tolist()
    assert samples[0].supervised.tolist() == whole[0].supervised[:kept].tolist()
    assert samples[0].supervised[-1]  # no end token is put where none was said
    assert report.cut == 1
    assert report.refused == {
        "no token of an answer lies within train.seq_len = 170": 1,
        "an image lies beyond train.seq_len = 170": 1,
    }
    (place,) = report.places["an image lies beyond train.seq_len = 170"]
    assert place == f"d.json[2] (id image beyond): {whole.lengths[2]:,} tokens"


@pytest.mark.parametrize("room", range(-1, 3))
def test_an_image_at_the_border_is_whole_or_its_record_is_refused(
    room: int, tmp_path: Path, small_tokenizer: Path
) -> None:
    data = write(tmp_path / "d.json", [record("<image>", "yes", "a.png")])
    whole, _ = build(tmp_path / "w", recipe_of(data, tmp_path, small_tokenizer))
    until = int(np.flatnonzero(whole[0].ids == IMAGE)[0]) + TOKENS  # the image's last place
    recipe = recipe_of(data, tmp_path, small_tokenizer, seq_len=until + room)
    with pytest.raises(ConfigError) as caught:  # either way no answer is left
        build(tmp_path, recipe)
    reason = "an image lies beyond" if room < 0 else "no token of an answer lies within"
    told = f"({reason} train.seq_len = {until + room}: 1)"
    assert f"has 1 record, and none can be trained on {told}" in str(caught.value)
    assert not [*tmp_path.glob("train.*")]


def test_what_is_wrong_with_the_records_is_told_in_words_where_none_is_left(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    given = [record("<image>", "a bus", "../a.png"), record("<image>", "a bus", "a.png")]
    data = write(tmp_path / "d.json", given)
    left_out = frozenset(["d.json[1]"])
    recipe = replace(recipe_of(data, tmp_path, small_tokenizer), leave_out=left_out)
    with pytest.raises(ConfigError) as caught:
        build(tmp_path, recipe)
    why = "has an image outside the images' folder: 1; is listed in data.leave_out: 1"
    assert f"has 2 records, and none can be trained on ({why})" in str(caught.value)


def test_refused_records_are_counted_by_reason_with_their_places(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    given = [
        record("<image>\nWhat?", "a bus", "a.png", "good"),
        *[record("<image>\nWhat?", "a bus", name=f"none {i}") for i in range(7)],
        record("What?", "a bus", "a.png", "no place"),
        record("<image>\nWhat?", "", "a.png", "empty"),
        record("<image>\nWhat?", "a bus", "../a.png", "outside"),
    ]
    data = write(tmp_path / "d.json", given)
    samples, report = build(tmp_path, recipe_of(data, tmp_path, small_tokenizer))
    assert [samples[i].id for i in range(len(samples))] == ["good"]
    assert report.refused == {
        "refused_no_image": 7,
        "refused_no_place": 1,
        "dropped_empty_answer": 1,
        "refused_outside": 1,
    }
    assert len(report.places["refused_no_image"]) == 5  # the first few
    assert report.places["refused_no_image"][0].startswith("d.json[1] (id none 0) has <image>")
    assert report.line() == (
        "1 sample of 11 records (0 text only, 1 image), "
        f"{report.tokens} tokens, {report.supervised} supervised; 0 cut, 0 left out, 10 refused"
    )


def test_a_system_text_is_refused_where_the_template_has_no_place_for_one(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    with_system = record("What?", "a bus", name="told")
    with_system["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    data = write(tmp_path / "d.json", [with_system, record("What?", "a bus", name="plain")])
    template = read_template("vicuna_v1")
    without = replace(template, system=None, default_system=None)
    recipe = replace(recipe_of(data, tmp_path, small_tokenizer), template=without)
    samples, report = build(tmp_path, recipe)
    assert [samples[i].id for i in range(len(samples))] == ["plain"]
    assert report.refused == {"dropped_unplaced_system": 1}
    assert report.places["dropped_unplaced_system"][0].endswith("no place: Be brief.")


def test_captions_are_taken_with_the_first_stages_template(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    data, images = write_llava(tmp_path / "data", records=6, captions=True)
    samples, _ = build(tmp_path, recipe_of(data, images, small_tokenizer, template="plain"))
    bos = Tokenizer(small_tokenizer).processor.bos_id()
    for number in range(6):
        assert samples[number].ids[:2].tolist() == [bos, IMAGE]
        assert samples[number].supervised.tolist() == [False, False, *[True] * (
            len(samples[number].ids) - 2)]  # fmt: skip


def test_captions_of_a_tokenizer_without_a_begin_token_start_with_the_image(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer", "byte_level_lines", eos="<|endoftext|>")
    data, images = write_llava(tmp_path / "data", records=6, captions=True)
    recipe = recipe_of(data, images, tokenizer, template="plain_no_bos")
    samples, _ = build(tmp_path, recipe)
    records = [r for r in read_vlm_records(recipe.data, folder=None) if isinstance(r, Record)]
    assert len(samples) == len(records) == 6
    for sample, made in zip((samples[i] for i in range(6)), records, strict=True):
        assert sample.ids[0] == IMAGE
        assert sample.supervised.tolist() == [False, *[True] * (len(sample.ids) - 1)]
        answer = open_tokenizer(tokenizer).decode(sample.ids[1:].tolist())
        assert answer == made.turns[-1].content + "\n"


def test_what_check_data_found_is_left_out(recipe: Recipe, tmp_path: Path) -> None:
    broken = Path(recipe.data.images) / "a/00002.png"
    broken.write_bytes(b"no image")
    output = tmp_path / "report.json"
    argv = [recipe.data.path, "--images", recipe.data.images]
    assert main(["check-data", *argv, "--output", str(output), "--workers", "1"]) == 1
    leave_out = read_leave_out(output, recipe.data)
    assert leave_out
    samples, report = build(tmp_path, replace(recipe, leave_out=leave_out))
    assert report.left_out == len(leave_out) == 20 - len(samples)
    places = {samples[i].place for i in range(len(samples))}
    assert not places & leave_out
    assert all("a/00002.png" not in samples[i].images for i in range(len(samples)))


def test_fields_that_are_not_read_are_told_once_with_their_records(
    tmp_path: Path, small_tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = [record("What?", "a bus", name=str(i)) | {"mood": "merry"} for i in range(3)]
    given += [record("What?", "", name="empty") | {"mood": "sad"}, record("What?", "a bus")]
    data = write(tmp_path / "d.json", given)
    _, report = build(tmp_path, recipe_of(data, tmp_path, small_tokenizer))
    assert (report.samples, report.unread_fields) == (4, {"mood": 3})
    with caplog.at_level("WARNING"):
        report_refusals(report)
    told = [line for line in caplog.messages if "mood" in line]
    assert told == ["fields not read, with the records that have them: mood (3)"]


def test_an_answer_that_is_not_to_be_learnt_is_not_supervised(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    both = record("<image>\nWhat?", "a red bus", "a.png")
    both["conversations"] += record("Sure?", "a blue bus")["conversations"]
    marked = json.loads(json.dumps(both))
    marked["conversations"][1]["weight"] = 0
    data = write(tmp_path / "d.json", [both, marked])
    samples, _ = build(tmp_path, recipe_of(data, tmp_path, small_tokenizer))
    assert samples[1].ids.tolist() == samples[0].ids.tolist()
    first = np.cumsum(np.diff(samples[0].supervised, prepend=False)) <= 2
    assert samples[1].supervised.tolist() == (samples[0].supervised & ~first).tolist()
    assert samples[1].supervised.any()


def made_file(path: Path, count: int, tokens: int) -> Path:
    """Write a file of so many samples, as ``build_samples`` does but quickly."""
    fields = [("id", pa.string()), ("place", pa.string()), ("images", pa.list_(pa.binary()))]
    fields += [("input_ids", pa.list_(pa.int32())), ("supervised", pa.list_(pa.bool_()))]
    schema = pa.schema(fields)
    rows = 512
    offsets = pa.array(np.arange(rows + 1) * tokens, pa.int32())
    ids = pa.ListArray.from_arrays(offsets, pa.array(np.arange(rows * tokens), pa.int32()))
    supervised = pa.ListArray.from_arrays(offsets, pa.array(np.arange(rows * tokens) % 2 == 0))
    names = pa.array([f"n{i}" for i in range(rows)])
    images = pa.array([[b"a.png"]] * rows, pa.list_(pa.binary()))
    batch = pa.record_batch([names, names, images, ids, supervised], schema=schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for _ in range(count // rows):
            writer.write_batch(batch)
    return path


def test_a_large_file_opens_fast_and_takes_little_memory(tmp_path: Path) -> None:
    count = 100 * 512
    path = made_file(tmp_path / "large.arrow", count, tokens=800)
    size = path.stat().st_size
    assert size > 150e6
    before, started = pa.total_allocated_bytes(), time.process_time()
    samples = Samples(path, image_tokens=144)
    spent = time.process_time() - started
    assert len(samples) == count and spent < 10
    assert pa.total_allocated_bytes() - before < 1e6  # the file is mapped, not read
    held = samples.lengths.nbytes + samples.supervised.nbytes + samples.has_images.nbytes
    assert held <= 17 * count
    assert samples.lengths[-1] == 800 + 143 and samples.supervised[-1] == 400
    assert samples[count - 1].ids[0] == 511 * 800


def test_samples_may_be_read_by_many_threads(tmp_path: Path) -> None:
    samples = Samples(made_file(tmp_path / "s.arrow", 4 * 512, tokens=20), image_tokens=4)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(len(samples), size=400):
            first = samples[int(i)].ids[0]
            if first != int(i) % 512 * 20:
                wrong.append(int(i))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_ids_and_paths_that_utf8_cannot_hold_come_through(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    data = tmp_path / "d.json"
    data.write_text(json.dumps([record("<image>\nWhat?", "a bus", odd, "half \ud83d pair")]))
    samples, _ = build(tmp_path, recipe_of(data, tmp_path, small_tokenizer))
    assert samples[0].images == (odd,)
    assert samples[0].id == "half ? pair"
