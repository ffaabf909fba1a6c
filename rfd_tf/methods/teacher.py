"""The frozen network that a student learns from: a Keras model, or one by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from rfd_tf import applications
from rfd_tf.applications import custom, hub, keras_applications, pretrained, weights
from rfd_tf.applications.image_size import reason
from rfd_tf.applications.preprocessing import per_channel
from rfd_tf.errors import UserError, shown, unknown
from rfd_tf.methods.base import Method
from rfd_tf.paths import absolute, expanded

#: What the names of networks of `keras.applications` with their ImageNet weights begin with.
IMAGENET = "imagenet:"
#: What a run records of a teacher that was given as a model begins with.
IN_PYTHON = "keras.Model "


class Teacher:
    """A frozen network from a student's pixels to embeddings.

    Args:
        source: a Keras model from normalised images `[B, S, S, 3]` to a vector, a map or a
            sequence of tokens, or an `rfd_tf.methods.Method`; or one by name: shipped weights
            such as `network_in_network.rfd_cifar10`, a run folder, a `.weights.h5` file with a
            record, a `.keras` file, or `imagenet:NAME`, a network of `keras.applications` such as
            `imagenet:mobilenet_v2` with the weights that Keras downloads.
        image_size: side of the student's images, pixels. They are resized to the network's own
            size where that is fixed and differs.
        endpoint: layer whose output is the embedding; the recorded feature, or the model's output,
            if None. Maps are averaged over their positions, sequences over their tokens.
        mean, std: of the pixels / 255 that the network takes; the recorded ones, or ImageNet's, if
            None. A network that takes pixels 0-255 has mean 0 and std 1/255.

    Attributes:
        network: float32 pixels 0-255 `[B, image_size, image_size, 3]` to float32
            `[B, dimensions]`, in inference mode.
        name: of the source, paths made absolute.
        endpoint, mean, std: those in use; None where the source has its own.
        dimensions: length of an embedding.

    Raises:
        UserError: there is no such network, or it does not give vectors for images.

    >>> import numpy as np
    >>> teacher = Teacher("six_layer.rfd_cifar10", image_size=48)
    >>> teacher.dimensions, teacher.endpoint, teacher.network(np.zeros((2, 48, 48, 3))).shape
    (128, 'block6', TensorShape([2, 128]))
    """

    def __init__(
        self,
        source: keras.Model | str | os.PathLike,
        image_size: int,
        *,
        endpoint: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        check(source)
        self.name, model, record = _found(source)
        own = isinstance(model, Method) or self.name.startswith(IMAGENET)
        for argument, value in (("teacher_mean", mean), ("teacher_std", std)):
            if own and value is not None:
                raise UserError(
                    f"teacher '{self.name}' normalises pixels itself; leave {argument} out"
                )
        self.endpoint = self.mean = self.std = None
        if isinstance(model, Method):
            if endpoint:
                raise UserError(
                    f"teacher_endpoint '{endpoint}': a method teaches its own feature "
                    f"'{model.feature_endpoint}'; give its backbone as teacher for another"
                )
            model, normalise = model.pixel_model, _as_it_is
        elif own:
            normalise = keras_applications.preprocessing(self.name.removeprefix(IMAGENET))
        else:
            if mean is None:
                mean = record.get("mean") or applications.IMAGENET_MEAN
            if std is None:
                std = record.get("std") or applications.IMAGENET_STD
            self.mean = per_channel("teacher_mean", mean)
            self.std = per_channel("teacher_std", std)

            def normalise(pixels):
                return applications.preprocess_input(pixels, mean=self.mean, std=self.std)

        self.endpoint = endpoint or (record.get("feature") or {}).get("endpoint")
        if self.endpoint:
            model = applications.pooled_feature_model(model, self.endpoint)
        self.network = self._network(model, normalise, image_size)
        self.dimensions = int(self.network.output_shape[-1])

    def _network(self, model: keras.Model, normalise, image_size: int) -> keras.Model:
        if not model.built:
            raise UserError(
                f"teacher '{self.name}' has no weights yet; begin it with keras.Input((S, S, 3)), "
                "and train it or load its weights"
            )
        pixels = keras.Input((image_size, image_size, 3), dtype="float32", name="image")
        side, channels = _images_of(model)
        if channels not in (3, None):
            raise UserError(
                f"teacher '{self.name}' takes images of {channels} channels; give one that takes "
                "RGB images, channels last"
            )
        size = side or image_size
        x = pixels
        if size != image_size:
            x = ops.image.resize(x, (size, size), interpolation="bilinear", antialias=True)
        try:
            x = model(normalise(x), training=False)
            x = ops.mean(x, axis=tuple(range(1, len(x.shape) - 1))) if len(x.shape) > 2 else x
            if len(x.shape) != 2 or x.shape[-1] is None:
                raise ValueError(f"its output has shape {tuple(x.shape)}")
        except UserError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"teacher '{self.name}' gives no vector for images of {size} x {size} pixels "
                f"({shown(reason(error))}); choose a layer by teacher_endpoint, or another teacher"
            ) from None
        return keras.Model(pixels, ops.cast(x, "float32"), name="teacher")

    def sha256(self) -> str:
        """Returns the hexadecimal SHA-256 digest of the weights, in the network's order."""
        return weights.digest(map(ops.convert_to_numpy, self.network.weights))


