"""Affine and projective warps of whole batches, each image by its own, by bilinear sampling.

Written in `keras.ops`, vectorised, to run on the device. A warp is given by eight coefficients
(a, ..., h), as Pillow has them: the output's point (x, y) shows the input's point
((a x + b y + c) / (g x + h y + 1), (d x + e y + f) / (g x + h y + 1)). Points are in pixels, x to
the right and y downwards, (0, 0) the outer corner of the top left pixel, whose centre is
(0.5, 0.5). Coordinates are computed by sums and products in float32, never by matrix products,
which accelerators may round to ten bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from rfd_tf.errors import UserError

NUM_COEFFICIENTS = 8


def _check_square(images: Any) -> None:
    if len(images.shape) != 4 or images.shape[1] is None or images.shape[1] != images.shape[2]:
        raise UserError(
            f"images to warp must have shape [batch, size, size, channels], got "
            f"{tuple(images.shape)}"
        )


def warp_points(points: Any, coefficients: Any) -> Any:
    """Finds which points of the input the output shows at given points.

    Args:
        points: `[P, 2]` floating point, x and y in the output, pixels.
        coefficients: `[B, 8]` floating point, a warp an image.

    Returns:
        float32 `[B, P, 2]`, x and y in the input; not finite at the horizon of a projection.

    >>> np.asarray(warp_points([[3.0, 4.0]], [[1.0, 0, 5, 0, 1, 6, 0, 0]])).tolist()
    [[[8.0, 10.0]]]
    """
    points = ops.convert_to_tensor(points, "float32")
    x, y = points[None, :, 0], points[None, :, 1]
    coefficients = ops.convert_to_tensor(coefficients, "float32")
    a, b, c, d, e, f, g, h = (coefficients[:, k : k + 1] for k in range(NUM_COEFFICIENTS))
    depth = g * x + h * y + 1.0
    return ops.stack([(a * x + b * y + c) / depth, (d * x + e * y + f) / depth], axis=-1)


def warp(images: Any, coefficients: Any, fill: float = 128.0) -> Any:
    """Warps each image by its own coefficients.

    A point within the input is interpolated between the four pixels around it, those at the border
    going on beyond it by half a pixel; a point outside shows the fill. Pillow's `transform` with
    bilinear resampling does the same, and rounds.

    Args:
        images: `[B, S, S, C]`, any dtype, S known.
        coefficients: `[B, 8]`, see above.
        fill: value outside the input.

    Returns:
        float32 `[B, S, S, C]`, not rounded. Gradients pass to the pixels, not to the coefficients.

    Raises:
        UserError: images that are not square.

    >>> shift = [[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    >>> image = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
    >>> np.asarray(warp(image, shift, fill=9))[0, :, :, 0].tolist()
    [[2.0, 9.0], [4.0, 9.0]]
    """
    images = ops.convert_to_tensor(images)
    _check_square(images)
    size, channels = images.shape[1], images.shape[3]
    centres = np.arange(size, dtype="float32") + 0.5
    grid = np.stack(np.meshgrid(centres, centres, indexing="xy"), axis=-1).reshape(-1, 2)
    found = ops.stop_gradient(warp_points(grid, coefficients))
    # A comparison with what is not a number is false, and so is shown as fill.
    inside = ops.all((found >= 0.0) & (found < float(size)), axis=-1, keepdims=True)
    found = ops.where(inside, found, 0.5) - 0.5
    low = ops.floor(found)
    share = found - low
    low = ops.cast(low, "int32")
    first = ops.reshape(ops.arange(ops.shape(images)[0], dtype="int32") * size * size, (-1, 1))
    pixels = ops.reshape(images, (-1, channels))
    total = 0.0
    for down in (0, 1):
        rows = ops.clip(low[..., 1] + down, 0, size - 1)
        row_share = share[..., 1:] if down else 1.0 - share[..., 1:]
        for right in (0, 1):
            columns = ops.clip(low[..., 0] + right, 0, size - 1)
            column_share = share[..., :1] if right else 1.0 - share[..., :1]
            values = ops.take(pixels, first + rows * size + columns, axis=0)
            total = total + row_share * column_share * ops.cast(values, "float32")
    warped = ops.where(inside, total, ops.cast(fill, "float32"))
    return ops.reshape(warped, (-1, size, size, channels))


def affine_coefficients(angle: Any, translation: Any, scale: Any, shear: Any, size: int) -> Any:
    """Makes warps that turn, shear, scale and shift images about their centres.

    A point at p from the centre comes to lie at A p + translation from it, A = scale *
    [[cos(angle), -sin(angle + shear)], [sin(angle), cos(angle + shear)]].

    Args:
        angle: `[B]`, degrees, clockwise as seen.
        translation: `[B, 2]`, pixels to the right and downwards.
        scale: `[B]`, above 0; 2 makes things twice as large.
        shear: `[B]`, degrees, between -90 and 90.
        size: side of the images, pixels.

    Returns:
        float32 `[B, 8]`.

    Source: torchvision's affine transformation of 2018, which AET (Zhang et al., CVPR 2019) used.

    >>> turn = affine_coefficients([90.0], [[0.0, 0.0]], [1.0], [0.0], size=2)
    >>> image = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
    >>> np.asarray(warp(image, turn))[0, :, :, 0].round(3).tolist()
    [[3.0, 1.0], [4.0, 2.0]]
    """
    angle, shear = (
        ops.convert_to_tensor(value, "float32") * (math.pi / 180) for value in (angle, shear)
    )
    translation = ops.convert_to_tensor(translation, "float32")
    shrink = 1.0 / (ops.convert_to_tensor(scale, "float32") * ops.cos(shear))
    a, b = shrink * ops.cos(angle + shear), shrink * ops.sin(angle + shear)
    d, e = -shrink * ops.sin(angle), shrink * ops.cos(angle)
    centre = size / 2
    x, y = centre + translation[:, 0], centre + translation[:, 1]
    zero = ops.zeros_like(a)
    return ops.stack([a, b, centre - a * x - b * y, d, e, centre - d * x - e * y, zero, zero], -1)


def projective_coefficients(corners: Any, size: int) -> Any:
    """Makes the warps that bring the images' corners to given places.

    Args:
        corners: `[B, 4, 2]`, x and y in pixels of where the top left, top right, bottom right and
            bottom left corners come to lie; a convex quadrilateral.
        size: side of the images, pixels.

    Returns:
        float32 `[B, 8]`.

    Source: Heckbert, "Fundamentals of Texture Mapping and Image Warping", 1989, section 2.2.3.

    >>> corners = [[[0.0, 0.0], [8.0, 0.0], [8.0, 8.0], [0.0, 8.0]]]
    >>> np.abs(projective_coefficients(corners, size=8)).round(6).tolist()
    [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    """
    corners = ops.convert_to_tensor(corners, "float32") / size
    x0, x1, x2, x3 = (corners[:, k, 0] for k in range(4))
    y0, y1, y2, y3 = (corners[:, k, 1] for k in range(4))
    # From the unit square to the quadrilateral ...
    right_x, below_x, sum_x = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    right_y, below_y, sum_y = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    determinant = right_x * below_y - below_x * right_y
    g = (sum_x * below_y - below_x * sum_y) / determinant
    h = (right_x * sum_y - sum_x * right_y) / determinant
    a, b, c = x1 - x0 + g * x1, x3 - x0 + h * x3, x0
    d, e, f = y1 - y0 + g * y1, y3 - y0 + h * y3, y0
    # ... and back: the adjugate of [[a, b, c], [d, e, f], [g, h, 1]].
    scale = 1.0 / (a * e - b * d)
    return ops.stack(
        [
            scale * (e - f * h),
            scale * (c * h - b),
            scale * (b * f - c * e) * size,
            scale * (f * g - d),
            scale * (a - c * g),
            scale * (c * d - a * f) * size,
            scale * (d * h - e * g) / size,
            scale * (b * g - a * h) / size,
        ],
        axis=-1,
    )


def shift_channels(images: Any, shifts: Any) -> Any:
    """Moves each channel of each image by its own whole pixels; pixels at the border repeat.

    Args:
        images: `[B, S, S, C]`, any dtype, S known.
        shifts: integers `[B, C, 2]`, pixels downwards and to the right.

    Returns:
        `[B, S, S, C]`, the dtype of `images`.

    Raises:
        UserError: images that are not square.

    >>> image = np.array([[1, 2], [3, 4]]).reshape(1, 2, 2, 1)
    >>> np.asarray(shift_channels(image, [[[0, 1]]]))[0, :, :, 0].tolist()
    [[1, 1], [3, 3]]
    """
    images = ops.convert_to_tensor(images)
    _check_square(images)
    size, channels = images.shape[1], images.shape[3]
    shifts = ops.cast(shifts, "int32")
    places = ops.reshape(ops.arange(size, dtype="int32"), (1, -1, 1))
    rows = ops.clip(places - shifts[:, None, :, 0], 0, size - 1)
    columns = ops.clip(places - shifts[:, None, :, 1], 0, size - 1)
    batch = ops.shape(images)[0]
    first = ops.reshape(ops.arange(batch, dtype="int32") * size, (-1, 1, 1))
    pixels = (ops.expand_dims(first + rows, 2) * size + ops.expand_dims(columns, 1)) * channels
    pixels = pixels + ops.arange(channels, dtype="int32")
    return ops.take(ops.reshape(images, (-1,)), pixels, axis=0)
