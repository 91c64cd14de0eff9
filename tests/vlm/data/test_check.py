import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilellama.config import ConfigError, DataError
from mobilellama.sft.data.sources import ConversationsConfig, find_slices
from mobilellama.vlm.data.records import Record, image_path, read_vlm_records
from mobilellama.vlm.data.report import read_leave_out
from mobilellama.vlm.main import main
from tests.vlm.helpers.llava_data import make_records, write_llava

RUN_AGAIN = "Run 'mobilellama vlm check-data' on these again"


def check(data: Path, images: Path, *more: str) -> int:
    return main(["check-data", str(data), "--images", str(images), *more])


def checked(data: Path, images: Path, output: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Check with a report; return the exit code and the report."""
    code = check(data, images, "--output", str(output), *more)
    return code, json.loads(output.read_text())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def claim_a_huge_size(path: Path) -> None:
    """Write a PNG that says it has 30,000 times 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + png)


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


BREAKERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a/00000.jpg", Path.unlink, "is not there"),
    "empty": ("b/00001.png", lambda path: path.write_bytes(b""), "is empty"),
    "damaged": ("a/00002.png", truncate, "is truncated or damaged"),
    "not_an_image": (
        "b/00003.png",
        lambda path: path.write_text("<html>404</html>"),
        "is no image that Pillow knows",
    ),
    "too_large": ("a/00004.png", claim_a_huge_size, "has too many pixels"),
    "not_a_file": ("b/00005.jpg", make_a_folder, "is a folder"),
    "too_deep": (
        "a/00006.png",
        lambda path: Image.new("I;16", (8, 8), 4000).save(path),
        "has values that 8 bits a channel cannot hold",
    ),
    "unreadable": ("b/00007.png", link_to_itself, "cannot be read"),
}


def test_good_data_gives_0_and_counts_every_record_and_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, images = write_llava(tmp_path, records=20, images=10)
    code, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert code == 0
    assert report["records"] == 20
    assert report["records_by_images"] == {"0": 4, "1": 12, "2": 4}
    assert report["images"] == 10
    assert report["modes"] == {"RGB": 4, "L": 2, "RGBA": 2, "P": 2}
    # The sizes of llava_data.py in turn: widths 40 30 32 64 17 56 40 30 32 64.
    assert report["width"] == {"min": 17, "median": 32, "max": 64}
    assert report["leave_out"] == []
    assert read_leave_out(tmp_path / "report.json") == frozenset()
    assert capsys.readouterr().out.splitlines() == [
        "records read                     20  in 1 source",
        "  text only                       4",
        "  with 1 image                   12",
        "  with 2 images                   4",
        "records refused                   0  0.00 %",
        "images                           10  RGB 4, L 2, RGBA 2, P 2",
        "  width                          32  pixels, the median of 17 to 64",
        "  height                         32  pixels, the median of 20 to 56",
        "images turned                     0",
        "images broken                     0",
        "records to leave out              0  every record can be trained on",
        "",
        f"report  {tmp_path / 'report.json'}",
    ]


def test_images_that_exif_marks_as_turned_are_counted_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    files = {"a.jpg": 6, "b.png": 6, "c.webp": 8, "d.tif": 3, "e.jpg": 2, "f.jpg": 1, "g.jpg": 0}
    for name, mark in files.items():
        exif = Image.Exif()
        exif[0x0112] = mark
        Image.new("RGB", (8, 4)).save(images / name, exif=exif)
    Image.new("RGB", (8, 4)).save(images / "h.jpg", exif=b"Exif\0\0no TIFF header at all")
    names = [*files, "h.jpg"]
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A thing."}]
    records = [{"id": n, "image": n, "conversations": turns} for n in [*names, "a.jpg"]]
    data = tmp_path / "records.json"
    data.write_text(json.dumps(records))
    code, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert (code, report["broken_images"], report["leave_out"]) == (0, 0, [])
    assert report["turned_images"] == 5, "each image once, however many records name it"
    assert {mark: (its["count"], its["examples"]) for mark, its in report["turned"].items()} == {
        "2": (1, ["e.jpg"]),
        "3": (1, ["d.tif"]),
        "6": (2, ["a.jpg", "b.png"]),
        "8": (1, ["c.webp"]),
    }
    assert report["broken_exif"] == {"count": 2, "examples": ["g.jpg", "h.jpg"]}
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("images turned"))
    assert [line.split("  ")[-1].strip() for line in lines[start : start + 13]] == [
        "marked so by EXIF: see images.orientation of 'vlm run'",
        "mirrored left to right (orientation 2)", "e.jpg",
        "upside down (orientation 3)", "d.tif",
        "a quarter turn to the left (orientation 6)", "a.jpg", "b.png",
        "a quarter turn to the right (orientation 8)", "c.webp",
        "have an EXIF orientation that cannot be read, and are not turned", "g.jpg", "h.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", BREAKERS)
