"""How a photograph is turned: cameras store pixels as the sensor had them, and mark the rest.

The mark is EXIF's orientation, 1 to 8, which viewers obey; CLIP's processor and the published
recipes do not. TIFF is an exception in all of them: Pillow turns it as it reads it.
"""

import warnings
from typing import Literal

from PIL import ExifTags, Image

Orientation = Literal["as_stored", "as_shown"]

UPRIGHT = 1
MEANING = {
    2: "mirrored left to right",
    3: "upside down",
    4: "mirrored top to bottom",
    5: "mirrored on the main diagonal",
    6: "a quarter turn to the left",
    7: "mirrored on the other diagonal",
    8: "a quarter turn to the right",
}
"""How the stored pixels of each mark lie."""

_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TAG = ExifTags.Base.Orientation
_TIFF_MARK = "mark before Pillow turned it"
# Where a file's EXIF or XMP is in an image's info, with the mark in it.
_BLOCKS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def note_tiff_mark(image: Image.Image) -> None:
    """Keep the mark of a TIFF, which Pillow obeys and forgets when it loads the pixels."""
    if (tags := getattr(image, "tag_v2", None)) is not None:
        image.info[_TIFF_MARK] = _valid(tags.get(_TAG))


def read_mark(image: Image.Image) -> int:
    """Return the mark that is to be obeyed yet, 1 to 8; 1 where there is none that can be read."""
    try:
        return _valid(image.getexif().get(_TAG)) or UPRIGHT
    except Exception:  # Pillow's parser raises whatever a broken block makes it stumble over
        return UPRIGHT


def stored_mark(image: Image.Image) -> int:
    """Return the mark in the file, 1 to 8, whether or not Pillow has obeyed it."""
    return image.info.get(_TIFF_MARK) or read_mark(image)


def has_broken_mark(image: Image.Image) -> bool:
    """Whether a file has an orientation that is none, or EXIF too broken to say if it has one.

    It changes the process's filter of warnings for a moment: not for threads.
    """
    # An image of its own: another may have read a part of the block and keep that.
    bare = Image.new("L", (1, 1))
    bare.info = {name: image.info[name] for name in _BLOCKS if name in image.info}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            mark = bare.getexif().get(_TAG)
        except Exception:  # as above
            return True
    return bool(told) if mark is None else _valid(mark) is None


def upright(image: Image.Image) -> Image.Image:
    """Return an image as viewers show it: turned as its mark says, and without a mark."""
    method = _TO_UPRIGHT.get(read_mark(image))
    if method is None:
        return image
    turned = image.transpose(method)
    for name in _BLOCKS:
        turned.info.pop(name, None)
    return turned


def _valid(mark: object) -> int | None:
    """Return a mark, or None of what is none."""
    return mark if isinstance(mark, int) and UPRIGHT <= mark <= max(_TO_UPRIGHT) else None
