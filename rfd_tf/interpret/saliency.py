"""Gradients of a network's outputs with respect to its input, as maps over the image.

Gradients are TensorFlow's: this module needs the TensorFlow backend of Keras.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from rfd_tf.errors import UserError, unknown

#: How the maps of several neurons become one, or stay several.
GROUPS = ("maximum", "each")
#: How the magnitudes of the three colours become one.
COLORS = ("maximum", "mean")
# Rows go through the network together as long as they have no more pixels than this.
_PIXELS_PER_PASS = 1 << 20


class GradientMaps:
    """Saliency maps: magnitudes of the gradients of neurons with respect to the input.

    Images of a batch do not touch one another in inference mode. So a batch is made that holds
    each image once for every neuron, and the sum of every row's own neuron is differentiated: one
    backward pass gives the gradients of many neurons of many images.

    Args:
        model: functional, `[batch, S, S, 3]` to `[batch, D]`, S known.
        neurons: columns of the output; all by default.
        group: `maximum`, the element-wise maximum over the neurons, one map an image; or `each`.
        colors: how the three colours become one: their `maximum` or `mean`.
        draws: 0 for the plain gradient; otherwise the gradient is first averaged, signs and all,
            over so many noisy copies of the image (SmoothGrad).
        noise: standard deviation of the noise, as a share of each image's range of values.
        seed: of the noise.
        rows_per_pass: (image, neuron) pairs that go through the network together; as many as have
            2**20 pixels by default.

    Raises:
        UserError: a neuron that the output lacks, an unknown group, numbers out of range.

    Sources: Simonyan, Vedaldi, Zisserman, "Deep inside convolutional networks", 2013, section 3;
    Smilkov et al., "SmoothGrad", 2017.

    >>> inputs = keras.Input((2, 2, 3))
    >>> model = keras.Model(inputs, 3.0 * keras.layers.Flatten()(inputs)[:, ::3])
    >>> GradientMaps(model)(np.zeros((5, 2, 2, 3), "float32")).shape
    (5, 1, 2, 2)
    """

    def __init__(
        self,
        model: keras.Model,
        neurons: Sequence[int] | None = None,
        group: str = "maximum",
        colors: str = "maximum",
        draws: int = 0,
        noise: float = 0.15,
        seed: int = 0,
        rows_per_pass: int | None = None,
    ):
        import tensorflow as tf

        if group not in GROUPS:
            raise unknown("group", group, GROUPS)
        if colors not in COLORS:
            raise unknown("reduction of colours", colors, COLORS)
        if draws < 0 or noise < 0:
            raise UserError(f"draws and noise are at least 0; got {draws} and {noise}")
        self.neurons = columns_of(model, neurons)
        self.group, self.draws, self.noise, self.seed = group, draws, noise, seed
        self.rows_per_pass = rows_per_pass or rows_of(model)
        reduce = tf.reduce_max if colors == "maximum" else tf.reduce_mean

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, *model.input_shape[1:]], "float32"),
                tf.TensorSpec([None], "int32"),
            ],
            autograph=False,
        )
        def gradients(images, columns):
            rows = tf.repeat(images, tf.shape(columns)[0], axis=0)
            wanted = tf.tile(columns, [tf.shape(images)[0]])
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(rows)
                values = tf.cast(model(rows, training=False), tf.float32)
                total = tf.reduce_sum(tf.gather(values, wanted, batch_dims=1))
            return tape.gradient(total, rows)

        self._gradients = gradients
        self._magnitudes = lambda found: reduce(tf.abs(found), axis=-1).numpy()

    def __call__(self, images: np.ndarray, progress: str | None = None) -> np.ndarray:
        """Returns float32 `[N, maps, S, S]`, at least 0; one map an image with `maximum`.

        Args:
            images: float32 `[N, S, S, 3]`, normalised as the model takes them.
            progress: title of a progress bar; None shows none.
        """
        from rfd_tf.progress import tqdm

        images = np.asarray(images, np.float32)
        count, rows = len(self.neurons), self.rows_per_pass
        at_once = max(1, rows // count)
        step = max(1, rows // at_once)
        maps = 1 if self.group == "maximum" else count
        found = np.zeros((len(images), maps, *images.shape[1:3]), np.float32)
        # (None: no bar in a log file.)
        with tqdm(
            total=len(images), desc=progress, unit="img", disable=None if progress else True
        ) as bar:
            for start in range(0, len(images), at_once):
                part = slice(start, start + at_once)
                for first in range(0, count, step):
                    columns = self.neurons[first : first + step]
                    new = self._of(images[part], start, columns)
                    if self.group == "each":
                        found[part, first : first + step] = new
                    else:
                        found[part, 0] = np.maximum(found[part, 0], new.max(axis=1))
                bar.update(len(images[part]))
        return found

    def _of(self, images: np.ndarray, start: int, columns: np.ndarray) -> np.ndarray:
        """Magnitudes `[n, columns, S, S]`; `start` is the first image's place, for its noise."""
        if not self.draws:
            found = self._gradients(images, columns)
        else:
            found = 0.0
            for draw in range(self.draws):
                found += self._gradients(self._noisy(images, start, draw), columns) / self.draws
        return self._magnitudes(found).reshape(len(images), len(columns), *images.shape[1:3])

    def _noisy(self, images: np.ndarray, start: int, draw: int) -> np.ndarray:
        noisy = np.empty_like(images)
        for place, image in enumerate(images):
            # By the image's place: batches of another size change nothing.
            rng = np.random.default_rng([self.seed, start + place, draw])
            scale = self.noise * (image.max() - image.min())
            noisy[place] = image + scale * rng.standard_normal(image.shape, np.float32)
        return noisy


def saliency_maps(model: keras.Model, images: np.ndarray, **options) -> np.ndarray:
    """Returns `GradientMaps(model, **options)(images)`; for many batches, keep the object.

    >>> inputs = keras.Input((2, 2, 3))
    >>> model = keras.Model(inputs, 3.0 * keras.layers.Flatten()(inputs)[:, :2])
    >>> saliency_maps(model, np.zeros((1, 2, 2, 3), "float32"), neurons=[1])[0, 0].tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """
    return GradientMaps(model, **options)(images)


def columns_of(model: keras.Model, neurons: Sequence[int] | None = None) -> np.ndarray:
    """Returns the chosen columns of a model's output, int32; all by default.

    Raises:
        UserError: a column that is not there, or an output that is no vector.

    >>> inputs = keras.Input((2, 2, 3))
    >>> model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    >>> columns_of(model).tolist(), columns_of(model, [2]).tolist()
    ([0, 1, 2], [2])
    """
    if model.output is None or len(model.output.shape) != 2:
        raise UserError("saliency is taken of vectors; pool the map first")
    outputs = int(model.output.shape[-1])
    columns = np.arange(outputs) if neurons is None else np.asarray(neurons, np.int64)
    if columns.ndim != 1 or not len(columns) or columns.min() < 0 or columns.max() >= outputs:
        raise UserError(f"neurons lie in 0 to {outputs - 1}; got {list(neurons or [])}")
    return columns.astype(np.int32)


def rows_of(model: keras.Model) -> int:
    """Returns how many images go through a model together.

    >>> inputs = keras.Input((512, 512, 3))
    >>> rows_of(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)))
    4
    """
    height, width = model.input_shape[1:3]
    return max(1, _PIXELS_PER_PASS // (height * width))
