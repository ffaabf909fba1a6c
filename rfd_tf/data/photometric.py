"""Changes of colour, each image by its own factors.

They are in `keras.ops`, of the backend that trains, for views created on the device, such as the
tiles of a jigsaw puzzle. `rfd_tf.data.augment` makes the same changes in the input pipeline, which
is TensorFlow's under every backend of Keras: hence the argument `xp`, the library that computes.
Pixels are 0 to 255, float32, and not rounded.
"""

from __future__ import annotations

from typing import Any

from keras import ops

# ITU-R 601 luma, as Pillow and torchvision compute grey.
_LUMA = (0.299, 0.587, 0.114)


def _column(values: Any, xp: Any = ops) -> Any:
    return xp.reshape(values, (-1, 1, 1, 1))


def grey(images: Any, xp: Any = ops) -> Any:
    """Returns the luma of floating images `[B, H, W, 3]`: `[B, H, W, 1]`.

    >>> round(float(grey([[[[0.0, 100.0, 0.0]]]])[0, 0, 0, 0]), 3)
    58.7
    """
    return xp.matmul(images, xp.reshape(xp.convert_to_tensor(_LUMA, "float32"), (3, 1)))


def color_jitter(images: Any, factors: Any, xp: Any = ops) -> Any:
    """Changes brightness, contrast and saturation, in this order.

    Args:
        images: `[B, H, W, 3]`, pixels 0 to 255.
        factors: `[B, 3]`, of brightness, contrast and saturation; 1 changes nothing.
        xp: the library that computes, such as `keras.ops`.

    Returns:
        float32 `[B, H, W, 3]`, 0 to 255.

    Source: torchvision's ColorJitter, which draws the order as well.

    >>> import numpy as np
    >>> images = np.full((1, 2, 2, 3), 100.0, "float32")
    >>> float(color_jitter(images, np.array([[1.5, 1.0, 0.3]], "float32"))[0, 0, 0, 0])
    150.0
    """
    images = xp.cast(images, "float32")
    brightness, contrast, saturation = (_column(factors[:, place], xp) for place in range(3))
    images = xp.clip(images * brightness, 0.0, 255.0)
    mean = xp.mean(grey(images, xp), axis=(1, 2), keepdims=True)
    images = xp.clip(mean + contrast * (images - mean), 0.0, 255.0)
    luma = grey(images, xp)
    return xp.clip(luma + saturation * (images - luma), 0.0, 255.0)


def turn_hue(images: Any, turns: Any, xp: Any = ops) -> Any:
    """Turns the hue of each image by its own angle, in the HSV colour model; grey stays grey.

    Args:
        images: `[B, H, W, 3]`, pixels 0 to 255.
        turns: `[B]`, shares of the full circle, -0.5 to 0.5.
        xp: as of `color_jitter`.

    Returns:
        float32 `[B, H, W, 3]`, 0 to 255.
    """
    values = xp.image.rgb_to_hsv(xp.cast(images, "float32") / 255.0)
    hue = xp.mod(values[..., :1] + _column(turns, xp), 1.0)
    return 255.0 * xp.image.hsv_to_rgb(xp.concatenate([hue, values[..., 1:]], axis=-1))


def grayscale(images: Any, chosen: Any) -> Any:
    """Takes the colour out of the chosen images: `[B, H, W, 3]` and bool `[B]` to float32."""
    images = ops.cast(images, "float32")
    return ops.where(_column(chosen), grey(images), images)


def mirror(images: Any, chosen: Any) -> Any:
    """Mirrors the chosen images left to right: `[B, H, W, C]` and bool `[B]`, dtype kept."""
    images = ops.convert_to_tensor(images)
    return ops.where(_column(chosen), ops.flip(images, axis=2), images)


def project_colors(images: Any, chosen: Any) -> Any:
    """Takes the chosen images' colours apart from green to magenta, and keeps the others as shown.

    The component along (-1, 2, -1) in the space of red, green and blue is removed: green parts from
    magenta along it when a lens bends the colours differently.

    Args:
        images: `[B, H, W, 3]`, pixels 0 to 255.
        chosen: bool `[B]`.

    Returns:
        float32 `[B, H, W, 3]`, 0 to 255.

    Source: Doersch et al., ICCV 2015, section 3.1; used for jigsaw puzzles by the program of
    Noroozi and Favaro.

    >>> green = [[[[0.0, 60.0, 0.0]]]]
    >>> project_colors(green, [True]).numpy().ravel().round(3).tolist()
    [20.0, 20.0, 20.0]
    """
    images = ops.cast(images, "float32")
    along = images[..., 1:2] * 2.0 - images[..., :1] - images[..., 2:]
    direction = ops.convert_to_tensor([-1.0, 2.0, -1.0], "float32")
    projected = ops.clip(images - along * direction / 6.0, 0.0, 255.0)
    return ops.where(_column(chosen), projected, images)
