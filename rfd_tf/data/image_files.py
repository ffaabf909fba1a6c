"""Single image files: their format, their size, and decoding those that TensorFlow does not.

The format is detected from the content. Training decodes the usual kinds with TensorFlow's C++
operations; the others (TIFF, AVIF, CMYK JPEG, palette BMP, animations ...) with Pillow, as part of
the same pipeline, see `decode`.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import math
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from rfd_tf import extras
from rfd_tf.data import file_heads
from rfd_tf.data.file_heads import HEAD_BYTES, plain_jpeg, plain_png, sniff
from rfd_tf.errors import UserError, unknown

# Kinds of encoded image, by what decoding them takes.
JPEG = 0
PNG = 1
TRANSPARENT_PNG = 2
BMP = 3
WEBP = 4  # not animated
PILLOW = 5  # decoded by Pillow, upright
STRETCHED = 6  # by Pillow, grey of more than 8 bits, each image's range of values stretched
SRGB = 7  # by Pillow, converted to sRGB by the image's colour profile
BY_PILLOW = frozenset({PILLOW, STRETCHED, SRGB})

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
_TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 262, 339
_UNSIGNED = 1
#: Bit depth and colour type of a grey PNG of 16 bits, at byte 24.
PNG_DEEP_GREY = b"\x10\0"
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
#: The fractions of an image's values between which it is stretched, and from how many values the
#: two are found.
STRETCHED_FROM, STRETCHED_TO = 0.001, 0.999
STRETCH_SAMPLE = 1 << 20
_NO_RANGE = (
    "its pixels have 32 bits and no fixed range; read it with --high_bit_depth=stretch, or save it "
    "with 8 or 16 bits"
)
# Colour space of a profile -> mode of the pixels that it describes.
_MODE_OF_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}

HighBitDepth = Literal["stretch", "truncate"]
ColorProfile = Literal["ignore", "srgb"]

# (A named pipe that took the place of a file would keep one waiting for ever.)
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_OPEN |= getattr(os, "O_BINARY", 0)


class Reading(NamedTuple):
    """How image files are read.

    Attributes:
        max_megapixels: larger images are unreadable.
        high_bit_depth: how grey images of more than 8 bits become 8: `"stretch"` maps each image's
            0.1 and 99.9 percentiles to 0 and 255; `"truncate"` keeps the upper 8 of 16 bits and
            refuses 32 bits.
        color_profile: `"ignore"`, or `"srgb"` to convert images with a colour profile to sRGB.
    """

    max_megapixels: float = MAX_MEGAPIXELS
    high_bit_depth: HighBitDepth = "stretch"
    color_profile: ColorProfile = "ignore"

    def check(self) -> None:
        """Raises `UserError` for a value out of range."""
        if not self.max_megapixels > 0:
            raise UserError(f"max_megapixels is above 0, got {self.max_megapixels}")
        for name, choices in (("high_bit_depth", HighBitDepth), ("color_profile", ColorProfile)):
            if getattr(self, name) not in get_args(choices):
                raise unknown(name, getattr(self, name), get_args(choices))
        if self.color_profile == "srgb" and not features.check("littlecms2"):
            raise UserError("--color_profile=srgb needs a Pillow that was built with LittleCMS")

    def unusual(self) -> list[str]:
        """Returns what `conversions` does, for images whose headers have not been read."""
        return ["srgb"] if self.color_profile == "srgb" else []


USUAL = Reading()


def recorded(flags: Mapping[str, object]) -> dict[str, object]:
    """Returns the flags of a run that reads image files, with those that its version did not have.

    >>> recorded({"data_dir": "photos"})["high_bit_depth"], recorded({"dataset": "digits"})
    ('truncate', {'dataset': 'digits'})
    """
    files = any(flags.get(name) for name in ("data_dir", "eval_dir", "source_images"))
    return {**({"high_bit_depth": "truncate"} if files else {}), **flags}


class Header(NamedTuple):
    """What is known of an image file without decoding it.

    Attributes:
        kind: `JPEG`, `PNG`, `TRANSPARENT_PNG`, `BMP`, `WEBP`, `PILLOW`, `STRETCHED` or `SRGB`.
        height: in pixels, as decoded.
        width: in pixels, as decoded.
        orientation: the EXIF orientation of what is decoded, 1 (upright) to 8; 1 for `BY_PILLOW`,
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


