"""What decides the rows of a dataset of conversations, as its identity holds it."""

from dataclasses import asdict, dataclass

from mobilellama.files.typed_json import from_json

_STORED = {"data_format": "data.format"}
"""Name of a field -> its name in files, where that is another."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What decides the rows of a dataset of conversations, beside its text and tokenizer.

    None is what a dataset does not say: an older version made it.
    """

    seq_len: int
    """Tokens of a row at most."""
    template: str | None = None
    """Name of the chat template."""
    template_sha256: str | None = None
    data_format: str | None = None
    """Format of the records."""
    cleaning_version: int | None = None
    """Rises when other conversations are kept of the same records."""
    packing_version: int | None = None
    """Rises when conversations are put into other rows."""
    sources_sha256: dict[str, str] | None = None
    """sha256 of each source, by its name."""

    def to_json(self) -> dict[str, object]:
        """Return what is written and hashed."""
        values = {_STORED.get(name, name): value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if value is not None}

    @staticmethod
    def from_json(value: object) -> "Packing":
        """Return what ``to_json`` was made of.

        Raises:
            TypeError: the value is of another shape.
        """
        if isinstance(value, dict):
            names = {stored: name for name, stored in _STORED.items()}
            value = {names.get(key, key): one for key, one in value.items()}
        return from_json(Packing, value, "packing")
