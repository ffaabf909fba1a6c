"""Gradients of a network's outputs with respect to the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from rfd_tf.errors import UserError, unknown

#: How the maps of several neurons become one, or stay several.
GROUPS = ("maximum", "each")


def neuron_gradients(
    model: keras.Model, images, neurons: Sequence[int] | None = None, rows_per_pass: int = 512
) -> np.ndarray:
    """Returns the gradient of every neuron's value with respect to the pixels, in magnitude.

    The colour channels are reduced by their maximum. Rows of a batch do not touch one another in
    evaluation mode, so each image is repeated once a neuron and the sum of "row r's neuron r" is
    differentiated: one backward pass gives the gradients of many neurons of many images.

    Args:
        model: `[batch, S, S, 3]` to `[batch, outputs]`, float.
        images: float32 `[N, S, S, 3]`, as the model takes them.
        neurons: columns of the output; all by default.
        rows_per_pass: how many repeated images go through the network at once; bounds the memory.

    Returns:
        float32 `[N, neurons, S, S]`, at least 0.

    Raises:
        UserError: a neuron that the output lacks.

    Source: Simonyan, Vedaldi, Zisserman, Deep inside convolutional networks, 2013, section 3.

    >>> inputs = keras.Input((2, 2, 3))
    >>> model = keras.Model(inputs, 3.0 * keras.layers.Flatten()(inputs)[:, :2])
    >>> neuron_gradients(model, np.zeros((1, 2, 2, 3), "float32"))[0, 1].tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """
    import tensorflow as tf

    outputs = int(model.output_shape[-1])
    columns = np.arange(outputs) if neurons is None else np.asarray(neurons, np.int64)
    if not len(columns) or columns.min() < 0 or columns.max() >= outputs:
        raise UserError(f"neurons lie in 0 to {outputs - 1}; got {list(columns)}")
    images = np.asarray(images, np.float32)
    row = np.repeat(np.arange(len(images)), len(columns))
    column = np.tile(columns, len(images))

    @tf.function(reduce_retracing=True)
    def magnitudes(pixels, wanted):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            values = tf.cast(model(pixels, training=False), tf.float32)
            total = tf.reduce_sum(tf.gather(values, wanted, batch_dims=1))
        return tf.reduce_max(tf.abs(tape.gradient(total, pixels)), axis=-1)

    parts = []
    for start in range(0, len(row), rows_per_pass):
        part = slice(start, start + rows_per_pass)
        pixels = tf.constant(images[row[part]])
        parts.append(magnitudes(pixels, tf.constant(column[part])).numpy())
    found = np.concatenate(parts)
    return found.reshape(len(images), len(columns), *images.shape[1:3])


def saliency_maps(
    model: keras.Model,
    images,
    neurons: Sequence[int] | None = None,
    group: str = "maximum",
    rows_per_pass: int = 512,
) -> np.ndarray:
    """Returns saliency maps: of the group of neurons, or of each neuron.

    Args:
        model, images, neurons, rows_per_pass: see `neuron_gradients`.
        group: `maximum`, the element-wise maximum over the neurons, one map an image; or `each`.

    Returns:
        float32 `[N, maps, S, S]`; one map with `maximum`.

    Raises:
        UserError: an unknown group; see `neuron_gradients`.

    >>> inputs = keras.Input((2, 2, 3))
    >>> model = keras.Model(inputs, 3.0 * keras.layers.Flatten()(inputs)[:, ::3])
    >>> saliency_maps(model, np.zeros((1, 2, 2, 3), "float32")).tolist()
    [[[[3.0, 3.0], [3.0, 3.0]]]]
    """
    if group not in GROUPS:
        raise unknown("group", group, GROUPS)
    images = np.asarray(images, np.float32)
    count = int(model.output_shape[-1]) if neurons is None else len(neurons)
    # Image by image where there are many neurons, so that their maps need not all be held.
    at_once = max(1, rows_per_pass // max(count, 1))
    parts = []
    for start in range(0, len(images), at_once):
        found = neuron_gradients(model, images[start : start + at_once], neurons, rows_per_pass)
        parts.append(found.max(axis=1, keepdims=True) if group == "maximum" else found)
    return np.concatenate(parts)


def smooth_gradients(
    model: keras.Model,
    images,
    neurons: Sequence[int] | None = None,
    draws: int = 16,
    noise: float = 0.15,
    group: str = "maximum",
    seed: int = 0,
    rows_per_pass: int = 512,
) -> np.ndarray:
    """Returns saliency maps averaged over noisy copies of the image (SmoothGrad).

    Args:
        model, images, neurons, group, rows_per_pass: see `saliency_maps`.
        draws: noisy copies an image, at least 1.
        noise: standard deviation of the noise, as a share of each image's range of values.
        seed: of the noise.

    Returns:
        float32 `[N, maps, S, S]`.

    Raises:
        UserError: numbers out of range.

    Source: Smilkov et al., SmoothGrad, 2017; here magnitudes are averaged.

    >>> inputs = keras.Input((2, 2, 3))
    >>> model = keras.Model(inputs, 3.0 * keras.layers.Flatten()(inputs)[:, ::3])
    >>> smooth_gradients(model, np.zeros((1, 2, 2, 3), "float32"), draws=2).max()
    np.float32(3.0)
    """
    if draws < 1 or noise < 0:
        raise UserError(
            f"SmoothGrad takes 1 draw or more and noise of at least 0; got {draws} and {noise}"
        )
    images = np.asarray(images, np.float32)
    spread = images.max(axis=(1, 2, 3), keepdims=True) - images.min(axis=(1, 2, 3), keepdims=True)
    rng = np.random.default_rng(seed)
    total = 0.0
    for _ in range(draws):
        noisy = images + noise * spread * rng.standard_normal(images.shape, np.float32)
        total = total + saliency_maps(model, noisy, neurons, group, rows_per_pass)
    return total / draws


def grad_cam(
    model: keras.Model, images, neurons: Sequence[int] | None = None, layer: str | None = None
) -> np.ndarray:
    """Returns class-activation maps of a layer, weighed by gradients (Grad-CAM).

    Of each neuron: the channels of the layer's maps, weighed by the mean of the neuron's gradient
    over each map, summed, and its negative part cut off; enlarged to the image bilinearly.

    Args:
        model: functional, `[batch, S, S, 3]` to `[batch, outputs]`.
        images: float32 `[N, S, S, 3]`, as the model takes them.
        neurons: columns of the output; all by default.
        layer: name of a layer whose output is a map; the last such layer by default.

    Returns:
        float32 `[N, neurons, S, S]`, at least 0.

    Raises:
        UserError: no such layer, or no map.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.
    """
    import tensorflow as tf

    images = np.asarray(images, np.float32)
    maps = map_of(model, layer)
    both = keras.Model(model.inputs, [maps, model.output])
    columns = range(int(model.output_shape[-1])) if neurons is None else neurons
    pixels = tf.constant(images)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(pixels)  # and so everything on the way
        activation, values = both(pixels, training=False)
        # The rows are independent: the sum over the batch differentiates each by itself.
        sums = [tf.reduce_sum(values[:, column]) for column in columns]
    found = []
    for value in sums:
        gradient = tf.cast(tape.gradient(value, activation), tf.float32)
        weight = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        weighed = tf.reduce_sum(weight * tf.cast(activation, tf.float32), axis=-1)
        found.append(enlarge(tf.nn.relu(weighed).numpy(), images.shape[1]))
    return np.stack(found, axis=1)


def attention_map(model: keras.Model, images, power: int = 1, layer: str | None = None):
    """Returns activation-based attention: the sum over channels of |activation| ** power.

    Args:
        model: functional, from `[batch, S, S, 3]`.
        images: float32 `[N, S, S, 3]`, as the model takes them.
        power: 1 or more; RotNet's figures have 1, 2 and 4. Larger ones stress the peaks.
        layer: name of a layer whose output is a map; the last such layer by default.

    Returns:
        float32 `[N, S, S]`, at least 0, enlarged to the image bilinearly.

    Raises:
        UserError: a power below 1; no such layer, or no map.

    Source: Zagoruyko and Komodakis, ICLR 2017; RotNet (Gidaris et al., ICLR 2018), figure 3.

    >>> inputs = keras.Input((2, 2, 3))
    >>> model = keras.Model(inputs, keras.layers.ReLU(name="maps")(inputs))
    >>> attention_map(model, np.full((1, 2, 2, 3), 2.0), power=2, layer="maps").max()
    np.float32(12.0)
    """
    if power < 1:
        raise UserError(f"the power of an attention map is 1 or more, not {power}")
    images = np.asarray(images, np.float32)
    activation = keras.Model(model.inputs, map_of(model, layer))(images, training=False)
    activation = np.abs(keras.ops.convert_to_numpy(keras.ops.cast(activation, "float32")))
    return enlarge((activation**power).sum(axis=-1), images.shape[1])


def map_of(model: keras.Model, layer: str | None = None):
    """Returns the output tensor `[None, H, W, C]` of a layer, or of the last that has a map.

    Raises:
        UserError: no such layer, or it gives no map.
    """
    shaped = {one.name: one.output for one in model.layers if len(one.output.shape) == 4}
    if layer is None:
        layer = next(reversed(shaped), "")
    if layer not in shaped:
        raise unknown("layer with a map", layer, shaped)
    return shaped[layer]


def enlarge(maps: np.ndarray, size: int) -> np.ndarray:
    """Resizes maps `[N, h, w]` to float32 `[N, size, size]`, bilinearly."""
    resized = keras.ops.image.resize(
        np.asarray(maps, np.float32)[..., None], (size, size), interpolation="bilinear"
    )
    return keras.ops.convert_to_numpy(resized)[..., 0]
