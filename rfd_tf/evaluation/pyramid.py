"""Feature maps of a backbone at a detector's strides."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras

from rfd_tf import applications
from rfd_tf.applications.endpoints import endpoint_output
from rfd_tf.errors import UserError
from rfd_tf.evaluation.subject import Subject
from rfd_tf.layers import limit_momentum

#: Level of a feature pyramid -> image pixels a cell.
STRIDES = {"P3": 8, "P4": 16, "P5": 32}
_ADDED_CHANNELS = 256


class Pyramid(NamedTuple):
    """A backbone at three strides.

    Attributes:
        model: pixels 0 to 255 `[B, S, S, 3]` to three maps, all of it trainable, moving
            statistics with a momentum of at most 0.9; attribute `pyramid_level_inputs`
            gives keras-cv the layer of each level.
        origins: level -> in words, where its map comes from.
    """

    model: keras.Model
    origins: dict[str, str]


def feature_pyramid(subject: Subject, image_size: int, seed: int = 0) -> Pyramid:
    """Puts a network's feature maps at strides 8, 16 and 32.

    Each level takes the last endpoint whose map is nearest its size, on a scale of halvings, and
    resizes it (bilinear) where it differs by a border. A level that no endpoint reaches gets a
    new convolution of 3x3, stride 2 and 256 channels, with ReLU, on the map before it (several
    where more halvings are missing); a level that the network jumps over is enlarged from the
    next.

    Args:
        subject: the network; its normalisation of pixels goes into the model.
        image_size: side of the images in pixels, a multiple of 32.
        seed: of new convolutions; Keras' global seed is set to it.

    Raises:
        UserError: the backbone cannot be built for that size, its weights depend on the size, or
            it has no feature map.

    >>> import os, tempfile
    >>> record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 32}
    >>> path = os.path.join(tempfile.mkdtemp(), "backbone.weights.h5")
    >>> path = applications.save_backbone(applications.build("six_layer", 32), path, record)
    >>> pyramid = feature_pyramid(Subject.pretrained(path), 64)
    >>> [map.shape for map in pyramid.model.outputs]
    [(None, 8, 8, 256), (None, 4, 4, 256), (None, 2, 2, 256)]
    >>> pyramid.origins["P3"]
    '1 new convolution of stride 2 on block6'
    """
    trunk, maps = _trunk(subject, image_size)
    limit_momentum(trunk)
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = applications.preprocess_input(pixels, mean=subject.mean, std=subject.std)
    features = trunk(x)
    tensors = {level: features[name] for level, name in maps.items()}
    levels, origins = {}, {}
    for name, stride in STRIDES.items():
        level = int(math.log2(stride))
        finer = [found for found in tensors if found < level]
        if level in tensors:
            origins[name] = maps.get(level)
        elif finer and not any(found > level for found in maps):
            base = max(finer)
            origins[name] = _added(level - base, maps.get(base) or f"P{base}")
            tensors[level] = _halved(tensors[base], level - base, name)
        else:
            coarser = min(found for found in tensors if found > level)
            origins[name] = f"{maps[coarser]}, enlarged"
            tensors[level] = tensors[coarser]
        levels[name] = _fitted(tensors[level], image_size // stride, name)
    model = keras.Model(pixels, list(levels.values()), name=f"{trunk.name}_pyramid")
    model.pyramid_level_inputs = {name: _layer(name) for name in STRIDES}
    return Pyramid(model, origins)


def _trunk(subject: Subject, image_size: int) -> tuple[keras.Model, dict[int, str]]:
    """The network under evaluation up to its last map, for an image size; and `_maps` of it."""
    backbone = subject.record["backbone"]
    evaluated = network = subject.network()
    if image_size != subject.image_size:
        network = subject.untrained(image_size)
    maps = _maps(network, image_size)
    if not maps:
        raise UserError(f"backbone {backbone} has no endpoint with a feature map")
    trunk = applications.feature_extractor(network, list(maps.values()))
    if network is not evaluated:
        # (By place: Keras numbers the names of some layers anew in each network.)
        places = [layer.name for layer in network.layers]
        names = [evaluated.layers[places.index(name)].name for name in maps.values()]
        source = applications.feature_extractor(evaluated, names)
        if [w.shape for w in source.weights] != [w.shape for w in trunk.weights]:
            raise UserError(
                f"backbone {backbone} of {subject.image_size} pixels cannot take images of "
                f"{image_size} pixels: its weights depend on the size; choose "
                f"{subject.image_size} pixels"
            )
        trunk.set_weights(source.get_weights())
    return trunk, maps


def _maps(network: keras.Model, image_size: int) -> dict[int, str]:
    """Number of halvings -> the last endpoint with a map of about that size."""
    maps = {}
    for name in applications.endpoints(network):
        shape = endpoint_output(network, name).shape
        if len(shape) == 4 and shape[1] > 1:
            maps[round(math.log2(image_size / shape[1]))] = name
    return maps


def _added(count: int, base: str) -> str:
    return f"{count} new convolution{'s' if count > 1 else ''} of stride 2 on {base}"


def _halved(x, count: int, name: str):
    for number in range(count):
        x = keras.layers.Conv2D(
            _ADDED_CHANNELS,
            3,
            strides=2,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"added_{name.lower()}_{number + 1}",
        )(x)
    return x


def _fitted(x, size: int, name: str):
    if x.shape[1:3] == (size, size):
        return keras.layers.Activation("linear", name=_layer(name))(x)
    return keras.layers.Resizing(size, size, name=_layer(name))(x)


def _layer(name: str) -> str:
    return f"pyramid_{name.lower()}"
