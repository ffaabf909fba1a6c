"""Single image files: what kind they are, and reading the unusual ones with Pillow.

Training decodes with TensorFlow's C++ operations. Their reach is smaller than Pillow's, so each
file is looked at once: the usual kinds are left as they are, the others (CMYK JPEG, palette or
compressed BMP, GIF) are to be written again as plain PNG by `transcode`.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rfd_tf.data.file_heads import HEAD_BYTES, plain_jpeg, plain_png

# Kinds of encoded image, by what decoding them takes.
JPEG = 0
PNG = 1
TRANSPARENT_PNG = 2
BMP = 3
UNUSUAL = -1  # to be transcoded

_EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif"})
_FORMATS = ("JPEG", "PNG", "BMP", "GIF")
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_EXIF_ORIENTATION = 0x0112
_BMP_BYTES = 34  # reaches the compression field of a BMP header

#: Images of more pixels are left out, by their header, before any memory is asked for. (Twice
#: Pillow's `MAX_IMAGE_PIXELS`, where it raises.)
MOST_PIXELS = 178_956_970


# (A named pipe that took the place of a file would keep one waiting for ever.)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_READ |= getattr(os, "O_BINARY", 0)


class Header(NamedTuple):
    """What is known of an image file without decoding it.

    Attributes:
        kind: `JPEG`, `PNG`, `TRANSPARENT_PNG`, `BMP` or `UNUSUAL`.
        height: in pixels, as stored.
        width: in pixels, as stored.
        orientation: the EXIF orientation, 1 (upright as stored) to 8.
    """

    kind: int
    height: int
    width: int
    orientation: int


def has_image_extension(path: str) -> bool:
    """Tells whether the file's name claims a format that is read here."""
    return os.path.splitext(path)[1].lower() in _EXTENSIONS


def sniff(head: bytes) -> str | None:
    """Returns the format that a file's first bytes announce: JPEG, PNG, BMP, GIF, or None."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    # Two letters are little to go by: a text may start so. The header's size settles it.
    if head.startswith(b"BM") and len(head) >= 18:
        if struct.unpack_from("<I", head, 14)[0] in _BMP_HEADER_SIZES:
            return "BMP"
    return None


def _is_plain_bmp(head: bytes) -> bool:
    """Tells whether a BMP is 24 bits a pixel, uncompressed: the only kind TensorFlow gets right."""
    if len(head) < _BMP_BYTES or struct.unpack_from("<I", head, 14)[0] < 40:
        return False
    bits, compression = struct.unpack_from("<HI", head, 28)
    return bits == 24 and compression == 0


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _kind(found: str, image: Image.Image, head: bytes) -> int:
    if found == "JPEG":
        return JPEG if image.mode in ("L", "RGB") else UNUSUAL
    if found == "PNG":
        transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        return TRANSPARENT_PNG if transparent else PNG
    if found == "BMP":
        return BMP if _is_plain_bmp(head) else UNUSUAL
    return UNUSUAL


def reason_of(error: BaseException) -> str:
    """Returns in a few words, on one line, why a file cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "broken header"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels: " + " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def read_header(path: str) -> Header | str | None:
    """Looks at the start of a file.

    Args:
        path: of a regular file.

    Returns:
        The header; or the reason, in words, why an image is unreadable; or None for a file that
        is no image: neither its first bytes nor its name say so.
    """
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError) as error:  # a name with a zero byte is a value, not a file
        return reason_of(error) if has_image_extension(path) else None
    try:
        head = os.read(descriptor, HEAD_BYTES)
    except OSError as error:
        return reason_of(error) if has_image_extension(path) else None
    finally:
        os.close(descriptor)
    found = sniff(head)
    if found is None:
        if not has_image_extension(path):
            return None
        return "not a JPEG, PNG, BMP or GIF file" if head else "empty file"
    return _plain_header(found, head) or _header_by_pillow(path, found, head)


def _plain_header(found: str, head: bytes) -> Header | None:
    if found == "JPEG" and (size := plain_jpeg(head)):
        kind, (height, width) = JPEG, size
    elif found == "PNG" and (facts := plain_png(head)):
        height, width, transparent = facts
        kind = TRANSPARENT_PNG if transparent else PNG
    else:
        return None
    return Header(kind, height, width, 1) if height * width <= MOST_PIXELS else None


def _header_by_pillow(path: str, found: str, head: bytes) -> Header | str:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                return f"too many pixels: {width} x {height} are more than {MOST_PIXELS:,}"
            orientation = _orientation(image)
            if found == "JPEG":
                return Header(_kind(found, image, head), height, width, orientation)
            # Of the other formats few turn their pictures: these few are written again, upright.
            kind = _kind(found, image, head) if orientation == 1 else UNUSUAL
            return Header(kind, height, width, 1)
    except Exception as error:  # Pillow raises many types on broken files
        return reason_of(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any Pillow mode to RGB; what is transparent turns white.

    Values of 16 bits keep their upper 8. An EXIF orientation is applied.

    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.max(initial=0) > 255:
            values = values >> 8
        image = Image.fromarray(values.astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, colours)
    return image.convert("RGB")


def read_rgb(path: str) -> np.ndarray:
    """Decodes a file with Pillow: uint8 `[H, W, 3]`, upright, first frame, white behind alpha.

    Raises:
        Exception: whatever Pillow raises on a file it cannot read.
    """
    with Image.open(path, formats=_FORMATS) as image:
        return np.asarray(to_rgb(image))


def transcode(path: str, target: str) -> Header:
    """Writes the image at `path` again, as an opaque RGB PNG at `target`.

    Returns:
        The header of the written file.

    Raises:
        Exception: whatever Pillow raises on a file it cannot read.
    """
    pixels = read_rgb(path)
    # Level 1: the file is read at every epoch and kept for this run only.
    Image.fromarray(pixels).save(target, "PNG", compress_level=1)
    return Header(PNG, pixels.shape[0], pixels.shape[1], 1)
