"""What decides the bytes of two datasets, field by field, and what each difference does."""

from dataclasses import dataclass

from mobilellama.shards.dataset import Identity

_EFFECTS = {
    "tokenizer_sha256": "another tokenizer gives other ids",
    "vocab_size": "another tokenizer gives other ids",
    "eos_id": "another id ends each document",
    "dtype": "ids are stored in another width",
    "seed": "documents are shuffled into another order within each bucket",
    "slice_bytes": "large files are cut at other places, into other buckets",
    "heldout_share": "another part of each bucket is held out; the ids are the same",
    "format_version": "the files have another format",
    "encoder_version": "another version of the encoder gives other ids",
    "tokenizers_version": "another version of the library tokenizers may give other ids",
    "long_records": "only one leaves out records that are too long to be read",
    "seq_len": "rows are packed to another length",
    "template": "conversations are written by another template",
    "template_sha256": "conversations are written by another template",
    "data.format": "records are read in another format",
    "cleaning_version": "another version keeps other conversations",
    "packing_version": "another version packs rows otherwise",
    "sources_sha256": "other files were prepared",
}


@dataclass(frozen=True, kw_only=True)
class IdentityDifference:
    """A field that differs."""

    field: str
    first: object
    """Its value in the first dataset; None where it has none."""
    second: object
    effect: str
    """What it does to the files."""


def identity_differences(first: Identity, second: Identity) -> list[IdentityDifference]:
    """Return the fields in which two identities differ, in their order."""
    values = [_flat(identity) for identity in (first, second)]
    names = [*values[0], *(name for name in values[1] if name not in values[0])]
    return [
        IdentityDifference(
            field=name,
            first=values[0].get(name),
            second=values[1].get(name),
            effect=_EFFECTS.get(name, "the files may differ"),
        )
        for name in names
        if values[0].get(name) != values[1].get(name)
    ]


def _flat(identity: Identity) -> dict[str, object]:
    """Return the identity's fields, with those of the packing beside the others."""
    values = identity.to_json()
    packing = values.pop("packing", None)
    return values | (packing if isinstance(packing, dict) else {})
