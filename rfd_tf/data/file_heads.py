"""The format and the size of image files, from their first bytes.

The header of each file of a set is read when training starts. Opening a million files with Pillow
would take longer than everything else together, so the usual ones are parsed here; for any other
`None` is returned, and Pillow is asked.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import BinaryIO

#: Bytes from which most file types can be detected; a colour profile may take 4,000.
HEAD_BYTES = 4096

#: Formats that are read, in the words of messages.
READ = ("JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "AVIF", "JPEG 2000", "PPM")

# Formats that are recognised, by their first bytes, and not read.
_NOT_READ = (
    (b"8BPS", "PSD"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS |", "DDS"),
    (b"qoif", "QOI"),
    (b"gimp xcf", "XCF"),
    (b"\0\0\x01\0", "ICO"),
    (b"BPG\xfb", "BPG"),
    (b"FUJIFILMCCD-RAW", "camera RAW"),
    (b"FOVb", "camera RAW"),
    (b"\0MRM", "camera RAW"),
    (b"IIRO", "camera RAW"),
    (b"IIRS", "camera RAW"),
    (b"MMOR", "camera RAW"),
    (b"IIU\0", "camera RAW"),
    (b"HEAPCCDR", "camera RAW"),
)
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
)
# Two letters are little to go by: a text may start so. A width and a height settle it.
_PPM = re.compile(rb"P[1-6][ \t\r\n]+(?:#[^\n]*\n[ \t\r\n]*)*\d+[ \t\r\n]+(?:#[^\n]*\n\s*)*\d+\s")
_PFM = re.compile(rb"P[Ff][ \t\r\n]+\d+\s+\d+\s")
_SVG = re.compile(rb"\s*(?:<\?xml|<!DOCTYPE|<!--|<svg)", re.IGNORECASE)
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706


def sniff(head: bytes) -> str | None:
    """Returns the image format that a file's first bytes announce.

    Args:
        head: the first `HEAD_BYTES`, or all of a shorter file.

    Returns:
        Pillow's name of a format that is read ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF",
        "AVIF", "JPEG2000", "PPM", "HEIF"); the name of one that is not ("PSD", "SVG",
        "camera RAW" ...); None for anything else.

    >>> sniff(b"GIF89a"), sniff(b"8BPS and more"), sniff(b"Dear diary")
    ('GIF', 'PSD', None)
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"BM") and len(head) >= 18:
        if struct.unpack_from("<I", head, 14)[0] in _BMP_HEADER_SIZES:
            return "BMP"
    if head.startswith(_TIFF):
        return "camera RAW" if _is_raw_tiff(head) else "TIFF"
    if head.startswith(_JPEG_2000):
        return "JPEG2000"
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    for start, name in _NOT_READ:
        if head.startswith(start):
            return name
    if head[:1] == b"P":
        if _PPM.match(head):
            return "PPM"
        return "PFM" if _PFM.match(head) else None
    if head[128:132] == b"DICM":
        return "DICOM"
    if _SVG.match(head.removeprefix(b"\xef\xbb\xbf")) and b"<svg" in head:
        return "SVG"
    return None


def _of_brands(head: bytes) -> str | None:
    """Returns the format of an ISO base media file: AVIF, HEIF, camera RAW, or None (a film)."""
    size = min(struct.unpack_from(">I", head)[0], len(head))
    major = head[8:12]
    brands = {major, *(head[place : place + 4] for place in range(16, size - 3, 4))}
    if major == b"crx ":
        return "camera RAW"
    if major in (b"avif", b"avis"):
        return "AVIF"
    if major in _HEIF_BRANDS:  # a container's brand says nothing about the coding
        specific = brands & _HEIF_BRANDS - {b"mif1", b"msf1"}
        return "AVIF" if brands & {b"avif", b"avis"} and not specific else "HEIF"
    return None


