"""Generator and joint discriminator of BiGAN, for images of any size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import keras

from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization

#: Smallest side of an image: two halvings, the least that the latent can be joined at.
MIN_SIZE = 16
_KERNEL_SIZE = 5
_DEVIATION = 0.02  # of all initial weights


def sides(size: int) -> list[int]:
    """Returns the sides of the maps between an image and the smallest map, the image's first.

    Each is half of the one before, rounded up, down to one below 8.

    >>> sides(64), sides(28)
    ([64, 32, 16, 8, 4], [28, 14, 7])
    """
    found = [size]
    while found[-1] >= 8:
        found.append((found[-1] + 1) // 2)
    return found


def generator(
    size: int, latent_dimensions: int, width: int = 64, seed: int = 0, name: str = "generator"
) -> keras.Model:
    """Builds G: `[batch, latent_dimensions]` to images `[batch, size, size, 3]` from -1 to 1.

    A dense layer to the smallest map of `sides`, then transposed convolutions of 5x5, each of which
    doubles the side, with batch normalisation and ReLU; the image is a sigmoid. A linear map of the
    latent is added to every map in between. Channels: `width` on the last map, twice as many on
    each before, eight times at most. Float32. Source: Donahue, Krähenbühl, Darrell, ICLR 2017, and
    their published program (its 64-pixel network, and at 28 and 96 pixels its sides too).

    Args:
        size: side of the images, pixels, at least 16.
        latent_dimensions: length of the latent.
        width: channels of the largest map.
        seed: of the initial weights.
        name: of the model.

    Raises:
        UserError: images too small.

    >>> generator(18, latent_dimensions=4, width=2).output_shape
    (None, 18, 18, 3)
    """
    maps, channels, seeds = _plan(size, width, seed)
    latent = keras.Input((latent_dimensions,), dtype="float32")
    side = maps[-1]
    x = _dense(latent, channels[-1] * side * side, seeds)
    # Every place of every channel is normalised by itself, as published.
    x = keras.layers.ReLU(dtype="float32")(_normalized(x))
    x = keras.layers.Reshape((side, side, channels[-1]), dtype="float32")(x)
    for side, count in zip(maps[-2:0:-1], channels[-2::-1], strict=True):
        x = _joined(_enlarged(x, count, side, seeds), latent, seeds)
        x = keras.layers.ReLU(dtype="float32")(_normalized(x))
    x = _enlarged(x, 3, size, seeds)
    x = keras.layers.Activation("sigmoid", dtype="float32")(x)
    image = keras.layers.Rescaling(2.0, offset=-1.0, dtype="float32")(x)
    return keras.Model(latent, image, name=name)


def discriminator(
    size: int, latent_dimensions: int, width: int = 64, seed: int = 0, name: str = "discriminator"
) -> keras.Model:
    """Builds D: images `[batch, size, size, 3]` from -1 to 1 and latents to logits `[batch, 1]`.

    Convolutions of 5x5 with step 2 down to the smallest map of `sides`, with leaky ReLU of slope
    0.2 and, but for the first, a linear map of the latent added and batch normalisation; then one
    linear unit, whose weights begin at zero. Channels: `width`, then twice as many each time, eight
    times at most. Float32. Source: as `generator`.

    Args:
        size, latent_dimensions, width, seed, name: see `generator`.

    Raises:
        UserError: images too small.

    >>> discriminator(16, latent_dimensions=4, width=2).output_shape
    (None, 1)
    """
    maps, channels, seeds = _plan(size, width, seed)
    image = keras.Input((size, size, 3), dtype="float32")
    latent = keras.Input((latent_dimensions,), dtype="float32")
    x = image
    for number, count in enumerate(channels):
        x = keras.layers.Conv2D(count, **_convolution(seeds))(x)
        if number:
            x = _normalized(_joined(x, latent, seeds))
        x = keras.layers.LeakyReLU(0.2, dtype="float32")(x)
    x = keras.layers.Flatten(dtype="float32")(x)
    logits = keras.layers.Dense(
        1, use_bias=False, kernel_initializer="zeros", dtype="float32", name="logits"
    )(x)
    return keras.Model([image, latent], logits, name=name)


def _plan(size: int, width: int, seed: int) -> tuple[list[int], list[int], Iterator[int]]:
    """Sides of the maps, channels of all but the image, and seeds without end."""
    if size < MIN_SIZE:
        raise UserError(f"images of {size} pixels are too small to generate; at least {MIN_SIZE}")
    maps = sides(size)
    channels = [width * min(2**number, 8) for number in range(len(maps) - 1)]
    return maps, channels, itertools.count(1000 * seed)


def _normal(seeds: Iterator[int], deviation: float = _DEVIATION):
    return keras.initializers.RandomNormal(stddev=deviation, seed=next(seeds))


def _convolution(seeds: Iterator[int]) -> dict:
    return {
        "kernel_size": _KERNEL_SIZE,
        "strides": 2,
        "padding": "same",
        "use_bias": False,
        "kernel_initializer": _normal(seeds),
        "dtype": "float32",
    }


def _enlarged(x, channels: int, side: int, seeds: Iterator[int]):
    """Maps of twice the side, the last row and column cut off where the side is odd."""
    excess = 2 * int(x.shape[1]) - side
    x = keras.layers.Conv2DTranspose(channels, **_convolution(seeds))(x)
    return keras.layers.Cropping2D(((0, excess), (0, excess)), dtype="float32")(x) if excess else x


def _dense(x, units: int, seeds: Iterator[int], deviation: float = _DEVIATION):
    return keras.layers.Dense(
        units, use_bias=False, kernel_initializer=_normal(seeds, deviation), dtype="float32"
    )(x)


def _joined(x, latent, seeds: Iterator[int]):
    """Maps with a linear map of the latent added at every place."""
    # As published: the deviation grows with the numbers a convolution sums over.
    added = _dense(latent, int(x.shape[-1]), seeds, _DEVIATION * _KERNEL_SIZE**2)
    added = keras.layers.Reshape((1, 1, int(x.shape[-1])), dtype="float32")(added)
    return keras.layers.Add(dtype="float32")([x, added])


def _normalized(x):
    return BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float32")(x)
