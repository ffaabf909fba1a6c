"""Copies of a model with the fused or with the stock batch normalisation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from rfd_tf.applications.endpoints import check_functional
from rfd_tf.layers import BatchNormalization, Dropout, dropout


def portable(model: keras.Model) -> keras.Model:
    """Returns a copy of a model that Keras loads and runs without this package.

    Batch normalisation and dropout are the stock layers, and every layer computes in float32,
    also where the model was built for bfloat16. Names and outputs are the model's, and so are the
    weights, but for those of a `Normalization`: that becomes a `Rescaling` by constants, since the
    copy of its weights that it computes with would be an input of its own in an ONNX graph.

    Args:
        model: a functional model.

    Returns:
        A new functional model with its own weights; `.save("x.keras")` it, load it anywhere.

    Raises:
        UserError: the model is not functional.

    >>> from rfd_tf.applications import SixLayer
    >>> model = portable(SixLayer(include_top=False, input_shape=(32, 32, 3)))
    >>> type(model.get_layer("block1_conv_bn")) is keras.layers.BatchNormalization
    True
    """

    def stock(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.Layer):
            config["dtype"] = "float32"
        if isinstance(layer, BatchNormalization):
            config.pop("unbiased_moving_variance", None)
            config["synchronized"] = False
            return keras.layers.BatchNormalization.from_config(config)
        if isinstance(layer, Dropout):
            return keras.layers.Dropout.from_config(config)
        if isinstance(layer, keras.layers.Normalization) and not layer.invert:
            return _constant_scaling(layer)
        return type(layer).from_config(config)

    return _copy(model, stock)


def fuse_batch_normalization(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with `rfd_tf.layers.BatchNormalization` in place of the stock one.

    On the TensorFlow backend it runs as one fused operation, and it agrees across replicas. So
    does `rfd_tf.layers.Dropout`, which takes the place of dropout and stochastic depth.

    Args:
        model: a functional model, for example of `keras.applications`.

    Returns:
        A new functional model with the same layer names and its own weights.

    Raises:
        UserError: the model is not functional.

    >>> plain = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35)
    >>> type(fuse_batch_normalization(plain).get_layer("bn_Conv1")) is BatchNormalization
    True
    """

    return _copy(model, _fused)


def untrained(model: keras.Model) -> keras.Model:
    """Returns a model of the same architecture with new weights, under the dtype policy in force.

    Layers draw their weights by their own initialisers; batch normalisation and dropout are
    replaced as by `fuse_batch_normalization`.

    Args:
        model: a functional model; its layers' own dtype policies are replaced by the global one.

    >>> plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    >>> untrained(keras.Model(plain.inputs, plain.outputs)).output_shape
    (None, 6, 6, 2)
    """
    policy = keras.config.dtype_policy().name

    def renewed(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.Layer) and "dtype" in config:
            config["dtype"] = policy
        return _fused(type(layer).from_config(config))

    return _copy(model, renewed, copy_weights=False)


def with_stable_names(model: keras.Model, inputs: Any, fused_batch_norm: bool) -> keras.Model:
    """Returns a model like `model` with fresh weights, the same in every process.

    Layers that got their names from Keras' counters (`activation_17`) are counted from the start
    of the model instead of the start of the process, so that an endpoint's name keeps its meaning.

    Args:
        model: a functional model, as just built.
        inputs: the `keras.Input` it stands on, which the copy takes over.
        fused_batch_norm: whether to replace layers as `fuse_batch_normalization` does as well.
    """
    counts: dict[str, int] = {}

    def renamed(layer: Any) -> Any:
        plain = type(layer).from_config
        new = _fused(layer) if fused_batch_norm else plain(layer.get_config())
        kind = _snake_case(type(layer).__name__)
        if re.fullmatch(rf"{kind}(_\d+)?", layer.name):
            count = counts[kind] = counts.get(kind, -1) + 1
            new.name = f"{kind}_{count}" if count else kind
        return new

    def call(step: Any, *args: Any, **kwargs: Any) -> Any:
        two_maps = len(args) == 2 and all(isinstance(x, keras.KerasTensor) for x in args)
        if two_maps and not isinstance(step, keras.Layer) and type(step).__name__ == "Add":
            # A sum written as `x + y` is no layer and could not be asked for by name.
            return keras.layers.Add(name=step.name)(list(args))
        return step(*args, **kwargs)

    return _copy(model, renamed, copy_weights=False, input_tensors=inputs, call_function=call)


def _constant_scaling(layer: keras.layers.Normalization) -> keras.layers.Rescaling:
    mean = np.ravel(keras.ops.convert_to_numpy(layer.mean)).astype("float64")
    variance = np.ravel(keras.ops.convert_to_numpy(layer.variance)).astype("float64")
    scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return keras.layers.Rescaling(
        scale.tolist(), offset=(-mean * scale).tolist(), name=layer.name, dtype="float32"
    )


def _fused(layer: Any) -> Any:
    config = layer.get_config()
    if type(layer) is keras.layers.BatchNormalization:
        # Keras' layers have False by default; ours takes False as an explicit choice.
        config["synchronized"] = config.get("synchronized") or None
        return BatchNormalization.from_config(config)
    return dropout.replaced(layer) or type(layer).from_config(config)


def _snake_case(name: str) -> str:
    """Returns the name that Keras' counters start from for a class."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _copy(
    model: keras.Model,
    clone_layer: Callable[[Any], Any],
    copy_weights: bool = True,
    **options: Any,
) -> keras.Model:
    check_functional(model)
    clone = keras.models.clone_model(model, clone_function=clone_layer, recursive=True, **options)
    if not copy_weights:
        return clone
    for old, new in zip(model.layers, clone.layers, strict=True):
        new.trainable = old.trainable
        if new.weights:
            new.set_weights(old.get_weights())
        if isinstance(new, keras.layers.Normalization) and new.weights:
            # It computes with a copy of its weights, made here.
            new.finalize_state()
    return clone
