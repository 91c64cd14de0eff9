"""Images: bytes -> a whole PIL image -> uint8 pixels of the tower's size -> fp32 for the tower.

1. ``read_image`` decodes all of a file, or says what is wrong with it. Nothing is replaced, and no
   truncated image passes: the original sets Pillow's ``LOAD_TRUNCATED_IMAGES`` and trains on grey.
2. ``ImageProcessor.pixels`` makes it RGB, gives it the aspect and size, (3, S, S) uint8: what a
   worker computes and what is held ahead and moved to the device, a quarter of fp32's bytes.
3. ``ImageProcessor.normalise`` makes that the tower's input, on the device.

2 and 3 together equal transformers' processors of CLIP and SigLIP without torchvision, byte for
byte before 3. These do not obey EXIF's orientation; neither does 2 unless ``orientation`` is
as_shown.

    square  shortest edge to S, then the centre           CLIP, the published first stage of v1
    pad     to a square of the mean's colour, then square the published other stages
    squash  to S x S whatever the shape                   SigLIP
"""

import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mobilellama.config import ConfigError, DataError, one_line, require_at_least
from mobilellama.vlm.data.orientation import Orientation, note_tiff_mark, upright

if TYPE_CHECKING:
    from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of SigLIP's."""
PREPROCESSOR_FILE = "preprocessor_config.json"

AspectRatio = Literal["square", "pad", "squash"]

_PROCESSOR_FILE = "processor_config.json"  # transformers 5 writes it beside a tokenizer
_MOST_PIXELS = 178_956_970  # where Pillow sees a decompression bomb; 0.7 GB as it holds RGB
_MOST_SHOWN = 200  # characters of a name in a message
_WIDE_MODES = ("I", "F")  # beginnings of the modes with more than 8 bits a value


class ImageFault(StrEnum):
    """What is wrong with an image; the value says it of a file."""

    MISSING = "is not there"
    NOT_A_FILE = "is a folder"
    NOT_REGULAR = "is a pipe, a socket or a device"
    UNREADABLE = "cannot be read"
    FORBIDDEN = "may not be read"
    EMPTY = "is empty"
    NOT_AN_IMAGE = "is no image that Pillow knows"
    DAMAGED = "is truncated or damaged"
    TOO_LARGE = "has too many pixels"
    TOO_DEEP = "has values that 8 bits a channel cannot hold"


class ImageError(DataError):
    """An image that cannot be used; the message reads ``NAME: kind (detail). remedy``."""

    def __init__(self, name: str, kind: ImageFault, detail: str = "") -> None:
        super().__init__(name, kind, detail)  # all in args, so that it can be pickled
        self.name, self.kind, self.detail = name, kind, detail

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        name = show_name(self.name)
        return f"{name}: {self.kind}{detail}. Replace the image, or leave out what names it"


def show_name(name: str) -> str:
    """Return a name for a message: a long one without its middle, quoted where it is not plain."""
    if len(name) > _MOST_SHOWN:
        return repr(f"{name[: _MOST_SHOWN // 2]}...{name[-_MOST_SHOWN // 4 :]}")
    return name if name and name.isprintable() else repr(name)


def read_image(source: str | Path | bytes | BinaryIO, *, name: str | None = None) -> Image.Image:
    """Decode an image wholly, the first one where a file holds several, in its own mode.

    Args:
        source: a path, the content of a file, or an open file, read from where it stands.
        name: what messages call it; None is the path, or ``the image``.

    Raises:
        ImageError: there is none, or none that is whole; the message names it.
        OSError: it cannot be read for a reason that is not the image's, as a failing disk.
    """
    if isinstance(source, str | Path):
        name = str(source) if name is None else name
        content = _content(Path(source), name)
    else:
        name = "the image" if name is None else name
        content = source if isinstance(source, bytes) else source.read()
    if not content:
        raise ImageError(name, ImageFault.EMPTY)
    return require_whole(lambda: Image.open(io.BytesIO(content)), name=name)


