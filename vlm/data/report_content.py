"""What the report of 'vlm check-data' holds, as its file has it."""

from typing import TypedDict


class Found(TypedDict):
    """How many there are of one kind, and what that kind is."""

    count: int
    meaning: str


class FoundWithExamples(Found):
    """The first few of them too, by what names them: place and id, or image; and detail."""

    examples: list[dict[str, str]]


class FoundImages(FoundWithExamples):
    """The names of all of them too."""

    images: list[str]


class TurnedImages(Found):
    """The first few names too."""

    examples: list[str]


class BrokenExif(TypedDict):
    """Images whose EXIF cannot be read, and the first few names."""

    count: int
    examples: list[str]


class Spread(TypedDict):
    """The least, the (lower) median and the greatest."""

    min: int
    median: int
    max: int


class RecordCounts(TypedDict):
    """What was found of the records."""

    records: int
    records_by_images: dict[str, int]
    refused_records: int
    refused: dict[str, FoundWithExamples]
    mended: dict[str, Found]
    unread_fields: dict[str, int]


class ImageCounts(TypedDict):
    """What was found of the images; sizes in pixels."""

    images: int
    width: Spread | None
    height: Spread | None
    modes: dict[str, int]
    turned_images: int
    turned: dict[str, TurnedImages]
    broken_exif: BrokenExif
    broken_images: int
    broken: dict[str, FoundImages]


class DataReport(RecordCounts, ImageCounts):
    """The whole report."""

    kind: str
    format: int
    path: str
    images_folder: str
    plain: bool
    sources: list[dict[str, str | int]]
    leave_out: list[str]
    """Places of the records that cannot be trained on."""