def test_a_broken_image_of_each_kind_is_named_with_its_records(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, images = write_llava(tmp_path, records=20, images=10)
    name, damage, meaning = BREAKERS[kind]
    damage(images / name)
    using = [
        f"records.json[{i}]"
        for i, record in enumerate(json.loads(data.read_text()))
        if name in (record.get("image") or [])  # also true of the name itself
    ]
    code, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert code == 1
    assert report["leave_out"] == using and len(using) == 2
    assert list(report["broken"]) == [kind]
    assert report["broken"][kind]["images"] == [name]
    assert report["broken"][kind]["meaning"] == meaning
    assert report["broken"][kind]["examples"][0]["image"] == name
    assert report["images"] == 10 and sum(report["modes"].values()) == 9
    line = f"{'  broken':<20} {1:>14}  {meaning}\n{'':<37}{name}"
    assert line in capsys.readouterr().out


def test_what_is_not_left_out_can_be_read_whole(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=40, images=20)
    for name, damage, _ in BREAKERS.values():
        damage(images / name)
    records = json.loads(data.read_text())
    records[3]["conversations"][1]["value"] = ""
    records[8]["image"] = ["/etc/passwd", "a/00008.png"]
    data.write_text(json.dumps(records))
    code, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert code == 1 and report["refused_records"] == 2
    assert report["refused"]["refused_outside"]["examples"] == [
        {"place": "records.json[8]", "id": "made_8", "detail": "/etc/passwd"}
    ]
    left_out = read_leave_out(tmp_path / "report.json", ConversationsConfig(path=str(data)))
    found = list(read_vlm_records(ConversationsConfig(path=str(data)), folder=None))
    assert report["leave_out"] == [item.place for item in found if item.place in left_out]
    kept = [item for item in found if item.place not in left_out]
    assert {"records.json[3]", "records.json[8]"} < left_out
    for record in kept:
        assert isinstance(record, Record)
        for name in record.images:
            Image.open(image_path(images, name)).load()
    bad = {name for name, _, _ in BREAKERS.values()}
    for item in found:
        if item.place in left_out and isinstance(item, Record):
            assert bad & set(item.images), item


def test_processes_change_nothing_in_the_report(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=120, images=70)
    for name, damage, _ in BREAKERS.values():
        damage(images / name)
    _, one = checked(data, images, tmp_path / "one.json", "--workers", "1")
    _, two = checked(data, images, tmp_path / "two.json", "--workers", "2")
    assert one == two and len(one["broken"]) == len(BREAKERS)


def test_an_image_that_many_records_name_is_decoded_once(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=5, images=2)
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]
    spelt = ["a/00000.jpg", "./a/00000.jpg", "b/../a//00000.jpg"]
    data.write_text(json.dumps([{"image": name, "conversations": turns} for name in spelt]))
    _, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert (report["records"], report["images"]) == (3, 1)
    (images / "a/00000.jpg").write_bytes(b"")
    (images / "b/00001.png").touch()
    more = [*spelt, "b/00001.png"]
    data.write_text(json.dumps([{"image": name, "conversations": turns} for name in more]))
    _, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert report["leave_out"] == [f"records.json[{i}]" for i in range(3)]


def test_an_absolute_path_into_the_folder_is_taken_as_training_takes_it(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=5, images=4)
    relative, text = data.read_text(), '"image": "'
    data.write_text(relative.replace(text, f"{text}{images.resolve()}/"))
    assert data.read_text() != relative
    code, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert (code, report["leave_out"], report["records"], report["images"]) == (0, [], 5, 4)


