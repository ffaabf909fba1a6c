"""Augmentations of whole batches, each a function of an explicit stateless seed.

The same seed gives the same result, on any machine and in any order of execution. A seed is an
integer tensor `[2]`. Images are `[B, H, W, 3]`, pixels 0 to 255. Nothing loops over the images:
each function is a few TensorFlow operations on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from rfd_tf.data import photometric
from rfd_tf.data.decode import to_uint8

_TRIES = 10


def seed_for(seed: tf.Tensor, purpose: int) -> tf.Tensor:
    """Returns a seed `[2]` of its own for each purpose, so that no two draws go together.

    >>> seed = tf.constant([1, 2])
    >>> bool(tf.reduce_all(seed_for(seed, 0) == seed_for(seed, 1)))
    False
    """
    return tf.random.experimental.stateless_fold_in(seed, purpose)


def _uniform(shape, seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, seed, low, high)


def uniform_below(bound: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Turns uniform numbers in [0, 1) into integers in [0, bound): int32, the common shape.

    >>> uniform_below(tf.constant(4), tf.constant([0.0, 0.3, 0.99])).numpy().tolist()
    [0, 1, 3]
    """
    drawn = tf.cast(uniform * tf.cast(bound, tf.float32), tf.int32)
    # In float32 a number just below 1 times a large bound can round up to the bound.
    return tf.minimum(drawn, bound - 1)


