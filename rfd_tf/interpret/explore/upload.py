"""Uploaded pictures: validated before they are decoded."""

from __future__ import annotations

import math
import threading

import numpy as np

from rfd_tf.data.image_files import USUAL, Header, Reading, header_of_bytes, read_rgb, reason_of

MOST_BYTES = 8 << 20
MOST_PIXELS = 40_000_000
MOST_SIDE = 16_384

# One at a time: the largest picture allowed takes half a gigabyte while it is decoded.
_decoding = threading.Lock()


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.

    >>> Refused(404, "there is nothing here").status
    404
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def read_picture(data: bytes, reading: Reading = USUAL) -> np.ndarray:
    """Decodes a picture: uint8 `[H, W, 3]`, upright, first frame, white behind what is transparent.

    Its size is read before it is decoded.

    Args:
        data: a file of any format that `rfd_tf.data.image_folder` reads, of at most `MOST_BYTES`.
        reading: how, but for the largest size.

    Raises:
        Refused: 413 where it is too large a file, 400 where it is empty, no such picture, damaged,
            or has more than `MOST_PIXELS` pixels or `MOST_SIDE` a side.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (5, 4)).save(file, "PNG")
    >>> read_picture(file.getvalue()).shape
    (4, 5, 3)
    >>> read_picture(b"Dear diary")
    Traceback (most recent call last):
    ...
    rfd_tf.interpret.explore.upload.Refused: this is not a JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF,
    JPEG 2000 or PPM file
    """
    if len(data) > MOST_BYTES:
        raise Refused(413, f"a picture has at most {MOST_BYTES >> 20} MiB")
    if not data:
        raise Refused(400, "the file is empty")
    with _decoding:
        reading = reading._replace(max_megapixels=math.inf)
        header = header_of_bytes(data, reading)
        if not isinstance(header, Header):
            raise Refused(400, f"this is {header}" if header.startswith("not a ") else header)
        height, width = header.height, header.width
        if width * height > MOST_PIXELS or max(width, height) > MOST_SIDE:
            raise Refused(400, f"{width} x {height} pixels are too many; {_too_many()}")
        try:
            return read_rgb(data, reading)
        except Exception as error:  # Pillow raises many types on broken files
            message = f"the picture is damaged: {reason_of(error)}"
            raise Refused(400, message) from None


def _too_many() -> str:
    return f"a picture has at most {MOST_PIXELS // 10**6} million pixels, {MOST_SIDE:,} a side"
