"""How the doctor's rows read."""

from mobilellama.launch.doctor.row import Row


def test_a_remedy_stands_below_what_was_found_and_ends_as_a_sentence() -> None:
    assert (
        str(Row("ok", "folder", "/runs is writable"))
        == "ok       folder             /runs is writable"
    )
    assert str(Row("bad", "folder", "no", "Give another")).splitlines() == [
        "bad      folder             no",
        "                            Give another.",
    ]
    assert str(Row("bad", "folder", "no", "Is it up?")).endswith("Is it up?")
