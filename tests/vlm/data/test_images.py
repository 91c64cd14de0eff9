"""Images: equal to transformers' processors, whole or refused by name."""

import base64
import errno
import io
import os
import pickle
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mobilellama.config import ConfigError, UserError
from mobilellama.vlm.chat.image_source import open_image
from mobilellama.vlm.data.images import (
    CLIP_MEAN,
    CLIP_STD,
    ImageError,
    ImageFault,
    ImageProcessor,
    read_image,
    show_name,
)
from tests.vlm.helpers.processors import SIZE, bytes_of, clip, noise, processor

SHAPES = [
    (SIZE, SIZE), (1, 1), (1, 40), (40, 1), (3, 500), (500, 3), (27, 29), (29, 27), (56, 56),
    (64, 48), (48, 64), (61, 47), (47, 61), (101, 99), (28, 90), (90, 28), (200, 150), (13, 12),
]  # fmt: skip
"""What the published CLIP's preprocessor_config.json holds, but for the size."""


def original_pad(image: Image.Image) -> Image.Image:
    """The mean's colour around the image, as the fact sheet describes it."""
    side = max(image.size)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = (122, 116, 104)
    top, left = (side - image.height) // 2, (side - image.width) // 2
    canvas[top : top + image.height, left : left + image.width] = np.asarray(image)
    return Image.fromarray(canvas)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_shape_gives_the_bytes_of_transformers(shape: tuple[int, int]) -> None:
    image = Image.fromarray(noise(*shape))
    square = processor().pixels(image)
    assert square.shape == (3, SIZE, SIZE) and square.dtype == np.uint8
    assert square.flags.c_contiguous and square.flags.owndata
    np.testing.assert_array_equal(square, bytes_of(clip(), image))
    np.testing.assert_array_equal(
        processor("pad").pixels(image), bytes_of(clip(), original_pad(image))
    )
    siglip = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    np.testing.assert_array_equal(processor("squash").pixels(image), bytes_of(siglip, image))


@pytest.mark.parametrize("shape", [(640, 480), (480, 640), (500, 333), (427, 640)])
def test_photograph_sizes_give_the_bytes_of_transformers(shape: tuple[int, int]) -> None:
    image, ours = Image.fromarray(noise(*shape)), ImageProcessor(size_pixels=336)
    size = {"height": 336, "width": 336}
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=size)
    np.testing.assert_array_equal(ours.pixels(image), bytes_of(theirs, image))
    padded = replace(ours, aspect_ratio="pad").pixels(image)
    np.testing.assert_array_equal(padded, bytes_of(theirs, original_pad(image)))


def in_every_mode() -> dict[str, Image.Image]:
    rgb, rgba = Image.fromarray(noise(50, 37)), Image.fromarray(noise(50, 37, 4))
    grey = Image.fromarray(noise(50, 37, 1))
    palette = rgb.quantize(16)
    see_through = palette.copy()
    see_through.info["transparency"] = 3
    keyed = rgb.copy()
    keyed.info["transparency"] = rgb.getpixel((4, 4))
    return {
        "RGB": rgb, "RGBA": rgba, "L": grey, "LA": rgba.convert("LA"), "1": rgb.convert("1"),
        "P": palette, "P with a transparent colour": see_through,
        "RGB with a transparent colour": keyed, "PA": rgba.convert("PA"),
        "CMYK": rgb.convert("CMYK"), "YCbCr": rgb.convert("YCbCr"), "HSV": rgb.convert("HSV"),
        "RGBa": rgba.convert("RGBa"),
        "I": grey.convert("I"), "I;16": Image.fromarray(noise(50, 37, 1).astype(np.uint16)),
    }  # fmt: skip


@pytest.mark.parametrize("mode", in_every_mode())
def test_every_mode_gives_the_bytes_of_transformers(mode: str) -> None:
    image = in_every_mode()[mode]
    pixels = processor().pixels(image)
    np.testing.assert_array_equal(pixels, bytes_of(clip(), image))
    # The original drops transparency before its processor sees the image. (Pillow's convert may
    # leave a note of it in the image's info, which an array has not.)
    opaque = Image.fromarray(np.asarray(image.convert("RGB")))
    as_original = processor(transparency="ignored").pixels(image)
    np.testing.assert_array_equal(as_original, bytes_of(clip(), opaque))
    transparent = mode in ("RGBA", "LA", "PA") or "transparent" in mode
    assert np.array_equal(pixels, as_original) == (not transparent)


def test_lab_keeps_its_colours_which_transformers_takes_for_alpha() -> None:
    image = Image.merge("LAB", Image.fromarray(noise(50, 37)).split())
    assert bytes_of(clip(), image).min() == 255  # all white
    expected = bytes_of(clip(), image.convert("RGB"))
    np.testing.assert_array_equal(processor().pixels(image), expected)


