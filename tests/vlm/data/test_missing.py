"""Images that are not there: found before the first step, counted, named, skipped where asked."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobilellama.config import ConfigError
from mobilellama.vlm.data.missing import (
    IDENTITY,
    ImageCheck,
    check_images,
    find_missing,
    open_samples,
    read_image_check,
)
from mobilellama.vlm.data.samples import Samples
from tests.vlm.helpers.llava_data import make_images
from tests.vlm.helpers.tiny_samples import TOKENS, build_data

IMAGES = 6
NAMES = [["0"], ["1"], [], ["2", "0"], ["3"], ["4"], ["3"], ["5"]]
"""Of the samples: a number of an image for each that it has."""


@pytest.fixture
def samples(tmp_path: Path, small_tokenizer: Path) -> Path:
    """The file of ``NAMES``'s samples; their images are in tmp_path / "images"."""
    made = make_images(tmp_path / "images", IMAGES)
    records: list[dict[str, Any]] = []
    for number, chosen in enumerate(NAMES):
        # One image is written in two ways: it is one image all the same.
        images = [("./" if number == 3 else "") + made[int(one)] for one in chosen]
        asked = "<image>\n" * len(images) + "What is it?"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"it is {number}"}]
        records.append({"id": str(number), "image": images, "conversations": turns})
    (tmp_path / "records.json").write_text(json.dumps(records))
    build_data(tmp_path, tmp_path / "records.json", tmp_path / "images", small_tokenizer)
    return tmp_path / "train.arrow"


@pytest.fixture
def images(samples: Path) -> list[Path]:
    """The images' files, by number."""
    folder = samples.parent / "images"
    return [folder / name for name in make_images(folder, IMAGES)]


def check(samples: Path, policy: Any = "refuse", began: Any = None) -> ImageCheck:
    return check_images(samples, str(samples.parent / "images"), policy=policy, began=began)


def ids_of(samples: Samples) -> list[str]:
    return [samples[i].id for i in range(len(samples))]


