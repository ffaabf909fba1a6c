"""Named places of a backbone, and models that end there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import keras

from rfd_tf.errors import UserError, unknown

OWN_ENDPOINT = re.compile(r"(stem|block\d+|conv\d+|fc\d+)")
# The image's side assumed where a model leaves it open.
ASSUMED_SIZE = 256
GLOBAL_POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
BORDERS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)


def endpoints(model: keras.Model) -> tuple[str, ...]:
    """Returns the names of the layers that probes look at by default, first to last.

    For the networks of this package these are their documented endpoints. For other networks it
    is one layer a resolution, halving by halving, before any global pooling: the last that
    everything after it passes through, and the last layer where that gives a vector or tokens,
    unless it is a classifier (`predictions`). Any other layer can be asked for by its name as well.

    Args:
        model: a functional model on images.

    Raises:
        UserError: the model is not functional.

    >>> from rfd_tf.applications import SixLayer
    >>> endpoints(SixLayer(include_top=False, input_shape=(32, 32, 3)))
    ('block1', 'block2', 'block3', 'block4', 'block5', 'block6')
    """
    check_functional(model)
    names = [layer.name for layer in model.layers]
    own = tuple(name for name in names if OWN_ENDPOINT.fullmatch(name))
    if {"block1", "block2"} <= set(own) or {"conv1", "conv2"} <= set(own):
        return own
    found = _last_of_each_resolution(model)
    output = _output_layer(model)
    return found if output is None or output in found else (*found, output)


def feature_extractor(model: keras.Model, names: str | Iterable[str]) -> keras.Model:
    """Returns a model that gives the outputs of the named layers.

    Args:
        model: a functional model on images, `[B, H, W, C]`; its weights are shared.
        names: one layer's name or several.

    Returns:
        A functional model with the same input and a dict name -> tensor as output.

    Raises:
        UserError: no name, a name that no layer has (the endpoints are listed), or a model that
            is not functional.

    >>> import numpy as np
    >>> from rfd_tf.applications import SixLayer
    >>> model = SixLayer(include_top=False, input_shape=(32, 32, 3))
    >>> features = feature_extractor(model, ["block2", "block6"])(np.zeros((1, 32, 32, 3)))
    >>> features["block2"].shape, features["block6"].shape
    (TensorShape([1, 16, 16, 32]), TensorShape([1, 8, 8, 128]))
    """
    check_functional(model)
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise UserError(f"no endpoint asked for; options: {', '.join(endpoints(model))}")
    outputs = {name: endpoint_output(model, name) for name in names}
    return keras.Model(_inputs(model), outputs, name=f"{model.name}_endpoints")


def pooled_feature_model(
    model: keras.Model, endpoint: str | None = None, pooling: str = "avg"
) -> keras.Model:
    """Returns a model that gives one vector per image from an endpoint.

    Args:
        model: a functional model on images, `[B, H, W, C]`; its weights are shared.
        endpoint: a layer's name; by default the last of `endpoints(model)`.
        pooling: `"avg"` or `"max"`: how a map `[B, H, W, C]` or tokens `[B, T, C]` become
            `[B, C]`. The output of a dense layer `[B, D]` is given as it is.

    Returns:
        A functional model, output `[B, D]`.

    Raises:
        UserError: an unknown endpoint or pooling, or an output that is no map, tokens or vector.

    >>> from rfd_tf.applications import SixLayer
    >>> model = SixLayer(include_top=False, input_shape=(32, 32, 3))
    >>> pooled_feature_model(model, "block4").output_shape
    (None, 48)
    """
    check_functional(model)
    if pooling not in ("avg", "max"):
        raise unknown("pooling", pooling, ("avg", "max"))
    if endpoint is None:
        endpoint = endpoints(model)[-1]
    x = endpoint_output(model, endpoint)
    if len(x.shape) in (3, 4):
        kind = f"Global{'Average' if pooling == 'avg' else 'Max'}Pooling{len(x.shape) - 2}D"
        # A float32 policy would mean float32 arithmetic anyway: keep the endpoint's own.
        layer = getattr(keras.layers, kind)(name=f"{endpoint}_{pooling}", dtype=x.dtype)
        x = layer(x)
    elif len(x.shape) != 2:
        raise UserError(
            f"endpoint '{endpoint}' gives shape {tuple(x.shape)}, no map, tokens or vector; "
            f"options: {', '.join(endpoints(model))}"
        )
    return keras.Model(_inputs(model), x, name=f"{model.name}_{endpoint}")


def endpoint_output(model: keras.Model, name: str) -> Any:
    """Returns the Keras tensor that the layer `name` gives in `model`, or raises `UserError`."""
    layers = {layer.name: layer for layer in model.layers}
    if name not in layers:
        raise unknown("endpoint", name, endpoints(model))
    return layers[name].output


def cut(model: keras.Model, name: str) -> tuple[keras.Model, keras.Model | None]:
    """Splits a model into the layers that an endpoint is computed from, and all others.

    Args:
        model: a functional model; its layers are shared.
        name: a layer's name.

    Returns:
        (first, rest): `rest(first(images))` is what the model gives. Where connections bypass the
        endpoint, several tensors go from one to the other, as a list. The rest is None where no
        layer is left.

    Raises:
        UserError: an unknown endpoint, or a model that is not functional.

    >>> from rfd_tf.applications import SixLayer
    >>> first, rest = cut(SixLayer(include_top=False, input_shape=(32, 32, 3)), "block2")
    >>> first.output_shape, rest.output_shape
    ((None, 16, 16, 32), (None, 8, 8, 128))
    """
    check_functional(model)
    end = endpoint_output(model, name)
    maker = {
        id(tensor): step for step in model.operations for tensor in keras.tree.flatten(step.output)
    }
    first: set[int] = set()
    waiting = [maker[id(end)]]
    while waiting:
        step = waiting.pop()
        if id(step) not in first:
            first.add(id(step))
            if not isinstance(step, keras.layers.InputLayer):
                waiting += [maker[id(tensor)] for tensor in keras.tree.flatten(step.input)]
    crossing = {
        id(tensor): tensor
        for step in model.operations
        if id(step) not in first
        for tensor in keras.tree.flatten(step.input)
        if id(maker[id(tensor)]) in first
    }
    tensors = list(crossing.values())
    if not tensors:
        return keras.Model(_inputs(model), end), None
    between = tensors[0] if len(tensors) == 1 else tensors
    return keras.Model(_inputs(model), between), keras.Model(between, model.output)


def check_functional(model: Any) -> None:
    """Raises `UserError` unless `model` is a functional Keras model."""
    # Only functional models know the steps that they are made of.
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise UserError(f"a functional Keras model is needed, not {type(model).__name__}")


def _inputs(model: keras.Model) -> Any:
    return model.inputs[0] if len(model.inputs) == 1 else model.inputs


def _last_of_each_resolution(model: keras.Model) -> tuple[str, ...]:
    """Finds one layer for every halving of the image's side.

    At each resolution it is the last layer through which everything after it passes, or else
    (networks of crossing branches) the last merge of branches, or else the last layer. Layers that
    change the size for a moment are left out: padding, and the 1x1 maps of channel attention,
    after which a larger map comes again.
    """
    size, rows = _heights(model)
    passages = _passages(model)
    for place, (layer, _) in enumerate(rows):
        if isinstance(layer, GLOBAL_POOLING) and layer.name in passages:
            rows = rows[:place]
            break
    while rows and (
        isinstance(rows[0][0], keras.layers.Normalization) or not _has_weights(rows[0])
    ):
        rows = rows[1:]
    best: dict[int, tuple[int, str]] = {}
    largest_later = 0
    for layer, height in reversed(rows):
        if height is None or isinstance(layer, BORDERS) or height < largest_later:
            continue
        largest_later = height
        if not isinstance(layer, keras.Layer):
            continue
        merge = isinstance(layer, (keras.layers.Add, keras.layers.Concatenate))
        rank = 2 if layer.name in passages else 1 if merge else 0
        level = round(math.log2(size / height))
        if level not in best or rank > best[level][0]:
            best[level] = (rank, layer.name)
    if not best:
        return (model.layers[-1].name,)
    return tuple(best[level][1] for level in sorted(best))


def _output_layer(model: keras.Model) -> str | None:
    """The layer that gives the model's output, where that is a vector or tokens to probe."""
    if len(model.outputs) != 1 or len(model.outputs[0].shape) not in (2, 3):
        return None
    for layer in reversed(model.layers):
        if isinstance(layer, GLOBAL_POOLING) or layer.name == "predictions":
            return None
        if gives(layer, model.outputs[0]):
            return layer.name
    return None


