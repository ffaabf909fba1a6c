"""Frozen features: which tensors of a backbone are evaluated, and their values on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf import applications
from rfd_tf.applications.endpoints import endpoint_output
from rfd_tf.data.views import rotate_each
from rfd_tf.errors import UserError, unknown
from rfd_tf.layers.adaptive_pooling import adaptive_average_pool, adaptive_max_pool

Features = dict[str, np.ndarray]
Pooling = tuple[str, int | Callable[[int], int]]

POOLINGS = {"average": adaptive_average_pool, "max": adaptive_max_pool}
# A float16 copy is used for numbers well inside its range only.
_FLOAT16_LARGEST, _FLOAT16_SMALLEST = 1e4, 1e-2


def feature_tensors(
    backbone: keras.Model,
    feature: dict[str, Any] | None = None,
    pooling: Pooling = ("average", 1),
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Names the vectors of a backbone that are evaluated.

    Args:
        backbone: functional model without top, input `[None, S, S, 3]`.
        feature: a weights record's "feature": {"endpoint", "pooling", "split": [n1, n2]}.
        pooling: ("average" or "max", size): maps are adaptively pooled to at most size x size;
            size may be a function of the number of channels. Tokens are pooled to one vector.
        names: endpoints, or other layers; by default `rfd_tf.applications.endpoints(backbone)`.

    Returns:
        Name to tensor `[None, dim]` float32: each endpoint under its own name, "pooled" (the
        output, globally averaged; left out where an endpoint already is exactly that), and, for a
        feature with a split, "f", "f1" (its first n1 columns) and "f2" (the other n2).

    Raises:
        UserError: an unknown endpoint or pooling, or a split that does not fit the feature.

    >>> model = applications.SixLayer(include_top=False, input_shape=(32, 32, 3))
    >>> feature_tensors(model, pooling=("max", 4), names=["block2"])["block2"].shape
    (None, 512)
    """
    kind, size = pooling
    if kind not in POOLINGS:
        raise unknown("pooling", kind, POOLINGS)
    tensors, whole = {}, False
    for name in applications.endpoints(backbone) if names is None else names:
        output = endpoint_output(backbone, name)
        if output.ndim not in (2, 3, 4):
            raise UserError(f"endpoint '{name}' gives {output.shape}, no maps, tokens or vectors")
        tensors[name] = _vector(output, kind, size)
        whole |= output is backbone.output and (pooling == ("average", 1) or output.ndim == 2)
    if not whole:
        tensors["pooled"] = _vector(backbone.output)
    if feature and feature.get("split"):
        mapped = "max" if feature.get("pooling") == "max" else "average"
        f = _vector(endpoint_output(backbone, feature["endpoint"]), mapped)
        first, second = feature["split"]
        if first + second != f.shape[-1]:
            raise UserError(
                f"the weights' record splits the feature {first} + {second}, but endpoint "
                f"'{feature['endpoint']}' has {f.shape[-1]} numbers"
            )
        tensors.update(f=f, f1=f[:, :first], f2=f[:, first:])
    return {name: ops.cast(tensor, "float32") for name, tensor in tensors.items()}


def _vector(x, kind: str = "average", size: int | Callable[[int], int] = 1):
    if x.ndim == 4:
        size = size(x.shape[3]) if callable(size) else size
        height, width = min(size, x.shape[1]), min(size, x.shape[2])
        x = POOLINGS[kind](ops.cast(x, "float32"), (height, width))
        x = ops.reshape(x, (-1, height * width * x.shape[3]))
    elif x.ndim == 3:
        pool = ops.max if kind == "max" else ops.mean
        x = pool(ops.cast(x, "float32"), axis=1)
    return x


