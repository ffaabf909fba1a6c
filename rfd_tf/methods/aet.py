"""Auto-encoding transformations (Zhang, Qi, Wang, Luo, CVPR 2019)."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from rfd_tf import losses
from rfd_tf.data import transformations, warps
from rfd_tf.data.views import flatten_views
from rfd_tf.errors import unknown
from rfd_tf.layers import replicas
from rfd_tf.methods import options
from rfd_tf.methods.base import Method
from rfd_tf.methods.heads import linear
from rfd_tf.rules import Rule


class AutoEncodingTransformations(Method):
    """Estimates the transformation between an image and its transformed copy.

    The backbone sees both; a linear decoder estimates, from the two features put together, the
    parameters of the transformation.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        transformation: `projective` or `affine`; see `rfd_tf.data.transformations`.
        normalization: of the parameters, `measured` or `published`; see there.
        scale: smallest and largest scale; 0.7 and 1.3 (affine) or 0.8 and 1.2 (projective) when
            None.
        rotation: of `affine`: largest angle either way, degrees.
        translation: of `affine`: largest shift, a share of the side below 1.
        shear: of `affine`: largest shear either way, degrees below 90.
        corner_shift: of `projective`: largest shift of a corner, a share of the side below 0.25.
        quarter_turns: of `projective`: whether images are rotated by quarter turns as well.
        fill: value of pixels that the transformed image has no source for, 0-255.
        separate_passes: whether images and copies pass through the backbone one after the other,
            as in the published program, so that batch normalisation has statistics of each kind
            by itself; otherwise they are one batch.
        decoder_hidden: units of a hidden layer of the decoder; 0 for the paper's linear one.
        seed: of the decoder and the transformations.
        **kwargs: see `Method`.

    Logs `rotation_error`, the mean error of the estimated rotation in degrees (0 to 180), next to
    the loss.

    Raises:
        UserError: an unknown transformation or normalisation, an option out of range.

    >>> from rfd_tf import applications
    >>> method = AutoEncodingTransformations(applications.build("six_layer", image_size=32))
    >>> batch = {"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.array([0, 1])}
    >>> sorted(method(batch)), round(method.chance_levels()["transformation_loss"], 3)
    (['rotation_error', 'transformation_loss'], 1.0)
    """

    rules = (
        *Method.rules,
        Rule(("rotation", "translation", "shear"), {"transformation": ("affine",)}),
        Rule(("corner_shift", "quarter_turns"), {"transformation": ("projective",)}),
    )

    def __init__(
        self,
        backbone: keras.Model,
        *,
        transformation: str = "projective",
        normalization: str = "measured",
        scale: tuple[float, float] | None = None,
        rotation: float = 180.0,
        translation: float = 0.2,
        shear: float = 30.0,
        corner_shift: float = 0.125,
        quarter_turns: bool = True,
        fill: float = 128.0,
        separate_passes: bool = False,
        decoder_hidden: int = 0,
        seed: int = 0,
        **kwargs,
    ):
        if transformation not in transformations.FAMILIES:
            raise unknown("transformation", transformation, transformations.FAMILIES)
        arguments: dict = {"normalization": normalization}
        if scale is not None:
            arguments["scale"] = options.interval("scale", scale, least=0.1)
        if transformation == "affine":
            arguments["rotation"] = options.number("rotation", rotation, 0, 180)
            arguments["translation"] = options.number("translation", translation, 0, 0.99)
            arguments["shear"] = options.number("shear", shear, 0, 89)
        else:
            # Twice the shift of two corners must not fold the smallest image.
            arguments["corner_shift"] = options.number("corner_shift", corner_shift, 0, 0.24)
            arguments["quarter_turns"] = bool(quarter_turns)
        hidden = options.whole("decoder_hidden", decoder_hidden, least=0)
        super().__init__(backbone, **kwargs)
        self.separate_passes = bool(separate_passes)
        self.views = 1 if self.separate_passes else 2
        self.fill = options.number("fill", fill, 0, 255)
        self.family = transformations.FAMILIES[transformation](self.image_size, **arguments)
        self.declare({"transformation_loss": 1.0}, ["rotation_error"])
        inputs = 2 * self.feature_dimensions
        self.hidden_layer = None
        if hidden:
            self.hidden_layer = linear(hidden, inputs, "hidden", seed=seed + 11)
            inputs = hidden
        self.decoder = linear(self.family.num_parameters, inputs, "decoder", seed=seed + 10)
        self.transformation_seed = keras.random.SeedGenerator(seed + 12, name="transformation_seed")
        self.built = True

    def call(self, batch, training=False):
        """Computes the loss of a batch; see `Method.call`."""
        images = batch["image"]
        shape = (self.family.num_draws,)
        uniform = replicas.draw(
            lambda rows: keras.random.uniform((rows, *shape), seed=self.transformation_seed),
            ops.shape(images)[0],
        )
        parameters = self.family.parameters(uniform)
        coefficients = self.family.coefficients(parameters)
        transformed = warps.warp(images, coefficients, self.fill)
        estimated = self.estimate(images, transformed, training=training)
        true_angle, angle = (
            transformations.rotation_angles(each, self.image_size)
            for each in (coefficients, self.family.coefficients(estimated))
        )
        # The shorter way round.
        rotation_error = ops.abs(ops.mod(angle - true_angle + 180.0, 360.0) - 180.0)
        return {
            "transformation_loss": losses.transformation_error(estimated, parameters),
            "rotation_error": ops.mean(ops.stop_gradient(rotation_error)),
        }

    def estimate(self, images, transformed, training=False):
        """Estimates normalised parameters `[batch, parameters]` of what was done to images.

        Args:
            images: pixels 0-255, `[batch, size, size, 3]`.
            transformed: the same, transformed.
            training: whether batch statistics apply.
        """
        pair = [self.preprocess(each) for each in (images, transformed)]
        if self.separate_passes:
            features = [self.features(each, training=training) for each in pair]
            features = ops.concatenate(features, axis=-1)
        else:
            both = flatten_views(ops.stack(pair, axis=1))
            features = self.features(both, training=training)
            features = ops.reshape(features, (-1, 2 * self.feature_dimensions))
        if self.hidden_layer is not None:
            features = ops.relu(self.hidden_layer(features))
        return self.decoder(features)

    def chance_levels(self) -> dict[str, float]:
        levels = {"transformation_loss": self.family.variance}
        affine = isinstance(self.family, transformations.Affine)
        if self.family.rotation == 180 if affine else self.family.quarter_turns:
            # All directions alike: a constant answer is wrong by 90 degrees on average.
            levels["rotation_error"] = 90.0
        return levels

    def options(self) -> dict:
        return {**super().options(), "scale": list(self.family.scale)}

    def figures(self, images) -> dict:
        """Images, their transformed copies, and the images transformed as estimated."""
        uniform = np.random.default_rng(0).uniform(size=(len(images), self.family.num_draws))
        coefficients = self.family.coefficients(self.family.parameters(uniform))
        transformed = warps.warp(images, coefficients, self.fill)
        estimated = self.family.coefficients(self.estimate(images, transformed))
        again = warps.warp(images, estimated, self.fill)
        rows = [
            np.concatenate(list(ops.convert_to_numpy(ops.round(row)).astype("uint8")), axis=1)
            for row in (images, transformed, again)
        ]
        return {"original_transformed_estimated": np.concatenate(rows, axis=0)}