def test_normalised_pixels_equal_transformers_pixel_values() -> None:
    image = Image.fromarray(noise(61, 47))
    ours = processor()
    values = ours.normalise(torch.from_numpy(ours.pixels(image)))
    theirs = clip()(image, return_tensors="np")["pixel_values"][0]
    assert values.dtype == torch.float32 and theirs.dtype == np.float32
    np.testing.assert_allclose(values.numpy(), theirs, rtol=0, atol=1e-6)
    every_byte = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1)[..., None]
    channels = zip(CLIP_MEAN, CLIP_STD, strict=True)
    expected = [[(x / 255 - mean) / std for x in range(256)] for mean, std in channels]
    for image_values in ours.normalise(every_byte)[..., 0]:
        np.testing.assert_allclose(image_values.numpy(), expected, rtol=0, atol=1e-6)


def test_padding_is_centred_on_the_means_colour() -> None:
    ours = ImageProcessor(size_pixels=8, aspect_ratio="pad", mean=(0.5, 0.999, 0.0))
    white = Image.new("RGB", (8, 3), "white")
    rows = ours.pixels(white)[:, :, 0].T.tolist()
    colour = [127, 254, 0]  # int(0.5 * 255), int(254.745), 0
    assert rows == [colour] * 2 + [[255] * 3] * 3 + [colour] * 3  # (8 - 3) // 2 = 2 above
    columns = ours.pixels(white.transpose(Image.Transpose.ROTATE_90))[:, 0].T.tolist()
    assert columns == rows


def test_an_image_too_long_for_memory_is_refused() -> None:
    for aspect_ratio in ("square", "pad"):
        ours = ImageProcessor(size_pixels=336, aspect_ratio=aspect_ratio)
        with pytest.raises(ImageError, match=r"has too many pixels \(1 x 30000, which") as caught:
            ours.pixels(Image.new("RGB", (1, 30_000)))
        assert caught.value.kind == ImageFault.TOO_LARGE
        # A wide one is resized a row at a time, and fits.
        assert ours.pixels(Image.new("RGB", (30_000, 1))).shape == (3, 336, 336)


# Reading


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


PHOTO = Image.fromarray(noise(60, 45)).resize((120, 90))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_path_bytes_and_an_open_file_give_the_same_image(
    file_format: str, tmp_path: Path
) -> None:
    path = tmp_path / "image"  # the content says what it is, not the name
    content = encoded(PHOTO, file_format)
    path.write_bytes(content)
    with Image.open(path) as opened:
        expected = opened.convert("RGB").tobytes()
    with open(path, "rb") as file:
        images = [read_image(source) for source in (path, str(path), content, file)]
    path.unlink()  # all of it is in memory
    for image in images:
        assert image.size == PHOTO.size
        assert image.convert("RGB").tobytes() == expected
    assert read_image(base64.b64decode(base64.b64encode(content))).size == PHOTO.size


def test_exif_orientation_is_not_applied_unless_it_is_asked_for() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees to see it
    image = read_image(encoded(PHOTO, "JPEG", exif=exif))
    assert image.getexif()[0x0112] == 6 and image.size == PHOTO.size
    np.testing.assert_array_equal(processor().pixels(image), bytes_of(clip(), image))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