def require_whole(
    source: Image.Image | Callable[[], Image.Image], *, name: str = "the image"
) -> Image.Image:
    """Return an image with all its pixels, eight bits of each channel.

    Args:
        source: the image, or what opens it; its pixels may be in a file yet.
        name: what messages call it.

    Raises:
        ImageError: it is not whole, was closed, or has no pixel.
    """
    try:
        image = source if isinstance(source, Image.Image) else source()
        note_tiff_mark(image)
        image.load()
        if not (image.width and image.height):
            raise ImageError(name, ImageFault.EMPTY, f"{image.width} x {image.height} pixels")
        _require_eight_bits(image, name)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(name, ImageFault.NOT_AN_IMAGE) from None
    except Image.DecompressionBombError as error:
        raise ImageError(name, ImageFault.TOO_LARGE, one_line(error)) from None
    except Exception as error:
        # Pillow's decoders raise whatever the damage makes them stumble over: OSError,
        # SyntaxError, struct.error, ValueError, IndexError, EOFError, zlib.error, ...
        raise ImageError(name, ImageFault.DAMAGED, one_line(error)) from None
    return image


def _content(path: Path, name: str) -> bytes:
    """Return a file's bytes in one read: on a network's disk a decoder's many small ones cost."""
    try:
        if fault := _fault_of_mode(path.stat().st_mode):
            raise ImageError(name, fault)
        return path.read_bytes()
    except OSError as error:
        kind, detail = _fault_of_error(error)
        raise ImageError(name, kind, detail) from None
    except ValueError as error:  # a zero byte, or half a surrogate pair
        raise ImageError(name, ImageFault.UNREADABLE, one_line(error)) from None


def fault_of_path(path: Path) -> ImageFault | None:
    """Return why a path leads to no image, from one stat of it; None where it may be one.

    Raises:
        OSError: the stat failed for a reason that is not the image's, as a failing disk.
    """
    try:
        found = path.stat()
    except OSError as error:
        return _fault_of_error(error)[0]
    except ValueError:  # a zero byte, or half a surrogate pair
        return ImageFault.UNREADABLE
    return _fault_of_mode(found.st_mode) or (None if found.st_size else ImageFault.EMPTY)


def _fault_of_mode(mode: int) -> ImageFault | None:
    if stat.S_ISREG(mode):
        return None
    # To open a pipe would wait for a writer, and a device may never end.
    return ImageFault.NOT_A_FILE if stat.S_ISDIR(mode) else ImageFault.NOT_REGULAR


def _fault_of_error(error: OSError) -> tuple[ImageFault, str]:
    """Return what a path's error says of the image, and a detail; raise one that says nothing."""
    faults = {  # of the path itself; any other, as a failing disk's, is raised as it is
        errno.ENOENT: ImageFault.MISSING,
        errno.ENOTDIR: ImageFault.MISSING,
        errno.EISDIR: ImageFault.NOT_A_FILE,
        errno.EACCES: ImageFault.FORBIDDEN,
        errno.EPERM: ImageFault.FORBIDDEN,
        errno.ENAMETOOLONG: ImageFault.UNREADABLE,
        errno.ELOOP: ImageFault.UNREADABLE,
        errno.EILSEQ: ImageFault.UNREADABLE,
    }
    if error.errno not in faults:
        raise error
    kind = faults[error.errno]
    return kind, os.strerror(error.errno) if kind == ImageFault.UNREADABLE else ""