def read_header(path: str, reading: Reading = USUAL, stored: bool = False) -> Header | str | None:
    """Reads what a file's header says of the image.

    Args:
        path: of a regular file.
        reading: how the image will be read.
        stored: whether to return height, width and orientation as stored in the file, of
            `BY_PILLOW` as well.

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
                found, head, lambda: open(path, "rb"), reading, hurry=False, stored=stored
            )
    except OSError as error:
        return reason_of(error) if has_image_extension(path) else None
    finally:
        os.close(descriptor)
    return _header(found, head, lambda: open(path, "rb"), reading, stored=stored)


def header_of_bytes(contents: bytes, reading: Reading = USUAL) -> Header | str:
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
    return _header(sniff(head), head, lambda: io.BytesIO(contents), reading, hurry=not late)


def _turned_late(descriptor: int) -> bool:
    """Tells whether a PNG carries EXIF behind its pixels."""
    os.lseek(descriptor, max(0, os.fstat(descriptor).st_size - _TAIL_BYTES), os.SEEK_SET)
    return bool(file_heads.late_exif(os.read(descriptor, _TAIL_BYTES)))


def _header(
    found: str | None,
    head: bytes,
    reopen: Callable[[], BinaryIO],
    reading: Reading,
    hurry: bool = True,
    stored: bool = False,
) -> Header | str:
    if found is None:
        return f"not a {formats()} file" if head else "empty file"
    if found not in _READ:
        return f"{found} is a format that is not read; convert it to JPEG, PNG or TIFF"
    if missing := _missing(found):
        return missing
    stretch, profile = reading.high_bit_depth == "stretch", b""
    header = _plain_header(found, head, stretch) if hurry else None
    try:
        if header is None:
            with reopen() as file:
                header = _full_header(found, head, file, stretch)
        kind, height, width, _ = header
        if reading.color_profile == "srgb" and kind != STRETCHED:
            with reopen() as file:
                profile = _profile_of(file, found)
    except Exception as error:  # Pillow raises many types on broken files
        return reason_of(error)
    if height * width > reading.max_megapixels * 1e6:
        return (
            f"too many pixels: {width} x {height} are {height * width / 1e6:,.0f} megapixels, more "
            f"than {reading.max_megapixels:g}; raise --max_megapixels to read it"
        )
    if profile:
        header = header._replace(kind=SRGB)
    elif kind not in BY_PILLOW and height * width > _TENSORFLOW_PIXELS:
        header = header._replace(kind=PILLOW)
    return _upright(header) if header.kind in BY_PILLOW and not stored else header


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


def _plain_header(found: str, head: bytes, stretch: bool) -> Header | None:
    if found == "JPEG" and (size := plain_jpeg(head)):
        return Header(JPEG, *size, 1)
    if found == "PNG" and (facts := plain_png(head)):
        height, width, transparent = facts
        return Header(_kind_of_png(head, transparent, stretch), height, width, 1)
    if found == "WEBP" and (facts := file_heads.webp_facts(head)):
        height, width, animated, exif = facts
        return None if exif else Header(PILLOW if animated else WEBP, height, width, 1)
    return None


def _kind_of_png(head: bytes, transparent: bool, stretch: bool) -> int:
    if stretch and head[24:26] == PNG_DEEP_GREY:
        return STRETCHED
    return TRANSPARENT_PNG if transparent else PNG


def _full_header(found: str, head: bytes, file: BinaryIO, stretch: bool) -> Header:
    if found == "PNG" and (facts := file_heads.png_facts(file)):
        height, width, transparent, exif = facts
        if not exif:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            exif = file_heads.late_exif(file.read())
        kind = _kind_of_png(head, transparent, stretch)
        return Header(kind, height, width, _orientation_in(exif))
    try:
        image = open_image(file, found)
    except Exception:
        # Pillow refuses some files for what they carry beside the pixels.
        if found == "JPEG" and (size := file_heads.jpeg_size(file)):
            return Header(JPEG, *size, 1)
        raise
    kind = _kind(found, image, head, stretch)
    if found == "TIFF":  # (Whether `size` is turned already depends on Pillow's version.)
        orientation = _sound(image.tag_v2.get(_EXIF_ORIENTATION))
        return Header(kind, image.tag_v2[257], image.tag_v2[256], orientation)
    width, height = image.size
    return Header(kind, height, width, orientation_of(image))


def _upright(header: Header) -> Header:
    kind, height, width, orientation = header
    sides = (width, height) if orientation >= 5 else (height, width)
    return Header(kind, *sides, 1)


def other_decoder(header: Header, image: str | bytes) -> Header | None:
    """Returns the header for a second opinion, from the decoder that did not fail; None if none.

    Args:
        header: by which it failed.
        image: path of the file, or its content.
    """
    if header.kind not in BY_PILLOW:
        return _upright(header._replace(kind=PILLOW))
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


def _is_deep(image: Image.Image) -> bool:
    """Whether an image is grey of more than 8 bits. (Pillow has no colours of more.)"""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def _has_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _kind(found: str, image: Image.Image, head: bytes, stretch: bool) -> int:
    if _is_deep(image):
        if not stretch and not _has_16_bits(image):
            raise ValueError(_NO_RANGE)
        return STRETCHED if stretch else PILLOW
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


def to_rgb(image: Image.Image, stretch: bool = True, profile: bytes = b"") -> Image.Image:
    """Converts an image of any Pillow mode to RGB; what is transparent turns white.

    An EXIF orientation is applied.

    Args:
        image: as Pillow opened it.
        stretch: whether to stretch grey of more than 8 bits; otherwise 16 bits keep their upper 8.
        profile: the colour profile to convert from to sRGB, if any.

    Raises:
        ValueError: pixels of 32 bits, which have no fixed range, without `stretch`.

    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    image.load()  # (some formats read their EXIF block only now)
    orientation = orientation_of(image)
    if _is_deep(image):
        image = _in_eight_bits(image, stretch)
    if orientation != 1:
        image = image.transpose(_TURNS[orientation])
    if profile:
        image = _in_srgb(image, profile)
    if _is_transparent(image):
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, colours)
    return image.convert("RGB")