def _is_raw_tiff(head: bytes) -> bool:
    """Whether a TIFF is a camera's raw file, whose thumbnail Pillow would read.

    Source: TIFF 6.0, section 2; Adobe DNG specification, DNGVersion; Canon's CR2 marks itself.
    """
    if head[8:10] == b"CR":
        return True
    order = "<" if head.startswith(b"II") else ">"
    if len(head) < 10 or struct.unpack_from(order + "H", head, 2)[0] != 42:
        return False
    place = struct.unpack_from(order + "I", head, 4)[0]
    if place + 2 > len(head):
        return False
    tags = {}
    for _ in range(struct.unpack_from(order + "H", head, place)[0]):
        if place + 14 > len(head):
            break
        tag, kind, _ = struct.unpack_from(order + "HHI", head, place + 2)
        tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), head, place + 10)[0]
        place += 12
    thumbnail = tags.get(_NEW_SUBFILE_TYPE, 0) & 1 and _SUB_IFDS in tags
    return bool(_DNG_VERSION in tags or thumbnail)


_START_OF_SCAN = 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; all Huffman-coded
_OTHERS = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # tables, comments, APPn

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_WITH_ALPHA = frozenset({4, 6})
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf"})
_CHUNK = struct.Struct(">I4s")


def plain_jpeg(head: bytes) -> tuple[int, int] | None:
    """Returns height and width of a grey or YCbCr JPEG of 8 bits without EXIF, else None.

    Source: ITU-T T.81, annex B.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (30, 20)).save(file, "JPEG")
    >>> plain_jpeg(file.getvalue()[:HEAD_BYTES])
    (20, 30)
    """
    size, place, end = None, 2, len(head) - 3
    while place < end:
        if head[place] != 0xFF:
            return None
        marker = head[place + 1]
        if marker == _START_OF_SCAN:
            return size
        length = head[place + 2] << 8 | head[place + 3]
        if marker in _FRAMES:
            frame = head[place + 4 : place + 2 + length]
            if size is not None or len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3):
                return None
            size = (frame[1] << 8 | frame[2], frame[3] << 8 | frame[4])
            if 0 in size:
                return None
        elif marker not in _OTHERS or length < 2:
            return None
        elif marker == 0xE1 and head[place + 4 : place + 8] == b"Exif":
            return None
        place += 2 + length
    return None


def jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """Returns height and width of a JPEG, whatever its segments hold; None where it is broken.

    Args:
        file: at its start; only the segments' headers are read.
    """
    file.seek(2)
    size = None
    while len(start := file.read(4)) == 4:
        marker, length = start[1], start[2] << 8 | start[3]
        if start[0] != 0xFF or length < 2 or marker == _START_OF_SCAN:
            return size if start[0] == 0xFF and marker == _START_OF_SCAN else None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = file.read(length - 2)
            if len(frame) < 6:
                return None
            size = (frame[1] << 8 | frame[2], frame[3] << 8 | frame[4])
            if 0 in size:
                return None
            continue
        file.seek(length - 2, 1)
    return None


def plain_png(head: bytes) -> tuple[int, int, bool] | None:
    """Returns height, width and whether pixels are transparent of a PNG without EXIF, else None.

    Source: the PNG specification (W3C), sections 5 and 11.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGBA", (30, 20)).save(file, "PNG")
    >>> plain_png(file.getvalue()[:HEAD_BYTES])
    (20, 30, True)
    """
    facts = _image_header(head)
    if facts is None:
        return None
    height, width, transparent = facts
    place, end = 33, len(head) - 7
    while place < end:
        length, chunk = _CHUNK.unpack_from(head, place)
        if chunk == b"IDAT":
            return height, width, transparent
        if chunk == b"tRNS":
            transparent = True
        elif chunk == b"eXIf":
            return None
        place += 12 + length
    return None


