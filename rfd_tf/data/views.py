"""Views of a batch made by geometry alone: rotations.

A quarter turn is counter-clockwise, as `numpy.rot90` turns: class 1 is 90 degrees
counter-clockwise. Quarter turns move pixels and never blend them, so they are exact for every
dtype; turns by 45 degrees have to blend. All are written in `keras.ops` and run on the device,
inside a model or outside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from rfd_tf.errors import UserError

NUM_ROTATIONS = 4


def _check_square(images: Any) -> None:
    if len(images.shape) != 4:
        raise UserError(
            f"images to rotate must have shape [batch, height, width, channels], got rank "
            f"{len(images.shape)} with shape {tuple(images.shape)}"
        )
    height, width = images.shape[1], images.shape[2]
    if height is not None and width is not None and height != width:
        raise UserError(
            f"images to rotate must be square, got {height}x{width} (height x width); "
            "crop or resize them first"
        )


def _turn(images: Any, quarter_turns: int) -> Any:
    """Turns every image of `[B, S, S, C]` by the same number of quarter turns, 0 to 3."""
    if quarter_turns == 0:
        return images
    if quarter_turns == 2:
        # One axis at a time: Keras 3.12 on TensorFlow takes no more.
        return ops.flip(ops.flip(images, axis=1), axis=2)
    transposed = ops.transpose(images, (0, 2, 1, 3))
    return ops.flip(transposed, axis=1 if quarter_turns == 1 else 2)


def rotate(images: Any, rotations: Sequence[int] = (0, 1, 2, 3)) -> Any:
    """Makes the rotated views of each image, by 0, 90, 180 and 270 degrees counter-clockwise.

    View `r` of an image equals `numpy.rot90(image, k=rotations[r])`.

    Args:
        images: `[B, S, S, C]`, any dtype, square; or `[B, len(rotations), S, S, C]`, a crop of
            its own for each rotation.
        rotations: the quarter turns to make, each of 0, 1, 2, 3, in the order wanted.

    Returns:
        `[B, len(rotations), S, S, C]`, the dtype of `images`.

    Raises:
        UserError: the images are not a batch of square images, or a rotation is not 0 to 3.

    The convention is that of RotNet (Gidaris et al., ICLR 2018) and RFD (Feng et al., CVPR 2019).

    >>> import numpy as np
    >>> image = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
    >>> np.asarray(rotate(image))[0, 1, :, :, 0].tolist()
    [[2, 4], [1, 3]]
    """
    images = ops.convert_to_tensor(images)
    several = len(images.shape) == 5
    _check_square(images[:, 0] if several else images)
    if not rotations or any(turn not in (0, 1, 2, 3) for turn in rotations):
        raise UserError(
            f"rotations must be quarter turns out of 0, 1, 2, 3, got {tuple(rotations)!r}"
        )
    if several and images.shape[1] != len(rotations):
        raise UserError(
            f"{images.shape[1]} crops of an image cannot be rotated by {len(rotations)} rotations; "
            f"give 1 or {len(rotations)} crops"
        )
    turned = [
        _turn(images[:, place] if several else images, int(turn))
        for place, turn in enumerate(rotations)
    ]
    return ops.stack(turned, axis=1)


def rotate_degrees(images: Any, degrees: Sequence[int] = (0, 90, 180, 270)) -> Any:
    """Returns views of each image rotated by multiples of 45 degrees, counter-clockwise.

    Multiples of 90 degrees by themselves are exact, see `rotate`. With an odd multiple of 45
    among them, corners would be empty and reveal the angle: every view then shows only the central
    square that no rotation empties, 1/sqrt(2) of the side, enlarged to the image's size by
    bilinear interpolation (Gidaris et al., ICLR 2018, section 3.1, for eight rotations).

    Args:
        images: `[B, S, S, C]`, square, S known; or `[B, len(degrees), S, S, C]`, a crop of its own
            for each rotation.
        degrees: different multiples of 45 from 0 to 315, in the order wanted.

    Returns:
        `[B, len(degrees), S, S, C]`: the dtype of `images` for multiples of 90, else float32.

    Raises:
        UserError: images that are not square, or degrees that are no such multiples.

    >>> image = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
    >>> np.asarray(rotate_degrees(image, (180,)))[0, 0, :, :, 0].tolist()
    [[4, 3], [2, 1]]
    """
    check_degrees(degrees)
    degrees = [int(angle) for angle in degrees]
    if all(angle % 90 == 0 for angle in degrees):
        return rotate(images, [angle // 90 for angle in degrees])
    images = ops.convert_to_tensor(images)
    several = len(images.shape) == 5
    _check_square(images[:, 0] if several else images)
    if several and images.shape[1] != len(degrees):
        raise UserError(
            f"{images.shape[1]} crops of an image cannot be rotated by {len(degrees)} rotations; "
            f"give 1 or {len(degrees)} crops"
        )
    turned, made = [], {}
    for place, angle in enumerate(degrees):
        # Odd multiples of 45 are quarter turns of the one by 45 degrees.
        key = (place if several else 0, angle % 90)
        if key not in made:
            crop = images[:, place] if several else images
            made[key] = _enlarged_centre(crop, angle % 90)
        turned.append(_turn(made[key], angle // 90))
    return ops.stack(turned, axis=1)


def check_degrees(degrees: Sequence[int]) -> None:
    """Raises a `UserError` unless these are different multiples of 45 degrees, 0 to 315.

    >>> check_degrees([0, 90])
    >>> check_degrees([0, 30])
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: rotations must be different multiples of 45 degrees from 0 to 315, ...
    """
    possible = list(range(0, 360, 45))
    given = list(degrees) if isinstance(degrees, (list, tuple)) else [degrees]
    if not given or any(d not in possible for d in given) or len(set(given)) < len(given):
        raise UserError(
            f"rotations must be different multiples of 45 degrees from 0 to 315, got {given}"
        )


def _enlarged_centre(images: Any, degrees: float) -> Any:
    """Turns `[B, S, S, C]`, and enlarges the central square that is full at every angle."""
    size, channels = images.shape[1], images.shape[3]
    # Where, from the centre, each pixel of the result comes from.
    down, right = np.meshgrid(
        *[(np.arange(size) + 0.5 - size / 2) / math.sqrt(2)] * 2, indexing="ij"
    )
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    columns = np.clip(right * cosine - down * sine + (size - 1) / 2, 0, size - 1)
    rows = np.clip(right * sine + down * cosine + (size - 1) / 2, 0, size - 1)
    top, left = np.floor(rows).astype("int32"), np.floor(columns).astype("int32")
    pixels = ops.reshape(ops.cast(images, "float32"), (-1, size * size, channels))
    result = 0.0
    for row, row_share in ((top, 1 - (rows - top)), (np.minimum(top + 1, size - 1), rows - top)):
        for column, share in (
            (left, 1 - (columns - left)),
            (np.minimum(left + 1, size - 1), columns - left),
        ):
            weights = (row_share * share).reshape(1, -1, 1).astype("float32")
            result = result + weights * ops.take(pixels, (row * size + column).ravel(), axis=1)
    return ops.reshape(result, (-1, size, size, channels))


def flatten_views(views: Any) -> Any:
    """Lays views out as one batch, image-major: all views of image 0, then those of image 1.

    Args:
        views: `[B, V, ...]`, any dtype.

    Returns:
        `[B * V, ...]`; view `v` of image `b` is row `b * V + v`. Labels that go with it repeat
        0, 1, ..., V - 1 for every image.

    >>> import numpy as np
    >>> np.asarray(flatten_views(np.array([[10, 11], [20, 21]]))).tolist()
    [10, 11, 20, 21]
    """
    views = ops.convert_to_tensor(views)
    if len(views.shape) < 2 or any(size is None for size in views.shape[1:]):
        raise UserError(
            f"views must have shape [batch, views, ...] with all but the batch known, got "
            f"{tuple(views.shape)}"
        )
    return ops.reshape(views, (-1, *views.shape[2:]))


def rotate_each(images: Any, k: Any) -> Any:
    """Rotates each image of a batch by its own number of quarter turns, counter-clockwise.

    Args:
        images: `[B, S, S, C]`, any dtype, square.
        k: `[B]`, integers; taken modulo 4, as `numpy.rot90` does.

    Returns:
        `[B, S, S, C]`, the dtype of `images`; image `b` is `numpy.rot90(images[b], k[b])`.

    Raises:
        UserError: the images are not a batch of square images.

    >>> import numpy as np
    >>> images = np.array([[[1, 2], [3, 4]]] * 2).reshape(2, 2, 2, 1)
    >>> np.asarray(rotate_each(images, [0, 2]))[..., 0].tolist()
    [[[1, 2], [3, 4]], [[4, 3], [2, 1]]]
    """
    images = ops.convert_to_tensor(images)
    _check_square(images)
    k = ops.reshape(ops.mod(ops.convert_to_tensor(k), NUM_ROTATIONS), (-1, 1, 1, 1))
    # k = 2 * half + quarter: two selections do the work of four.
    turned = ops.where(ops.equal(k % 2, 1), _turn(images, 1), images)
    return ops.where(ops.greater_equal(k, 2), _turn(turned, 2), turned)
