"""Dropout whose masks do not depend on the number of replicas."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rfd_tf.layers import replicas


@keras.saving.register_keras_serializable(package="rfd_tf")
class Dropout(keras.layers.Dropout):
    """A drop-in for `keras.layers.Dropout` by which several replicas train as one.

    The stock layer draws the same mask on every replica, so that the first images of all parts of
    a batch lose the same units. Here a mask is drawn for the global batch, and each replica takes
    its rows. With `noise_shape=(None, 1, 1, 1)` whole images lose a branch, which is stochastic
    depth (Huang et al., ECCV 2016).

    Args:
        rate, noise_shape, seed, **kwargs: those of `keras.layers.Dropout`. A first entry of
            `noise_shape` other than None is one mask for all images.

    >>> layer = Dropout(0.5, noise_shape=(None, 1), seed=0)
    >>> sorted({tuple(row) for row in layer(ops.ones((20, 2)), training=True).numpy().tolist()})
    [(0.0, 0.0), (2.0, 2.0)]
    """

    def call(self, inputs, training=False):
        """Drops units in training; otherwise returns the inputs."""
        if not training or self.rate == 0:
            return inputs
        shape = ops.shape(inputs)
        rows, *rest = [
            size if wanted is None else wanted
            for wanted, size in zip(self.noise_shape or (None,) * len(shape), shape, strict=True)
        ]

        def uniform(count):
            return keras.random.uniform((count, *rest), dtype="float32", seed=self.seed_generator)

        shared = self.noise_shape is not None and self.noise_shape[0] is not None
        drawn = uniform(rows) if shared else replicas.draw(uniform, rows)
        if self.rate == 1:
            return ops.zeros_like(inputs)
        kept = ops.cast(drawn >= self.rate, inputs.dtype)
        return inputs * kept / ops.cast(1.0 - self.rate, inputs.dtype)


def replaced(layer: Any) -> Any:
    """Returns `Dropout` in place of a stock layer that does the same, or None for any other.

    Such layers are `keras.layers.Dropout`, spatial dropout, and the stochastic depth of Keras'
    ConvNeXt, whose random numbers come from a generator that no checkpoint holds.
    """
    config = {"name": layer.name, "dtype": getattr(layer, "dtype_policy", None)}
    if type(layer) is keras.layers.Dropout:
        return Dropout(layer.rate, layer.noise_shape, layer.seed, **config)
    if type(layer) is keras.layers.SpatialDropout2D and layer.data_format == "channels_last":
        return Dropout(layer.rate, (None, 1, 1, None), layer.seed, **config)
    if type(layer).__name__ == "StochasticDepth" and hasattr(layer, "drop_path_rate"):
        return Dropout(layer.drop_path_rate, (None, 1, 1, 1), **config)
    return None


def not_agreeing(model: keras.Model) -> list[str]:
    """Returns the names of a model's layers whose random numbers depend on the replicas.

    >>> inputs = keras.Input((4,))
    >>> not_agreeing(keras.Model(inputs, keras.layers.Dropout(0.5, name="drop")(inputs)))
    ['drop']
    """
    return [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        if not isinstance(layer, Dropout)
        and (
            isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator)
            or type(layer).__name__ == "StochasticDepth"
        )
    ]
