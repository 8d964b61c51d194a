"""From images to pixels: the one decoder of all that is read, of encoded bytes and of Pillow's own objects.

What is seen is what a viewer shows: upright, 8 bits a channel, on white where it is transparent. What cannot be brought
into that form without a guess is refused. Colour profiles are not applied.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from untrain.data.geometry import Geometry, Size
from untrain.data.sections import Interpolation
from untrain.errors import DataError
from untrain.lazy import Image, np, torch
from untrain.reading import check_unpacked

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"),
)
"""Files of a folder that are images; others are left out."""

FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What images may be encoded in, as Pillow calls it. Of its others some start programs: EPS is drawn by Ghostscript."""

_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""EXIF's orientation → what makes the image upright."""
_ORIENTATION, _TIFF_BITS, _TIFF_ZERO_IS = 0x0112, 258, 262
"""Numbers of tags in EXIF and TIFF."""
_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16, "I": 32, "F": 32}
"""Bits of a pixel in memory; 8 for each band in all other modes."""
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_WITH_KEY = ("1", "L", "P", "RGB")
"""Modes of which one colour, or each colour of a palette, may be transparent."""
_KEY = "transparency"
"""Where Pillow keeps which."""
_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


@dataclass
class Remarks:
    """What was decided of images without being asked; each kind is said once, of the first image that it happened to.

    Attributes:
        said: kinds that were said.
        waiting: what is to be said next.
    """

    said: set[str] = field(default_factory=set)
    waiting: list[str] = field(default_factory=list)

    def add(self, kind: str, text: str) -> None:
        """Keeps a text, unless something of this kind was said."""
        if kind not in self.said:
            self.said.add(kind)
            self.waiting.append(text)

    def warn(self) -> None:
        """Says what waits."""
        while self.waiting:
            warnings.warn(self.waiting.pop(0), stacklevel=3)


