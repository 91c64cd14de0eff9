"""What an identity says of packed rows."""

import json

import pytest

from mobilellama.shards.packing import Packing

STORED = {
    "seq_len": 384, "template": "vicuna_v1", "template_sha256": "3e", "data.format": "auto",
    "cleaning_version": 2, "packing_version": 2, "sources_sha256": {"chats.json": "a6"},
}  # fmt: skip


def test_files_hold_it_in_the_order_and_under_the_names_that_are_hashed() -> None:
    packing = Packing.from_json(STORED)
    assert packing.data_format == "auto" and packing.sources_sha256 == {"chats.json": "a6"}
    assert json.dumps(packing.to_json()) == json.dumps(STORED)


def test_what_an_older_version_did_not_say_is_not_said_now() -> None:
    assert Packing.from_json({"seq_len": 6}).to_json() == {"seq_len": 6}


@pytest.mark.parametrize(
    ("value", "told"),
    [({}, "seq_len is missing"), ({"seq_len": "6"}, "seq_len is a str"), ([], "is no object")],
)
def test_another_shape_is_refused(value: object, told: str) -> None:
    with pytest.raises(TypeError, match=f"packing.?{told}"):
        Packing.from_json(value)
