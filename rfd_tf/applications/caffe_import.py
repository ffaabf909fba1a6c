"""Turns AlexNets trained with Caffe into weights files of this package."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rfd_tf.applications import torch_import
from rfd_tf.applications.alexnet import AlexNet
from rfd_tf.applications.caffemodel import CaffeLayer, read_caffemodel
from rfd_tf.applications.endpoints import endpoints
from rfd_tf.applications.weights import SUFFIX, save_backbone
from rfd_tf.errors import UserError, unknown
from rfd_tf.paths import expanded

METHODS = ("rfd", "rotation", "bigan", "deepcluster", "jigsaw", "supervised")
COLOR_ORDERS = ("bgr", "rgb")
#: Caffe's mean pixel of ImageNet, red, green, blue, 0-255.
PIXEL_MEAN = (122.67891434, 116.66876762, 104.00698793)
PIXEL_STD = (1.0, 1.0, 1.0)

_UNIT = re.compile(r"conv[1-5]|fc[678]")
_FIXED = re.compile(r"gr[ae]y|sobel", re.IGNORECASE)
_STRIDES = {"conv1": 4, "conv2": 1, "conv3": 1, "conv4": 1, "conv5": 1}
_LARGEST_KERNEL = 1 << 28
# The batch normalisation of our AlexNet.
_EPSILON = 1e-5


def import_caffe(
    path: str | os.PathLike,
    output: str | os.PathLike,
    method: str | None = None,
    color_order: str = "bgr",
    pixel_mean: Sequence[float] = PIXEL_MEAN,
    pixel_std: Sequence[float] = PIXEL_STD,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Turns a `.caffemodel` of an AlexNet into a Keras weights file with its record.

    Layers are found by name: `conv1` to `conv5`, `fc6`, `fc7` (also as convolutions), and `fc8`,
    which becomes the classification layer. `BatchNorm` and `Scale` layers belong to the layer that
    they follow; without them, the batch normalisation of the result is the identity, and the
    biases of `fc6` and `fc7` move into it. Grouped convolutions become dense ones with zeros
    between the groups. Where `conv1` sees two channels, layers named after Sobel and grey before
    it are the fixed filters (`sobel=True`). Every weight of the file is used and every weight of
    the network filled; otherwise nothing is written.

    Images have 224 pixels and `conv1` a border of two, as of RotNet's and RFD's AlexNet. A network
    made for 227 pixels without border has maps of the same size, shifted by two pixels.

    Args:
        path: the `.caffemodel` file.
        output: the file to write, ending in `.weights.h5`.
        method: of `METHODS`, what the network was trained by; None where it is not known.
        color_order: "bgr", as Caffe reads images, or "rgb".
        pixel_mean, pixel_std: three numbers each, red, green, blue, 0-255: the network takes
            (pixels - mean) / std.
        overwrite: whether an existing output may be replaced.

    Returns:
        The record, as `rfd_tf.applications.read_record` gives it.

    Raises:
        UserError: a file that cannot be read or is another network (local response normalisation
            and leaky ReLUs are refused: AlexNet here lacks them); an output that exists.
    """
    for kind, value, options in (
        ("method", method, METHODS),
        ("color_order", color_order, COLOR_ORDERS),
    ):
        if value is not None and value not in options:
            raise unknown(kind, value, options)
    mean, std = (np.asarray(each, np.float64) for each in (pixel_mean, pixel_std))
    if mean.shape != (3,) or std.shape != (3,) or not np.isfinite([mean, std]).all():
        raise UserError(
            "pixel_mean and pixel_std are three numbers each, red, green, blue; got "
            f"{list(pixel_mean)} and {list(pixel_std)}"
        )
    if (std <= 0).any():
        raise UserError(f"pixel_std is above 0; got {list(pixel_std)}")
    output = expanded(output)
    if not output.name.endswith(SUFFIX):
        raise UserError(f"the output is a file ending in {SUFFIX}, not '{output}'")
    if output.exists() and not overwrite:
        raise UserError(f"'{output}' exists; give another --output, or --overwrite to replace it")
    layers = read_caffemodel(path)
    try:
        model, arguments = alexnet_from(layers, color_order)
    except UserError as error:
        raise UserError(f"'{path}' is not an AlexNet of this kind: {error}") from None
    record: dict[str, Any] = {
        "format": 1,
        "backbone": "alexnet",
        "arguments": arguments,
        "image_size": 224,
        "mean": (mean / 255).tolist(),
        "std": (std / 255).tolist(),
        "dataset": "imagenet",
        "endpoints": list(endpoints(model)),
    }
    if method is not None:
        record["method"] = method
    # After rotation training the layers in the middle serve best; RFD's feature is its last.
    endpoint = "conv4" if method == "rotation" else record["endpoints"][-1]
    record["feature"] = {"endpoint": endpoint, "pooling": "avg"}
    if method == "rfd":
        channels = int(model.get_layer(endpoint).output.shape[-1])
        record["feature"]["split"] = [channels // 2, channels - channels // 2]
    save_backbone(model, output, record)
    return record


def alexnet_from(
    layers: Sequence[CaffeLayer], color_order: str = "bgr"
) -> tuple[Any, dict[str, Any]]:
    """Builds the AlexNet that Caffe layers belong to, and fills it.

    Args:
        layers: of `read_caffemodel`.
        color_order: "bgr" or "rgb".

    Returns:
        (network, options of its constructor); the top is there, with logits, where there is `fc8`.

    Raises:
        UserError: layers that the network does not have, or that it lacks.
    """
    units, fixed = _units(layers)
    missing = [name for name in _STRIDES if name not in units]
    if missing:
        raise UserError(f"it lacks {', '.join(missing)}")
    inputs = units["conv1"]["kernel"].shape[1]
    sobel = inputs == 2
    if fixed and not sobel:
        raise UserError(f"layer '{fixed[0].name}' comes before conv1, which sees {inputs} channels")
    if color_order == "bgr" and inputs == 3:
        units["conv1"]["kernel"] = units["conv1"]["kernel"][:, ::-1]
    entries: dict[str, np.ndarray] = {}
    places: dict[str, tuple[str, str]] = {}

    def put(unit: str, layer: str, weight: str, value: np.ndarray) -> None:
        entry = f"{unit}, {weight}"
        entries[entry], places[entry] = value, (layer, weight)

    channels = inputs
    for name, unit in sorted(units.items()):
        kernel, bias = unit["kernel"], unit["bias"]
        if name in _STRIDES:
            kernel = _dense_groups(name, kernel, channels)
            channels = len(kernel)
        elif kernel.ndim == 4:
            kernel = kernel.reshape(len(kernel), -1)
        if name == "fc8":
            put(name, "predictions", "kernel", kernel)
            put(name, "predictions", "bias", bias)
            continue
        layer = f"{name}_conv" if name in _STRIDES else f"{name}_dense"
        put(name, layer, "kernel", kernel)
        mean, variance, gamma = unit["mean"], unit["variance"], unit["gamma"]
        if name in _STRIDES:
            put(name, layer, "bias", bias)
        else:
            mean = mean - bias  # (W x + b) - mean = W x - (mean - b)
        gamma = gamma * np.sqrt((variance + _EPSILON) / (variance + unit["epsilon"]))
        for weight, value in (
            ("gamma", gamma),
            ("beta", unit["beta"]),
            ("moving_mean", mean),
            ("moving_variance", variance),
        ):
            put(name, f"{name}_bn", weight, value.astype(np.float32))
    shapes = {places[entry]: value.shape for entry, value in entries.items()}
    arguments = torch_import.arguments_from(shapes, "alexnet")
    if "fc6" not in units and "fc7" not in units:
        arguments["fully_connected"] = False
    if sobel:
        arguments["sobel"] = True
    options: dict[str, Any] = {"include_top": False}
    if "fc8" in units:
        options = {"classes": len(units["fc8"]["kernel"]), "classifier_activation": None}
    size = {"input_shape": (224, 224, 3)}
    model = AlexNet(**arguments, **options, **size)
    if sobel:
        put("sobel", "sobel", "kernel", _fixed_filters(fixed, model))
    torch_import.assign(entries, model, places, "alexnet")
    return model, arguments


def _units(layers: Sequence[CaffeLayer]) -> tuple[dict[str, dict[str, Any]], list[CaffeLayer]]:
    """The weights of each unit by name, and the fixed filters before the first."""
    units: dict[str, dict[str, Any]] = {}
    fixed: list[CaffeLayer] = []
    made: dict[str, str | None] = {}  # blob -> unit whose affine part gave it
    last: str | None = None
    for layer in layers:
        owner = made.get(layer.bottoms[0]) if layer.bottoms else last
        if layer.type == "LRN":
            raise UserError(
                f"it has local response normalisation ('{layer.name}'), which AlexNet here lacks: "
                "the features would differ"
            )
        if layer.negative_slope:
            raise UserError(f"'{layer.name}' is a leaky ReLU; AlexNet here has plain ones")
        if layer.type in ("BatchNorm", "Scale") and layer.blobs:
            if owner is None:
                raise UserError(f"{layer.type} '{layer.name}' follows no layer with weights")
            _normalise(units[owner], layer)
        elif layer.type in ("Convolution", "InnerProduct") and layer.blobs:
            owner = None
            if _UNIT.fullmatch(layer.name):
                owner = layer.name
                if owner in units:
                    raise UserError(f"it has two layers '{owner}'")
                units[owner] = _affine(layer)
            elif not units and layer.type == "Convolution" and _FIXED.search(layer.name):
                fixed.append(layer)
            else:
                raise UserError(
                    f"layer '{layer.name}' has no place: its layers with weights are conv1 to "
                    "conv5, fc6, fc7 and fc8"
                )
        elif layer.blobs:
            raise UserError(f"{layer.type} '{layer.name}' with weights has no place")
        else:
            owner = None
        last = owner
        made.update(dict.fromkeys(layer.tops, owner))
    return units, fixed


def _affine(layer: CaffeLayer) -> dict[str, Any]:
    kernel = layer.blobs[0]
    wanted = (4,) if layer.name.startswith("conv") else (2, 4)
    if kernel.ndim not in wanted:
        raise UserError(f"'{layer.name}' has weights of shape {kernel.shape}")
    stride = _STRIDES.get(layer.name)
    if stride is not None and layer.stride not in (None, stride):
        raise UserError(f"'{layer.name}' has stride {layer.stride}, not {stride}")
    size = len(kernel)
    bias = layer.blobs[1].ravel() if len(layer.blobs) > 1 else np.zeros(size, np.float32)
    if bias.shape != (size,):
        raise UserError(f"'{layer.name}' has {bias.size} biases for {size} outputs")
    return {
        "kernel": kernel,
        "bias": bias,
        "mean": np.zeros(size),
        "variance": np.full(size, 1 - _EPSILON),
        "gamma": np.ones(size),
        "beta": np.zeros(size),
        "epsilon": _EPSILON,
        "done": set(),
    }


def _normalise(unit: dict[str, Any], layer: CaffeLayer) -> None:
    """Adds a BatchNorm or a Scale layer to a unit."""
    if layer.type in unit["done"] or "Scale" in unit["done"]:
        raise UserError(f"{layer.type} '{layer.name}' comes after another one")
    unit["done"].add(layer.type)
    size = len(unit["kernel"])
    vectors = [blob.ravel().astype(np.float64) for blob in layer.blobs]
    if layer.type == "BatchNorm":
        # The third blob is what the running sums are divided by.
        if len(vectors) != 3 or vectors[2].size != 1 or {len(v) for v in vectors[:2]} != {size}:
            raise UserError(f"BatchNorm '{layer.name}' does not fit its {size} channels")
        factor = 1 / vectors[2][0] if vectors[2][0] else 0.0
        unit["mean"], unit["variance"] = vectors[0] * factor, vectors[1] * factor
        unit["epsilon"] = layer.epsilon
        if not (unit["variance"] + layer.epsilon > 0).all():
            raise UserError(f"BatchNorm '{layer.name}' has a negative variance")
    else:
        if {len(v) for v in vectors} != {size} or len(vectors) > 2:
            raise UserError(f"Scale '{layer.name}' does not fit its {size} channels")
        unit["gamma"] = vectors[0]
        if len(vectors) == 2:
            unit["beta"] = vectors[1]


def _dense_groups(name: str, kernel: np.ndarray, channels: int) -> np.ndarray:
    """Writes a grouped convolution `[out, in / groups, h, w]` as a dense one."""
    outputs, inputs = kernel.shape[:2]
    if inputs == channels:
        return kernel
    groups = channels // inputs if inputs else 0
    if groups * inputs != channels or outputs % groups:
        raise UserError(f"'{name}' takes {inputs} channels, the layer before gives {channels}")
    shape = outputs, channels, *kernel.shape[2:]
    if math.prod(shape) > _LARGEST_KERNEL:
        raise UserError(f"'{name}' is too large for an AlexNet: {shape} without groups")
    dense = np.zeros(shape, np.float32)
    step = outputs // groups
    for group in range(groups):
        rows = slice(group * step, (group + 1) * step)
        dense[rows, group * inputs : (group + 1) * inputs] = kernel[rows]
    return dense


def _fixed_filters(fixed: Sequence[CaffeLayer], model: Any) -> np.ndarray:
    """The Sobel filters of the file as one kernel `[2, 3, 3, 3]`; our own where it has none."""
    if not fixed:
        return np.asarray(model.get_layer("sobel").kernel).transpose(3, 2, 0, 1)
    kernel = fixed[0].blobs[0]
    for layer in fixed[1:]:
        following = layer.blobs[0]
        if kernel.ndim != 4 or kernel.shape[2:] != (1, 1) or following.shape[1:2] != (len(kernel),):
            raise UserError(f"the filters before conv1 ('{layer.name}') are no Sobel filters")
        kernel = np.einsum("mc,omhw->ochw", kernel[:, :, 0, 0], following)
    if any(blob.any() for layer in fixed for blob in layer.blobs[1:]):
        raise UserError("the filters before conv1 have biases")
    return kernel
