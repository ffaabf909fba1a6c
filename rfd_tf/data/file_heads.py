"""The size of ordinary JPEG and PNG files, from their first bytes.

A set of a million files is looked at file by file when training starts. What Pillow does to open
one takes longer than everything else together, so the usual files are recognised here; on any
other `None` is returned, and Pillow is asked.
"""

from __future__ import annotations

import struct
import zlib

#: Bytes from which most files can be told: a colour profile reaches into the fourth thousand.
HEAD_BYTES = 4096

_START_OF_SCAN = 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; all Huffman-coded
_OTHERS = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # tables, comments, APPn

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_WITH_ALPHA = frozenset({4, 6})
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
    if head[8:16] != b"\0\0\0\rIHDR" or len(head) < 33:
        return None
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
    if depth not in _DEPTHS.get(colour, ()) or not 0 < width < 2**31 or not 0 < height < 2**31:
        return None
    if zlib.crc32(head[12:29]).to_bytes(4, "big") != head[29:33]:
        return None
    transparent, place, end = colour in _WITH_ALPHA, 33, len(head) - 7
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