def refuse_stats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every look for an image fail the test."""

    def fail(path: Path) -> None:
        raise AssertionError(f"{path} was looked for again")

    monkeypatch.setattr("mobilellama.vlm.data.missing.fault_of_path", fail)


def test_each_image_is_looked_for_once(
    samples: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr("mobilellama.vlm.data.missing.fault_of_path", seen.append)
    found = check(samples)
    assert sorted(seen) == sorted(images)
    assert (found.samples, found.images, found.missing, found.left_out) == (8, IMAGES, 0, [])


def test_where_all_are_there_no_later_attempt_looks_again(
    samples: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check(samples)
    refuse_stats(monkeypatch)
    images[0].unlink()
    assert check(samples) == check(samples, began={IDENTITY: None}) == found


def test_missing_images_are_counted_by_kind_and_named_and_the_run_is_refused(
    samples: Path, images: list[Path]
) -> None:
    images[0].unlink()
    images[4].write_bytes(b"")
    images[5].unlink()
    images[5].mkdir()
    with pytest.raises(ConfigError) as caught:
        check(samples)
    told = str(caught.value)
    assert told.startswith(f"data.images = {samples.parent / 'images'}: 3 of its 6 images cannot")
    assert "(is not there: 1; is empty: 1; is a folder: 1), needed by 4 samples: " in told
    name = os.path.relpath(images[0], samples.parent / "images")
    assert f"samples: {name} is not there; " in told
    assert "set data.missing to skip" in told and "data.leave_out" in told
    assert read_image_check(samples) is None  # so that the next attempt looks again
    for path in images[4:]:
        path.rmdir() if path.is_dir() else path.unlink()
    make_images(samples.parent / "images", IMAGES)
    assert check(samples).missing == 0


def test_only_the_first_names_are_told(samples: Path, images: list[Path]) -> None:
    for path in images[1:]:
        path.unlink()
    small = find_missing(samples, str(samples.parent / "images"))
    assert (small.missing, len(small.examples)) == (5, 5) and "more" not in small.told()
    images[0].unlink()
    assert find_missing(samples, str(samples.parent / "images")).told().endswith("; and 1 more")


def test_skip_leaves_out_the_samples_that_need_them_and_says_so(
    samples: Path, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    images[0].unlink()
    images[3].unlink()
    with caplog.at_level(logging.WARNING):
        found = check(samples, "skip")
    assert found.left_out == [0, 3, 4, 6]
    assert "left out by data.missing = skip: 2 of its 6 images cannot be used" in caplog.text
    opened, whole = (
        open_samples(samples, image_tokens=TOKENS),
        Samples(samples, image_tokens=TOKENS),
    )
    assert ids_of(opened) == ["1", "2", "5", "7"]
    kept = [1, 2, 5, 7]
    assert opened.lengths.tolist() == whole.lengths[kept].tolist()
    assert opened.supervised.tolist() == whole.supervised[kept].tolist()
    assert opened.has_images.tolist() == [True, False, True, True]


def test_before_the_first_checkpoint_images_that_came_are_taken(
    samples: Path, images: list[Path]
) -> None:
    content = images[0].read_bytes()
    images[0].unlink()
    assert check(samples, "skip").left_out == [0, 3]
    images[0].write_bytes(content)
    assert check(samples, "skip").left_out == []
    assert len(open_samples(samples, image_tokens=TOKENS)) == len(NAMES)


@pytest.fixture
def skipping(samples: Path, images: list[Path]) -> dict[str, Any]:
    """The identity of a run that began without image 0."""
    images[0].rename(samples.parent / "aside")
    return {IDENTITY: check(samples, "skip").digest()}


def test_a_resume_keeps_what_the_run_began_with_and_looks_for_nothing(
    samples: Path, images: list[Path], skipping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (samples.parent / "aside").rename(images[0])
    refuse_stats(monkeypatch)
    assert check(samples, "skip", skipping).left_out == [0, 3]
    with pytest.raises(ConfigError, match=r"^data\.missing = refuse: the run began without 2 sam"):
        check(samples, "refuse", skipping)


def test_a_resume_with_another_folder_of_images_looks_into_that(
    samples: Path, skipping: Any, images: list[Path]
) -> None:
    moved = str((samples.parent / "images").rename(samples.parent / "moved"))
    found = check_images(samples, moved, policy="skip", began=skipping)
    assert (found.folder, found.left_out) == (moved, [0, 3])
    Path(moved, os.path.relpath(images[1], samples.parent / "images")).unlink()
    (samples.parent / "moved").rename(samples.parent / "again")
    with pytest.raises(ConfigError, match=r"the run began with 1 of these samples\. Put their im"):
        check_images(samples, str(samples.parent / "again"), policy="skip", began=skipping)


def test_a_lost_list_is_made_again_if_it_comes_out_the_same(
    samples: Path, images: list[Path], skipping: Any
) -> None:
    samples.with_suffix(".images.json").unlink()
    content = images[1].read_bytes()
    images[1].unlink()
    with pytest.raises(ConfigError, match="but the run began with other samples"):
        check(samples, "skip", skipping)
    images[1].write_bytes(content)
    assert check(samples, "skip", skipping).left_out == [0, 3]


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-9], lambda text: text.replace("3\n", "4\n")]
)
def test_a_damaged_list_is_not_believed(
    samples: Path, skipping: Any, damage: Callable[[str], str]
) -> None:
    path = samples.with_suffix(".images.json")
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    assert read_image_check(samples) is None
    assert check(samples, "skip", skipping).left_out == [0, 3]


@pytest.mark.parametrize("policy", ["refuse", "skip"])
def test_a_folder_of_other_images_is_refused_whatever_is_asked(samples: Path, policy: Any) -> None:
    (samples.parent / "none").mkdir()
    with pytest.raises(ConfigError, match=r"6 of its 6 images .*no image is left\. Give "):
        check_images(samples, str(samples.parent / "none"), policy=policy, began=None)


def test_names_beyond_one_round_of_tasks_are_all_looked_for(
    samples: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilellama.vlm.data.missing._THREADS", 2)
    monkeypatch.setattr("mobilellama.vlm.data.missing._NAMES_A_TASK", 1)
    images[5].unlink()
    found = check(samples, "skip")
    assert (found.images, found.left_out) == (IMAGES, [7])


def test_the_held_out_samples_stay_those_they_are_once_the_run_has_a_checkpoint(
    samples: Path, images: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(samples.parent / "images")
    content = images[0].read_bytes()
    images[0].unlink()
    with pytest.raises(ConfigError, match=r": for data\.validation, 1 of its 6 images ") as caught:
        check_images(samples, folder, policy="refuse", began=None, are_held_out=True)
    assert "data.leave_out" not in str(caught.value)  # it lists records of data.path
    check_images(samples, folder, policy="skip", began=None, are_held_out=True)
    assert "of data.validation left out" in caplog.text
    images[0].write_bytes(content)
    others = {IDENTITY: "the digest of the training samples that are left out"}
    found = check_images(samples, folder, policy="skip", began=others, are_held_out=True)
    assert found.left_out == [0, 3]