def test_a_symbolic_link_may_lead_out_of_the_folder(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=5, images=2)
    (images / "a/00000.jpg").rename(tmp_path / "elsewhere.jpg")
    (images / "a/00000.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert check(data, images, "--workers", "1") == 0


def test_how_thin_an_image_may_be_depends_on_how_it_is_made_square(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=5, images=2)
    Image.new("L", (2, 20_000)).save(images / "b/00001.png")  # padded: 20,000 by 20,000 pixels
    code, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert code == 1 and report["broken"]["too_large"]["images"] == ["b/00001.png"]
    assert check(data, images, "--workers", "1", "--aspect_ratio", "squash") == 0


def test_a_name_that_no_file_can_have_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=5, images=2)
    records = json.loads(data.read_text())
    records[0]["image"] = "a/" + 300 * "x" + ".jpg"
    data.write_text(json.dumps(records))
    code, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert code == 1 and report["leave_out"] == ["records.json[0]"]
    assert "File name too long" in report["broken"]["unreadable"]["examples"][0]["detail"]


def test_data_that_changes_between_the_readings_is_refused(tmp_path: Path) -> None:
    data, _ = write_llava(tmp_path, records=5, images=2)
    config = ConversationsConfig(path=str(data))
    slices = find_slices(config)
    assert len(list(read_vlm_records(config, slices=slices, folder=None))) == 5
    data.write_text(data.read_text() + "\n")
    with pytest.raises(DataError, match="bytes before reading, but it had"):
        list(read_vlm_records(config, slices=slices, folder=None))


def test_its_processes_load_no_heavy_library() -> None:
    code = (
        "import sys, mobilellama.vlm.data.check; print({'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_records_for_plain_are_checked_as_such(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=6, images=3, captions=True)
    assert check(data, images, "--plain", "--workers", "1") == 0
    records = json.loads(data.read_text())
    more = [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "A bar."}]
    records[2]["conversations"] += more
    del records[4]["image"], records[4]["conversations"][0]
    data.write_text(json.dumps(records))
    code, report = checked(data, images, tmp_path / "report.json", "--plain", "--workers", "1")
    assert code == 1 and report["plain"] is True
    assert report["leave_out"] == ["records.json[2]", "records.json[4]"]
    assert {reason: found["count"] for reason, found in report["refused"].items()} == {
        "refused_not_plain": 1,
        "dropped_no_exchange": 1,
    }


def test_text_alone_needs_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "records.json"
    data.write_text(json.dumps(make_records(3, [])))
    (tmp_path / "images").mkdir()
    assert check(data, tmp_path / "images", "--workers", "2") == 0
    assert "images                            0\n" in capsys.readouterr().out


def test_no_record_at_all_is_nothing_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "records.json"
    data.write_text("[]")
    (tmp_path / "images").mkdir()
    code, report = checked(data, tmp_path / "images", tmp_path / "report.json", "--workers", "1")
    assert code == 1 and (report["records"], report["leave_out"]) == (0, [])
    last = "records to leave out              0  there is no record to train on\n"
    assert last in capsys.readouterr().out


def test_half_surrogate_pairs_anywhere_are_reported_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, images = write_llava(tmp_path, records=5, images=2)
    records = json.loads(data.read_text())
    records[0] |= {"id": "id\ud800", "image": "\ud800.jpg"}
    records[1] |= {"id": "id\udfff", "image": "\udc80.jpg"}  # the byte 80: a path, yet no text
    records[4]["conversations"][0]["value"] += "\ud83d"
    data.write_text(json.dumps(records))
    code, report = checked(data, images, tmp_path / "report.json", "--workers", "1")
    assert code == 1 and report["leave_out"] == ["records.json[0]", "records.json[1]"]
    assert report["refused"]["refused_not_paths"]["examples"][0]["id"] == "id\ud800"
    assert report["broken"]["missing"]["images"] == ["\udc80.jpg"]
    (tmp_path / "report.json").read_text(encoding="utf-8", errors="strict")
    assert f"{'':<37}\\udc80.jpg" in capsys.readouterr().out


def test_the_old_name_of_the_images_works_as_a_flag_and_in_a_file_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, images = write_llava(tmp_path, records=5, images=4)
    assert check(data, images) == 0
    told = capsys.readouterr()
    assert "old name" not in told.err
    assert main(["check-data", f"--data.path={data}", f"--data.images={images}"]) == 0
    old = capsys.readouterr()
    assert old.out == told.out
    assert old.err.count("old names, which still work: --data.images is now --images") == 1
    file = tmp_path / "check.yaml"
    file.write_text(json.dumps({"data": {"path": str(data), "images": str(images)}}))
    assert main(["check-data", "--config", str(file)]) == 0
    old = capsys.readouterr()
    assert old.out == told.out
    assert old.err.count(f"data.images (in {file}) is now images") == 1