def test_a_truncated_image_is_refused_wherever_it_ends(
    file_format: str, kept: float, tmp_path: Path
) -> None:
    content = encoded(PHOTO, file_format)
    path = tmp_path / "cut"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.kind in (ImageFault.DAMAGED, ImageFault.NOT_AN_IMAGE)
    assert str(caught.value).startswith(f"{path}: is ") and "\n" not in str(caught.value)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def huge_png(side: int) -> bytes:
    """A PNG that claims side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def sixteen_bit(file_format: str) -> bytes:
    return encoded(Image.fromarray(np.full((5, 5), 4000, np.uint16)), file_format)


UNUSABLE: dict[str, tuple[bytes, ImageFault, str]] = {
    "empty": (b"", ImageFault.EMPTY, "is empty."),
    "text": (b"<html>404</html>", ImageFault.NOT_AN_IMAGE, "is no image that Pillow knows."),
    "bomb": (huge_png(20_000), ImageFault.TOO_LARGE, "has too many pixels (Image size (4000000"),
    "png": (
        encoded(PHOTO, "PNG")[:200] + bytes(100) + encoded(PHOTO, "PNG")[300:],
        ImageFault.DAMAGED,
        "is truncated or damaged (",
    ),
    "16-bit": (
        sixteen_bit("PNG"),
        ImageFault.TOO_DEEP,
        "has values that 8 bits a channel cannot hold (mode I;16, from 4000 to 4000).",
    ),
    "16-bit tiff": (sixteen_bit("TIFF"), ImageFault.TOO_DEEP, "has values that 8 bits a"),
    "floats": (
        encoded(Image.fromarray(np.full((5, 5), 0.5, np.float32)), "TIFF"),
        ImageFault.TOO_DEEP,
        "has values that 8 bits a channel cannot hold (mode F, from 0.5 to 0.5).",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_named_with_its_kind(case: str, tmp_path: Path) -> None:
    content, kind, message = UNUSABLE[case]
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    for source, name, shown in ((path, None, path), (content, None, "the image"),
                                (content, "row 3", "row 3")):  # fmt: skip
        with pytest.raises(ImageError) as caught:
            read_image(source, name=name)
        error = caught.value
        assert isinstance(error, UserError) and error.kind == kind and error.name == str(shown)
        assert str(error).startswith(f"{shown}: {message}"), str(error)
        assert str(error).endswith(". Replace the image, or leave out what names it")
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, kind in (
        ("absent.jpg", ImageFault.MISSING),
        ("file/x.jpg", ImageFault.MISSING),
        ("", ImageFault.NOT_A_FILE),
    ):
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert caught.value.kind == kind
        assert str(caught.value).startswith(f"{tmp_path / name}: {kind}.")


def test_a_path_that_the_system_refuses_is_the_images_fault(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    os.symlink(loop, loop)
    for path, detail in (
        (loop, "Too many levels of symbolic links"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "zero\0byte", "embedded null byte"),
    ):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert caught.value.kind == ImageFault.UNREADABLE
        assert f": cannot be read ({detail}). Replace" in str(caught.value)


def test_a_failing_disk_is_no_fault_of_the_image() -> None:
    nowhere = Path("/proc/self/mem")  # whose first page gives EIO, as a bad block does
    if not nowhere.exists():
        pytest.skip("needs Linux's /proc")
    with pytest.raises(OSError) as caught:
        read_image(nowhere)
    assert caught.value.errno == errno.EIO


def test_a_pipe_and_a_device_are_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(ImageError, match="is a pipe, a socket or a device") as caught:
            read_image(path)
        assert caught.value.kind == ImageFault.NOT_REGULAR


def test_a_name_that_is_long_or_no_plain_text_is_cut_and_quoted() -> None:
    assert show_name("a b/ü.png") == "a b/ü.png"
    assert show_name("x" * 200) == "x" * 200
    assert show_name("") == "''"
    assert show_name("two\nlines") == r"'two\nlines'"
    assert show_name("\ud800") == r"'\ud800'"
    long = show_name("folder/" + "x" * 5000 + "/last.png")
    assert long.startswith("'folder/xxx") and long.endswith("xxx/last.png'") and len(long) == 155
    with pytest.raises(ImageError) as caught:
        read_image("n" * 5000)
    assert len(str(caught.value)) < 300 and caught.value.name == "n" * 5000


def test_a_decoded_image_must_be_as_whole_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(PHOTO, "PNG")[:2000])
    closed = PHOTO.copy()
    closed.close()
    for image, kind in (
        (Image.open(path), ImageFault.DAMAGED),
        (closed, ImageFault.DAMAGED),
        (Image.new("RGB", (0, 5)), ImageFault.EMPTY),
        (Image.fromarray(np.full((5, 5), 4000, np.uint16)), ImageFault.TOO_DEEP),
        (Image.fromarray(np.full((5, 5), 0.5, np.float32)), ImageFault.TOO_DEEP),
    ):
        with pytest.raises(ImageError) as caught:
            open_image(image)
        assert caught.value.kind == kind and str(caught.value).startswith("the image: ")
    assert open_image(PHOTO) is PHOTO
    path.write_bytes(encoded(PHOTO, "PNG"))
    assert open_image(Image.open(path)).tobytes() == PHOTO.tobytes()


def test_random_damage_gives_an_image_or_an_image_error() -> None:
    generator = np.random.default_rng(0)
    refused = 0
    for file_format in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        whole = encoded(PHOTO.resize((20, 15)), file_format)
        for _ in range(60):
            damaged = np.frombuffer(whole, np.uint8).copy()
            damaged[generator.integers(len(damaged), size=4)] ^= 0x55
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of odd metadata
                try:
                    read_image(damaged.tobytes())
                except ImageError:
                    refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size_pixels": 0}, "size_pixels = 0: must be at least 1"),
        ({"mean": (0.5, 0.5)}, "mean = (0.5, 0.5): must be three numbers"),
        ({"mean": (123.0, 116.0, 104.0)}, "mean = (123.0, 116.0, 104.0): must be between 0 and 1"),
        ({"std": (0.2, 0.0, 0.2)}, "std = (0.2, 0.0, 0.2): must be above 0"),
    ],
)
def test_an_impossible_processor_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(processor(), **fields)
    assert str(caught.value).startswith(message)
