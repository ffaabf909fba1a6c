"""The pixels of crops of photographs: one interpolation from the photograph to the crop.

Where a crop's pixels lie in its photograph is one affine map, found for many crops at once; see
`photos` for what is cut.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from PIL import Image

from rfd_tf.data import augment
from rfd_tf.data.decode import to_uint8
from rfd_tf.data.photo_draws import DRAWS, GOLDEN, key_of, noise_key, normal_quantiles

if TYPE_CHECKING:
    from rfd_tf.data.photos import PhotoSource

# Of `DRAWS`: which are used for what.
_REGION, _WINDOW = slice(0, 2), slice(2, 24)
_ANGLE, _SHEAR, _VERTICAL, _HORIZONTAL = 24, 25, 26, 27
_COLORED, _FACTORS, _HUE = 28, slice(29, 32), 32


def _uint64(value: int) -> tf.Tensor:
    return tf.constant(np.uint64(value), tf.uint64)


def hashed(counters: tf.Tensor) -> tf.Tensor:
    """Scrambles uint64 numbers as `subset.index_hash` does."""
    z = counters + _uint64(GOLDEN)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _uint64(shift))) * _uint64(factor)
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _uint64(31)))


def uniform_draws(seed: int, numbers: tf.Tensor) -> tf.Tensor:
    """Returns `photo_draws.uniform_draws` of int64 numbers `[n]`, as a tensor."""
    counters = numbers[:, None] * DRAWS + tf.range(DRAWS, dtype=tf.int64)
    bits = hashed(_uint64(key_of(seed)) + tf.cast(counters, tf.uint64) * _uint64(GOLDEN))
    bits = tf.cast(tf.bitwise.right_shift(bits, _uint64(40)), tf.int32)
    return tf.cast(bits, tf.float32) * 2.0**-24


def normal_draws(seed: int, numbers: tf.Tensor, count: int) -> tf.Tensor:
    """Returns `photo_draws.normal_draws` of int64 numbers `[n]`, as a tensor."""
    counters = numbers[:, None] * count + tf.range(count, dtype=tf.int64)
    bits = hashed(_uint64(noise_key(seed)) + tf.cast(counters, tf.uint64) * _uint64(GOLDEN))
    places = tf.cast(tf.bitwise.right_shift(bits, _uint64(48)), tf.int32)
    return tf.gather(tf.constant(normal_quantiles()), places)


def levels(source: PhotoSource) -> int:
    """Returns how many levels the pyramids need: the first is the photograph itself."""
    if not source.settings.scale:
        return 1
    resized = source.settings.resized(source.size)
    largest = max(max(source.settings.region_of(*photo.shape[:2])) for photo in source.photos)
    return 1 + max(0, math.ceil(math.log2(largest / resized)))


def inverse_affine(angle: tf.Tensor, shear: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Returns the matrices that take points of turned and sheared windows back to the windows.

    Args:
        angle, shear: float32 `[n]`, degrees.

    Returns:
        a, b, d, e, float32 `[n]`: point (x, y) from the centre shows (a x + b y, d x + e y). As
        in `warps.affine_coefficients`.
    """
    angle, shear = angle * (math.pi / 180), shear * (math.pi / 180)
    shrink = 1.0 / tf.cos(shear)
    return (
        shrink * tf.cos(angle + shear),
        shrink * tf.sin(angle + shear),
        -shrink * tf.sin(angle),
        shrink * tf.cos(angle),
    )