class FeatureExtractor:
    """Runs a frozen model in inference mode over images and gathers what it gives.

    Keep one where the same model is asked again and again (a monitor during training): it is
    compiled once and reads the weights as they are at each call.

    Args:
        model: Keras model with one input `[None, S, S, 3]` and a dict of outputs `[None, ...]`; a
            model with one output tensor counts as {"features": output}.
        mean, std: three numbers each, of the network's normalisation `(x / 255 - mean) / std`.
        compact: output names that may be returned as float16 to save memory. Only numbers well
            inside its range are; others stay float32.

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> extract = FeatureExtractor(model, mean=[0, 0, 0], std=[1, 1, 1])
    >>> extract(np.full((5, 8, 8, 3), 255, "uint8"), batch_size=2)["features"].shape
    (5, 192)
    """

    def __init__(
        self,
        model: keras.Model,
        mean: Sequence[float],
        std: Sequence[float],
        compact: Iterable[str] = (),
    ):
        self._compact = frozenset(compact)

        def forward(images, quarter_turns):
            images = ops.cast(rotate_each(images, quarter_turns), "float32")
            inputs = applications.preprocess_input(images, mean=mean, std=std)
            outputs = model(inputs, training=False)
            outputs = outputs if isinstance(outputs, dict) else {"features": outputs}
            return {name: ops.cast(output, "float32") for name, output in outputs.items()}

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # Not model.predict: built under a strategy, that would run once on every replica.
            shape = (None, *model.input_shape[1:])
            forward = tf.function(
                forward,
                input_signature=[tf.TensorSpec(shape, "uint8"), tf.TensorSpec([None], "int32")],
                autograph=False,
            )
        self._forward = forward

    def __call__(
        self,
        images: np.ndarray | Iterable[dict[str, Any]],
        batch_size: int = 256,
        rotations: np.ndarray | None = None,
        progress: str | None = None,
        num_images: int | None = None,
        rows: Callable[[str], Any] | None = None,
    ) -> Features:
        """Returns name -> `[N, ...]` in the order of the images.

        Args:
            images: uint8 `[N, S, S, 3]`, or finite batches {"image": uint8, "index": int64} as
                `rfd_tf.data.pipeline.evaluation_dataset` gives them.
            batch_size: for an array; batches come as they are.
            rotations: quarter turns counter-clockwise for each image `[N]`, by its index; by
                default all upright.
            progress: title of a progress bar; None shows none.
            num_images: lets the bar of a dataset show the time left.
            rows: name -> what takes an output's rows by `append` and gives them by `close`, such
                as `feature_cache.RowFile`; by default they are kept in memory.
        """
        from rfd_tf.progress import tqdm

        total = len(images) if isinstance(images, np.ndarray) else num_images
        parts: dict[str, Any] = {}
        # (None: no bar in a log file.)
        with tqdm(
            total=total, desc=progress, unit="img", disable=None if progress else True
        ) as bar:
            for image, index in _batches(images, batch_size):
                turns = np.zeros(len(index)) if rotations is None else np.asarray(rotations)[index]
                for name, output in self._forward(image, turns.astype(np.int32)).items():
                    if name not in parts:
                        parts[name] = rows(name) if rows else []
                    parts[name].append(self._cached(name, output))
                bar.update(len(index))
        if not parts:
            raise UserError("no images to take features of")
        if rows:
            return {name: part.close() for name, part in parts.items()}
        # One name at a time, its parts let go: the peak is one feature above the result.
        return {name: np.concatenate(parts.pop(name)) for name in list(parts)}

    def _cached(self, name: str, output) -> np.ndarray:
        values = ops.convert_to_numpy(output)
        if name not in self._compact:
            return values
        largest = np.abs(values).max(initial=0)
        fits = _FLOAT16_SMALLEST < largest < _FLOAT16_LARGEST
        return values.astype(np.float16) if fits else values


def extract_features(
    model: keras.Model,
    images: np.ndarray | Iterable[dict[str, Any]],
    batch_size: int = 256,
    mean: Sequence[float] = applications.preprocessing.IMAGENET_MEAN,
    std: Sequence[float] = applications.preprocessing.IMAGENET_STD,
    rotations: np.ndarray | None = None,
) -> Features:
    """Frozen features of images, once: `FeatureExtractor(model, mean, std)(images, ...)`.

    Returns:
        Name -> float32 `[N, ...]`; the one output of a model without names is "features".

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> extract_features(model, np.zeros((5, 8, 8, 3), "uint8"))["features"].shape
    (5, 192)
    """
    return FeatureExtractor(model, mean, std)(images, batch_size, rotations)


def _batches(images, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if isinstance(images, np.ndarray):
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            yield batch, np.arange(start, start + len(batch))
    else:
        for batch in images:
            yield np.asarray(batch["image"]), np.asarray(batch["index"])
