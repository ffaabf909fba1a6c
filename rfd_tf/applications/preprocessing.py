"""The one convention of pixels that every backbone takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from rfd_tf.errors import UserError, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# RotNet's values for CIFAR-10, published as 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7 of 255.
CIFAR10_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR10_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)


def preprocess_input(
    x: Any,
    data_format: str | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Any:
    """Turns pixels into what the backbones take: `(x / 255 - mean) / std` per channel.

    Args:
        x: RGB pixels 0-255 of any dtype: NumPy array, tensor or Keras tensor, one image
            `[H, W, C]` or a batch `[..., H, W, C]`. It is not changed.
        data_format: `"channels_last"` or `"channels_first"` (then `[..., C, H, W]`); Keras'
            setting by default.
        mean: mean of the pixels per channel, in 0-1; ImageNet's by default.
        std: standard deviation of the pixels per channel, in 0-1; ImageNet's by default.

    Returns:
        float32, of the kind and shape of `x`.

    Raises:
        UserError: an unknown data format, constants that do not fit the channels, a deviation
            that is not positive.

    >>> preprocess_input(np.full((1, 1, 3), 255), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    array([[[1., 1., 1.]]], dtype=float32)
    """
    data_format = data_format or keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise unknown("data_format", data_format, ("channels_last", "channels_first"))
    if isinstance(x, (list, tuple)):
        x = np.asarray(x)
    if len(x.shape) < 3:
        raise UserError(f"images need height, width and channels, not shape {tuple(x.shape)}")
    channels = x.shape[-1 if data_format == "channels_last" else -3]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise UserError(
                f"{name} has {len(values)} values for images of {channels} channels ({data_format})"
            )
    scale, offset = scale_and_offset(mean, std)
    if data_format == "channels_first":
        scale, offset = scale[:, None, None], offset[:, None, None]
    if isinstance(x, np.ndarray):
        return x.astype("float32") * scale + offset
    return keras.ops.cast(x, "float32") * scale + offset


def per_channel(name: str, values: Any) -> tuple[float, ...]:
    """Returns a mean or a standard deviation of RGB pixels as three numbers.

    Args:
        name: what they are in a message; above 0 if it ends in `std`.
        values: what the user gave.

    Raises:
        UserError: not three finite numbers, or a deviation that is not positive.

    >>> per_channel("mean", [0, 0.5, 1])
    (0.0, 0.5, 1.0)
    """
    positive = name.endswith("std")
    try:
        found = () if isinstance(values, str) else tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(map(math.isfinite, found)) or (positive and min(found) <= 0):
        kind = "numbers above 0" if positive else "numbers"
        given = values if isinstance(values, str) else ",".join(map(str, np.ravel(values)))
        raise UserError(f"{name} needs three {kind} such as 0.5,0.5,0.5; got {given}")
    return found


def scale_and_offset(mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(scale, offset)`, float32 `[C]`, so that pixels * scale + offset is normalised.

    Raises:
        UserError: values that are not finite, or a deviation that is not positive.
    """
    mean, std = np.asarray(mean, "float64"), np.asarray(std, "float64")
    if mean.ndim != 1 or std.ndim != 1 or not np.all(np.isfinite(mean)):
        raise UserError(f"mean must be one finite number per channel, not {mean.tolist()}")
    if not np.all(np.isfinite(std)) or np.any(std <= 0):
        raise UserError(f"std must be one positive number per channel, not {std.tolist()}")
    return (1 / (255 * std)).astype("float32"), (-mean / std).astype("float32")
