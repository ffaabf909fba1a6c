"""The model that is exported: pixels in, named float32 features out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from rfd_tf.applications import feature_extractor, portable, preprocess_input
from rfd_tf.errors import UserError, unknown

FEATURES = ("f", "f1", "f2")
EMBEDDING = "embedding"


def feature_range(record: dict[str, Any], feature: str = "f") -> tuple[int, int | None]:
    """Returns where a feature begins and ends among the channels of the feature endpoint.

    Args:
        record: what `rfd_tf.applications.read_record` gives.
        feature: `"f"` for all of it, `"f1"` (rotation-related) or `"f2"` (rotation-unrelated)
            for a half of a decoupled feature.

    Returns:
        `(start, stop)`; stop None means to the end.

    Raises:
        UserError: a name that does not exist, or a half of a feature that is not split.

    >>> feature_range({"feature": {"endpoint": "block6", "split": [64, 64]}}, "f2")
    (64, 128)
    """
    if feature not in FEATURES:
        raise unknown("feature", feature, FEATURES)
    if feature == "f":
        return 0, None
    split = record["feature"].get("split")
    if not split:
        raise UserError(
            f"feature '{feature}' does not exist: these weights "
            f"({record.get('method') or 'method unknown'}) have no decoupled feature; options: f"
        )
    first, second = split
    return (0, first) if feature == "f1" else (first, first + second)


def deployable(
    model: keras.Model,
    record: dict[str, Any],
    *,
    feature: str = "f",
    endpoints: Iterable[str] = (),
) -> keras.Model:
    """Builds the model to deploy from a backbone: float32, stock layers, preprocessing inside.

    Args:
        model: a backbone as `rfd_tf.applications.load_backbone` gives it, on normalised images
            `[batch, S, S, 3]`; its weights are copied.
        record: the backbone's record; read are `mean`, `std` and `feature`.
        feature: which part of the pooled feature `embedding` is: `"f"`, `"f1"` or `"f2"`.
        endpoints: names of layers whose outputs are given as well.

    Returns:
        A functional model. Input: pixels, float32 from 0 to 255, RGB, `[batch, S, S, 3]`. Output:
        a dict of float32 tensors: `embedding` `[batch, D]` (a map is pooled over its pixels, a
        vector is taken as it is) and each endpoint by its name, unpooled.

    Raises:
        UserError: an unknown feature or endpoint.

    >>> from rfd_tf.applications import SixLayer
    >>> backbone = SixLayer(include_top=False, input_shape=(32, 32, 3))
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg", "split": [64, 64]}}
    >>> model = deployable(backbone, record, feature="f1", endpoints=["block2"])
    >>> features = model(keras.ops.zeros((1, 32, 32, 3)))
    >>> features["embedding"].shape, features["block2"].shape
    (TensorShape([1, 64]), TensorShape([1, 16, 16, 32]))
    """
    endpoints = list(endpoints)
    start, stop = feature_range(record, feature)
    place = record["feature"]["endpoint"]
    extractor = feature_extractor(portable(model), list(dict.fromkeys([place, *endpoints])))

    pixels = keras.Input(model.input_shape[1:], dtype="float32", name="pixels")
    images = preprocess_input(pixels, mean=record["mean"], std=record["std"])
    maps = extractor(images, training=False)
    embedding = maps[place]
    if len(embedding.shape) == 4:
        pool = keras.ops.max if record["feature"].get("pooling") == "max" else keras.ops.mean
        embedding = pool(embedding, axis=(1, 2))
    if stop is not None:
        embedding = embedding[:, start:stop]
    outputs = {EMBEDDING: embedding}
    outputs.update({name: maps[name] for name in endpoints})
    return keras.Model(pixels, outputs, name=f"{model.name}_deployable")
