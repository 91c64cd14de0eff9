from dataclasses import fields, replace

from mobilellama.shards.compare.identities import identity_differences
from mobilellama.shards.dataset import Identity
from mobilellama.shards.packing import Packing
from tests.shards.conftest import IDENTITY


def test_the_fields_that_differ_have_both_values_and_their_effect() -> None:
    other = replace(IDENTITY, seed=7, slice_bytes=5)
    found = identity_differences(IDENTITY, other)
    assert [(one.field, one.first, one.second) for one in found] == [
        ("seed", IDENTITY.seed, 7),
        ("slice_bytes", 1 << 30, 5),
    ]
    assert found[0].effect == "documents are shuffled into another order within each bucket"
    assert identity_differences(IDENTITY, replace(IDENTITY)) == []


def test_packed_rows_are_compared_field_by_field_and_with_a_dataset_of_text() -> None:
    packed = replace(IDENTITY, packing=Packing(seq_len=64, template="a"))
    other = replace(IDENTITY, packing=Packing(seq_len=128, template="a"))
    (found,) = identity_differences(packed, other)
    assert (found.field, found.first, found.second) == ("seq_len", 64, 128)
    of_text = identity_differences(IDENTITY, packed)
    assert [(one.field, one.first, one.second) for one in of_text] == [
        ("seq_len", None, 64),
        ("template", None, "a"),
    ]


def test_each_field_of_an_identity_has_an_effect_of_its_own() -> None:
    text = {one.name: "x" for one in fields(Identity) if one.name != "packing"}
    rows = {one.name: "x" for one in fields(Packing)}
    changed = Identity(**text, packing=Packing(**rows))  # pyright: ignore[reportArgumentType]
    found = identity_differences(IDENTITY, changed)
    assert len(found) == len(text) + len(rows)
    assert {one.field for one in found if one.effect == "the files may differ"} == set()