def _require_eight_bits(image: Image.Image, name: str) -> None:
    """Raise ImageError if conversion to RGB would clip: most 16-bit greys would become white."""
    if not image.mode.startswith(_WIDE_MODES):
        return
    low, high = np.asarray(image).min(), np.asarray(image).max()
    # Floating-point images are mostly between 0 and 1, which would become black.
    if image.mode == "F" or not 0 <= low <= high <= 255:
        raise ImageError(name, ImageFault.TOO_DEEP, f"mode {image.mode}, from {low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """How an image becomes a tower's input. Every field is part of a run's identity."""

    size_pixels: int
    """Side of the square that the tower takes."""
    mean: tuple[float, float, float] = CLIP_MEAN
    """Of red, green and blue between 0 and 1; subtracted, and the colour of ``pad``."""
    std: tuple[float, float, float] = CLIP_STD
    """What the difference from the mean is divided by."""
    aspect_ratio: AspectRatio = "square"
    """square: the centre; pad: all of it, on the mean's colour; squash: all of it, distorted."""
    transparency: Literal["white", "ignored"] = "white"
    """white: over white, as transformers 5; ignored: drop alpha, as the original and version 4."""

    orientation: Orientation = "as_stored"
    """as_shown: turned as EXIF's orientation says, as viewers show it; as_stored: not turned, as
    CLIP's processor. Models from before this field have as_stored."""

    def __post_init__(self) -> None:
        require_at_least("size_pixels", self.size_pixels, 1)
        if self.orientation not in get_args(Orientation):
            rule = f"must be {' or '.join(get_args(Orientation))}"
            raise ConfigError("images.orientation", self.orientation, rule, "Give one of them")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                rule = "must be three numbers, of red, green and blue"
                raise ConfigError(name, values, rule, "Give three")
        if not all(0 <= value <= 1 for value in self.mean):
            raise ConfigError("mean", self.mean, "must be between 0 and 1", "Give such numbers")
        if not all(value > 0 for value in self.std):
            raise ConfigError("std", self.std, "must be above 0", "Give such numbers")

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the image at the tower's size, (3, S, S), channels red, green, blue.

        Raises:
            ImageError: it is so long and thin that it would not fit into memory on the way.
        """
        image = self._rgb(self.oriented(image))
        if self.aspect_ratio == "squash":
            image = _resize(image, self.size_pixels, self.size_pixels)
        elif self.aspect_ratio == "pad":
            image = self._padded(image)
        else:
            image = self._centre(image)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def oriented(self, image: Image.Image) -> Image.Image:
        """Return the image turned as `orientation` says; once, whatever it is given again."""
        return upright(image) if self.orientation == "as_shown" else image

    def normalise(self, pixels: "Tensor") -> "Tensor":
        """Return (pixels / 255 - mean) / std on the pixels' device.

        Args:
            pixels: (..., 3, S, S) uint8.

        Returns:
            As many in fp32.
        """
        import torch

        # Without non_blocking a GPU would wait here for all work before it.
        mean, std = (
            torch.tensor(values).view(3, 1, 1).to(pixels.device, non_blocking=True)
            for values in (self.mean, self.std)
        )
        return (pixels.float() / 255 - mean) / std

    def to_hf(self) -> dict[str, object]:
        """Return the preprocessor_config.json of which transformers makes this processor.

        Of CLIP's, which has no padding: who loads it pads first, as the original code does.
        """
        size = {"height": self.size_pixels, "width": self.size_pixels}
        squash = self.aspect_ratio == "squash"
        of_clip = {"crop_size": size, "do_center_crop": True, "do_convert_rgb": True}
        return {
            **({} if squash else of_clip),
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(self.mean),
            "image_processor_type": "SiglipImageProcessor" if squash else "CLIPImageProcessor",
            "image_std": list(self.std),
            # No field of transformers: who loads it there turns images first.
            **({} if self.orientation == "as_stored" else {"orientation": self.orientation}),
            "resample": int(Image.Resampling.BICUBIC),
            "rescale_factor": 1 / 255,
            "size": size if squash else {"shortest_edge": self.size_pixels},
        }

    def _rgb(self, image: Image.Image) -> Image.Image:
        keyed = image.info.get("transparency") is not None
        if image.mode == "RGB" and not keyed:
            return image
        # The A of LAB is a colour, which transformers takes for alpha: all becomes white there.
        has_alpha = keyed or ("A" in image.getbands() and image.mode != "LAB")
        if has_alpha and self.transparency == "white":
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return image.convert("RGB")

    # Pillow resizes row by row, then column by column, and rounds to bytes in between. A wide
    # image's two passes are therefore told apart here, with the same result: the second need not
    # touch what is cropped away, nor the first the rows of padding, whose colour it keeps.

    def _centre(self, image: Image.Image) -> Image.Image:
        size, (width, height) = self.size_pixels, image.size
        if width > height:
            wide = int(size * width / height)
            left = (wide - size) // 2
            rows = _resize(image, wide, height).crop((left, 0, left + size, height))
            return _resize(rows, size, size)
        tall = int(size * height / width)
        top = (tall - size) // 2
        return _resize(image, size, tall).crop((0, top, size, top + size))

    def _padded(self, image: Image.Image) -> Image.Image:
        size, (width, height) = self.size_pixels, image.size
        side = max(width, height)
        if width > height:
            image = _resize(image, size, height)
        canvas_width = size if width > height else side
        _require_room(canvas_width, side, (width, height))
        canvas = Image.new("RGB", (canvas_width, side), tuple(int(v * 255) for v in self.mean))
        canvas.paste(image, ((canvas_width - image.width) // 2, (side - height) // 2))
        return _resize(canvas, size, size)


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    _require_room(width, height, image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _require_room(width: int, height: int, size: tuple[int, int]) -> None:
    if width * height > _MOST_PIXELS:
        shape = f"{size[0]} x {size[1]}, which becomes {width} x {height} before it is cropped"
        raise ImageError("the image", ImageFault.TOO_LARGE, shape)
