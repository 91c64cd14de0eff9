import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobilellama.config import ConfigError
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.reasons import Drop, DropError, Fix, excerpt
from mobilellama.sft.data.sources import ConversationsConfig
from mobilellama.vlm.data.records import (
    MEANING,
    ImageTextConfig,
    Record,
    Refusal,
    Refused,
    image_path,
    parse_record,
    read_vlm_records,
)
from tests.vlm.helpers.llava_data import make_captions, make_images, make_records, write_llava


def llava(*texts: str, image: Any = None, first: str = "human", **fields: Any) -> dict[str, Any]:
    """Return a record whose turns hold the texts, human and gpt in turn."""
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    turns = [{"from": roles[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": "x", "conversations": turns, **({"image": image} if image else {}), **fields}


def asked(*texts: str, image: Any = None) -> list[str]:
    """Return the questions of a record as they are trained on."""
    record = parse_record("f[0]", llava(*texts, image=image))
    return [turn.content for turn in record.turns if turn.role == "user"]


def refusal(value: Any, **options: Any) -> DropError:
    with pytest.raises(DropError) as caught:
        parse_record("f[0]", value, **options)
    return caught.value


def test_a_record_has_its_place_its_id_its_images_and_its_turns() -> None:
    record = parse_record("f.json[3]", llava("<image>\nWhat?", "A bus.", image="coco/1.jpg"))
    assert record == Record(
        place="f.json[3]",
        id="x",
        images=("coco/1.jpg",),
        turns=(Turn("user", "<image>\nWhat?"), Turn("assistant", "A bus.")),
    )


@pytest.mark.parametrize(
    ("given", "found"), [("a", "a"), (7, "7"), (0, "0"), (None, "f[0]"), ("", "f[0]")]
)
def test_a_record_without_an_id_goes_by_its_place(given: Any, found: str) -> None:
    assert parse_record("f[0]", llava("q", "a", id=given)).id == found


@pytest.mark.parametrize(
    ("question", "trained_on"),
    [
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("What?\n<image>", "<image>\nWhat?"),
        ("<image>What?", "<image>\nWhat?"),
        ("  Is this <image> a bus? \n", "<image>\nIs this  a bus?"),
        ("<image>", "<image>"),
        ("<image>\n", "<image>"),
    ],
)
def test_an_only_image_is_put_in_front_of_its_question(question: str, trained_on: str) -> None:
    assert asked(question, "Yes.", image="a.jpg") == [trained_on]


def test_several_images_of_one_question_stay_where_they_are() -> None:
    question = " First <image>, second <image>: which? "
    assert asked(question, "One.", image=["a.jpg", "b.jpg"]) == [question]


def test_images_of_several_questions_are_placed_in_each() -> None:
    texts = ("Look <image>", "Yes.", "And\n<image> this?", "Too.", " No image ", "Right.")
    assert asked(*texts, image=["a.jpg", "b.jpg"]) == [
        "<image>\nLook",
        "<image>\nAnd\n this?",
        " No image ",
    ]


def test_answers_are_kept_as_they_are() -> None:
    record = parse_record("f[0]", llava("<image>\nq", " a \n", image="a.jpg"))
    assert record.turns[1] == Turn("assistant", " a \n")


@pytest.mark.parametrize("image", [None, "", []])
def test_a_record_without_an_image_is_text_only(image: Any) -> None:
    record = parse_record("f[0]", {**llava(" q ", "a"), "image": image})
    assert record.images == ()
    assert [turn.content for turn in record.turns] == [" q ", "a"]


def test_plain_takes_of_the_question_nothing_but_the_image() -> None:
    value = llava("Describe it briefly.\n<image>", " a red bus", image="a.jpg")
    record = parse_record("f[0]", value, plain=True)
    assert record.turns == (Turn("user", "<image>"), Turn("assistant", " a red bus"))


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (llava("<image>", "a", "q", "b", image="a.jpg"), "4 turns, 1 image"),
        (llava("q", "a"), "2 turns, 0 images"),
        (llava("<image><image>", "a", image=["a.jpg", "b.jpg"]), "2 turns, 2 images"),
        (llava("<image>", "a", image="a.jpg", system="Be brief."), "3 turns, 1 image"),
    ],
)
def test_plain_refuses_all_but_one_question_about_one_image(
    value: dict[str, Any], detail: str
) -> None:
    assert parse_record("f[0]", value)
    error = refusal(value, plain=True)
    assert (error.reason, error.detail) == (Refusal.NOT_PLAIN, detail)


def test_a_first_turn_that_is_no_question_is_left_out() -> None:
    value = llava("Hello!", "<image>\nq", "a", image="a.jpg", first="gpt")
    record = parse_record("f[0]", value)
    assert [turn.content for turn in record.turns] == ["<image>\nq", "a"]
    assert record.fixes == (Fix.LEADING_TURNS,)


def test_an_image_of_a_turn_that_is_left_out_is_missed() -> None:
    value = llava("<image>\nq", "a", "<image>\nno answer", image=["a.jpg", "b.jpg"])
    assert refusal(value).detail == "2 images, 1 <image>: a.jpg, b.jpg"


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        ([], Drop.NO_EXCHANGE, "no turns"),
        ("text", Drop.UNKNOWN_SHAPE, "text"),
        ({"id": "x", "image": "a.jpg"}, Drop.UNKNOWN_SHAPE, "its fields are id, image"),
        (llava("q", ""), Drop.EMPTY_ANSWER, "turn 1 of 2, beside: q"),
        (llava("q", "a", "r", " \n"), Drop.EMPTY_ANSWER, "turn 3 of 4, beside: r"),
        (llava("q"), Drop.NO_EXCHANGE, "q"),
        (llava("<image>q", "a", image=3), Refusal.NOT_PATHS, "3"),
        (llava("<image>q", "a", image=["a.jpg", None]), Refusal.NOT_PATHS, '["a.jpg", null]'),
        (llava("<image>q", "a", image=[""]), Refusal.NOT_PATHS, '[""]'),
        (llava("<image>q", "a", image={"bytes": "x"}), Refusal.NOT_PATHS, '{"bytes": "x"}'),
        (llava("<image>q", "a", image="a\0.jpg"), Refusal.NOT_PATHS, "a\0.jpg"),
        (llava("<image>q", "a", image="\ud800.jpg"), Refusal.NOT_PATHS, "?.jpg"),
        (llava("<image>q", "a", image="/etc/a.jpg"), Refusal.OUTSIDE, "/etc/a.jpg"),
        (llava("<image>q", "a", image="../a.jpg"), Refusal.OUTSIDE, "../a.jpg"),
        (llava("<image>q", "a", image="b/../../a.jpg"), Refusal.OUTSIDE, "b/../../a.jpg"),
        (llava("<image>q", "a", image=".."), Refusal.OUTSIDE, ".."),
        (llava("q", "a", image="a.jpg"), Refusal.NO_PLACE, "a.jpg"),
        (llava("<image>q", "a"), Refusal.NO_IMAGE, "1 of them"),
        (
            llava("<image>q", "a", images=["a.jpg"]),
            Refusal.PLURAL,
            "'images' is not read; 'image' may be a list",
        ),
        (
            llava("q", "a", images=["a.jpg"]),  # else it would be trained on without its image
            Refusal.PLURAL,
            "'images' is not read; 'image' may be a list",
        ),
        (
            llava("<image><image>q", "a", image="a.jpg"),
            Refusal.COUNTS_DIFFER,
            "1 image, 2 <image>: a.jpg",
        ),
        (
            llava("<image>q", "a", image=["a.jpg", "b.jpg"]),
            Refusal.COUNTS_DIFFER,
            "2 images, 1 <image>: a.jpg, b.jpg",
        ),
        (
            llava("<image>q", "an <image>", image="a.jpg"),
            Refusal.NOT_ASKED,
            "the assistant's: an <image>",
        ),
        (llava("q", "write <image>"), Refusal.NOT_ASKED, "the assistant's: write <image>"),
        (
            llava("<image>q", "a", image="a.jpg", system="<image>"),
            Refusal.NOT_ASKED,
            "the system's: <image>",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused_for_a_reason(
    value: Any, reason: Drop | Refusal, detail: str
) -> None:
    error = refusal(value)
    assert (error.reason, error.detail) == (reason, detail)


def test_two_answers_in_a_row_are_refused() -> None:
    turns = [("human", "q"), ("gpt", "a"), ("gpt", "b")]
    value = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    assert refusal(value).reason is Drop.NOT_ALTERNATING


def test_every_reason_has_a_meaning() -> None:
    assert set(MEANING) == {*map(str, Refusal), *map(str, Drop)}


@pytest.mark.parametrize("images", [None, [], ""])
def test_an_empty_images_beside_text_is_text_only(images: Any) -> None:
    assert parse_record("f[0]", llava("q", "a", images=images)).images == ()


def test_images_beside_image_must_be_the_same() -> None:
    for images in ("a.jpg", ["a.jpg"], [], None):
        record = parse_record("f[0]", llava("<image>q", "a", image="a.jpg", images=images))
        assert record.images == ("a.jpg",)
    error = refusal(llava("<image>q", "a", image="a.jpg", images=["b.jpg"]))
    assert (error.reason, error.detail) == (Drop.AMBIGUOUS, "it has image and images")


def test_an_image_is_found_however_its_field_is_spelt() -> None:
    value = {**llava("<image>q", "a"), "Image": "a.jpg"}
    assert parse_record("f[0]", value).images == ("a.jpg",)


@pytest.mark.parametrize(
    "medium",
    [
        {"video": "a.mp4"},
        {"videos": ["a.mp4"]},
        {"audio": "a.wav"},
        {"audios": ["a.wav"]},
        {"image_path": "a.jpg"},
        {"video_url": "a.mp4"},
        {"file": "a.pdf"},
    ],
)
@pytest.mark.parametrize("image", [None, "a.jpg"])
def test_a_record_with_another_medium_is_refused(medium: dict[str, Any], image: Any) -> None:
    value = llava("<image>q" if image else "q", "a", image=image, **medium)
    assert refusal(value).reason is Drop.MEDIA


def test_a_name_that_is_not_known_is_kept_beside_the_record() -> None:
    record = parse_record("f[0]", llava("q", "a", mood="merry", source="x"))
    assert record.unread == ("mood",)


def test_an_absolute_path_into_the_folder_is_relative_to_it(tmp_path: Path) -> None:
    """By the folder as it is given, by its real place, or by that of the image."""
    images, link, other = tmp_path / "images", tmp_path / "link", tmp_path / "other"
    (images / "b").mkdir(parents=True)
    (images / "b/a.png").write_bytes(b"")
    link.symlink_to(images)
    other.symlink_to(images)
    for folder in (images, link, tmp_path, Path("/")):
        for start in (images, link, other):
            value = llava("<image>q", "a", image=f"{start}/b/../b/a.png")
            record = parse_record("f[0]", value, folder=folder)
            assert image_path(folder, record.images[0]).samefile(images / "b/a.png")
            assert not record.images[0].startswith(("/", ".."))
    for name in (f"{images}/../x.png", "/etc/a.jpg", f"{images}x/a.png", str(images)):
        error = refusal(llava("<image>q", "a", image=name), folder=images)
        assert (error.reason, error.detail) == (Refusal.OUTSIDE, excerpt(name))


def test_an_absolute_path_is_taken_where_the_data_name_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([llava("<image>q", "a", image=f"{tmp_path}/images/a.png")]))
    (found,) = read_vlm_records(
        ImageTextConfig(path=str(path), images=str(tmp_path / "images")), folder=tmp_path / "images"
    )
    assert isinstance(found, Record) and found.images == ("a.png",)


def test_a_tables_column_of_images_is_seen_too(tmp_path: Path) -> None:
    rows = [llava("q", "a", images=["a.jpg"])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (found,) = read_vlm_records(ConversationsConfig(path=str(tmp_path / "a.parquet")), folder=None)
    assert isinstance(found, Refused) and found.reason is Refusal.PLURAL


def test_a_path_may_go_up_within_the_folder(tmp_path: Path) -> None:
    record = parse_record("f[0]", llava("<image>q", "a", image="b/../c//a.jpg"))
    assert record.images == ("b/../c//a.jpg",)
    assert image_path(tmp_path, record.images[0]) == tmp_path / "c" / "a.jpg"


def test_a_refused_record_is_described_by_place_id_reason_and_detail() -> None:
    refused = Refused(place="f[0]", id="x", reason=Refusal.NO_PLACE, detail="a.jpg")
    assert refused.describe() == (
        "f[0] (id x) has an image, but no <image> in its questions: a.jpg"
    )
    nameless = Refused(place="f[0]", id="f[0]", reason=Refusal.NO_IMAGE)
    assert nameless.describe() == "f[0] has <image> in a question, but no image"


VALUES = [
    llava("<image>\nq", "a", image="a.jpg"),
    llava("q", "", image="a.jpg"),
    llava("<image><image>q", "a", image=["a.jpg", "b.jpg"], id="two"),
    llava("text", "only", id=None),
]
READ = [("x", 1), ("x", "dropped_empty_answer"), ("two", 2), ("PLACE", 0)]


def outline(found: list[Record | Refused]) -> list[tuple[str, int | str]]:
    return [
        (
            "PLACE" if item.id == item.place else item.id,
            len(item.images) if isinstance(item, Record) else item.reason.value,
        )
        for item in found
    ]


def test_every_kind_of_file_gives_the_same_records_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(VALUES))
    lines = "".join(json.dumps(value) + "\n" for value in VALUES)
    (tmp_path / "lines.jsonl").write_text(lines)
    as_lists = [
        {**value, "image": [image] if isinstance(image := value.get("image"), str) else image}
        for value in VALUES
    ]
    pq.write_table(pa.Table.from_pylist(as_lists), tmp_path / "rows.parquet")
    for path in sorted(tmp_path.iterdir()):
        found = list(read_vlm_records(ConversationsConfig(path=str(path)), folder=None))
        assert outline(found) == READ, path
    found = list(read_vlm_records(ConversationsConfig(path=str(tmp_path)), folder=None))
    assert [item.place for item in found] == [
        *(f"lines.jsonl:{i}" for i in range(1, 5)),
        *(f"list.json[{i}]" for i in range(4)),
        *(f"rows.parquet[{i}]" for i in range(4)),
    ]


def test_a_saved_table_keeps_ids_and_images(tmp_path: Path) -> None:
    import datasets

    as_lists = [{**value, "image": value.get("image") or []} for value in (VALUES[2], VALUES[3])]
    datasets.Dataset.from_list(as_lists).save_to_disk(str(tmp_path / "saved"))
    found = list(read_vlm_records(ConversationsConfig(path=str(tmp_path / "saved")), folder=None))
    assert outline(found) == READ[2:]


def test_a_line_that_is_no_json_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(VALUES[0]) + "\n{oops\n" + json.dumps(VALUES[2]) + "\n")
    found = list(read_vlm_records(ConversationsConfig(path=str(path)), folder=None))
    assert outline(found) == [READ[0], ("PLACE", "dropped_not_json"), READ[2]]


