"""Weights of the published PyTorch programs, put into the networks of this package.

Works on plain arrays: reading a PyTorch file is not this module's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from rfd_tf.applications.alexnet import BIGGER_FILTERS, FILTERS, AlexNet
from rfd_tf.applications.building import scaled
from rfd_tf.applications.network_in_network import NetworkInNetwork
from rfd_tf.errors import UserError, unknown

# Their block number -> our convolution's endpoint; their other blocks are ReLUs and poolings.
ALEXNET_CONVOLUTIONS = {0: "conv1", 2: "conv2", 4: "conv3", 5: "conv4", 6: "conv5"}
# Their block 8 is a sequence: flatten, linear, normalisation, ReLU, linear, normalisation, ReLU.
ALEXNET_DENSE = {1: "fc6_dense", 2: "fc6_bn", 4: "fc7_dense", 5: "fc7_bn"}
BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
ALEXNET_ENTRY = re.compile(r"_feature_blocks\.(\d+)\.(\d+)\.(\w+)")
NIN_ENTRY = re.compile(
    r"_feature_blocks\.\d+\.Block(\d+)_ConvB(\d+)\.layers\.(Conv|BatchNorm)\.(\w+)"
)
NIN_CLASSIFIER = re.compile(r"_feature_blocks\.\d+\.Classifier\.(weight|bias)")
ALEXNET_CLASSIFIER = re.compile(r"_feature_blocks\.9\.0\.(weight|bias)")
LINEAR = re.compile(r"(?:.*\.)?(weight|bias)")


def network_for(entries: Mapping[str, np.ndarray], architecture: str) -> keras.Model:
    """Builds the network that a PyTorch state dict belongs to, and fills it.

    Number of blocks, width, `bigger` and the number of classes are read off the entries; the top is
    there (with logits) where they hold a classification layer.

    Args:
        entries: as of `convert_backbone`.
        architecture: `"alexnet"` (for 224 pixels) or `"network_in_network"` (for 32).

    Returns:
        The filled network.

    Raises:
        UserError: as of `convert_backbone`.
    """
    _check_architecture(architecture)
    places = {}
    for name, value in entries.items():
        place = ENTRY_PLACES[architecture](name.removeprefix("module."))
        if place is not None:
            places[place] = np.shape(value)
    options = {"include_top": False}
    if places.get(("predictions", "kernel")):
        classes = places["predictions", "kernel"][0]
        options = {"classes": classes, "classifier_activation": None}
    model = _build(architecture, {**arguments_from(places, architecture), **options})
    convert_backbone(entries, model, architecture)
    return model


def convert_backbone(
    entries: Mapping[str, np.ndarray], model: keras.Model, architecture: str
) -> None:
    """Fills a network with the entries of a PyTorch state dict, all of them.

    Kernels turn from (out, in, height, width) to (height, width, in, out), matrices from (out, in)
    to (in, out). The rows of `fc6` are reordered as well: PyTorch flattens a map channel by
    channel, Keras position by position.

    Args:
        entries: name -> float array as in the published program's `network` entry, with or without
            a leading `module.`; entries `num_batches_tracked` are ignored.
        model: `AlexNet`, or `NetworkInNetwork` of as many blocks, of the same widths; with its top
            exactly if the entries hold a classification layer. Its weights are overwritten.
        architecture: `"alexnet"` or `"network_in_network"`.

    Raises:
        UserError: an unknown architecture, an entry that has no place, a weight that no entry
            fills, a shape that does not fit. The model is then left as it was.
    """
    _check_architecture(architecture)
    place_of = ENTRY_PLACES[architecture]
    places: dict[str, tuple[str, str]] = {}
    for name in entries:
        if name.endswith("num_batches_tracked"):
            continue
        place = place_of(name.removeprefix("module."))
        if place is None:
            raise UserError(f"entry '{name}' has no place in {architecture}")
        places[name] = place
    assign(entries, model, places, architecture)


def arguments_of(model: keras.Model, architecture: str) -> dict[str, Any]:
    """The options of the constructor that made a network like those of `network_for`."""
    places = {
        (layer.name, variable.name): _in_torch_order(tuple(variable.shape))
        for layer in model.layers
        for variable in layer.weights
    }
    return arguments_from(places, architecture)


def _in_torch_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*reversed(shape[-2:]), *shape[:-2]) if len(shape) > 1 else shape


def arguments_from(places: Mapping[tuple[str, str], Any], architecture: str) -> dict[str, Any]:
    """Reads the constructor's options off the shapes, in PyTorch's order, by place."""

    def outputs(layer: str) -> int:
        return int((places.get((layer, "kernel")) or (0,))[0])

    if architecture == "alexnet":
        found = [outputs(f"conv{number}_conv") for number in range(1, 6)]
        for bigger, filters in ((False, FILTERS), (True, BIGGER_FILTERS)):
            width = found[0] / filters[0]
            if 0 < width <= 64 and found == [scaled(channels, width) for channels in filters]:
                return {"bigger": bigger, "width": _plain(width)}
        return {"bigger": found[0] == BIGGER_FILTERS[0], "width": 1.0}
    matches = [re.match(r"block(\d+)_", layer) for layer, _ in places]
    blocks = max((int(match[1]) for match in matches if match), default=0)
    width = outputs("block1_conv1") / 192
    # Three to five blocks exist; other entries have no place in the network.
    return {
        "blocks": min(max(blocks, 3), 5),
        "width": _plain(width) if 0 < width <= 64 else 1.0,
    }


def _plain(width: float) -> float:
    return round(width, 6)


def _build(architecture: str, options: dict[str, Any]) -> keras.Model:
    return (AlexNet if architecture == "alexnet" else NetworkInNetwork)(**options)


def convert_linear(entries: Mapping[str, np.ndarray], layer: keras.layers.Dense) -> None:
    """Fills a dense layer with the two entries of a PyTorch linear layer.

    Args:
        entries: names ending in `weight` (out, in) and `bias` (out), for example RFD's
            `fc_classifier.0.weight` and `fc_classifier.0.bias`, or `norm.0.weight`, `norm.0.bias`.
        layer: a built `Dense` layer of the same size. Its weights are overwritten.

    Raises:
        UserError: other entries, or a shape that does not fit.

    >>> layer = keras.layers.Dense(4)
    >>> layer.build((None, 3))
    >>> convert_linear({"norm.0.weight": np.ones((4, 3)), "norm.0.bias": np.zeros(4)}, layer)
    >>> layer.kernel.shape
    TensorShape([3, 4])
    """
    places = {}
    for name in entries:
        found = LINEAR.fullmatch(name)
        if found is None:
            raise UserError(f"entry '{name}' has no place in a dense layer")
        places[name] = (layer.name, "kernel" if found[1] == "weight" else "bias")
    assign(entries, layer, places, f"dense layer {layer.name}")


def _alexnet_place(name: str) -> tuple[str, str] | None:
    """Returns (layer, weight) of our AlexNet for one of their names, or None."""
    found = ALEXNET_CLASSIFIER.fullmatch(name)
    if found:
        return "predictions", "kernel" if found[1] == "weight" else "bias"
    found = ALEXNET_ENTRY.fullmatch(name)
    if found is None:
        return None
    block, step, kind = int(found[1]), int(found[2]), found[3]
    if block in ALEXNET_CONVOLUTIONS and step == 0:
        weight = {"weight": "kernel", "bias": "bias"}.get(kind)
        return weight and (f"{ALEXNET_CONVOLUTIONS[block]}_conv", weight)
    if block in ALEXNET_CONVOLUTIONS and step == 1 and kind in BATCH_NORM:
        return f"{ALEXNET_CONVOLUTIONS[block]}_bn", BATCH_NORM[kind]
    if block == 8 and step in ALEXNET_DENSE:
        layer = ALEXNET_DENSE[step]
        weight = BATCH_NORM.get(kind) if layer.endswith("_bn") else {"weight": "kernel"}.get(kind)
        return weight and (layer, weight)
    return None


def _nin_place(name: str) -> tuple[str, str] | None:
    """Returns (layer, weight) of our NetworkInNetwork for one of their names, or None."""
    found = NIN_CLASSIFIER.fullmatch(name)
    if found:
        return "predictions", "kernel" if found[1] == "weight" else "bias"
    found = NIN_ENTRY.fullmatch(name)
    if found is None:
        return None
    layer = f"block{found[1]}_conv{found[2]}"
    if found[3] == "Conv":
        return (layer, "kernel") if found[4] == "weight" else None
    return (f"{layer}_bn", BATCH_NORM[found[4]]) if found[4] in BATCH_NORM else None


ENTRY_PLACES: dict[str, Callable[[str], tuple[str, str] | None]] = {
    "alexnet": _alexnet_place,
    "network_in_network": _nin_place,
}


def _check_architecture(architecture: str) -> None:
    if architecture not in ENTRY_PLACES:
        raise unknown("architecture", architecture, ENTRY_PLACES)


def assign(
    entries: Mapping[str, np.ndarray],
    target: keras.Model | keras.layers.Layer,
    places: Mapping[str, tuple[str, str]],
    what: str,
) -> None:
    """Writes entries to their places, after checking that each weight gets exactly one."""
    layers = target.layers if isinstance(target, keras.Model) else [target]
    variables = {(layer.name, v.name): v for layer in layers for v in layer.weights}
    values = {}
    for name, place in places.items():
        if place not in variables:
            raise UserError(f"entry '{name}' has no place in {what}: it has no {place[0]}")
        if place in values:
            raise UserError(f"entry '{name}' fills {place[0]} of {what} a second time")
        value = np.asarray(entries[name])
        if not np.issubdtype(value.dtype, np.floating) or not np.all(np.isfinite(value)):
            raise UserError(f"entry '{name}' does not hold finite floating-point numbers")
        value = _in_keras_order(value, place, target)
        if value.shape != tuple(variables[place].shape):
            raise UserError(
                f"entry '{name}' has shape {np.shape(entries[name])} and does not fit "
                f"{place[0]} of {what}, {tuple(variables[place].shape)} in Keras' order"
            )
        values[place] = value
    missing = [f"{layer}/{weight}" for layer, weight in variables if (layer, weight) not in values]
    if missing:
        raise UserError(
            f"no entry fills {len(missing)} weights of {what}: {', '.join(missing[:5])}"
        )
    for place, value in values.items():
        variables[place].assign(value.astype("float32"))


def _in_keras_order(
    value: np.ndarray, place: tuple[str, str], target: keras.Model | keras.layers.Layer
) -> np.ndarray:
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim != 2:
        return value
    value = value.T
    if place[0] == "fc6_dense":
        _, height, width, channels = target.get_layer("flatten").input.shape
        if len(value) == height * width * channels:
            value = value.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
            value = value.reshape(height * width * channels, -1)
    return value
