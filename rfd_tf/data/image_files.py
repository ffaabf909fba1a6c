"""Single image files: their format, their size, and decoding those that TensorFlow does not.

The format is detected from the content. Training decodes the usual kinds with TensorFlow's C++
operations; the others (TIFF, AVIF, CMYK JPEG, palette BMP, animations ...) with Pillow, as part of
the same pipeline, see `decode`.
"""

from __future__ import annotations

import functools
import io
import os
import struct
import threading
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from rfd_tf import extras
from rfd_tf.data import file_heads
from rfd_tf.data.file_heads import HEAD_BYTES, plain_jpeg, plain_png, sniff

# Kinds of encoded image, by what decoding them takes.
JPEG = 0
PNG = 1
TRANSPARENT_PNG = 2
BMP = 3
WEBP = 4  # not animated
PILLOW = 5  # decoded by Pillow, upright

_READ = {"JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF"}
_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .bmp .dib .gif .webp .tif .tiff .avif .avifs .jp2 .j2k .j2c "
    ".jpc .jpf .jpx .ppm .pgm .pbm .pnm .heic .heif .hif .psd .psb .svg .jxl .exr .hdr .dds .qoi "
    ".xcf .ico .pfm .bpg .dcm".split()
)
_RAW_EXTENSIONS = frozenset(
    ".cr2 .cr3 .crw .nef .nrw .dng .arw .srf .sr2 .orf .rw2 .rwl .raf .pef .srw .x3f .3fr .iiq "
    ".erf .mef .mrw .kdc .dcr .gpr".split()
)
# Formats without a signature.
_BY_NAME = {
    ".tga": "TGA",
    ".eps": "EPS",
    ".svgz": "SVG",
    **dict.fromkeys(_RAW_EXTENSIONS, "camera RAW"),
}
_EXIF_ORIENTATION = 0x0112
_TIFF_PHOTOMETRIC = 262
_BMP_BYTES = 34  # reaches the compression field of a BMP header
_TAIL_BYTES = 1 << 14
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Images of more megapixels are left out, by their header, before any memory is asked for.
MAX_MEGAPIXELS = 300.0
# TensorFlow's decoders hold at most half a gigabyte; what is larger is left to Pillow.
_TENSORFLOW_PIXELS = (1 << 29) // 3
# The largest images are decoded one at a time: each takes seven bytes a pixel meanwhile.
_LARGE_PIXELS = 100_000_000
_large = threading.Lock()

# (A named pipe that took the place of a file would keep one waiting for ever.)
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_OPEN |= getattr(os, "O_BINARY", 0)


class Header(NamedTuple):
    """What is known of an image file without decoding it.

    Attributes:
        kind: `JPEG`, `PNG`, `TRANSPARENT_PNG`, `BMP`, `WEBP` or `PILLOW`.
        height: in pixels, as decoded.
        width: in pixels, as decoded.
        orientation: the EXIF orientation of what is decoded, 1 (upright) to 8; 1 for `PILLOW`,
            whose pixels are upright already.
    """

    kind: int
    height: int
    width: int
    orientation: int


def has_image_extension(path: str) -> bool:
    """Tells whether the file's name claims an image format, whether it is read or not."""
    extension = os.path.splitext(path)[1].lower()
    return extension in _EXTENSIONS or extension in _BY_NAME


def formats() -> str:
    """Returns the formats that are read, for messages.

    >>> formats()
    'JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000 or PPM'
    """
    return f"{', '.join(file_heads.READ[:-1])} or {file_heads.READ[-1]}"