def check(source: Any) -> None:
    """Raises `UserError` unless a teacher is a Keras model, or a name or path that exists.

    >>> check("six_layer.rfd_cifar10")
    """
    if isinstance(source, keras.Model):
        return
    if not source or not isinstance(source, (str, os.PathLike)):
        given = f"teacher {shown(repr(source))}" if source else "the teacher, which is not given,"
        raise UserError(
            f"{given} must be a Keras model, shipped weights such as "
            "network_in_network.rfd_cifar10, a run folder, a .weights.h5 or .keras file, or "
            f"{IMAGENET}NAME"
        )
    text = os.fspath(source)
    if text.startswith(IN_PYTHON):
        raise UserError(
            f"teacher '{text}' was a model in Python, which no run keeps; give that model again as "
            "teacher, or its .keras file"
        )
    if text == IMAGENET.removesuffix(":"):
        raise UserError(
            f"teacher '{text}' does not name a network; give {IMAGENET}NAME, such as "
            f"{IMAGENET}mobilenet_v2"
        )
    if text.startswith(IMAGENET):
        name = text.removeprefix(IMAGENET)
        names = keras_applications.constructors()
        if name not in names:
            raise unknown("network of keras.applications", name, names)
    elif custom.is_file(text):
        if not expanded(text).is_file():
            raise UserError(f"no such file: '{text}'; give an existing teacher")
    else:
        weights.find_weights(text)


def _found(source: keras.Model | str | os.PathLike) -> tuple[str, keras.Model, dict[str, Any]]:
    """Returns a source's name, its model and the record of its weights."""
    if isinstance(source, keras.Model):
        return f"{IN_PYTHON}{source.name}", source, {}
    text = os.fspath(source)
    if text.startswith(IMAGENET):
        name = text.removeprefix(IMAGENET)
        size = keras_applications.DEFAULT_SIZES.get(name, 224)
        model = keras_applications.downloaded(
            name, (size, size, 3), "give a .keras file as teacher"
        )
        return text, model, {}
    if custom.is_file(text):
        path = absolute(text)
        return str(path), custom.read(path), {}
    shipped = pretrained.find(text)
    model, record = applications.load_backbone(text)
    if hub.is_place(text):
        return weights.origin(text, None)["weights"], model, record
    return shipped.name if shipped else str(absolute(text)), model, record


def _as_it_is(pixels):
    return pixels


def _images_of(model: keras.Model) -> tuple[int | None, int | None]:
    """Side and channels of the images that a model takes, None where they are open."""
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        _, height, width, channels = model.input_shape
        return int(height) if height is not None and height == width else None, channels
    return None, None