def window_draws(batch_size: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws what `resized_crop_windows` needs: float32 `[B, 22]`, uniform in [0, 1).

    Drawn apart from the windows, since an image's size may be known only once its bytes are read.

    >>> window_draws(8, tf.constant([0, 1])).shape
    TensorShape([8, 22])
    """
    return _uniform([batch_size, 2 * _TRIES + 2], seed)


def resized_crop_windows(
    draws: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tf.Tensor:
    """Chooses a random window per image, as torchvision's RandomResizedCrop does.

    Ten times an area (uniform, a fraction of the image's) and an aspect (log-uniform) are drawn;
    the first pair that fits inside the image is placed at random. If none fits, the window is the
    largest centred one with an aspect in the range.

    Args:
        draws: float32 `[..., 22]`, uniform in [0, 1), see `window_draws`.
        height: int32 `[...]`, of the images.
        width: int32 `[...]`, of the images.
        area: smallest and largest area, as a fraction of the image's, in (0, 1].
        ratio: smallest and largest width / height.

    Returns:
        int32 `[..., 4]`: top, left, height, width of the window, in pixels, inside the image.

    >>> draws = window_draws(8, tf.constant([0, 1]))
    >>> windows = resized_crop_windows(draws, tf.fill([8], 40), tf.fill([8], 60), area=(0.25, 1.0))
    >>> windows.shape, bool(tf.reduce_all(windows[:, 0] + windows[:, 2] <= 40))
    (TensorShape([8, 4]), True)
    """
    full_height = tf.cast(height, tf.float32)[..., None]
    full_width = tf.cast(width, tf.float32)[..., None]
    areas = full_height * full_width * (area[0] + draws[..., :_TRIES] * (area[1] - area[0]))
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    ratios = tf.exp(log_low + draws[..., _TRIES : 2 * _TRIES] * (log_high - log_low))
    widths = tf.round(tf.sqrt(areas * ratios))
    heights = tf.round(tf.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= full_width) & (heights > 0) & (heights <= full_height)
    # argmax finds the first True.
    first = tf.argmax(tf.cast(fits, tf.int32), axis=-1, output_type=tf.int32)[..., None]
    batch_dims = first.shape.rank - 1
    chosen_height = tf.gather(heights, first, batch_dims=batch_dims, axis=-1)
    chosen_width = tf.gather(widths, first, batch_dims=batch_dims, axis=-1)

    image_ratio = full_width / full_height
    # A strip one pixel wide still keeps a window of one pixel.
    fallback_height = tf.where(
        image_ratio < ratio[0],
        tf.clip_by_value(tf.round(full_width / ratio[0]), 1.0, full_height),
        full_height,
    )
    fallback_width = tf.where(
        image_ratio > ratio[1],
        tf.clip_by_value(tf.round(full_height * ratio[1]), 1.0, full_width),
        full_width,
    )
    any_fits = tf.reduce_any(fits, axis=-1, keepdims=True)
    window_height = tf.cast(tf.where(any_fits, chosen_height, fallback_height), tf.int32)
    window_width = tf.cast(tf.where(any_fits, chosen_width, fallback_width), tf.int32)

    room_below = tf.cast(height, tf.int32)[..., None] - window_height
    room_right = tf.cast(width, tf.int32)[..., None] - window_width
    top_draw, left_draw = draws[..., 2 * _TRIES : 2 * _TRIES + 1], draws[..., 2 * _TRIES + 1 :]
    top = tf.where(any_fits, uniform_below(room_below + 1, top_draw), room_below // 2)
    left = tf.where(any_fits, uniform_below(room_right + 1, left_draw), room_right // 2)
    return tf.concat([top, left, window_height, window_width], axis=-1)


def square_windows(
    draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor, share: float
) -> tf.Tensor:
    """Places a square window at random in each image.

    With `share` S / R it is torchvision's Resize(R) and RandomCrop(S), in stored pixels.

    Args:
        draws: float32 `[..., 2]` or wider, uniform in [0, 1): the last two place the window.
        height: int32 `[...]`, of the images.
        width: int32 `[...]`, of the images.
        share: the window's side as a fraction of the shorter side, in (0, 1].

    Returns:
        int32 `[..., 4]`: top, left, height, width of the window, in pixels, inside the image.

    >>> middle = tf.constant([[0.5, 0.5]])
    >>> square_windows(middle, tf.constant([40]), tf.constant([60]), share=0.5).numpy().tolist()
    [[10, 20, 20, 20]]
    """
    height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    shorter = tf.minimum(height, width)
    side = tf.maximum(1, tf.cast(tf.round(tf.cast(shorter, tf.float32) * share), tf.int32))
    top = uniform_below(height - side + 1, draws[..., -2])
    left = uniform_below(width - side + 1, draws[..., -1])
    return tf.stack([top, left, side, side], axis=-1)


def _sampling_weights(start: tf.Tensor, length: tf.Tensor, side: int, size: int) -> tf.Tensor:
    """Returns the weights that resize windows along one axis: float32 `[B, size, side]`.

    Row `i` of an image's matrix holds how much each of its `side` pixels adds to output pixel
    `i`: a triangle around the pixel's centre, widened when the window shrinks (antialiasing), cut
    off at the window's border and scaled to sum 1.
    """
    start = tf.cast(start, tf.float32)[:, None, None]
    length = tf.cast(length, tf.float32)[:, None, None]
    scale = length / size
    centres = start + (tf.range(size, dtype=tf.float32)[None, :, None] + 0.5) * scale
    pixels = tf.range(side, dtype=tf.float32)[None, None, :] + 0.5
    weights = tf.maximum(0.0, 1.0 - tf.abs(pixels - centres) / tf.maximum(scale, 1.0))
    inside = (pixels > start) & (pixels < start + length)
    weights = tf.where(inside, weights, 0.0)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def crop_and_resize(images: tf.Tensor, windows: tf.Tensor, image_size: int) -> tf.Tensor:
    """Cuts a window out of each image and resizes it, bilinear with antialiasing.

    The same as cropping each image and calling `tf.image.resize(..., antialias=True)` on it, but
    for the whole batch at once: one weighted sum along the rows, one along the columns.

    Args:
        images: `[B, H, W, 3]`, uint8 or floating, H and W known.
        windows: int32 `[B, 4]`: top, left, height, width, inside the images.
        image_size: side of the result.

    Returns:
        uint8 `[B, image_size, image_size, 3]`.

    >>> images = tf.zeros((1, 40, 60, 3), tf.uint8)
    >>> crop_and_resize(images, tf.constant([[10, 20, 20, 20]]), image_size=16).shape
    TensorShape([1, 16, 16, 3])
    """
    height, width = images.shape[1], images.shape[2]
    rows = _sampling_weights(windows[:, 0], windows[:, 2], height, image_size)
    columns = _sampling_weights(windows[:, 1], windows[:, 3], width, image_size)
    values = tf.reshape(tf.cast(images, tf.float32), [-1, height, width * 3])
    values = tf.reshape(tf.matmul(rows, values), [-1, image_size, width, 3])
    values = tf.matmul(columns[:, None], values)
    return to_uint8(values)


def pad_and_crop_offsets(batch_size: int | tf.Tensor, seed: tf.Tensor, padding: int) -> tf.Tensor:
    """Draws where `pad_and_crop` cuts: int32 `[B, 2]`, top and left, 0 to `2 * padding`.

    >>> pad_and_crop_offsets(8, tf.constant([0, 1]), padding=4).shape
    TensorShape([8, 2])
    """
    return tf.random.stateless_uniform([batch_size, 2], seed, 0, 2 * padding + 1, tf.int32)


def pad_and_crop(
    images: tf.Tensor, offsets: tf.Tensor, padding: int, mirrored: tf.Tensor | None = None
) -> tf.Tensor:
    """Pads each image with black and cuts its own size out again, at the given offsets.

    As torchvision's RandomCrop(size, padding).

    Args:
        images: `[B, H, W, 3]`, any dtype, H and W known.
        offsets: int32 `[B, 2]`: top and left in the padded image.
        padding: pixels added on each side.
        mirrored: bool `[B]`: images to `flip` as well, at no cost of its own.

    Returns:
        `[B, H, W, 3]`, the dtype of `images`.

    >>> images = tf.reshape(tf.range(1, 5), (1, 2, 2, 1))
    >>> pad_and_crop(images, tf.constant([[0, 1]]), padding=1)[0, :, :, 0].numpy().tolist()
    [[0, 0], [1, 2]]
    """
    height, width = images.shape[1], images.shape[2]
    rows = offsets[:, :1] + tf.range(height)
    columns = offsets[:, 1:] + tf.range(width)
    if mirrored is not None:
        columns = tf.where(mirrored[:, None], columns[:, ::-1], columns)
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    # One gather over the pixels of the batch, laid out as a list: three times as fast as
    # gathering the rows and then the columns of each image.
    first = tf.range(tf.shape(images)[0])[:, None] * (height + 2 * padding)
    pixels = (first + rows)[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    return tf.gather(tf.reshape(padded, [-1, images.shape[3]]), pixels)


def _change(images: tf.Tensor, chosen: tf.Tensor, how: Callable) -> tf.Tensor:
    """Replaces the chosen images by `how(images)`, which sees no others: half the work of where."""
    rows = tf.where(chosen)
    changed = how(tf.gather(images, rows[:, 0]))
    return tf.tensor_scatter_nd_update(images, rows, changed)


def flip_draws(batch_size: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws which images to mirror: bool `[B]`, each True with probability 1/2.

    >>> flip_draws(8, tf.constant([0, 1])).dtype
    tf.bool
    """
    return _uniform([batch_size], seed) < 0.5


def flip(images: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Mirrors the chosen images left to right.

    Args:
        images: `[B, H, W, 3]`, any dtype.
        chosen: bool `[B]`.

    Returns:
        `[B, H, W, 3]`, the dtype of `images`.

    >>> images = tf.reshape(tf.range(4), (2, 1, 2, 1))
    >>> flip(images, tf.constant([True, False]))[:, 0, :, 0].numpy().tolist()
    [[1, 0], [2, 3]]
    """
    return _change(images, chosen, _mirror)


def _mirror(images: tf.Tensor) -> tf.Tensor:
    # Of three axes; TensorFlow reverses the third of four several times slower.
    width, channels = images.shape[2], images.shape[3]
    rows = tf.reverse(tf.reshape(images, [-1, width, channels]), axis=[1])
    return tf.reshape(rows, tf.shape(images))


def upright(images: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotates and mirrors images by their EXIF orientation.

    Args:
        images: `[B, S, S, 3]`, square, any dtype.
        orientation: integers `[B]`, the EXIF tag's 1 to 8.

    Returns:
        `[B, S, S, 3]`, the dtype of `images`.

    Source: Exif 2.3 (JEITA CP-3451C), tag 0x0112.

    >>> images = tf.reshape(tf.range(4), (1, 2, 2, 1))
    >>> upright(images, tf.constant([3]))[0, :, :, 0].numpy().tolist()  # 3 is a half turn
    [[3, 2], [1, 0]]
    """
    code = tf.cast(orientation, tf.int32)

    def any_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(tf.equal(code[:, None], values), axis=1)

    images = _change(images, code >= 5, lambda some: tf.transpose(some, [0, 2, 1, 3]))
    images = _change(images, any_of(2, 3, 6, 7), _mirror)
    return _change(images, any_of(3, 4, 7, 8), lambda some: tf.reverse(some, axis=[1]))


class _TensorFlow:
    """What `photometric` takes of `keras.ops`, in TensorFlow under every backend of Keras."""

    cast, reshape, matmul, convert_to_tensor = tf.cast, tf.reshape, tf.matmul, tf.convert_to_tensor
    clip, mean, mod, concatenate = tf.clip_by_value, tf.reduce_mean, tf.math.floormod, tf.concat
    image = tf.image


def color_jitter_factors(
    batch_size: int | tf.Tensor, seed: tf.Tensor, strength: float
) -> tf.Tensor:
    """Draws float32 `[B, 3]`: factors of brightness, contrast and saturation.

    Each is uniform in `[max(0, 1 - strength), 1 + strength]`.

    >>> color_jitter_factors(8, tf.constant([0, 1]), strength=0.4).shape
    TensorShape([8, 3])
    """
    return _uniform([batch_size, 3], seed, max(0.0, 1.0 - strength), 1.0 + strength)


def color_jitter(images: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast and saturation of each image by its own factors.

    As torchvision's ColorJitter(s, s, s), in that fixed order where torchvision draws the order.

    Args:
        images: `[B, H, W, 3]`, uint8 or floating, pixels 0 to 255.
        factors: float32 `[B, 3]`: brightness, contrast, saturation; 1 changes nothing.

    Returns:
        uint8 `[B, H, W, 3]`.

    >>> images = tf.constant([100, 50, 0], tf.uint8, shape=(1, 1, 1, 3))
    >>> color_jitter(images, tf.constant([[0.5, 1.0, 1.0]])).numpy().ravel().tolist()
    [50, 25, 0]
    """
    return to_uint8(photometric.color_jitter(images, factors, _TensorFlow))


def hue_draws(batch_size: int | tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Draws float32 `[B]`: turns of the hue, uniform within +-strength of the full circle.

    >>> hue_draws(8, tf.constant([0, 1]), strength=0.1).shape
    TensorShape([8])
    """
    return _uniform([batch_size], seed, -strength, strength)


def turn_hue(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Turns the hue of each image by its own angle, as torchvision's ColorJitter(hue=...) does.

    Hue, saturation and value of a pixel are those of the HSV colour model; grey stays grey.

    Args:
        images: uint8 `[B, H, W, 3]`.
        turns: float32 `[B]`, shares of the full circle, -0.5 to 0.5.

    Returns:
        uint8 `[B, H, W, 3]`.

    >>> red = tf.constant([255, 0, 0], tf.uint8, shape=(1, 1, 1, 3))
    >>> turn_hue(red, tf.constant([1 / 3])).numpy().ravel().tolist()
    [0, 255, 0]
    """
    return to_uint8(photometric.turn_hue(images, turns, _TensorFlow))


def grayscale_draws(batch_size: int | tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """Draws which images lose their colour: bool `[B]`, each True with the given probability.

    >>> grayscale_draws(8, tf.constant([0, 1]), probability=0.2).dtype
    tf.bool
    """
    return _uniform([batch_size], seed) < probability


def grayscale(images: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Takes the colour out of the chosen images, keeping three equal channels.

    Args:
        images: uint8 `[B, H, W, 3]`.
        chosen: bool `[B]`.

    Returns:
        uint8 `[B, H, W, 3]`.

    >>> red = tf.constant([255, 0, 0], tf.uint8, shape=(1, 1, 1, 3))
    >>> grayscale(red, tf.constant([True])).numpy().ravel().tolist()
    [76, 76, 76]
    """

    def without_colour(some: tf.Tensor) -> tf.Tensor:
        grey = to_uint8(photometric.grey(tf.cast(some, tf.float32), _TensorFlow))
        return tf.tile(grey, [1, 1, 1, 3])

    return _change(images, chosen, without_colour)
