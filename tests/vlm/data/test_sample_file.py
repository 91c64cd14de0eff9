"""The file of tokenised samples: made once, known by its recipe, and whole."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mobilellama.config import DataError
from mobilellama.files.atomic import sha256_of_file
from mobilellama.files.sealed import read_sealed_json, write_sealed_json
from mobilellama.sft.data.template import read_template
from mobilellama.vlm.data.sample_file import (
    Recipe,
    SampleReport,
    build_samples,
    reading_of,
)
from mobilellama.vlm.data.samples import Samples
from tests.pretrain.state.test_checkpoint import wait_for
from tests.vlm.helpers.llava_data import make_records
from tests.vlm.helpers.recipes import TOKENS, build, write


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
    with pytest.raises(DataError, match="has changed while it was tokenised"):
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
from tests.vlm.helpers.recipes import recipe_of
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