def test_a_path_that_is_not_there_is_no_name_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        check(Path("someone/nothing"), tmp_path)
    assert str(error.value) == (
        "data.path = someone/nothing: is not there. "
        "Give the .json or .jsonl file of LLaVA-format records, or a folder of them."
    )


def test_the_wrong_folder_is_said_before_a_million_images_are_called_missing(
    tmp_path: Path,
) -> None:
    data, images = write_llava(tmp_path, records=5, images=4)
    with pytest.raises(ConfigError) as error:
        check(data, images / "a")
    assert str(error.value) == (
        f"images = {images / 'a'}: holds none of 4 images that the records name, such as "
        "a/00000.jpg. Give the folder to which these paths are relative."
    )


def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path / "set", records=5, images=2)
    with pytest.raises(ConfigError, match=r"output = .*absent is not a folder"):
        check(data, images, "--output", str(tmp_path / "absent/report.json"))
    with pytest.raises(ConfigError, match=r"output = .*: is a folder"):
        check(data, images, "--output", str(tmp_path))
    with pytest.raises(ConfigError, match=r"exists, but is not a report of this command"):
        check(data, images, "--output", str(data))
    with pytest.raises(ConfigError, match=r"lies within data\.path"):
        check(tmp_path / "set", images, "--output", str(tmp_path / "set/report.json"))
    with pytest.raises(ConfigError, match=r"output = /proc/report\.json: cannot be written \(.+\)"):
        check(data, images, "--output", "/proc/report.json")  # which root cannot write to either
    assert len(json.loads(data.read_text())) == 5


def test_an_earlier_report_is_written_anew(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=5, images=2)
    output = tmp_path / "report.json"
    original = (images / "a/00000.jpg").read_bytes()
    (images / "a/00000.jpg").write_bytes(b"")
    assert checked(data, images, output, "--workers", "1")[1]["leave_out"]
    (images / "a/00000.jpg").write_bytes(original)
    assert checked(data, images, output, "--workers", "1") == (0, json.loads(output.read_text()))
    assert read_leave_out(output) == frozenset()


def test_a_report_belongs_to_the_data_it_was_made_of(tmp_path: Path) -> None:
    data, images = write_llava(tmp_path, records=5, images=2)
    output = tmp_path / "report.json"
    checked(data, images, output, "--workers", "1")
    assert read_leave_out(output, ConversationsConfig(path=str(data))) == frozenset()
    data.write_text(data.read_text() + "\n")
    with pytest.raises(ConfigError) as error:
        read_leave_out(output, ConversationsConfig(path=str(data)))
    assert str(error.value) == (
        f"data.leave_out = {output}: is of other files, or other sizes of files, than {data} "
        f"holds now. {RUN_AGAIN}."
    )


def start(tmp_path: Path) -> subprocess.Popen[str]:
    """Begin to check images that take a minute to decode; return when workers are there."""
    data, images = write_llava(tmp_path, records=1, images=1)
    Image.effect_noise((2500, 2500), 60).save(images / "large.png")
    names = [f"{i}.png" for i in range(1_000)]
    for name in names:
        (images / name).symlink_to("large.png")
    data.write_text(json.dumps(make_records(1_000, names)))
    command = [sys.executable, "-m", "mobilellama", "vlm", "check-data", "--workers", "2"]
    command += [str(data), "--images", str(images)]
    command += ["--output", str(tmp_path / "report.json")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = time.monotonic() + 60
    while len(workers_of(process.pid)) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(1)  # at work
    return process


def workers_of(group: int) -> list[int]:
    """Return the living workers of a command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, itself = path.read_text().rpartition(")")[2].split()[:3]
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if itself == str(group) and state != "Z" and b"spawn_main" in command:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_ctrl_c_stops_without_a_traceback_a_report_or_a_process(tmp_path: Path) -> None:
    process = start(tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.endswith("mobilellama: interrupted: nothing is kept; run the same command again\n")
    assert not workers_of(process.pid)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.slow
def test_a_killed_worker_ends_the_command_with_a_message(tmp_path: Path) -> None:
    process = start(tmp_path)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "mobilellama: error: a worker process was killed while decoding, near the image " in err
    assert "Traceback" not in err