def gives(layer: keras.Layer, tensor: Any) -> bool:
    """Whether a Keras tensor is the output of a layer that was called once."""
    try:
        return layer.output is tensor
    except (AttributeError, ValueError):
        return False  # called several times, or never


def _heights(model: keras.Model) -> tuple[int, list[tuple[Any, int | None]]]:
    """Returns the image's side and, step by step, the height of the output map or None."""
    size = model.inputs[0].shape[1]
    steps = [step for step in model.operations if not isinstance(step, keras.layers.InputLayer)]
    outputs = [step.output for step in steps]
    if size is None:
        size = ASSUMED_SIZE
        probe = keras.Model(_inputs(model), outputs)
        outputs = probe.compute_output_spec(
            keras.KerasTensor((1, size, size, model.inputs[0].shape[-1]))
        )
    heights = [
        output.shape[1] if hasattr(output, "shape") and len(output.shape) == 4 else None
        for output in outputs
    ]
    return size, list(zip(steps, heights, strict=True))


def _passages(model: keras.Model) -> set[str]:
    """Returns the names of the steps that no connection bypasses."""
    made_at: dict[int, int] = {}
    last_use: dict[int, int] = {}
    for place, step in enumerate(model.operations):
        if not isinstance(step, keras.layers.InputLayer):
            for tensor in keras.tree.flatten(step.input):
                last_use[made_at[id(tensor)]] = place
        for tensor in keras.tree.flatten(step.output):
            made_at[id(tensor)] = place
    names, reach = set(), 0
    for place, step in enumerate(model.operations):
        if reach <= place:
            names.add(step.name)
        reach = max(reach, last_use.get(place, 0))
    return names


def _has_weights(row: tuple[Any, int | None]) -> bool:
    return bool(getattr(row[0], "weights", ()))