def test_reading_tells_how_much_of_the_data_is_read(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(VALUES))
    read: list[int] = []
    list(
        read_vlm_records(ConversationsConfig(path=str(tmp_path)), on_read=read.append, folder=None)
    )
    assert len(read) == 2 * len(VALUES) and min(read) > 0
    assert sum(read) == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_the_made_datasets_are_wholly_good(tmp_path: Path) -> None:
    path, images = write_llava(tmp_path / "mixed", records=20, images=10)
    found = [
        r
        for r in read_vlm_records(ConversationsConfig(path=str(path)), folder=None)
        if isinstance(r, Record)
    ]
    assert [len(record.images) for record in found] == [1, 1, 2, 1, 0] * 4
    named = {name for record in found for name in record.images}
    assert len(named) == 10 and all(image_path(images, name).is_file() for name in named)
    path, _ = write_llava(tmp_path / "captions", records=6, images=4, captions=True)
    found = list(read_vlm_records(ConversationsConfig(path=str(path)), plain=True, folder=None))
    assert all(isinstance(item, Record) for item in found) and len(found) == 6


def test_the_same_seed_makes_the_same_dataset(tmp_path: Path) -> None:
    names = make_images(tmp_path / "a", 6)
    assert make_images(tmp_path / "b", 6) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert make_records(9, names) == make_records(9, names) != make_records(9, names, seed=1)
    assert make_captions(3, names)[2]["image"] == names[2]


def test_a_folder_of_images_that_is_none_is_refused(tmp_path: Path) -> None:
    data = ImageTextConfig(path="x.json", images=str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"data\.images = .*absent: does not exist\. Give"):
        data.require_images()
    (tmp_path / "file").write_text("")
    data = ImageTextConfig(path="x.json", images=str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="is a file"):
        data.require_images()
    assert ImageTextConfig(path="x.json", images=str(tmp_path)).require_images() == tmp_path