def _in_eight_bits(image: Image.Image, stretch: bool) -> Image.Image:
    """Returns deep grey in 8 bits, with alpha where one value is marked transparent."""
    values = np.asarray(image)
    clear = image.info.get("transparency")
    clear = values == clear if isinstance(clear, int) else None
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if image.mode == "I" and tags.get(_TIFF_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED:
        values = values.view(np.uint32)  # (Pillow has signed integers only)
    sixteen = _has_16_bits(image)
    if not stretch and not sixteen:
        raise ValueError(_NO_RANGE)
    grey = stretched(values, clear) if stretch else None
    if grey is None:
        # (Of 32 bits, one value alone has no brightness.)
        grey = (values >> 8).astype(np.uint8) if sixteen else np.zeros(values.shape, np.uint8)
    # (Pillow inverts what counts from white for values of 8 bits alone.)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:
        grey = 255 - grey
    grey = Image.fromarray(grey)
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return grey


def stretched(values: np.ndarray, clear: np.ndarray | None = None) -> np.ndarray | None:
    """Maps the range of an image's values to 0-255, linearly, and clips what lies outside.

    The range is that from the 0.1 to the 99.9 percentile, so that a few hot or dead pixels do not
    set it: the nearest values below and above, of every k-th row and column where an image has more
    than a million pixels. If the two are equal, it is that from the least to the largest value.

    Args:
        values: `[H, W]`, integers or floating point. Infinite ones are clipped and NaN is 0,
            neither is part of the range.
        clear: bool `[H, W]`, transparent pixels, not part of the range.

    Returns:
        uint8 `[H, W]`; None where all values are equal.

    >>> stretched(np.array([[1000, 2000], [4000, 5000]], np.uint16)).tolist()
    [[0, 64], [191, 255]]
    """
    low, high = _range(values, clear, math.isqrt((values.size - 1) // STRETCH_SAMPLE) + 1)
    if low == high:
        low, high = _range(values, clear, 1, whole=True)
    if low == high:
        return None
    grey = np.empty(values.shape, np.uint8)
    for row, line in zip(grey, values, strict=True):  # few values in double precision at a time
        line = np.clip((line.astype(np.float64) - low) * (255.0 / (high - low)), 0.0, 255.0)
        row[:] = np.rint(np.nan_to_num(line))
    return grey


def _range(
    values: np.ndarray, clear: np.ndarray | None, step: int, whole: bool = False
) -> tuple[float, float]:
    counted = values[::step, ::step]
    if clear is not None:
        counted = counted[~clear[::step, ::step]]
    if counted.dtype.kind == "f":
        counted = counted[np.isfinite(counted)]
    if not counted.size:
        return 0.0, 0.0
    if whole:
        return float(counted.min()), float(counted.max())
    last = counted.size - 1
    ranks = math.floor(STRETCHED_FROM * last), math.ceil(STRETCHED_TO * last)
    low, high = np.partition(counted, ranks, axis=None)[list(ranks)]
    return float(low), float(high)


def _profile_of(file: BinaryIO, found: str) -> bytes:
    """Returns the colour profile of an image if it changes the pixels; b"" if not."""
    try:
        image = open_image(file, found)
    except Exception:  # what cannot be opened is found out otherwise
        return b""
    profile = image.info.get("icc_profile") or b""
    return profile if profile and _transform(profile, _mode_of_colours(image)) else b""


def _mode_of_colours(image: Image.Image) -> str:
    """Returns the mode of an image's colours alone, in which a profile describes them."""
    if image.mode in ("CMYK", "LAB"):
        return image.mode
    return "L" if image.mode in ("1", "L", "LA", "La") or _is_deep(image) else "RGB"


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str):
    """Returns the transform of a profile to sRGB; None if it is sRGB or cannot be used."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).strip().startswith("sRGB"):
            return None
        space = source.profile.xcolor_space.strip()
        if _MODE_OF_SPACE.get(space) != mode:
            raise ValueError(f"it is for {space or 'unknown'} pixels, not for {mode}")
        srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL
        # (LittleCMS would replace a curve of grey by 33 points, ten grey levels off where dark.)
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        return ImageCms.buildTransform(source, srgb, mode, "RGB", intent, flags)
    except Exception as error:  # Pillow raises many types on broken profiles
        warnings.warn(
            f"a colour profile cannot be used ({reason_of(error)}); images with it are read "
            "without",
            stacklevel=2,
        )
        return None


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms

    mode = _mode_of_colours(image)
    transform = _transform(profile, mode)
    if transform is None:
        return image
    transparent = _is_transparent(image)
    image = image.convert("RGBA") if transparent else image
    colours = ImageCms.applyTransform(image.convert(mode), transform)
    if transparent:
        colours.putalpha(image.getchannel("A"))
    return colours


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def read_rgb(image: str | os.PathLike | bytes, reading: Reading = USUAL) -> np.ndarray:
    """Decodes an image with Pillow: uint8 `[H, W, 3]`, upright, first frame, white behind alpha.

    Args:
        image: path of a file of any format that is read, or its content.
        reading: how; images that are too large are refused before they are decoded.

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
    header = read_header(path, reading) if path else header_of_bytes(contents, reading)
    if not isinstance(header, Header):
        raise ValueError(header or f"not a {formats()} file")
    return _decode(contents, header.kind)


def decode_any(contents: bytes, kind: int = PILLOW) -> np.ndarray:
    """Decodes an image whose header was read before, as `read_rgb` does.

    Args:
        contents: the file.
        kind: the header's.

    Returns:
        uint8 `[H, W, 3]`; `[0, 0, 3]` where it cannot be decoded.
    """
    try:
        return _decode(contents, kind)
    except Exception:  # Pillow raises many types on broken files
        return np.zeros((0, 0, 3), np.uint8)


def _decode(contents: bytes, kind: int) -> np.ndarray:
    found = sniff(contents[:HEAD_BYTES])
    if found not in _READ:
        raise ValueError(f"not a {formats()} file")
    if missing := _missing(found):
        raise ValueError(missing)
    profile = _profile_of(io.BytesIO(contents), found) if kind == SRGB else b""
    if found == "PNG":
        contents = file_heads.bare_png(contents)
    image = open_image(io.BytesIO(contents), found)
    large = image.width * image.height >= _LARGE_PIXELS
    with _large if large else contextlib.nullcontext():
        return np.asarray(to_rgb(image, kind == STRETCHED, profile))


def conversions(kinds: Iterable[int]) -> list[str]:
    """Returns the words for what is done to images of these kinds, for digests of their pixels.

    >>> conversions([JPEG, PILLOW]), conversions([JPEG, SRGB, SRGB])
    ([], ['srgb'])
    """
    occurring = set(kinds)
    return [word for kind, word in ((STRETCHED, "stretched"), (SRGB, "srgb")) if kind in occurring]


def summary_of(kinds: Iterable[int]) -> str:
    """Returns a line that counts the images whose values are converted; "" if there is none.

    >>> summary_of([JPEG, STRETCHED, STRETCHED])
    '2 grey images of more than 8 bits: each stretched from its 0.1 to its 99.9 percentile'
    """
    counts, parts = collections.Counter(kinds), []
    for kind, what, done in (
        (STRETCHED, "grey image{s} of more than 8 bits",
         "each stretched from its 0.1 to its 99.9 percentile"),
        (SRGB, "image{s} with a colour profile", "converted to sRGB"),
    ):  # fmt: skip
        if count := counts[kind]:
            parts.append(f"{count:,} {what.format(s='s' * (count > 1))}: {done}")
    return "; ".join(parts)