def png_facts(file: BinaryIO) -> tuple[int, int, bool, bytes] | None:
    """Returns height, width, whether pixels are transparent, and the EXIF block of any PNG.

    Args:
        file: only the headers of the chunks before the pixels are read, whatever those hold.

    Returns:
        None where the file is broken before its pixels begin.
    """
    file.seek(0)
    facts = _image_header(file.read(33))
    if facts is None:
        return None
    height, width, transparent = facts
    exif = b""
    while len(start := file.read(8)) == 8:
        length, chunk = _CHUNK.unpack(start)
        if chunk == b"IDAT":
            return height, width, transparent, exif
        transparent |= chunk == b"tRNS"
        if chunk == b"eXIf":
            exif = file.read(length)
            length -= len(exif)
        file.seek(length + 4, 1)
    return None


def bare_png(contents: bytes) -> bytes:
    """Returns a PNG without what Pillow may refuse it for: texts, colour profile, more frames."""
    parts, place = [contents[:8]], 8
    while place + 8 <= len(contents):
        length, chunk = _CHUNK.unpack_from(contents, place)
        end = place + 12 + length
        if chunk == b"tRNS":
            parts.append(_in_eight_bits(contents[place + 8 : end - 4], *contents[24:26]))
        elif chunk in _PIXEL_CHUNKS:
            parts.append(contents[place:end])
        place = end
    return b"".join(parts)


def _in_eight_bits(key: bytes, depth: int, colour: int) -> bytes:
    """Returns a tRNS chunk whose colour has the 8 bits that Pillow compares it in."""
    if depth != 8 and colour in (0, 2) and len(key) % 2 == 0:
        values = struct.unpack(f">{len(key) // 2}H", key)
        if colour == 2:
            values = [value >> 8 for value in values]
        elif depth in (2, 4):
            most = (1 << depth) - 1
            values = [(value & most) * 255 // most for value in values]
        key = struct.pack(f">{len(key) // 2}H", *values)
    return _CHUNK.pack(len(key), b"tRNS") + key + zlib.crc32(b"tRNS" + key).to_bytes(4, "big")


def late_exif(tail: bytes) -> bytes:
    """Returns the EXIF block that a PNG carries behind its pixels, from its last bytes."""
    place = tail.rfind(b"eXIf")
    if place < 4:
        return b""
    length = struct.unpack_from(">I", tail, place - 4)[0]
    block = tail[place : place + 4 + length]
    # (Pixels may hold these letters by chance, but not their checksum.)
    end = place + 4 + length
    sound = zlib.crc32(block).to_bytes(4, "big") == tail[end : end + 4]
    return block[4:] if sound else b""


def _image_header(head: bytes) -> tuple[int, int, bool] | None:
    """Returns height, width and whether there is an alpha channel, from a PNG's first 33 bytes."""
    if head[8:16] != b"\0\0\0\rIHDR" or len(head) < 33:
        return None
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
    if depth not in _DEPTHS.get(colour, ()) or not 0 < width < 2**31 or not 0 < height < 2**31:
        return None
    if zlib.crc32(head[12:29]).to_bytes(4, "big") != head[29:33]:
        return None
    return height, width, colour in _WITH_ALPHA


def webp_facts(head: bytes) -> tuple[int, int, bool, bool] | None:
    """Returns height, width, whether it is animated, whether it has EXIF, of a WebP.

    Source: RFC 9649, sections 2.5 to 2.7.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (30, 20)).save(file, "WEBP")
    >>> webp_facts(file.getvalue()[:HEAD_BYTES])
    (20, 30, False, False)
    """
    chunk, data = head[12:16], head[20:30]
    if len(data) < 10:
        return None
    animated = exif = False
    if chunk == b"VP8X":
        animated, exif = bool(data[0] & 2), bool(data[0] & 8)
        width = 1 + int.from_bytes(data[4:7], "little")
        height = 1 + int.from_bytes(data[7:10], "little")
    elif chunk == b"VP8L" and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif chunk == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 6))
        if not width or not height:
            return None
    else:
        return None
    return height, width, animated, exif
