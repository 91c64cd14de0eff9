"""Dataclasses made of parsed JSON."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from mobilellama.files.typed_json import from_json


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A part."""

    spokes: int
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Cart:
    """A whole."""

    kind: Literal["hand", "ox"]
    wheels: list[Wheel]
    spare: Wheel | None = None
    marks: tuple[str, ...] = ()
    loads: dict[str, int] = field(default_factory=dict)
    note: object = None


def test_a_whole_object_becomes_a_dataclass_with_its_parts() -> None:
    value = {
        "kind": "ox", "wheels": [{"spokes": 8, "radius": 0.5}, {"spokes": 6}],
        "spare": {"spokes": 7}, "marks": ["a", "b"], "loads": {"hay": 3}, "note": [1, {}],
    }  # fmt: skip
    assert from_json(Cart, value) == Cart(
        kind="ox",
        wheels=[Wheel(spokes=8, radius=0.5), Wheel(spokes=6)],
        spare=Wheel(spokes=7),
        marks=("a", "b"),
        loads={"hay": 3},
        note=[1, {}],
    )


def test_fields_with_a_default_may_be_missing() -> None:
    assert from_json(Cart, {"kind": "hand", "wheels": []}) == Cart(kind="hand", wheels=[])


def test_a_whole_number_stays_one_where_a_fraction_may_stand() -> None:
    radius = from_json(Wheel, {"spokes": 1, "radius": 2}).radius
    assert radius == 2 and type(radius) is int  # it is hashed as it was written


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "cart"}, "record.kind is 'cart'"),
        ({"kind": None}, "record.kind is None"),
        ({"wheels": {}}, "record.wheels is a dict"),
        ({"wheels": [{"spokes": True}]}, "record.wheels[0].spokes is a bool"),
        ({"wheels": [{"spokes": 1.0}]}, "record.wheels[0].spokes is a float"),
        ({"wheels": [{"spokes": 1, "radius": "1"}]}, "record.wheels[0].radius is a str"),
        ({"wheels": [{}]}, "record.wheels[0].spokes is missing"),
        ({"spare": {"spokes": "many"}}, "record.spare.spokes is a str"),
        ({"marks": "a"}, "record.marks is a str"),
        ({"loads": {"hay": None}}, "record.loads.hay is a NoneType"),
        ({"loads": []}, "record.loads is a list"),
        ({"wheel": []}, "record.wheel is unknown"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict[str, object], told: str) -> None:
    with pytest.raises(TypeError) as caught:
        from_json(Cart, {"kind": "ox", "wheels": []} | change, "record")
    assert str(caught.value) == told


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="Cart is no object"):
        from_json(Cart, value)
