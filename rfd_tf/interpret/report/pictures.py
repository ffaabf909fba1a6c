"""Pixels as `data:` addresses."""

from __future__ import annotations

import base64
import io

import numpy as np

#: Larger pictures are shrunk to this side, pixels, which is more than they take on the page.
LARGEST = 128
_PNG_SIDE = 64  # smaller pictures lose more by JPEG than they gain


def data_uri(pixels: np.ndarray, largest: int = LARGEST) -> str:
    """Returns a picture as a `data:` address.

    Args:
        pixels: uint8 `[height, width, 3]`, or with alpha `[height, width, 4]`.
        largest: side in pixels that larger pictures are shrunk to.

    >>> data_uri(np.zeros((2, 2, 3), np.uint8))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    if max(image.size) > largest:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    small = max(image.size) <= _PNG_SIDE or pixels.shape[-1] == 4
    kind, options = ("png", {"optimize": True}) if small else ("jpeg", {"quality": 85})
    return _encoded(image, kind, **options)


def sprite(images: np.ndarray, size: int, columns: int) -> tuple[str, np.ndarray]:
    """Lays pictures out as one.

    Args:
        images: uint8 `[N, S, S, 3]`.
        size: side of each in the sprite, pixels; at most S.
        columns: pictures in a row.

    Returns:
        The `data:` address, and the sprite's pixels uint8.

    >>> sprite(np.zeros((3, 8, 8, 3), np.uint8), size=4, columns=2)[1].shape
    (8, 8, 3)
    """
    from PIL import Image

    from rfd_tf.training.callbacks import grid

    if images.shape[1] != size:
        shape = (size, size)
        images = np.stack([np.asarray(Image.fromarray(image).resize(shape)) for image in images])
    pixels = grid(images, columns)
    return _encoded(Image.fromarray(pixels), "jpeg", quality=85), pixels


def _encoded(image, kind: str, **options) -> str:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def heat(values: np.ndarray) -> np.ndarray:
    """Colours a map from its smallest to its 99th-percentile value: uint8 `[S, S, 3]`.

    >>> heat(np.array([[0.0, 1.0]])).shape
    (1, 2, 3)
    """
    import matplotlib

    low, high = float(values.min()), float(np.percentile(values, 99))
    scaled = np.clip((values - low) / max(high - low, 1e-30), 0, 1)
    return matplotlib.colormaps["magma"](scaled, bytes=True)[..., :3].copy()