def decode(
    data: bytes,
    name: str,
    image_size: Size = None,
    grayscale: bool = False,
    remarks: Remarks | None = None,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """Decodes an encoded image.

    Args:
        data: the file's bytes.
        name: of the image, in messages.
        image_size: see `to_tensor`, and so for grayscale and remarks.
        interpolation: of a resized image.

    Returns:
        uint8 [3 or 1, H, W].

    Raises:
        DataError: if it is damaged, too large, or of another format than `FORMATS`; and as `to_tensor`.
    """
    remarks = remarks or Remarks()
    with _naming(name), Image.open(io.BytesIO(data), formats=_formats()) as image:
        bits = _BITS.get(image.mode, 8 * len(image.getbands()))
        check_unpacked(name, image.width * image.height * bits // 8, len(data))
        pixels = np.array(_fitted(_flatten(image, name, grayscale, remarks), image_size, interpolation))
    remarks.warn()
    return _channels_first(pixels)


def to_tensor(
    image: Image.Image | np.ndarray,
    name: str,
    image_size: Size = None,
    grayscale: bool = False,
    remarks: Remarks | None = None,
) -> Tensor:
    """Returns the pixels of a Pillow image, which stays as it is, or of an array.

    Args:
        image: of any mode; of several frames the one it stands at, which is the first where nobody moved on. Or uint8
            [H, W] or [H, W, 1, 2, 3 or 4], the last of 2 and 4 being alpha, or uint16 [H, W].
        name: in messages.
        image_size: the shorter side is resized to so many pixels and the centre cut out, a square; or how exactly;
            None: as it is.
        grayscale: one channel instead of red, green and blue.
        remarks: by what it is said that there were other frames, or tags that cannot be read.

    Returns:
        uint8 [3 or 1, H, W].

    Raises:
        DataError: if it is damaged, or has pixels of which it is not known what is white: integers of 32 bits, floats.
    """
    remarks = remarks or Remarks()
    with _naming(name):
        image = _of_array(image, name) if isinstance(image, np.ndarray) else image
        pixels = np.array(_fitted(_flatten(image, name, grayscale, remarks), image_size))
    remarks.warn()
    return _channels_first(pixels)


def _of_array(pixels: np.ndarray, name: str) -> Image.Image:
    plain = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    grey, colours = plain.ndim == 2, plain.ndim == 3 and plain.shape[2] in (2, 3, 4)
    if not (plain.dtype == np.uint8 and (grey or colours)) and not (plain.dtype == np.uint16 and grey):
        raise DataError(
            f"{name} is an array {list(pixels.shape)} of {pixels.dtype}: give uint8 [H, W, 3], or [H, W, 4] with alpha."
        )
    return Image.fromarray(np.ascontiguousarray(plain))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turns what decoders raise into a DataError that names the image."""
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name} is too large to be decoded safely: {error} Shrink or remove it.") from error
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        raise DataError(f"{name} cannot be decoded as an image: {error}. Restore it or remove it.") from error


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1).contiguous()


def _fitted(image: Image.Image, size: Size, interpolation: Interpolation = "bilinear") -> Image.Image:
    """The shorter side resized to `size` pixels and the centre cut out, a square; or as the geometry says."""
    if isinstance(size, Geometry):
        return size.fit(image)
    if size is None or image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling[interpolation.upper()])
    left, top = (width - size) // 2, (height - size) // 2
    return resized.crop((left, top, left + size, top + size))


# ── what files tell without being decoded ──


_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_TOLD_WHEN_DECODED = (b"acTL", b"eXIf")
"""Chunks of PNG with further frames and with an orientation."""
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of the segment that has the size."""
_JPEG_TAGS = 0xE1
"""The marker of EXIF and XMP."""


def size_of_whole(data: bytes) -> tuple[int, int] | None:
    """Width and height of an encoded image that is whole as far as this shows without decoding it.

    It is, where it is a PNG of 8 bits or less whose chunks all have their checksums, or a JPEG that begins with its
    size and ends with its end. What is damaged between these in a JPEG, decoding alone can tell.

    Returns:
        None of any other, of which nothing is known.
    """
    try:
        if data.startswith(_PNG) and data.endswith(_PNG_END):
            return _size_of_png(data)
        if data.startswith(_JPEG) and data.endswith(_JPEG_END):
            return _size_of_jpeg(data)
    except (struct.error, IndexError):  # cut off
        return None
    return None


def _size_of_png(data: bytes) -> tuple[int, int] | None:
    """By the specification of the W3C, chunks of length, type, content and CRC-32 of type and content."""
    view, place = memoryview(data), len(_PNG)
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if data[place + 4 : place + 8] in _TOLD_WHEN_DECODED:
            return None
        if zlib.crc32(view[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return None
        place = end + 4
    width, height, depth = struct.unpack_from(">IIB", data, len(_PNG) + 8)
    return (width, height) if data[12:16] == b"IHDR" and depth <= 8 else None


def _size_of_jpeg(data: bytes) -> tuple[int, int] | None:
    """By ITU-T T.81, segments of a marker and a length; None where tags may lay it on its side."""
    place, tagged = 2, False
    while data[place] == 0xFF:
        if data[place + 1] in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return None if tagged and width != height else (width, height)
        tagged = tagged or data[place + 1] == _JPEG_TAGS
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


# ── what is seen ────────────────────────────────────────────────────────────────────────────────────────────────


def _flatten(image: Image.Image, name: str, grayscale: bool, remarks: Remarks) -> Image.Image:
    """The image upright, in mode RGB, or L if grayscale, over white where it is transparent."""
    if _has_other_frames(image):
        remarks.add("frames", f"{name} has several frames: the first is read, and so of other images.")
    depth = _depth(image)
    image.load()
    turn = _TURNS.get(_orientation(image, name, remarks))
    if image.mode[0] in "IF":
        flat = _with_8_bits(image, name, depth)
    elif _is_transparent(image):
        flat = _over_white(image, name, depth)
    elif image.mode in _OPAQUE:
        flat = image.convert("RGB") if image.mode == "LAB" else image  # which has no way to L
    else:
        raise DataError(f"{name} has {image.mode!r} pixels, whose colours are not known here: save it as RGB.")
    flat = flat.convert("L" if grayscale else "RGB")
    return flat if turn is None else flat.transpose(Image.Transpose[turn])


def _has_other_frames(image: Image.Image) -> bool:
    """Whether further frames follow the one it stands at, the first; those of MPO are previews of a photograph."""
    if image.format == "MPO" or image.tell() > 0:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except (ValueError, OSError):  # its file is closed, and cannot be asked any more
        return False


def _orientation(image: Image.Image, name: str, remarks: Remarks) -> int:
    """How the image lies, by EXIF or XMP; 1, upright, where no tag says so."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # tags are written by all kinds of programs, and damaged ones can raise nearly anything
        remarks.add("tags", f"{name} has tags (EXIF) that cannot be read ({error}): it is taken as it lies.")
        return 1


def _depth(image: Image.Image) -> int:
    """Bits of a grey value in the file, where the file is not read yet; else those that it has in memory."""
    stored = getattr(image, "tag_v2", {}).get(_TIFF_BITS)
    if stored is not None:
        return int(stored[0] if isinstance(stored, tuple) else stored)
    tile = getattr(image, "tile", None)
    mode = tile[0][3] if tile else None
    found = re.search(r";(\d+)", str(mode[0] if isinstance(mode, tuple) and mode else mode))
    return int(found[1]) if found else 16 if image.mode[0] == "I" else 8


def _with_8_bits(image: Image.Image, name: str, depth: int) -> Image.Image:
    """An image of integers of 16 bits by their upper eight, as Pillow reads colours of 16 bits."""
    whole = image.mode == "I" and image.format in ("PNG", "PPM")  # an older Pillow's mode of 16 bits
    if not (image.mode.startswith("I;16") or whole):
        raise DataError(
            f"{name} has {image.mode!r} pixels of 32 bits, and what is black and white among them is not known: scale "
            "it to 8 or 16 bits."
        )
    values = np.asarray(image).astype(np.uint16)
    grey = (values >> (min(depth, 16) - 8)).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(_TIFF_ZERO_IS) == 0:  # white; Pillow heeds that of 8 bits alone
        grey = 255 - grey
    key = image.info.get(_KEY)
    if key is not None:
        grey = np.where(values == key, np.uint8(255), grey)
    return Image.fromarray(grey)


def _is_transparent(image: Image.Image) -> bool:
    palette = getattr(image.palette, "mode", "") if image.mode == "P" else ""
    return image.mode in _WITH_ALPHA or palette.endswith("A") or (image.mode in _WITH_KEY and _KEY in image.info)


def _over_white(image: Image.Image, name: str, depth: int) -> Image.Image:
    """A transparent image over white, in mode RGB."""
    key = image.info.get(_KEY)
    if image.mode == "L" and isinstance(key, int) and depth < 8:  # the pixels were scaled to 8 bits, the key was not
        image = image.copy()
        image.info[_KEY] = key * 255 // ((1 << depth) - 1)
    if image.mode == "RGB" and isinstance(key, tuple) and (depth == 16 or max(key) > 255):
        raise DataError(
            f"{name} has colours of 16 bits, one of which is transparent, and no library here tells where: save it "
            "with an alpha channel."
        )
    if image.mode == "La":
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
