"""How an image file is opened: one policy for training, evaluation, prediction, pictures, classification and checks.

- **Formats**: `FORMATS` and no other, by a file's first bytes and whatever its name; none of them runs a program.
- **Size**: above `MAX_PIXELS`, or what ``INPUT.MAX_PIXELS`` or ``--max-pixels`` says, a header is enough to refuse it.
- **Orientation**: EXIF's is applied; a damaged EXIF block counts as none.
- **Depth**: see `to_8_bits`; nothing is clipped.
- **Transparency**: an image with an alpha channel or a transparent colour is laid on white.
- **Animations and pages**: the first.

What cannot be read raises `BadImageError`, one line that names the file.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from hiera_det.data.limits import MAX_PIXELS
from hiera_det.errors import InputError

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "BadImageError",
    "ImageHeader",
    "StrPath",
    "check_size",
    "read_header",
    "read_image",
    "to_8_bits",
    "without_alpha",
]

#: Pillow's decoders that are tried; not EPS, which would start Ghostscript whatever the file is called.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")

#: What damaged bytes raise inside Pillow's decoders (`OSError` and `SyntaxError` are its own two).
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, LookupError, TypeError),
    *(ArithmeticError, AttributeError, RuntimeError, MemoryError),
)

_ORIENTATION = 0x0112  # EXIF tag
_TIFF_SIZE = (256, 257)  # tags of width and height
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_SWAPPED = 5  # from this orientation on, width and height change places

_limit_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a worker process must not wait for a thread that it does not have
    os.register_at_fork(
        before=_limit_lock.acquire, after_in_parent=_limit_lock.release, after_in_child=_limit_lock.release
    )

StrPath: TypeAlias = str | os.PathLike[str]


class BadImageError(InputError):
    """An image that cannot be read; the message is ``<file>: <reason>``."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself.

    Attributes:
        width: in pixels, as shown, EXIF orientation applied.
        height: likewise.
        mode: Pillow's, such as "RGB" or "I;16".
        is_rotated: whether the stored width and height are the other way round.
        is_transparent: whether it has an alpha channel or a transparent colour.
    """

    width: int
    height: int
    mode: str
    is_rotated: bool
    is_transparent: bool


def read_header(path: StrPath, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header of an image file, none of its pixels.

    Raises:
        BadImageError: it is no image in one of `FORMATS`, or has more pixels.
    """
    with _opened(path, max_pixels) as image:
        rotated = _orientation(image) >= _FIRST_SWAPPED
        # Pillow 11.3 and newer give a TIFF's size upright, and the pixels too.
        stored = tuple(image.tag_v2[tag] for tag in _TIFF_SIZE) if isinstance(image, TiffImageFile) else image.size
        width, height = stored[::-1] if rotated else stored
        return ImageHeader(width, height, image.mode, rotated, _is_transparent(image))


def check_size(file: StrPath, found: tuple[int, int], said: tuple[int, int]) -> None:
    """Refuse an image of another width and height than its annotations were made for.

    Raises:
        BadImageError: both sizes and the file.
    """
    if found != said:
        sizes = f"is {found[0]}x{found[1]} pixels, and the data set says {said[0]}x{said[1]}"
        raise BadImageError(f"{os.fspath(file)}: {sizes}")


def read_image(path: StrPath, mode: Literal["RGB", "L"] = "RGB", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file upright, with 8 bits per channel.

    Args:
        path: the file.
        mode: colour or grey.
        max_pixels: see the module.

    Raises:
        BadImageError: it cannot be read, or has more pixels.
    """
    with _opened(path, max_pixels) as image:
        image.load()
        upright = _UPRIGHT.get(_orientation(image))
        plain = without_alpha(image)
        plain = plain.transpose(upright) if upright is not None else plain
        return plain if plain.mode == mode else plain.convert(mode)


def to_8_bits(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pixels of any type as bytes, by a rule that clips nothing.

    Bytes stay. 16-bit numbers, signed or not, are 0 to 65535, and the high byte is kept. Wider whole numbers are
    0 to 255 where none is larger, else as 16-bit ones. Fractions are 0 to 1 where none is larger, else 0 to 255.
    Truth values are black and white.

    Raises:
        ValueError: there are numbers out of these ranges, or that are no numbers.
    """
    kind = pixels.dtype
    if kind == np.uint8:
        return pixels
    if kind == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind.kind not in "iuf":
        raise ValueError(f"its pixels are of type {kind}; give bytes, whole numbers or fractions")
    least, most = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    top = 255 if kind.kind == "f" or kind.itemsize == 1 else 65535
    if not (least >= 0 and most <= top):  # NaN too
        raise ValueError(f"its pixels are from {least:g} to {most:g}; scale them to 0-{'1' if top == 255 else top}")
    if kind.kind == "f":
        return np.rint(pixels * (255 if most <= 1 else 1)).astype(np.uint8)
    if kind.itemsize == 1 or (kind.itemsize > 2 and most <= 255):
        return pixels.astype(np.uint8)
    return (pixels >> 8).astype(np.uint8)


def without_alpha(image: Image.Image) -> Image.Image:
    """An image of any mode as "RGB" or "L", without clipping and without colours that nobody sees.

    Raises:
        ValueError: see `to_8_bits`.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = np.asarray(image)
        if image.mode == "I" and image.format == "PNG":  # older Pillow's name for grey of 16 bits
            pixels = pixels.astype(np.uint16)
        return Image.fromarray(to_8_bits(pixels))
    if _is_transparent(image):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


@contextmanager
def _opened(path: StrPath, max_pixels: int) -> Iterator[Image.Image]:
    """An image whose header is read and whose size is allowed; what is raised inside becomes a `BadImageError`."""
    name = os.fspath(path)
    try:
        kind = stat.S_IFMT(os.stat(name).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):  # a pipe would be waited for, a device read without end
            raise OSError("it is no regular file")
        # By its name, Pillow 13 would map a plain TIFF into memory and mix up the pixels of one that is turned.
        with open(name, "rb") as file, _open(file) as image:
            _check_size(image.size, max_pixels)
            yield image
    except BadImageError:
        raise
    except UnidentifiedImageError:
        reason = f"none of {', '.join(FORMATS)}"
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    else:
        return
    raise BadImageError(f"{name}: cannot be read as an image ({reason})")


def _open(file: IO[bytes]) -> Image.Image:
    with _limit_lock:  # Pillow's own limit would warn at one size and refuse at another
        own, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = own


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ValueError(
            f"{width}x{height} are {width * height / 1e6:.0f} million pixels, more than {max_pixels / 1e6:g} million: "
            "cut it into tiles, or raise the limit, INPUT.MAX_PIXELS or --max-pixels"
        )


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if value in _UPRIGHT else 1


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
