"""Random transformations of images by a few parameters, which a network can estimate.

A family turns uniform random numbers into parameters, and parameters into the coefficients that
`rfd_tf.data.warps.warp` takes. The parameters are normalised, so that errors in each count alike.
Everything is written in `keras.ops`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from rfd_tf.data import warps
from rfd_tf.errors import unknown

NORMALIZATIONS = ("measured", "published")
# Draws that means and deviations are measured on: they are then right to a hundredth.
_MEASURED = 20_000
# Side from which on the constants published for ImageNet hold, not those for CIFAR-10.
_IMAGENET_FROM = 96


class _Family:
    """What both families share: the parameters' normalisation.

    A subclass computes raw parameters (`_raw`) and coefficients (`_raw_coefficients`), and knows
    the published means and deviations of the raw ones.
    """

    num_draws: int
    num_parameters: int

    def _normalize_by(self, kind: str, mean: list[float], deviation: list[float]) -> None:
        if kind not in NORMALIZATIONS:
            raise unknown("normalization of the parameters", kind, NORMALIZATIONS)
        uniform = np.random.default_rng(0).uniform(size=(_MEASURED, self.num_draws))
        raw = self._raw(ops.convert_to_tensor(uniform, "float32"))
        raw = ops.convert_to_numpy(raw).astype("float64")
        if kind == "measured":
            mean, deviation = raw.mean(axis=0), raw.std(axis=0)
        self.mean = np.asarray(mean, "float32")
        # A parameter that does not vary, or only by rounding, is not scaled.
        varies = raw.std(axis=0) > 1e-6
        self.deviation = np.where(varies, deviation, 1.0).astype("float32")
        #: Mean squared error of an estimate that is always the mean.
        self.variance = float(np.mean((raw.std(axis=0) / self.deviation) ** 2))

    def parameters(self, uniform: Any) -> Any:
        """Normalised parameters, float32 `[B, num_parameters]`, of random numbers.

        Args:
            uniform: `[B, num_draws]`, uniform in [0, 1).
        """
        mean, deviation = self._scaling()
        return (self._raw(ops.cast(uniform, "float32")) - mean) / deviation

    def coefficients(self, parameters: Any) -> Any:
        """Coefficients `[B, 8]` of the warps that normalised parameters stand for."""
        mean, deviation = self._scaling()
        return self._raw_coefficients(ops.cast(parameters, "float32") * deviation + mean)

    def _scaling(self):
        return ops.convert_to_tensor(self.mean), ops.convert_to_tensor(self.deviation)


class Affine(_Family):
    """Random turns, shifts, scalings and shears; see `warps.affine_coefficients`.

    The parameters are the cosine and the sine of the angle, the shift across and down, the scale
    and the shear, the last four from -1 to 1 over their ranges before they are normalised.

    Args:
        size: side of the images, pixels.
        rotation: the angle is up to so many degrees either way.
        translation: the shift is up to this share of the side, in whole pixels.
        scale: smallest and largest scale.
        shear: the shear is up to so many degrees either way.
        normalization: `measured`, to mean 0 and deviation 1; `published`, as they are.

    Source: Zhang et al., AET, CVPR 2019, and its published program.

    >>> family = Affine(32)
    >>> np.abs(family.coefficients(family.parameters(np.full((1, 5), 0.5)))).round(4).tolist()
    [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    """

    num_draws = 5
    num_parameters = 6

    def __init__(
        self,
        size: int,
        rotation: float = 180.0,
        translation: float = 0.2,
        scale: tuple[float, float] = (0.7, 1.3),
        shear: float = 30.0,
        normalization: str = "measured",
    ):
        self.size, self.rotation, self.shear, self.scale = size, rotation, shear, scale
        self.translation = translation * size
        self._normalize_by(normalization, [0.0] * 6, [1.0] * 6)

    def _raw(self, uniform):
        signed = 2.0 * uniform - 1.0
        angle = signed[:, 0] * (self.rotation * math.pi / 180)
        shifts = ops.round(signed[:, 1:3] * self.translation) / (self.translation or 1.0)
        # Nobody can see a scale or a shear that is always the same.
        scale = signed[:, 3] * float(self.scale[0] < self.scale[1])
        shear = signed[:, 4] * float(self.shear > 0)
        columns = [ops.cos(angle), ops.sin(angle), shifts[:, 0], shifts[:, 1], scale, shear]
        return ops.stack(columns, axis=-1)

    def _raw_coefficients(self, raw):
        low, high = self.scale
        # Estimates may be of what cannot be: a scale below 0, a shear of a quarter turn.
        scale = ops.maximum((low + high) / 2 + raw[:, 4] * (high - low) / 2, low / 10)
        return warps.affine_coefficients(
            ops.arctan2(raw[:, 1], raw[:, 0]) * (180 / math.pi),
            raw[:, 2:4] * self.translation,
            scale,
            ops.clip(raw[:, 5] * self.shear, -89.0, 89.0),
            self.size,
        )


class Projective(_Family):
    """Random projections: the image's corners are scaled, rotated and shifted.

    The corners are scaled about the image's centre, rotated by a random quarter turn, and each is
    shifted by itself. The parameters are the eight coefficients of the warp.

    Args:
        size: side of the images, pixels.
        scale: smallest and largest scale.
        corner_shift: a corner moves by up to this share of the side, in whole pixels, across and
            down.
        quarter_turns: whether to turn.
        normalization: `measured`, to mean 0 and deviation 1; `published`, by the constants of the
            published programs, in proportion to the side: from 96 pixels on those for ImageNet,
            below those for CIFAR-10, with which the two coefficients of perspective count far
            less than the others.

    Source: Zhang et al., AET, CVPR 2019, and its published program.

    >>> family = Projective(32, scale=(1.0, 1.0), corner_shift=0.0)
    >>> turned = family.parameters(np.full((1, 10), 0.25))  # a quarter turn clockwise
    >>> np.abs(family.coefficients(turned)).round(3).tolist()
    [[0.0, 1.0, 0.0, 1.0, 0.0, 32.0, 0.0, 0.0]]
    """

    num_draws = 10
    num_parameters = 8

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.8, 1.2),
        corner_shift: float = 0.125,
        quarter_turns: bool = True,
        normalization: str = "measured",
    ):
        self.size, self.scale, self.quarter_turns = size, scale, quarter_turns
        self.corner_shift = int(corner_shift * size)
        if size < _IMAGENET_FROM:
            linear, shift, perspective = 1.0, 20.0 * size / 32, 0.015 * 32 / size
            mean_perspective = 0.0
        else:
            linear, shift, perspective = 0.75, 118.0 * size / 224, 7.75e-4 * 224 / size
            mean_perspective = 6.4e-5 * 224 / size
        self._normalize_by(
            normalization,
            [0.0, 0.0, size / 2, 0.0, 0.0, size / 2, mean_perspective, mean_perspective],
            [linear, linear, shift, linear, linear, shift, perspective, perspective],
        )

    def _raw(self, uniform):
        low, high = self.scale
        half = (low + (high - low) * uniform[:, 1:2]) * (self.size / 2)
        turn = ops.floor(uniform[:, :1] * 4.0) if self.quarter_turns else 0.0 * uniform[:, :1]
        # The top left corner comes to lie where the top right one was, and so on.
        place = ops.mod(turn + ops.arange(4, dtype="float32"), 4.0)
        right = ops.where((place == 1.0) | (place == 2.0), 1.0, -1.0)
        below = ops.where(place >= 2.0, 1.0, -1.0)
        corners = self.size / 2 + ops.expand_dims(half, -1) * ops.stack([right, below], axis=-1)
        most = self.corner_shift
        shifts = ops.minimum(ops.floor(uniform[:, 2:] * (2.0 * most + 1.0)), 2.0 * most) - most
        corners = corners + ops.reshape(shifts, (-1, 4, 2))
        return warps.projective_coefficients(corners, self.size)

    def _raw_coefficients(self, raw):
        return raw


def rotation_angles(coefficients: Any, size: int) -> Any:
    """Angles by which warps rotate the centre of an image: float32 `[B]`, degrees.

    Clockwise, -180 to 180: those of the rotation nearest to how the warp acts at the centre of its
    output. Defined for every warp, however odd.

    Args:
        coefficients: `[B, 8]`.
        size: side of the images, pixels.

    >>> quarter = warps.affine_coefficients([90.0], [[0.0, 0.0]], [1.5], [0.0], size=8)
    >>> float(rotation_angles(quarter, size=8)[0])
    90.0
    """
    coefficients = ops.cast(coefficients, "float32")
    a, b, c, d, e, f, g, h = (coefficients[:, k] for k in range(warps.NUM_COEFFICIENTS))
    centre = size / 2
    across, down = (a + b) * centre + c, (d + e) * centre + f
    depth = (g + h) * centre + 1.0
    # The derivatives there, times the square of the depth.
    sine = (b * depth - h * across) - (d * depth - g * down)
    cosine = (a * depth - g * across) + (e * depth - h * down)
    return ops.arctan2(sine, cosine) * (180 / math.pi)


FAMILIES = {"affine": Affine, "projective": Projective}