class Cutter:
    """Makes the crops of a `PhotoSource`: a function of their index, int64 `[n]`.

    The result is uint8 `[n, size, size, 3]`.
    """

    def __init__(self, source: PhotoSource):
        self.settings, self.size, self.seed = source.settings, source.size, source.seed
        self.num_photos, self.levels = len(source.photos), levels(source)
        pyramids = [_pyramid(photo, self.levels) for photo in source.photos]
        shapes = np.array([[one.shape[:2] for one in pyramid] for pyramid in pyramids], np.int32)
        areas = shapes.prod(axis=-1)
        first = np.cumsum(areas.ravel()) - areas.ravel()
        regions = [self.settings.region_of(*photo.shape[:2]) for photo in source.photos]
        pixels = [one.reshape(-1, 3) for pyramid in pyramids for one in pyramid]
        with tf.device("/CPU:0"):
            self.pixels = tf.identity(tf.constant(np.concatenate(pixels)))
            self.first = tf.constant(first.reshape(areas.shape), tf.int32)
            self.shapes = tf.constant(shapes)
            self.regions = tf.constant(regions, tf.int32)
            self.numbers = None if source.numbers is None else tf.constant(source.numbers, tf.int64)

    @property
    def at_once(self) -> int:
        """How many crops to make in one call: enough to be worth it, few enough for memory."""
        return max(1, min(256, (1 << 16) // self.size**2))

    def __call__(self, index: tf.Tensor) -> tf.Tensor:
        how = self.settings
        number = index if self.numbers is None else tf.gather(self.numbers, index)
        draws = uniform_draws(self.seed, number)
        photo = tf.cast(number % self.num_photos, tf.int32)
        windows = self._windows(draws, photo)
        x, y, inside = self._points(draws, windows)
        images = self._look_up(photo, windows, x, y)
        if inside is not None:
            images = tf.where(inside[..., None], images, 0.0)
        images = to_uint8(images)
        if how.color_probability and (how.color_jitter or how.hue):
            images = self._recolored(images, draws)
        if how.noise:
            noise = normal_draws(self.seed, number, self.size * self.size * 3)
            noise = tf.reshape(noise, [-1, self.size, self.size, 3])
            images = to_uint8(tf.cast(images, tf.float32) + 255.0 * how.noise * noise)
        return tf.ensure_shape(images, [index.shape[0], self.size, self.size, 3])

    def _windows(self, draws: tf.Tensor, photo: tf.Tensor) -> tf.Tensor:
        """Returns int32 `[n, 4]`: top, left, height, width in the photograph."""
        how = self.settings
        shape = tf.gather(self.shapes[:, 0], photo)
        region = tf.gather(self.regions, photo)
        corner = augment.uniform_below(shape - region + 1, draws[:, _REGION])
        if how.scale:
            windows = augment.resized_crop_windows(
                draws[:, _WINDOW],
                region[:, 0],
                region[:, 1],
                (how.area_min, 1.0),
                (1.0 / how.aspect, how.aspect),
            )
        else:
            side = how.resized(self.size)
            place = augment.uniform_below(region - side + 1, draws[:, _WINDOW][:, -2:])
            windows = tf.concat([place, tf.fill(tf.shape(place), side)], axis=1)
        return windows + tf.pad(corner, [[0, 0], [0, 2]])

    def _points(self, draws: tf.Tensor, windows: tf.Tensor) -> tuple:
        """Returns the positions of the crops' pixels in the photograph, and which are inside it.

        Returns:
            x, y: float32 `[n, size, size]`; and bool `[n, size, size]`, None where all do.
        """
        how = self.settings
        resized = float(how.resized(self.size))
        places = tf.range(self.size, dtype=tf.float32) + (0.5 - self.size / 2)

        def signs(wanted: bool, column: int) -> tf.Tensor:
            mirrored = wanted & (draws[:, column] < 0.5)
            return tf.where(mirrored, -1.0, 1.0)[:, None, None]

        across = signs(how.horizontal_flip, _HORIZONTAL) * places[None, None, :]
        down = signs(how.vertical_flip, _VERTICAL) * places[None, :, None]
        inside = None
        if how.turns:
            angle = how.rotation * (2.0 * draws[:, _ANGLE] - 1.0)
            shear = how.shear * (2.0 * draws[:, _SHEAR] - 1.0)
            a, b, d, e = (value[:, None, None] for value in inverse_affine(angle, shear))
            across, down = a * across + b * down, d * across + e * down
            half = resized / 2
            inside = (tf.abs(across) < half) & (tf.abs(down) < half)
        top, left, height, width = (
            value[:, None, None] for value in tf.unstack(tf.cast(windows, tf.float32), axis=1)
        )
        x = left + (across + resized / 2) * (width / resized)
        y = top + (down + resized / 2) * (height / resized)
        return tf.broadcast_to(x, self._grid(x)), tf.broadcast_to(y, self._grid(y)), inside

    def _grid(self, values: tf.Tensor) -> list:
        return [tf.shape(values)[0], self.size, self.size]

    def _look_up(
        self, photo: tf.Tensor, windows: tf.Tensor, x: tf.Tensor, y: tf.Tensor
    ) -> tf.Tensor:
        """Reads the photographs at points, at the scale of the windows: float32, `[..., 3]`."""
        if self.levels == 1:
            return self._sample(photo, tf.zeros_like(photo), x, y)
        area = tf.cast(windows[:, 2] * windows[:, 3], tf.float32)
        shrunk = tf.sqrt(area) / float(self.settings.resized(self.size))
        level = tf.clip_by_value(tf.math.log(shrunk) / math.log(2.0), 0.0, self.levels - 1.0)
        low = tf.cast(tf.floor(level), tf.int32)
        share = (level - tf.floor(level))[:, None, None, None]
        fine = self._sample(photo, low, x, y)
        coarse = self._sample(photo, tf.minimum(low + 1, self.levels - 1), x, y)
        return fine + share * (coarse - fine)

    def _sample(self, photo: tf.Tensor, level: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Interpolates bilinearly on one level of the pyramid; border pixels are repeated."""
        which = tf.stack([photo, level], axis=1)
        first = tf.gather_nd(self.first, which)[:, None, None]
        height, width = (
            value[:, None, None] for value in tf.unstack(tf.gather_nd(self.shapes, which), axis=1)
        )
        factor = tf.pow(0.5, tf.cast(level, tf.float32))[:, None, None]

        def neighbours(place: tf.Tensor, side: tf.Tensor) -> tuple[tf.Tensor, ...]:
            last = side - 1
            place = tf.clip_by_value(place * factor - 0.5, 0.0, tf.cast(last, tf.float32))
            low = tf.floor(place)
            share = (place - low)[..., None]
            low = tf.cast(low, tf.int32)
            return low, tf.minimum(low + 1, last), share

        left, right, across = neighbours(x, width)
        above, below, down = neighbours(y, height)

        def row(which: tf.Tensor) -> tf.Tensor:
            start = first + which * width
            one, other = (
                tf.cast(tf.gather(self.pixels, start + column), tf.float32)
                for column in (left, right)
            )
            return one + across * (other - one)

        upper, lower = row(above), row(below)
        return upper + down * (lower - upper)

    def _recolored(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        how = self.settings
        changed = images
        if how.color_jitter:
            low, high = max(0.0, 1.0 - how.color_jitter), 1.0 + how.color_jitter
            changed = augment.color_jitter(changed, low + (high - low) * draws[:, _FACTORS])
        if how.hue:
            changed = augment.turn_hue(changed, how.hue * (2.0 * draws[:, _HUE] - 1.0))
        chosen = draws[:, _COLORED] < how.color_probability
        return tf.where(chosen[:, None, None, None], changed, images)


def _pyramid(photo: np.ndarray, count: int) -> list[np.ndarray]:
    """Returns a photograph and its halves, quarters, ..., each the means of the one before."""
    found = [photo]
    for _ in range(count - 1):
        found.append(np.asarray(Image.fromarray(found[-1]).reduce(2)))
    return found
