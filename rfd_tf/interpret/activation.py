"""Maps made of a layer's activations: Grad-CAM, and attention."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from rfd_tf.errors import UserError, unknown
from rfd_tf.interpret.saliency import GROUPS, columns_of, rows_of


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    neurons: Sequence[int] | None = None,
    layer: str | None = None,
    group: str = "maximum",
    batch_size: int = 8,
) -> np.ndarray:
    """Returns class-activation maps of a layer, weighed by gradients (Grad-CAM).

    Of each neuron: the channels of the layer's map, weighed by the mean of the neuron's gradient
    over the channel, summed; what is negative becomes 0. All neurons of a batch are differentiated
    at once.

    Args:
        model: functional, `[batch, S, S, 3]` to `[batch, D]`.
        images: float32 `[N, S, S, 3]`, normalised as the model takes them.
        neurons: columns of the output; all by default.
        layer: name of a layer whose output is a map; the last such layer by default.
        group: `maximum` over the neurons, or `each`.
        batch_size: images at once.

    Returns:
        float32 `[N, maps, S, S]`, at least 0, enlarged to the image bilinearly.

    Raises:
        UserError: no such layer, neuron or group; a layer that the outputs do not depend on.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, equations 1 and 2.

    >>> inputs = keras.Input((2, 2, 3))
    >>> maps = keras.layers.ReLU(name="maps")(inputs)
    >>> model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps))
    >>> grad_cam(model, np.full((1, 2, 2, 3), 8.0, "float32"))[0, 0].tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    import tensorflow as tf

    if group not in GROUPS:
        raise unknown("group", group, GROUPS)
    images = np.asarray(images, np.float32)
    columns = columns_of(model, neurons)
    both = keras.Model(model.inputs[0], [map_of(model, layer), model.output])

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *model.input_shape[1:]], "float32"),
            tf.TensorSpec([None], "int32"),
        ],
        autograph=False,
    )
    def weighed(pixels, wanted):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(pixels)  # and so everything on the way
            activation, values = both(pixels, training=False)
            picked = tf.gather(tf.cast(values, tf.float32), wanted, axis=1)
        # The backward pass ends at the layer; it is vectorised over the neurons.
        gradient = tape.batch_jacobian(picked, activation)
        weights = tf.reduce_mean(tf.cast(gradient, tf.float32), axis=(2, 3))
        activation = tf.cast(activation, tf.float32)
        return tf.nn.relu(tf.einsum("bhwc,bkc->bkhw", activation, weights))

    step = max(1, rows_of(model) // batch_size)
    found = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        maps = [weighed(part, columns[n : n + step]) for n in range(0, len(columns), step)]
        maps = np.concatenate(maps, axis=1)
        found.append(maps.max(axis=1, keepdims=True) if group == "maximum" else maps)
    found = np.concatenate(found)
    flat = enlarge(found.reshape(-1, *found.shape[2:]), images.shape[1])
    return flat.reshape(*found.shape[:2], *flat.shape[1:])


def attention_map(
    model: keras.Model,
    images: np.ndarray,
    power: int = 1,
    layer: str | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Returns activation-based attention: the sum over channels of |activation| ** power.

    Args:
        model: functional, from `[batch, S, S, 3]`.
        images: float32 `[N, S, S, 3]`, normalised as the model takes them.
        power: 1 or more; RotNet's figures have 1, 2 and 4. Larger ones stress the peaks.
        layer: name of a layer whose output is a map; the last such layer by default.
        batch_size: images at once.

    Returns:
        float32 `[N, S, S]`, at least 0, enlarged to the image bilinearly.

    Raises:
        UserError: a power below 1; no such layer, or no map.

    Source: Zagoruyko and Komodakis, ICLR 2017; RotNet (Gidaris et al., ICLR 2018), figure 3.

    >>> inputs = keras.Input((2, 2, 3))
    >>> model = keras.Model(inputs, keras.layers.ReLU(name="maps")(inputs))
    >>> float(attention_map(model, np.full((1, 2, 2, 3), 2.0), power=2, layer="maps").max())
    12.0
    """
    if power < 1:
        raise UserError(f"the power of an attention map is 1 or more, not {power}")
    images = np.asarray(images, np.float32)
    inner = keras.Model(model.inputs[0], map_of(model, layer))
    found = []
    for start in range(0, len(images), batch_size):
        activation = inner(images[start : start + batch_size], training=False)
        activation = np.abs(ops.convert_to_numpy(ops.cast(activation, "float32")))
        found.append((activation**power).sum(axis=-1))
    return enlarge(np.concatenate(found), images.shape[1])


def map_of(model: keras.Model, layer: str | None = None):
    """Returns the output tensor `[None, H, W, C]` of a layer, or of the last that has a map.

    Raises:
        UserError: no such layer, or it gives no map.

    >>> inputs = keras.Input((4, 4, 3))
    >>> model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    >>> map_of(model).shape
    (None, 4, 4, 3)
    """
    shaped = {
        one.name: one.output
        for one in model.layers
        if hasattr(one.output, "shape") and len(one.output.shape) == 4
    }
    if layer is None:
        layer = next(reversed(shaped), "")
    if layer not in shaped:
        raise unknown("layer with a map", layer, shaped)
    return shaped[layer]


def enlarge(maps: np.ndarray, size: int) -> np.ndarray:
    """Resizes maps `[N, h, w]` to float32 `[N, size, size]`, bilinearly.

    >>> enlarge(np.ones((1, 2, 2), "float32"), 8).shape
    (1, 8, 8)
    """
    resized = ops.image.resize(
        np.asarray(maps, np.float32)[..., None], (size, size), interpolation="bilinear"
    )
    return ops.convert_to_numpy(resized)[..., 0]
