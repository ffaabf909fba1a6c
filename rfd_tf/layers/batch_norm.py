"""Batch normalisation by the fused TensorFlow kernel, agreeing across replicas."""

from __future__ import annotations

from collections.abc import Iterator

import keras
from keras import ops

from rfd_tf.layers import replicas


def batch_normalizations(model: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    """Yields every batch normalisation of a model, stock or of this package, nested ones too.

    >>> network = keras.Sequential([keras.Input((4,)), BatchNormalization(name="norm")])
    >>> [layer.name for layer in batch_normalizations(network)]
    ['norm']
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
        elif hasattr(layer, "layers"):
            yield from batch_normalizations(layer)


def limit_momentum(model: keras.Model, largest: float = 0.9) -> keras.Model:
    """Bounds the momentum of a model's moving statistics, for trainings of few steps.

    Many networks of `keras.applications` have 0.99 or 0.999: after 100 steps a third or nine
    tenths of the moving statistics are still those of before, while the weights have moved on.
    With 0.9 it takes about 40 steps to replace 99 %.

    Args:
        model: any Keras model; every batch normalisation in it, nested ones too, is changed where
            it stands, so hand in a copy of your own. Call it before the model is trained: a
            compiled training step keeps the momentum that it was traced with.
        largest: at least 0 and below 1; smaller momenta stay as they are.

    Returns:
        The same model.

    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    >>> limit_momentum(network).layers[0].momentum
    0.9
    """
    for layer in batch_normalizations(model):
        layer.momentum = min(layer.momentum, largest)
    return model


@keras.saving.register_keras_serializable(package="rfd_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """A drop-in for `keras.layers.BatchNormalization` that is fast and replica-safe.

    The weights, their names and the arguments are those of the stock layer, so weights files pass
    freely between the two. What differs:

    - On the TensorFlow backend, inputs of rank 2 or 4 with the channels last are normalised by one
      fused operation (FusedBatchNormV3) instead of a chain of elementwise ones, in bfloat16 or
      float16 too (statistics stay float32). Other inputs, masks, batch renormalisation and other
      backends take the stock path.
    - With several replicas in step, the statistics are those of the whole global batch unless
      `synchronized=False`; the moving statistics never drift apart.

    Args:
        synchronized: `None` (default) or `True`: statistics over all replicas whenever there are
            several. `False`: each replica normalises by its own part of the batch, and the moving
            statistics are the mean over the replicas.
        unbiased_moving_variance: whether the moving variance averages the unbiased batch variance,
            n / (n - 1) times the one used to normalise. `False` is Keras' rule, `True` PyTorch's
            (and so that of the published programs of RotNet and RFD).
        **kwargs: the arguments of `keras.layers.BatchNormalization`.

    Input and output: `[batch, ..., channels]`, floating point, any rank the stock layer takes.

    >>> layer = BatchNormalization(epsilon=1e-5)
    >>> layer(keras.ops.ones((8, 4, 4, 3)), training=True).shape
    TensorShape([8, 4, 4, 3])
    """

    def __init__(
        self, *, synchronized: bool | None = None, unbiased_moving_variance: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        self.synchronized = synchronized
        self.unbiased_moving_variance = bool(unbiased_moving_variance)

    def get_config(self):
        config = super().get_config()
        config["synchronized"] = self.synchronized
        config["unbiased_moving_variance"] = self.unbiased_moving_variance
        return config

    def add_weight(self, *args, name=None, **kwargs):
        # Replicas that normalise by themselves would let these two drift apart.
        if self.synchronized is False and name in ("moving_mean", "moving_variance"):
            kwargs.setdefault("aggregation", "mean")
        return super().add_weight(*args, name=name, **kwargs)

    def call(self, inputs, training=None, mask=None):
        """Normalises `[..., channels]`, when training by the batch's own statistics."""
        batch_statistics = bool(training) and self.trainable
        # (Keras 3.12 has no batch renormalisation.)
        renorm = getattr(self, "renorm", False)
        several = (
            batch_statistics and self.synchronized is not False and replicas.num_replicas() > 1
        )
        if several and not renorm:
            return self._synchronized_call(inputs, mask)
        rank = len(inputs.shape)
        fused = (
            keras.backend.backend() == "tensorflow"
            and mask is None
            and not renorm
            and rank in (2, 4)
            and self.axis in (-1, rank - 1)
            and keras.backend.standardize_dtype(inputs.dtype) != "float64"
        )
        if fused:
            return self._fused_call(inputs, batch_statistics)
        if batch_statistics and self.unbiased_moving_variance and not renorm:
            return self._synchronized_call(inputs, mask)
        return super().call(inputs, training=training, mask=mask)

    def _fused_call(self, inputs, batch_statistics: bool):
        import tensorflow as tf

        channels = self.moving_mean.shape[0]
        images = inputs
        if len(inputs.shape) == 2:
            images = tf.reshape(inputs, [-1, 1, 1, channels])
        scale = self.gamma.value if self.scale else tf.ones([channels])
        offset = self.beta.value if self.center else tf.zeros([channels])
        empty = tf.zeros([0])
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=tf.cast(scale, tf.float32),
            offset=tf.cast(offset, tf.float32),
            mean=empty if batch_statistics else tf.cast(self.moving_mean.value, tf.float32),
            variance=empty if batch_statistics else tf.cast(self.moving_variance.value, tf.float32),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            data_format="NHWC",
            is_training=batch_statistics,
        )
        if batch_statistics:
            count = tf.cast(tf.size(images) // channels, tf.float32)
            # The kernel hands out the unbiased variance.
            biased = variance * ((count - 1.0) / count)
            self._update_moving_statistics(mean, biased, count)
        if len(inputs.shape) == 2:
            outputs = tf.reshape(outputs, tf.shape(inputs))
        outputs.set_shape(inputs.shape)
        return ops.cast(outputs, self.compute_dtype)

    def _synchronized_call(self, inputs, mask):
        values = ops.cast(inputs, "float32")
        axes = self._reduction_axes
        if mask is None:
            weights = ops.ones([1] * len(values.shape), dtype="float32")
            local_count = ops.cast(ops.size(values) // self.moving_mean.shape[0], "float32")
        else:
            weights = ops.expand_dims(ops.cast(mask, "float32"), -1)
            local_count = ops.sum(ops.broadcast_to(weights, ops.shape(values)[:-1] + (1,)))
        count = replicas.all_sum(local_count)
        # Two passes: E[x^2] - E[x]^2 would lose the digits that equal training needs.
        mean = replicas.all_sum(ops.sum(values * weights, axis=axes)) / count
        shape = [1] * len(values.shape)
        shape[self.axis] = -1
        centred = values - ops.reshape(mean, shape)
        variance = replicas.all_sum(ops.sum(ops.square(centred) * weights, axis=axes)) / count
        self._update_moving_statistics(ops.stop_gradient(mean), ops.stop_gradient(variance), count)
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * ops.cast(self.gamma, "float32")
        outputs = centred * ops.reshape(scale, shape)
        if self.center:
            outputs = outputs + ops.reshape(ops.cast(self.beta, "float32"), shape)
        return ops.cast(outputs, self.compute_dtype)

    def _update_moving_statistics(self, mean, biased_variance, count) -> None:
        variance = biased_variance
        if self.unbiased_moving_variance:
            variance = biased_variance * (count / ops.maximum(count - 1.0, 1.0))
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
