r"""LLaVA-format records -> turns and the images they speak of, or why a record is refused.

    {"id": "000000033471",
     "image": "coco/train2017/000000033471.jpg",       or a list of paths, or absent: text only
     "conversations": [{"from": "human", "value": "<image>\nWhat is in the picture?"},
                       {"from": "gpt", "value": "A bus."}, ...]}

1. The turns are read and cleaned as for chat models (records.py and clean.py of sft/data/): turns
   before the first question are left out, roles must alternate, an empty answer refuses the record.
2. Every image has one ``<image>`` in the questions, in the order of the images. The original
   joins all of a turn's into one, and so loses images; here their numbers must be equal.
3. A question with one ``<image>`` begins with it: ``<image>\n``, then the rest, stripped, as
   published. With several they stay where they are: text between them says which is which.
4. ``plain`` (the first stage) takes one question about one image and its answer, and of the
   question only ``<image>``.
5. Images are named by paths within one folder, relative to it or absolute. A path that leaves it
   is refused: who writes a record must not choose what is read elsewhere on the machine.
   Symbolic links may lead on.
6. Of other media, such as a video, nothing is read, and their records are refused.

A record is taken whole or refused for one reason, and none is passed over in silence.

Source: LLaVA's data format and preprocessing, which MobileVLM keeps.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from mobilellama.config import ConfigError
from mobilellama.sft.data import reasons, sources
from mobilellama.sft.data.clean import read_conversation
from mobilellama.sft.data.conversation import Turn
from mobilellama.sft.data.fields import canonical, same, says_nothing
from mobilellama.sft.data.reasons import Drop, DropError, Fix, excerpt
from mobilellama.sft.data.records import Format
from mobilellama.shards.dataset import Slice

IMAGE_TEXT = "<image>"
"""What stands in a question for one image."""

_IMAGE_FIELD = "image"
_UNREAD_FIELD = "images"  # of other formats; looked at so that its images are not passed over
IMAGE_FIELDS = frozenset((_IMAGE_FIELD, _UNREAD_FIELD))
"""Fields of a record that are looked at here, beside those of its turns."""


@dataclass(frozen=True, kw_only=True)
class RecordsConfig(sources.ConversationsConfig):
    """Records in LLaVA's format."""

    path: str
    """A .json, .jsonl, .jsonl.zst, .jsonl.gz or .parquet file, a folder of them, or a folder
    written by save_to_disk; on this machine, never on the Hugging Face hub."""

    def require_path(self, *, field: str = "data.path") -> None:
        """Raise ConfigError, which names `field`, unless the records are on this machine."""
        if not Path(self.path).exists():
            remedy = "Give the .json or .jsonl file of LLaVA-format records, or a folder of them"
            raise ConfigError(field, self.path, "is not there", remedy)


@dataclass(frozen=True, kw_only=True)
class ImageTextConfig(RecordsConfig):
    """The records and their images."""

    images: str
    """Folder to which the records' image paths are relative. An absolute path must be of a file in
    it."""

    def require_images(self) -> Path:
        """Return the folder of the images.

        Raises:
            ConfigError: there is no such folder.
        """
        return require_folder(self.images, field="data.images")


def require_folder(images: str, *, field: str) -> Path:
    """Return the folder of the images.

    Raises:
        ConfigError: it names `field`; there is no such folder.
    """
    folder = Path(images)
    if not folder.is_dir():
        rule = "is a file" if folder.exists() else "does not exist"
        remedy = "Give the folder to which the records' image paths are relative"
        raise ConfigError(field, images, rule, remedy)
    return folder


class Refusal(StrEnum):
    """Why a record whose turns are good cannot be trained on; ``Drop`` has the other reasons."""

    NOT_PATHS = "refused_not_paths"
    OUTSIDE = "refused_outside"
    PLURAL = "refused_plural"
    NO_PLACE = "refused_no_place"
    NO_IMAGE = "refused_no_image"
    COUNTS_DIFFER = "refused_counts_differ"
    NOT_ASKED = "refused_not_asked"
    NOT_PLAIN = "refused_not_plain"