def reason_of(error: BaseException) -> str:
    """Returns in a few words, on one line, why a file cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "broken header"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return f"too many pixels: Pillow reads at most {limit:.0f} megapixels of this format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def problem_of(read: Callable[[], object]) -> str:
    """Returns in a few words why an image could not be read: what reading it again runs into."""
    try:
        read()
    except Exception as error:  # Pillow raises many types on broken files
        return reason_of(error)
    return "could not be read at the time"


def read_header(
    path: str, max_megapixels: float = MAX_MEGAPIXELS, stored: bool = False
) -> Header | str | None:
    """Reads what a file's header says of the image.

    Args:
        path: of a regular file.
        max_megapixels: larger images are unreadable.
        stored: whether to return height, width and orientation as stored in the file, of `PILLOW`
            as well.

    Returns:
        The header; or the reason, in words, why an image is unreadable; or None for a file that
        is no image: neither its first bytes nor its name say so.
    """
    try:
        descriptor = os.open(path, _OPEN)
    except (OSError, ValueError) as error:  # a name with a zero byte is a value, not a file
        return reason_of(error) if has_image_extension(path) else None
    try:
        head = os.read(descriptor, HEAD_BYTES)
        found = sniff(head)
        extension = os.path.splitext(path)[1].lower()
        if found == "TIFF" and extension in _RAW_EXTENSIONS:
            found = _BY_NAME[extension]
        if found is None:
            found = _BY_NAME.get(extension)
        if found is None and extension not in _EXTENSIONS:
            return None
        if found == "PNG" and len(head) == HEAD_BYTES and _turned_late(descriptor):
            return _header(
                found, head, lambda: open(path, "rb"), max_megapixels, hurry=False, stored=stored
            )
    except OSError as error:
        return reason_of(error) if has_image_extension(path) else None
    finally:
        os.close(descriptor)
    return _header(found, head, lambda: open(path, "rb"), max_megapixels, stored=stored)


def header_of_bytes(contents: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Header | str:
    """Returns what `read_header` returns, of an image in memory; always a reason if it is none.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (30, 20)).save(file, "TIFF")
    >>> header_of_bytes(file.getvalue())
    Header(kind=5, height=20, width=30, orientation=1)
    >>> header_of_bytes(b"Dear diary")
    'not a JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000 or PPM file'
    """
    head = bytes(contents[:HEAD_BYTES])
    late = head.startswith(b"\x89PNG") and file_heads.late_exif(contents[-_TAIL_BYTES:])
    return _header(sniff(head), head, lambda: io.BytesIO(contents), max_megapixels, hurry=not late)


def _turned_late(descriptor: int) -> bool:
    """Tells whether a PNG carries EXIF behind its pixels."""
    os.lseek(descriptor, max(0, os.fstat(descriptor).st_size - _TAIL_BYTES), os.SEEK_SET)
    return bool(file_heads.late_exif(os.read(descriptor, _TAIL_BYTES)))


def _header(
    found: str | None,
    head: bytes,
    reopen: Callable[[], BinaryIO],
    max_megapixels: float,
    hurry: bool = True,
    stored: bool = False,
) -> Header | str:
    if found is None:
        return f"not a {formats()} file" if head else "empty file"
    if found not in _READ:
        return f"{found} is a format that is not read; convert it to JPEG, PNG or TIFF"
    if missing := _missing(found):
        return missing
    header = _plain_header(found, head) if hurry else None
    if header is None:
        try:
            with reopen() as file:
                header = _full_header(found, head, file)
        except Exception as error:  # Pillow raises many types on broken files
            return reason_of(error)
    _, height, width, _ = header
    if height * width > max_megapixels * 1e6:
        return (
            f"too many pixels: {width} x {height} are {height * width / 1e6:,.0f} megapixels, more "
            f"than {max_megapixels:g}; raise --max_megapixels to read it"
        )
    large = height * width > _TENSORFLOW_PIXELS
    return _by_pillow(header) if (header.kind == PILLOW or large) and not stored else header


@functools.cache
def _missing(found: str) -> str:
    """Returns what to install for a format that this Pillow does not read; "" if it does."""
    if found == "HEIF":
        try:
            extras.load("pillow_heif", "HEIC").register_heif_opener()
        except extras.MissingPackage as error:
            return str(error)
        return ""
    Image.init()
    feature = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}.get(found)
    if found not in Image.OPEN or (feature and not features.check(feature)):
        return f"{found} is not read by Pillow {Image.__version__}: pip install -U pillow"
    return ""


def _plain_header(found: str, head: bytes) -> Header | None:
    if found == "JPEG" and (size := plain_jpeg(head)):
        return Header(JPEG, *size, 1)
    if found == "PNG" and (facts := plain_png(head)):
        height, width, transparent = facts
        return Header(TRANSPARENT_PNG if transparent else PNG, height, width, 1)
    if found == "WEBP" and (facts := file_heads.webp_facts(head)):
        height, width, animated, exif = facts
        return None if exif else Header(PILLOW if animated else WEBP, height, width, 1)
    return None


def _full_header(found: str, head: bytes, file: BinaryIO) -> Header:
    if found == "PNG" and (facts := file_heads.png_facts(file)):
        height, width, transparent, exif = facts
        if not exif:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            exif = file_heads.late_exif(file.read())
        kind = TRANSPARENT_PNG if transparent else PNG
        return Header(kind, height, width, _orientation_in(exif))
    try:
        image = open_image(file, found)
    except Exception:
        # Pillow refuses some files for what they carry beside the pixels.
        if found == "JPEG" and (size := file_heads.jpeg_size(file)):
            return Header(JPEG, *size, 1)
        raise
    if found == "TIFF":  # (Whether `size` is turned already depends on Pillow's version.)
        orientation = _sound(image.tag_v2.get(_EXIF_ORIENTATION))
        return Header(PILLOW, image.tag_v2[257], image.tag_v2[256], orientation)
    width, height = image.size
    return Header(_kind(found, image, head), height, width, orientation_of(image))


def _by_pillow(header: Header) -> Header:
    _, height, width, orientation = header
    sides = (width, height) if orientation >= 5 else (height, width)
    return Header(PILLOW, *sides, 1)


def other_decoder(header: Header, image: str | bytes) -> Header | None:
    """Returns the header for a second opinion, from the decoder that did not fail; None if none.

    Args:
        header: by which it failed.
        image: path of the file, or its content.
    """
    if header.kind != PILLOW:
        return _by_pillow(header)
    try:
        with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
            found = sniff(file.read(HEAD_BYTES))
            if found == "JPEG" and (size := file_heads.jpeg_size(file)):
                return Header(JPEG, *size, 1)
    except OSError:
        pass
    return Header(BMP, *header[1:]) if found == "GIF" else None


def _is_plain_bmp(head: bytes) -> bool:
    """Tells whether a BMP is 24 bits a pixel, uncompressed: the only kind TensorFlow gets right."""
    if len(head) < _BMP_BYTES or struct.unpack_from("<I", head, 14)[0] < 40:
        return False
    bits, compression = struct.unpack_from("<HI", head, 28)
    return bits == 24 and compression == 0


def _kind(found: str, image: Image.Image, head: bytes) -> int:
    if found == "JPEG":
        return JPEG if image.mode in ("L", "RGB") else PILLOW
    if found == "BMP":
        return BMP if _is_plain_bmp(head) else PILLOW
    if found == "WEBP":
        return PILLOW if getattr(image, "is_animated", False) else WEBP
    return PILLOW


def _orientation_in(block: bytes) -> int:
    """Returns the orientation in an EXIF block, without its "Exif" signature."""
    if not block:
        return 1
    exif = Image.Exif()
    try:
        exif.load(b"Exif\0\0" + block)
        return _sound(exif.get(_EXIF_ORIENTATION))
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation of an image that Pillow opened: 1 to 8; 1 where it has none."""
    if "exif" not in image.info:
        return 1
    try:
        return _sound(image.getexif().get(_EXIF_ORIENTATION))
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1


