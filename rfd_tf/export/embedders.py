"""From pixels to vectors, by Keras or by onnxruntime: what `embed_folder` runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rfd_tf.errors import UserError, unknown

Vectors = dict[str, np.ndarray]


class Embedder(NamedTuple):
    """A network that embeds images.

    Attributes:
        image_size: side S of its images, in pixels.
        identity: JSON-ready: all that its vectors follow from, beside the images.
        embed: converts pixels uint8 `[batch, S, S, 3]` (RGB, 0 to 255) to a float32 vector
            `[batch, D]` for each feature, by name.

    >>> mean = Embedder(8, {"features": ["mean"]}, lambda x: {"mean": x.mean((1, 2), "float32")})
    >>> mean.embed(np.zeros((2, 8, 8, 3), np.uint8))["mean"].shape
    (2, 3)
    """

    image_size: int
    identity: dict[str, Any]
    embed: Callable[[np.ndarray], Vectors]


def keras_embedder(
    weights: str | os.PathLike,
    features: str | Iterable[str] = ("f",),
    image_size: int | None = None,
    backbone: str | None = None,
) -> Embedder:
    """Makes an embedder of a pretrained backbone, run by Keras.

    Args:
        weights: a run folder, a `.weights.h5` file, or the name of shipped weights.
        features: `"f"` (the pooled feature), `"f1"`, `"f2"` (its halves), layers by name (maps are
            averaged over their pixels), and of trained heads `"rotation_logits"`, `"projection"`.
        image_size: by default the one recorded with the weights.
        backbone: the network's name, for weights without a record.

    Raises:
        UserError: weights or features that do not exist, or no feature.

    >>> import tempfile
    >>> from rfd_tf import applications
    >>> network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    >>> record = {"format": 1, "backbone": "six_layer", "image_size": 16,
    ...           "arguments": {"filters": [4, 4, 4, 4, 4, 8]}}
    >>> path = os.path.join(tempfile.mkdtemp(), "backbone.weights.h5")
    >>> _ = applications.save_backbone(network, path, record)
    >>> embedder = keras_embedder(path, ["f", "block2"])
    >>> vectors = embedder.embed(np.zeros((2, 16, 16, 3), np.uint8))
    >>> {name: vector.shape for name, vector in vectors.items()}
    {'f': (2, 8), 'block2': (2, 4)}
    """
    import tensorflow as tf

    from rfd_tf.applications import endpoints
    from rfd_tf.applications.weights import find_weights, sha256
    from rfd_tf.export.backbone import in_float32, load_recorded, trained_heads
    from rfd_tf.export.features import OUTPUTS, deployable

    wanted = _names(features)
    if not wanted:
        raise UserError("features is empty; name at least one, such as 'f'")
    source = find_weights(weights, backbone)
    outputs = [name for name in wanted if name in OUTPUTS]
    with in_float32():
        model, record, _ = load_recorded(source, backbone, image_size)
        known = [*OUTPUTS, *(layer.name for layer in model.layers)]
        for name in wanted:
            if name not in known:
                raise unknown("feature", name, [*OUTPUTS, *endpoints(model)])
        network = deployable(
            model,
            record,
            endpoints=[name for name in wanted if name not in OUTPUTS],
            outputs=outputs,
            heads=trained_heads(source, outputs),
        )
        size = model.input_shape[1]

        signature = [tf.TensorSpec([None, size, size, 3], tf.uint8)]

        @tf.function(input_signature=signature, autograph=False)
        def run(pixels):
            given = network(tf.cast(pixels, tf.float32), training=False)
            return {name: given[name] for name in wanted}

        run.get_concrete_function()

    def embed(pixels: np.ndarray) -> Vectors:
        given = run(tf.constant(pixels))
        return {name: _vectors(given[name].numpy()) for name in wanted}

    identity = {
        "by": "keras",
        "weights_sha256": sha256(source),
        "backbone": record["backbone"],
        "image_size": size,
        "features": wanted,
    }
    return Embedder(size, identity, embed)


def onnx_embedder(path: str | os.PathLike, features: str | Iterable[str] = ()) -> Embedder:
    """Makes an embedder of an ONNX file of `rfd-tf export`, run by onnxruntime on the CPU.

    Args:
        path: of the file.
        features: names of its outputs; maps are averaged over their pixels. By default
            `"embedding"`; `"f"`, `"f1"` or `"f2"` is `embedding` too, where the file says so.

    Raises:
        UserError: no such file, not one of these, or an output that it does not have.

    >>> import tempfile
    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable, write_onnx
    >>> network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> write_onnx(deployable(network, record), path)
    >>> onnx_embedder(path).embed(np.zeros((2, 16, 16, 3), np.uint8))["embedding"].shape
    (2, 8)
    """
    from rfd_tf.applications.weights import sha256
    from rfd_tf.export.features import EMBEDDING
    from rfd_tf.export.onnx_model import OnnxModel

    model = OnnxModel(path)
    wanted = _names(features) or [EMBEDDING]
    outputs = {name: name for name in model.outputs}
    recorded = model.metadata.get("feature")
    if EMBEDDING in outputs and isinstance(recorded, Mapping):
        outputs.setdefault(str(recorded.get("name")), EMBEDDING)
    for name in wanted:
        if name not in outputs:
            raise unknown(f"output of '{path}'", name, outputs)
    names = list(dict.fromkeys(outputs[name] for name in wanted))

    def embed(pixels: np.ndarray) -> Vectors:
        given = model(pixels, names)
        return {name: _vectors(given[outputs[name]]) for name in wanted}

    identity = {
        "by": "onnxruntime",
        "onnx_sha256": sha256(model.path),
        "weights_sha256": model.metadata.get("weights_sha256"),
        "image_size": model.image_size,
        "features": wanted,
    }
    return Embedder(model.image_size, identity, embed)


def embed_pixels(embedder: Embedder, pixels: Any, batch_size: int = 64) -> Vectors:
    """Embeds an array of images, batch by batch.

    Args:
        embedder: the network, for images of side S.
        pixels: uint8 `[N, S, S, 3]`, RGB, 0 to 255; N may be 0.
        batch_size: images per step.

    Returns:
        Feature name -> float32 `[N, D]`.

    Raises:
        UserError: pixels of another dtype or shape, or a batch size below 1.

    >>> mean = Embedder(8, {"features": ["mean"]}, lambda x: {"mean": x.mean((1, 2), "float32")})
    >>> embed_pixels(mean, np.zeros((5, 8, 8, 3), np.uint8), batch_size=2)["mean"].shape
    (5, 3)
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be 1 or more, got {batch_size}")
    pixels, size = np.asarray(pixels), embedder.image_size
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
        raise UserError(
            f"pixels must be uint8 [N, {size}, {size}, 3] from 0 to 255, got {pixels.dtype} "
            f"{list(pixels.shape)}; resize images to {size} x {size}, or give their folder"
        )
    if not len(pixels):
        empty = embedder.embed(np.zeros((1, size, size, 3), np.uint8))
        return {name: vectors[:0] for name, vectors in empty.items()}
    starts = range(0, len(pixels), batch_size)
    found = [embedder.embed(pixels[start : start + batch_size]) for start in starts]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _names(features: str | Iterable[str]) -> list[str]:
    """Returns each name once, in order; a text is one name."""
    return [features] if isinstance(features, str) else list(dict.fromkeys(features))


def _vectors(values: np.ndarray) -> np.ndarray:
    if values.ndim > 2:
        values = values.mean(axis=tuple(range(1, values.ndim - 1)), dtype=np.float32)
    return np.ascontiguousarray(values, np.float32)