MEANING: dict[str, str] = {
    Refusal.NOT_PATHS: "has an 'image' that is neither a path nor a list of paths",
    Refusal.OUTSIDE: "has an image outside the images' folder",
    Refusal.PLURAL: f"has '{_UNREAD_FIELD}' and no '{_IMAGE_FIELD}'",
    Refusal.NO_PLACE: f"has an image, but no {IMAGE_TEXT} in its questions",
    Refusal.NO_IMAGE: f"has {IMAGE_TEXT} in a question, but no image",
    Refusal.COUNTS_DIFFER: f"has more or fewer images than {IMAGE_TEXT} in its questions",
    Refusal.NOT_ASKED: f"has {IMAGE_TEXT} in a turn that is not a question",
    Refusal.NOT_PLAIN: "is not one question about one image with its answer, which 'plain' takes",
    **{drop.value: reasons.MEANING[drop] for drop in Drop},
}
"""What each reason means: a record that ..."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record that can be trained on, if its images can be read."""

    place: str
    """``FILE[INDEX]`` or ``FILE:LINE``, as sft/data/sources.py gives it."""
    id: str
    """The record's own, or else its place."""
    images: tuple[str, ...]
    """Paths as written, see ``image_path``; empty where the record is text only. What was written
    as an absolute one is relative to the images' folder here."""
    turns: tuple[Turn, ...]
    """Perhaps a system turn, then user and assistant in turn; the users' hold as many
    ``IMAGE_TEXT`` as there are images."""
    fixes: tuple[Fix, ...] = ()
    """What was changed in the turns beside the places of images."""
    unread: tuple[str, ...] = ()
    """Names of the fields that were not read; see sft/data/fields.py."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A record that cannot be trained on."""

    place: str
    id: str
    """The record's own, or else its place."""
    reason: StrEnum
    detail: str = ""

    def describe(self) -> str:
        """Return ``PLACE (id ID) meaning: detail``."""
        named = "" if self.id == self.place else f" (id {excerpt(self.id)})"
        told = f": {self.detail}" if self.detail else ""
        return f"{self.place}{named} {MEANING[self.reason]}{told}"


def read_vlm_records(
    data: sources.ConversationsConfig,
    *,
    folder: Path | None,
    plain: bool = False,
    slices: Sequence[Slice] | None = None,
    on_read: Callable[[int], None] | None = None,
) -> Iterator[Record | Refused]:
    """Yield every record, or why it is refused, in the order of the files and in theirs.

    A few records are held in memory at a time; of a .json file that is no plain list, all are.

    Args:
        data: where the records are.
        folder: of the images; without one, no absolute path is taken.
        plain: whether they are for the template 'plain'.
        slices: of ``find_slices(data)``; None finds them.
        on_read: called with the bytes (of a table the rows) of the data read since its last call.

    Raises:
        ConfigError: no such file or folder, or nothing readable in it.
        DataError: a file is corrupt or truncated, or has another size than in `slices`.
    """
    for slice_ in sources.find_slices(data) if slices is None else slices:
        before = 0
        for source in sources.read_records(slice_, data):
            yield _judge(source, plain=plain, kind=data.format, folder=folder)
            if on_read:
                on_read(source.source_read - before)
                before = source.source_read


def _judge(
    source: sources.SourceRecord, *, plain: bool, kind: Format, folder: Path | None
) -> Record | Refused:
    place, value = source.place, None
    try:
        value = source.parsed()
        return parse_record(place, value, plain=plain, kind=kind, folder=folder)
    except DropError as drop:
        named = _id_of(value, place)
        return Refused(place=place, id=named, reason=drop.reason, detail=drop.detail)


def parse_record(
    place: str,
    value: object,
    *,
    plain: bool = False,
    kind: Format = "auto",
    folder: Path | None = None,
) -> Record:
    """Return the record that a JSON value or a table's row is.

    Args:
        place: where the value was found.
        value: parsed.
        plain: whether it is for the template 'plain'.
        kind: the shape that its turns must have; "auto" takes any.
        folder: of the images, into which an absolute path may lead; None: into none.

    Raises:
        DropError: it cannot be trained on.
    """
    read = read_conversation(place, value, kind, more_read=IMAGE_FIELDS)
    images = images_of(value, folder)
    require_places(read.turns, images, value)
    place_all = _plain if plain else in_front
    return Record(
        place=place,
        id=_id_of(value, place),
        images=images,
        turns=place_all(read.turns, images),
        fixes=read.fixes,
        unread=read.unread,
    )


def _id_of(value: object, place: str) -> str:
    found = value.get("id") if isinstance(value, dict) else None
    return str(found) if isinstance(found, str | int) and found != "" else place


