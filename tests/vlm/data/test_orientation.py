"""EXIF's orientation: all eight marks, in every format that holds one, and blocks that are broken.

mark     what viewers show      the stored pixels
1        top row at the top     R G        every mark's stored pixels are made here from the
6        (the same)             turned     upright picture by numpy, not by Pillow's turns
"""

import io
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mobilellama.vlm.data.images import AspectRatio, ImageProcessor, read_image
from mobilellama.vlm.data.orientation import has_broken_mark, read_mark, stored_mark, upright

ORIENTATION = 0x0112
# From the upright picture to what a camera that was held so stores.
TO_STORED: dict[int, Callable[[Any], Any]] = {
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.transpose(1, 0, 2),
    6: lambda up: np.rot90(up, 1),
    7: lambda up: up[::-1, ::-1].transpose(1, 0, 2),
    8: lambda up: np.rot90(up, -1),
}
UPRIGHT: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
SHOWN = ImageProcessor(size_pixels=16, aspect_ratio="pad", orientation="as_shown")
STORED = ImageProcessor(size_pixels=16, aspect_ratio="pad")


def encoded(image: Image.Image, file_format: str, mark: int | None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    if mark is not None:
        exif[ORIENTATION] = mark
    image.save(buffer, file_format, exif=exif, **options)
    return buffer.getvalue()


def camera(mark: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(TO_STORED[mark](UPRIGHT)))


LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


@pytest.mark.parametrize("aspect_ratio", ["square", "pad", "squash"])
@pytest.mark.parametrize("file_format", LOSSLESS)
@pytest.mark.parametrize("mark", range(1, 9))
def test_every_mark_is_obeyed_where_it_is_asked_for_and_only_there(
    mark: int, file_format: str, aspect_ratio: AspectRatio
) -> None:
    content = encoded(camera(mark), file_format, mark, **LOSSLESS[file_format])
    shown, stored = (
        ImageProcessor(size_pixels=16, aspect_ratio=aspect_ratio, orientation=orientation)
        for orientation in ("as_shown", "as_stored")
    )
    expected = stored.pixels(Image.fromarray(UPRIGHT))
    np.testing.assert_array_equal(shown.pixels(read_image(content)), expected)
    # Pillow turns TIFF by itself, for transformers' processors too.
    as_stored = Image.fromarray(UPRIGHT) if file_format == "TIFF" else camera(mark)
    found = stored.pixels(read_image(content))
    np.testing.assert_array_equal(found, stored.pixels(as_stored))
    assert stored_mark(read_image(content)) == mark
    assert not has_broken_mark(read_image(content))


@pytest.mark.parametrize("mark", range(1, 9))
def test_a_jpeg_is_turned_as_pillow_turns_it(mark: int) -> None:
    content = encoded(camera(mark), "JPEG", mark)
    theirs = ImageOps.exif_transpose(read_image(content))
    np.testing.assert_array_equal(SHOWN.pixels(read_image(content)), STORED.pixels(theirs))
    assert upright(read_image(content)).size == (50, 30)


def test_what_is_upright_is_not_turned_again() -> None:
    once = upright(read_image(encoded(camera(6), "PNG", 6)))
    assert read_mark(once) == 1 and upright(once) is once
    np.testing.assert_array_equal(np.asarray(once), UPRIGHT)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    both = read_image(encoded(camera(6), "WEBP", 6, lossless=True, xmp=xmp))
    np.testing.assert_array_equal(np.asarray(upright(upright(both)).convert("RGB")), UPRIGHT)


def test_a_mark_in_xmp_alone_counts_too() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="8"/></x:xmpmeta>'
    content = encoded(camera(8), "WEBP", None, lossless=True, xmp=xmp)
    assert stored_mark(read_image(content)) == 8
    np.testing.assert_array_equal(
        SHOWN.pixels(read_image(content)), STORED.pixels(Image.fromarray(UPRIGHT))
    )


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "LA", "1"])
def test_modes_palettes_and_transparency_are_kept(mode: str) -> None:
    image = Image.fromarray(UPRIGHT).convert(mode)
    options: dict[str, Any] = {"transparency": 3} if mode == "P" else {}
    turned = image.transpose(Image.Transpose.ROTATE_90)
    content = encoded(turned, "PNG", 6, **options)
    plain = encoded(image, "PNG", None, **options)
    np.testing.assert_array_equal(
        SHOWN.pixels(read_image(content)), STORED.pixels(read_image(plain))
    )


def block(value: bytes, kind: int = 3, count: int = 1) -> bytes:
    """An EXIF block with one entry, the orientation."""
    entry = struct.pack("<HHI4s", ORIENTATION, kind, count, value)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0\0\0\0"


BROKEN = {
    "zero": block(b"\0\0\0\0"),
    "nine": block(b"\x09\0\0\0"),
    "large": block(b"\xff\xff\0\0"),
    "text": block(b"six\0", kind=2, count=4),
    "no TIFF header": b"Exif\0\0garbage all the way",
    "cut": block(b"\x06\0\0\0")[:22],
    "points outside": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "many entries": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\0" * 20,
}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("ignore")
def test_a_broken_block_turns_nothing_and_is_known(kind: str, file_format: str) -> None:
    buffer = io.BytesIO()
    camera(6).save(buffer, file_format, exif=BROKEN[kind])
    image = read_image(buffer.getvalue())
    assert has_broken_mark(image), image.info.get("exif")
    assert has_broken_mark(image), "asked again it says the same"
    assert stored_mark(image) == 1
    np.testing.assert_array_equal(SHOWN.pixels(image), STORED.pixels(image))


@pytest.mark.filterwarnings("ignore")
def test_a_mark_that_is_read_is_obeyed_though_more_of_the_block_is_wrong() -> None:
    buffer = io.BytesIO()
    camera(6).save(buffer, "PNG", exif=block(b"\x06\0\x06\0", count=2))
    image = read_image(buffer.getvalue())
    assert (stored_mark(image), has_broken_mark(image)) == (6, False)
    np.testing.assert_array_equal(np.asarray(upright(image)), UPRIGHT)


@pytest.mark.filterwarnings("ignore")
def test_no_block_of_bytes_stops_the_reading() -> None:
    """1,200 mutated blocks: an image with its pixels whole is read, turned or not."""
    draw = random.Random(0)
    good = block(b"\x06\0\0\0")
    marks = set()
    for number in range(1200):
        content = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(6, len(content))] = draw.randrange(256)
        file_format = ("JPEG", "PNG", "WEBP")[number % 3]
        buffer = io.BytesIO()
        Image.new("RGB", (4, 2)).save(buffer, file_format, exif=bytes(content))
        image = read_image(buffer.getvalue())
        marks.add(stored_mark(image))
        assert isinstance(has_broken_mark(image), bool)
        assert SHOWN.pixels(image).shape == (3, 16, 16)
    assert {1, 6} <= marks
