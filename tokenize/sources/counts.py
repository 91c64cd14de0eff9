"""What was read of a slice, and whether too much of it was bad."""

from dataclasses import dataclass, field

from mobilellama.config import DataError

LEAST_BAD_RECORDS = 10
"""So many bad records of a slice are let pass, whatever `max_bad_share` says."""

_BAD_PLACES = 10_000  # kept in a receipt; the count goes on
_BAD_PLACES_SHOWN = 3


@dataclass
class Counts:
    """What was read of a slice so far."""

    source_read: int = 0
    """Bytes of the file (as it lies on disk) or rows, in the slice's unit."""
    records: int = 0
    bad_records: int = 0
    bad_places: list[list[int | str]] = field(default_factory=list)
    """[place, reason] of the first 10,000 bad records."""
    first_long: tuple[int, str] | None = None
    """Place and reason of the first record that was too long to be read; it is a bad one, too."""
    empty_texts: int = 0
    replaced_surrogates: int = 0
    bytes_in: int = 0
    """UTF-8 bytes of the texts."""
    source_file: dict[str, object] = field(default_factory=dict)
    """At the slice's end, what was read: see ``SourceRange.to_json``."""

    def add_bad(self, place: int, reason: str, *, is_long: bool = False) -> None:
        """Count a record that gives no text."""
        self.bad_records += 1
        if is_long and self.first_long is None:
            self.first_long = place, reason
        if len(self.bad_places) < _BAD_PLACES:
            self.bad_places.append([place, reason])

    def require_none_long(self, source: str) -> None:
        """Raise DataError if a record was too long to be read.

        One record may hold more text than all others of its slice, so a share of records is no
        limit for it.
        """
        if self.first_long is None:
            return
        place, reason = self.first_long
        raise DataError(
            f"{source}: the record at {place:,} is {reason}. Split or remove it, or leave such "
            "records out with --long_records skip"
        )

    def require_few_bad(self, source: str, max_bad_share: float) -> None:
        """Raise DataError if more records were bad than `max_bad_share` allows."""
        allowed = max(LEAST_BAD_RECORDS, int(max_bad_share * self.records))
        if self.bad_records <= allowed:
            return
        first = "; ".join(
            f"at {place:,}: {reason}" for place, reason in self.bad_places[:_BAD_PLACES_SHOWN]
        )
        raise DataError(
            f"{source}: {self.bad_records:,} of {self.records:,} records are bad, more than the "
            f"{allowed:,} that max_bad_share = {max_bad_share} allows ({first}). "
            "Fix the file, or raise --max_bad_share"
        )