def _sound(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def rotate_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotates stored pixels or a mask, `[H, W, ...]`, as an EXIF orientation says.

    >>> rotate_upright(np.array([[1, 2], [3, 4]]), 6).tolist()  # 6 is a quarter turn
    [[3, 1], [4, 2]]
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def open_image(file: BinaryIO, found: str) -> Image.Image:
    """Opens an image with Pillow, its size unchecked: callers know it from the header.

    Args:
        file: at any place.
        found: Pillow's name of the format, see `sniff`.

    Raises:
        UnidentifiedImageError: the header is broken.
        Exception: whatever else Pillow raises.
    """
    Image.init()
    file.seek(0)
    factory, _ = Image.OPEN[found]
    try:
        # (`Image.open` would refuse photographs of 180 megapixels, and warn of half of these.)
        return factory(file, "")
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        if str(error) == "unknown pixel mode":
            raise ValueError("its pixels have a layout that Pillow does not read") from None
        raise UnidentifiedImageError(str(error)) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any Pillow mode to RGB; what is transparent turns white.

    Values of 16 bits keep their upper 8. An EXIF orientation is applied.

    Raises:
        ValueError: pixels of 32 bits, which have no fixed range.

    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    format = image.format
    image.load()  # (some formats read their EXIF block only now)
    orientation = orientation_of(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        image = _upper_bits(image)
    elif image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits and no fixed range; save it with 8 or 16 bits")
    if orientation != 1:
        image = image.transpose(_TURNS[orientation])
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, colours)
    return image.convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    """Returns the upper 8 of 16 bits: grey, with alpha where one value is marked transparent."""
    values = np.asarray(image)
    key = image.info.get("transparency")
    # (Pillow inverts what counts from white for values of 8 bits alone.)
    if image.format == "TIFF" and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:
        values = 0xFFFF - values
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def read_rgb(
    image: str | os.PathLike | bytes, max_megapixels: float = MAX_MEGAPIXELS
) -> np.ndarray:
    """Decodes an image with Pillow: uint8 `[H, W, 3]`, upright, first frame, white behind alpha.

    Args:
        image: path of a file of any format that is read, or its content.
        max_megapixels: larger images are refused, before they are decoded.

    Raises:
        ValueError: it is no image, of a format that is not read, or too large.
        Exception: whatever Pillow raises on a file it cannot read.

    >>> file = io.BytesIO()
    >>> Image.new("L", (30, 20)).save(file, "PPM")
    >>> read_rgb(file.getvalue()).shape
    (20, 30, 3)
    """
    if isinstance(image, bytes):
        contents, path = image, ""
    else:
        path = os.fspath(image)
        with open(path, "rb") as file:
            contents = file.read()
    header = (
        header_of_bytes(contents, max_megapixels) if not path else read_header(path, max_megapixels)
    )
    if not isinstance(header, Header):
        raise ValueError(header or f"not a {formats()} file")
    return _decode(contents)


def decode_any(contents: bytes) -> np.ndarray:
    """Decodes an image whose header was read before, as `read_rgb` does.

    Returns:
        uint8 `[H, W, 3]`; `[0, 0, 3]` where it cannot be decoded.
    """
    try:
        return _decode(contents)
    except Exception:  # Pillow raises many types on broken files
        return np.zeros((0, 0, 3), np.uint8)


def _decode(contents: bytes) -> np.ndarray:
    found = sniff(contents[:HEAD_BYTES])
    if found not in _READ:
        raise ValueError(f"not a {formats()} file")
    if missing := _missing(found):
        raise ValueError(missing)
    if found == "PNG":
        contents = file_heads.bare_png(contents)
    image = open_image(io.BytesIO(contents), found)
    if image.width * image.height < _LARGE_PIXELS:
        return np.asarray(to_rgb(image))
    with _large:
        return np.asarray(to_rgb(image))