def images_of(value: object, folder: Path | None = None) -> tuple[str, ...]:
    """Return the paths of a record's images, each relative to their folder and within it.

    Raises:
        DropError: they are no paths, or one leads out of the folder; or the record names other
            images too.
    """
    given, others = _field(value, _IMAGE_FIELD), _field(value, _UNREAD_FIELD)
    if given is None or given == "" or given == []:
        return ()
    names = given if isinstance(given, list) else [given]
    if not says_nothing(others) and not same(others, given) and not same(others, names):
        raise DropError(Drop.AMBIGUOUS, f"it has {_IMAGE_FIELD} and {_UNREAD_FIELD}")
    paths = [name for name in names if isinstance(name, str) and _can_be_a_path(name)]
    if len(paths) < len(names):
        raise DropError(Refusal.NOT_PATHS, excerpt(given))
    return tuple(_within(name, folder) for name in paths)


def _field(value: object, name: str) -> object:
    """Return a record's field, however its name is spelt; None where it says nothing."""
    found = value.items() if isinstance(value, dict) else ()
    said = (item for key, item in found if canonical(key) == name and not says_nothing(item))
    return next(said, value.get(name) if isinstance(value, dict) else None)


def _within(name: str, folder: Path | None) -> str:
    """Return a path relative to the folder, as written where it is so already."""
    if not os.path.isabs(name):
        if os.path.normpath(name).split("/")[0] == "..":
            raise DropError(Refusal.OUTSIDE, excerpt(name))
        return name
    if folder is not None:
        written = os.path.normpath(name)
        # The folder as it was given, then by its real place, then both by theirs.
        for base in (os.path.abspath(folder), real := os.path.realpath(folder)):
            if written.startswith(base.rstrip("/") + "/"):
                return os.path.relpath(written, base)
        if (found := os.path.realpath(name)).startswith(real.rstrip("/") + "/"):
            return os.path.relpath(found, real)
    raise DropError(Refusal.OUTSIDE, excerpt(name))


def _can_be_a_path(name: str) -> bool:
    try:
        return bool(name) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def image_path(folder: Path, name: str) -> Path:
    """Return the file of a record's image; ``..`` is taken as written, not through links."""
    return folder / os.path.normpath(name)


def require_places(turns: tuple[Turn, ...], images: tuple[str, ...], value: object) -> None:
    """Raise DropError unless the questions, and no other turn, hold a place for each image."""
    for turn in turns:
        if turn.role != "user" and IMAGE_TEXT in turn.content:
            raise DropError(Refusal.NOT_ASKED, f"the {turn.role}'s: {excerpt(turn.content)}")
    places = sum(turn.content.count(IMAGE_TEXT) for turn in turns if turn.role == "user")
    if not images and not says_nothing(_field(value, _UNREAD_FIELD)):
        hint = f"'{_UNREAD_FIELD}' is not read; '{_IMAGE_FIELD}' may be a list"
        raise DropError(Refusal.PLURAL, hint)
    if places and not images:
        raise DropError(Refusal.NO_IMAGE, f"{places} of them")
    if images and not places:
        raise DropError(Refusal.NO_PLACE, excerpt(", ".join(images)))
    if places != len(images):
        counts = f"{_count(len(images), 'image')}, {places} {IMAGE_TEXT}"
        raise DropError(Refusal.COUNTS_DIFFER, f"{counts}: {excerpt(', '.join(images))}")


def _plain(turns: tuple[Turn, ...], images: tuple[str, ...]) -> tuple[Turn, ...]:
    """Return one question and its answer, of the question nothing but its image's place."""
    if [turn.role for turn in turns] != ["user", "assistant"] or len(images) != 1:
        detail = f"{_count(len(turns), 'turn')}, {_count(len(images), 'image')}"
        raise DropError(Refusal.NOT_PLAIN, detail)
    return (replace(turns[0], content=IMAGE_TEXT), turns[1])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def in_front(turns: tuple[Turn, ...], images: tuple[str, ...]) -> tuple[Turn, ...]:
    """Put the place of an image that is its question's only one in front of the question."""
    if not images:
        return turns
    return tuple(
        replace(
            turn, content=f"{IMAGE_TEXT}\n{turn.content.replace(IMAGE_TEXT, '').strip()}".strip()
        )
        if turn.role == "user" and turn.content.count(IMAGE_TEXT) == 1
        else turn
        for turn in turns
    )
