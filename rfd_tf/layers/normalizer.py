"""The normalising constant of noise-contrastive estimation."""

from __future__ import annotations

import math

import keras
from keras import ops

from rfd_tf.errors import unknown
from rfd_tf.layers import replicas

NORMALIZERS = ("first_batch", "running", "analytic")


@keras.saving.register_keras_serializable(package="rfd_tf")
class NormalizingConstant(keras.layers.Layer):
    """Estimates Z, the sum of exp(similarity / temperature) over the whole memory bank.

    `first_batch` fixes Z on the first training batch, as Wu et al.'s published program does: mean
    of the exponentials of that batch, positives included, times the number of images. It never
    moves again, though the features do. `running` follows the same estimate by an exponential
    moving average, started at the first batch's value. `analytic` needs no batch: for directions
    spread evenly in D dimensions a similarity has variance 1 / D, hence
    Z = num_images * exp(1 / (2 * D * temperature**2)).

    Args:
        num_images: rows of the memory bank.
        dimensions: D, length of an embedding.
        temperature: the temperature that the similarities are divided by.
        mode: one of `NORMALIZERS`.
        momentum: share of the old value that `running` keeps at each step.

    Call: `logits` `[batch, 1 + negatives]` float32, similarities / temperature, column 0 the
    positive; `valid` the same shape or None, 0 where an entry does not count; `training` bool.
    Returns the scalar Z, float32, without gradient; outside training the state stays as it is.

    >>> constant = NormalizingConstant(1000, 128, temperature=0.07, mode="analytic")
    >>> round(float(constant(keras.ops.zeros((2, 3)))) / 1000, 2)
    2.22
    """

    def __init__(
        self,
        num_images: int,
        dimensions: int,
        temperature: float,
        mode: str = "running",
        momentum: float = 0.99,
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if mode not in NORMALIZERS:
            raise unknown("normalizer", mode, NORMALIZERS)
        self.num_images = int(num_images)
        self.dimensions = int(dimensions)
        self.temperature = float(temperature)
        self.mode = mode
        self.momentum = float(momentum)
        # 0 stands for "no batch seen yet".
        self.constant = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="constant", autocast=False
        )
        self.built = True

    def get_config(self):
        config = super().get_config()
        for name in ("num_images", "dimensions", "temperature", "mode", "momentum"):
            config[name] = getattr(self, name)
        return config

    def analytic(self) -> float:
        """Z for embeddings spread evenly over the sphere."""
        return self.num_images * math.exp(1.0 / (2.0 * self.dimensions * self.temperature**2))

    def call(self, logits, valid=None, training=False):
        """Returns the scalar Z, float32; takes in the batch when training."""
        if self.mode == "analytic":
            return ops.convert_to_tensor(self.analytic(), dtype="float32")
        exponentials = ops.exp(ops.stop_gradient(logits))
        if valid is None:
            batch_mean = replicas.all_mean(ops.mean(exponentials))
        else:
            weights = ops.broadcast_to(ops.cast(valid, "float32"), ops.shape(exponentials))
            batch_mean = replicas.all_sum(ops.sum(exponentials * weights)) / replicas.all_sum(
                ops.sum(weights)
            )
        estimate = batch_mean * self.num_images
        old = ops.convert_to_tensor(self.constant)
        if self.mode == "first_batch":
            later = old
        else:
            later = self.momentum * old + (1.0 - self.momentum) * estimate
        value = ops.where(old > 0, later, estimate)
        if training:
            self.constant.assign(value)
            return value
        return ops.where(old > 0, old, estimate)
