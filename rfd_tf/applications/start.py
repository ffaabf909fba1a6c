"""The weights that a pretraining starts from, wherever they are."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rfd_tf.applications import custom, hub, keras_applications, registry
from rfd_tf.applications import weights as weight_files
from rfd_tf.applications.endpoints import check_functional, cut
from rfd_tf.errors import UserError

#: The weights that a run started from, in its folder: a weights file with a record.
FILE = "start.weights.h5"
IMAGENET = "imagenet"


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights to start a pretraining from.

    Attributes:
        origin: for the record of a run: `weights`, where they are from, and `sha256`.
        normalization: `mean` and `std` of the pixels that they expect, or None where unknown.
        values: the arrays in the order of the backbone's `get_weights()`; None for a resumed run,
            whose weights are in its checkpoint.

    >>> start = of_model(registry.build("six_layer", 32), "mine")
    >>> start.load_into(registry.build("six_layer", 32))
    >>> start.origin["weights"]
    'mine'
    """

    origin: dict[str, str]
    normalization: dict[str, list[float]] | None = None
    values: list[np.ndarray] | None = None

    def load_into(self, backbone: keras.Model) -> None:
        """Gives the weights to a backbone of the same architecture."""
        backbone.set_weights(self.values)
        for layer in backbone.layers:
            if isinstance(layer, keras.layers.Normalization) and layer.weights:
                # It computes with a copy of its weights, made here.
                layer.finalize_state()


def of_model(model: keras.Model, called: str) -> Start:
    """Returns the weights that a model has, to start from.

    Args:
        model: any Keras model.
        called: what the record says of their origin.
    """
    values = model.get_weights()
    return Start({"weights": called, "sha256": weight_files.digest(values)}, None, values)


def load(
    place: str | os.PathLike, backbone: str, network: keras.Model, options: dict[str, Any]
) -> Start:
    """Reads the weights that `init_weights` names and checks that they fit.

    Args:
        place: `imagenet` (weights of `keras.applications`, which Keras downloads once), a run
            folder, a `.weights.h5` file, a `.keras` file, the name of shipped weights, or
            `hf://USER/REPO[@REVISION]`.
        backbone: name of the backbone, or the path of a `.keras` file.
        network: the backbone as it is to be trained; it is overwritten.
        options: its constructor's own options.

    Raises:
        UserError: there are no such weights, they cannot be downloaded, or they do not fit.

    >>> network = registry.build("six_layer", 32)
    >>> load("rfd_cifar10", "six_layer", network, {}).origin["weights"]
    'six_layer.rfd_cifar10'
    """
    if place == IMAGENET:
        return _imagenet(backbone, network, options)
    path = hub.fetch(place, keras_model=True) if hub.is_place(place) else place
    if isinstance(path, (str, os.PathLike)) and custom.is_file(path):
        _from_keras_file(path, network)
        path = Path(os.path.abspath(os.path.expanduser(path)))
        called = hub.pinned(place, path) if hub.is_place(place) else str(path)
        origin = {"weights": called, "sha256": weight_files.sha256(path)}
        return dataclasses.replace(of_model(network, called), origin=origin)
    if custom.is_file(backbone):
        weight_files.load_exactly(network, place, backbone)
    else:
        defaults = registry.default_arguments(backbone)
        weight_files.load_into(network, place, backbone, {**defaults, **options}, defaults)
    name = None if custom.is_file(backbone) else backbone
    record = weight_files.read_record(weight_files.find_weights(place, name)) or {}
    known = record.get("mean") and record.get("std")
    normalization = {key: record[key] for key in ("mean", "std")} if known else None
    return Start(weight_files.origin(place, name), normalization, network.get_weights())


def freeze(backbone: keras.Model, layer: str) -> None:
    """Keeps a layer, and all that its output is computed from, from being trained.

    Batch normalisation among them normalises by its moving statistics and keeps them.

    Args:
        backbone: functional; changed in place, before its training step is traced.
        layer: name of the last layer that is not trained, such as `block3`.

    Raises:
        UserError: an unknown layer, one without weights up to it, or one without any after it.

    >>> network = registry.build("six_layer", 32)
    >>> freeze(network, "block2")
    >>> network.get_layer("block1_conv").trainable, network.get_layer("block3_conv").trainable
    (False, True)
    """
    check_functional(backbone)
    first, rest = cut(backbone, layer)
    if not first.trainable_weights:
        raise UserError(f"freeze_until '{layer}' freezes nothing: no layer up to it has weights")
    if rest is None or not rest.trainable_weights:
        raise UserError(
            f"freeze_until '{layer}' freezes the whole backbone, so that nothing of it would be "
            "trained; name an earlier layer"
        )
    for each in first.layers:
        each.trainable = False


def _imagenet(backbone: str, network: keras.Model, options: dict[str, Any]) -> Start:
    if not keras_applications.has_imagenet(backbone):
        raise UserError(
            f"init_weights 'imagenet' is for the networks of keras.applications, such as "
            f"mobilenet_v2, not for {backbone}"
        )
    values, normalization = keras_applications.imagenet(backbone, network, options)
    network.set_weights(values)
    start = of_model(network, IMAGENET)
    return dataclasses.replace(start, normalization=normalization)


def _from_keras_file(path: str | os.PathLike, network: keras.Model) -> None:
    """Copies the weights of a `.keras` file: as they are listed, or else layer by layer by name."""
    model = custom.read(path)
    if [w.shape for w in model.weights] == [w.shape for w in network.weights]:
        network.set_weights(model.get_weights())
        return
    found = {layer.name: layer for layer in model.layers}
    missing = []
    for layer in network.layers:
        # (Constants; a file for Keras alone holds them as a Rescaling.)
        if not layer.weights or isinstance(layer, keras.layers.Normalization):
            continue
        shapes = Counter(tuple(w.shape) for w in layer.weights)
        other = found.get(layer.name)
        if other is None or Counter(tuple(w.shape) for w in other.weights) != shapes:
            missing.append(layer.name)
        else:
            layer.set_weights(other.get_weights())
    if missing:
        raise UserError(
            f"'{path}' does not fit backbone {network.name}: of {len(missing)} of its layers it "
            f"has no weights in their shape, the first being '{missing[0]}'"
        )
