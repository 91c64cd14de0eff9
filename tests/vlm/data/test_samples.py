"""Tokenised records: which are taken, what they hold, when the file is made anew."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mobilellama.config import ConfigError, DataError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.sft.data.template import read_template
from mobilellama.tokenizers.opening import open_tokenizer
from mobilellama.tokenizers.tokenizer import Tokenizer
from mobilellama.vlm.data.labels import IMAGE, encode
from mobilellama.vlm.data.records import ImageTextConfig, Record, read_vlm_records
from mobilellama.vlm.data.report import read_leave_out
from mobilellama.vlm.data.sample_file import (
    Recipe,
    SampleReport,
    build_samples,
    reading_of,
    report_refusals,
)
from mobilellama.vlm.data.samples import Samples
from mobilellama.vlm.main import main
from tests.pretrain.state.test_checkpoint import wait_for
from tests.vlm.helpers.llava_data import make_records, write_llava

TOKENS = 4


def recipe_of(data: Path, images: Path, tokenizer: Path, **fields: Any) -> Recipe:
    template = read_template(fields.pop("template", "vicuna_v1"))
    made = Recipe(
        data=ImageTextConfig(path=str(data), images=str(images)),
        tokenizer=str(tokenizer),
        tokenizer_sha256=open_tokenizer(tokenizer).sha256,
        template=template,
        image_tokens=TOKENS,
        seq_len=512,
    )
    return replace(made, **fields)


def build(folder: Path, recipe: Recipe, workers: int = 1) -> tuple[Samples, SampleReport]:
    path = folder / "train.arrow"
    report = build_samples(path, recipe, fingerprint=recipe.fingerprint(), workers=workers)
    return Samples(path, image_tokens=recipe.image_tokens), report


@pytest.fixture
def recipe(tmp_path: Path, small_tokenizer: Path) -> Recipe:
    data, images = write_llava(tmp_path / "data", records=20)
    return recipe_of(data, images, small_tokenizer)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(records))
    return path


def record(question: str, answer: str, image: Any = None, name: str = "r") -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, **({"image": image} if image else {}), "conversations": turns}


def test_a_sample_is_its_records_ids_labels_and_images(recipe: Recipe, tmp_path: Path) -> None:
    samples, report = build(tmp_path, recipe)
    records = [r for r in read_vlm_records(recipe.data) if isinstance(r, Record)]
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
    told = f"(1 with: {reason} train.seq_len = {until + room})"
    assert f"of its 1 records none can be trained on {told}" in str(caught.value)
    assert not [*tmp_path.glob("train.*")]


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
        "1 samples of 11 records (0 text only, 1 images), "
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


# --- when the file is made


def test_a_file_made_by_the_rules_of_reading_before_is_kept_and_known(
    recipe: Recipe, tmp_path: Path
) -> None:
    path, receipt = tmp_path / "train.arrow", tmp_path / "train.json"
    assert reading_of(path, recipe.fingerprint()) == 2  # it is to be made
    build(tmp_path, recipe)
    assert reading_of(path, recipe.fingerprint()) == 2
    held = read_sealed_json(receipt, owner=None)
    assert held.pop("reading_version") == 2
    del held["report"]["unread_fields"]
    write_sealed_json(receipt, held)
    before = path.stat().st_mtime_ns
    build(tmp_path, recipe)
    assert path.stat().st_mtime_ns == before
    assert reading_of(path, recipe.fingerprint()) == 1


def test_a_file_that_is_there_already_is_not_made_again(recipe: Recipe, tmp_path: Path) -> None:
    _, first = build(tmp_path, recipe)
    path, receipt = tmp_path / "train.arrow", tmp_path / "train.json"
    before = (path.stat().st_mtime_ns, path.stat().st_ino)
    _, again = build(tmp_path, recipe)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert again == first
    held = json.loads(receipt.read_text())
    assert held["fingerprint"] == recipe.fingerprint()
    assert held["sha256"] == sha256_of_file(path)
    assert SampleReport(**held["report"]) == first


def test_every_part_of_the_recipe_changes_the_fingerprint_and_no_path_does(
    recipe: Recipe, tmp_path: Path
) -> None:
    changed = {
        "seq_len": replace(recipe, seq_len=511),
        "image tokens": replace(recipe, image_tokens=5),
        "tokenizer": replace(recipe, tokenizer_sha256="0" * 64),
        "template": replace(recipe, template=read_template("mistral")),
        "left out": replace(recipe, leave_out=frozenset(["records.json[3]"])),
    }
    prints = {name: made.fingerprint() for name, made in changed.items()}
    moved = tmp_path / "elsewhere.json"
    moved.write_bytes(Path(recipe.data.path).read_bytes())
    data = replace(recipe.data, path=str(moved), images="anywhere")
    same = replace(recipe, data=data, tokenizer="another/path")
    assert same.fingerprint() == recipe.fingerprint()
    text = moved.read_text()
    moved.write_text(text.replace("red", "rad", 1))  # as long as before
    prints["data"] = same.fingerprint()
    assert len({*prints.values(), recipe.fingerprint()}) == len(prints) + 1


def test_another_recipe_makes_the_file_again(recipe: Recipe, tmp_path: Path) -> None:
    samples, _ = build(tmp_path, recipe)
    lengths = samples.lengths.tolist()
    shorter = max(lengths) - 20
    other, report = build(tmp_path, replace(recipe, seq_len=shorter))
    assert other.lengths.max() <= shorter and (report.cut or report.refused)
    assert build(tmp_path, recipe)[0].lengths.tolist() == lengths


def test_samples_of_records_that_changed_meanwhile_do_not_count(
    recipe: Recipe, tmp_path: Path
) -> None:
    path, given = tmp_path / "s.arrow", recipe.fingerprint()
    data = Path(recipe.data.path)
    data.write_bytes(data.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(DataError, match="something wrote to it while it was tokenised"):
        build_samples(path, recipe, fingerprint=given, workers=1)
    assert not [left.name for left in tmp_path.iterdir() if left.name.startswith(path.stem + ".")]
    build_samples(path, recipe, fingerprint=recipe.fingerprint(), workers=1)
    assert path.exists() and path.with_suffix(".json").exists()


def test_a_file_without_its_receipt_is_made_again(recipe: Recipe, tmp_path: Path) -> None:
    build(tmp_path, recipe)
    path = tmp_path / "train.arrow"
    good = path.read_bytes()
    (tmp_path / "train.json").unlink()
    path.write_bytes(good[:100])
    build(tmp_path, recipe)
    assert path.read_bytes() == good


def test_a_damaged_receipt_counts_for_nothing(recipe: Recipe, tmp_path: Path) -> None:
    build(tmp_path, recipe)
    good = (tmp_path / "train.json").read_bytes()
    for spoilt in (b"{", b"[]", b'{"fingerprint": 3}'):
        (tmp_path / "train.json").write_bytes(spoilt)
        build(tmp_path, recipe)
        assert (tmp_path / "train.json").read_bytes() == good


def test_what_another_process_is_writing_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    host = socket.gethostname()
    alive, dead, other, old = (
        tmp_path / f"train.arrow.tmp.{place}.0123abcd"
        for place in (f"{host}.{os.getpid()}", f"{host}.999999999", "node7.12", "node8.12")
    )
    for path in (alive, dead, other, old):
        path.touch()
    os.utime(old, (0, 0))
    build(tmp_path, recipe)
    assert [path.exists() for path in (alive, dead, other, old)] == [True, False, True, False]


def test_a_damaged_file_is_named(recipe: Recipe, tmp_path: Path) -> None:
    build(tmp_path, recipe)
    path = tmp_path / "train.arrow"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"train\.arrow: cannot be read \(.*\); remove it and run"):
        Samples(path, image_tokens=TOKENS)
    path.unlink()
    with pytest.raises(DataError, match=r"train\.arrow: cannot be read"):
        Samples(path, image_tokens=TOKENS)


@pytest.mark.slow  # two processes that import torch
def test_the_samples_do_not_depend_on_the_number_of_processes(
    recipe: Recipe, tmp_path: Path
) -> None:
    names = [f"{i:05}.png" for i in range(700)]  # more than one batch; no image is opened
    write(Path(recipe.data.path), make_records(1030, names))
    one, report = build(tmp_path / "one", recipe, workers=1)
    two, same = build(tmp_path / "two", recipe, workers=2)
    assert report == same and report.samples == 1030
    paths = [tmp_path / name / "train.arrow" for name in ("one", "two")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [one[i].id for i in (0, 511, 512, 1024, 1029)] == [
        f"made_{i}" for i in (0, 511, 512, 1024, 1029)
    ]
    assert two[1029].ids.tolist() == one[1029].ids.tolist()


KILLED = """
import sys
from pathlib import Path
from mobilellama.vlm.data.sample_file import build_samples
from tests.vlm.data.test_samples import recipe_of
recipe = recipe_of(*(Path(arg) for arg in sys.argv[2:5]))
build_samples(Path(sys.argv[1]), recipe, fingerprint=recipe.fingerprint(), workers=1)
"""


@pytest.mark.slow  # a process that imports torch
def test_a_kill_while_tokenising_leaves_no_half_file(recipe: Recipe, tmp_path: Path) -> None:
    write(Path(recipe.data.path), make_records(6000, [f"{i}.png" for i in range(6000)]))
    path = tmp_path / "samples/train.arrow"
    given = [str(path), recipe.data.path, recipe.data.images, recipe.tokenizer]
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *given], cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    wait_for(lambda: [*path.parent.glob("train.arrow.tmp.*")])  # seconds before it is done
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists() and not path.with_suffix(".json").exists()
    assert len([*path.parent.glob("train.arrow.tmp.*")]) == 1
    _, report = build(path.parent, recipe)
    assert report.samples == 6000
    assert sorted(p.name for p in path.parent.iterdir()) == ["train.arrow", "train.json"]


# --- reading


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
