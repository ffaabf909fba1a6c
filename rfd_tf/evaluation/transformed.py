"""Features of transformed images: rotated, shuffled like a jigsaw puzzle, warped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf.evaluation.features import FeatureExtractor, Features, feature_tensors
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.evaluation.subject import Subject

#: Takes uint8 `[B, S, S, 3]` and the images' places `[B]` in their set, gives uint8 of that shape.
Transformation = Callable[[np.ndarray, np.ndarray], np.ndarray]

# AET's ranges on CIFAR-10 (Zhang et al., CVPR 2019): degrees, share of the side, factor, degrees.
AFFINE_RANGES = {
    "angle": (-180.0, 180.0),
    "translation": (-0.2, 0.2),
    "scale": (0.7, 1.3),
    "shear": (-30.0, 30.0),
}
_GREY = 128


def evaluated_tensors(
    subject: Subject, model: keras.Model, endpoints: Sequence[str] | None = None
) -> dict[str, Any]:
    """Names the pretraining's own feature: "f", and "f1" and "f2" where it is split.

    Args:
        subject: whose feature it is.
        model: of `subject.network()`.
        endpoints: names of endpoints to add.

    Returns:
        Name to tensor `[None, dim]` float32, maps averaged over their positions. Where the
        weights' record names no feature there is "pooled", the network's output.
    """
    asked = list(endpoints or [])
    tensors = subject.feature_tensors(model, endpoints=asked)
    feature = subject.record.get("feature")
    if feature:
        if "f" not in tensors:
            kind = "max" if feature.get("pooling") == "max" else "average"
            name = feature["endpoint"]
            tensors["f"] = feature_tensors(model, None, (kind, 1), [name])[name]
        tensors.pop("pooled", None)
    return tensors


def transformed_features(
    extract: FeatureExtractor,
    images: ImageSet,
    transformation: Transformation | None = None,
    progress: str | None = None,
) -> tuple[Features, np.ndarray]:
    """Returns what a network gives for every image after a transformation.

    Args:
        extract: the network.
        images: which images.
        transformation: done to each batch; None leaves the images as they are.
        progress: title of a progress bar; None shows none.

    Returns:
        Name -> `[N, dim]`, and the images' places in the set, int64 `[N]`: 0 to N - 1 unless a
        file can no longer be read.
    """
    seen: list[np.ndarray] = []

    def batches():
        for batch in images.batches():
            places = np.searchsorted(images.rows, batch["index"])
            seen.append(places)
            pixels = np.asarray(batch["image"])
            if transformation is not None:
                pixels = transformation(pixels, places)
            yield {"image": pixels, "index": batch["index"]}

    features = extract(batches(), progress=progress, num_images=len(images))
    return features, np.concatenate(seen)


def turned(quarter_turns: int) -> Transformation:
    """Turns every image by the same number of quarter turns, counter-clockwise.

    >>> turned(1)(np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1), np.zeros(1))[0, :, :, 0]
    array([[1, 3],
           [0, 2]], dtype=uint8)
    """
    return lambda images, places: np.rot90(images, quarter_turns, axes=(1, 2))


def shuffled(num_images: int, grid: int = 3, seed: int = 0) -> Transformation:
    """Cuts every image into `grid` x `grid` tiles and puts them back in another order.

    Each image has an order of its own, never the right one. Pixels are moved and not blended; the
    tiles are squares of `side // grid` pixels in the middle of the image, and what is left at its
    rim stays where it is.

    Args:
        num_images: in the set that the places refer to.
        grid: tiles a side, 2 or more.
        seed: of the orders.

    >>> image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    >>> sorted(shuffled(1, grid=2)(image, np.zeros(1, int)).ravel()) == list(range(16))
    True
    """
    rng = np.random.default_rng(seed)
    tiles = grid**2
    orders = rng.permuted(np.tile(np.arange(tiles), (num_images, 1)), axis=1)
    same = (orders == np.arange(tiles)).all(axis=1)
    orders[same] = np.roll(orders[same], 1, axis=1)

    def transformation(images: np.ndarray, places: np.ndarray) -> np.ndarray:
        num, size, _, channels = images.shape
        side = size // grid
        start = (size - side * grid) // 2
        stop = start + side * grid
        shape = (num, grid, side, grid, side, channels)
        cut = images[:, start:stop, start:stop].reshape(shape).transpose(0, 1, 3, 2, 4, 5)
        cut = cut.reshape(num, tiles, side, side, channels)
        cut = cut[np.arange(num)[:, None], orders[places]]
        cut = cut.reshape(num, grid, grid, side, side, channels).transpose(0, 1, 3, 2, 4, 5)
        result = images.copy()
        result[:, start:stop, start:stop] = cut.reshape(num, side * grid, side * grid, channels)
        return result

    return transformation


def warped(num_images: int, seed: int = 0) -> Transformation:
    """Warps every image by an affine map of its own, drawn from AET's ranges (`AFFINE_RANGES`).

    Bilinear; pixels from outside the image are grey (128), as there.

    Args:
        num_images: in the set that the places refer to.
        seed: of the maps.

    Source: Zhang, Qi, Wang, Luo, "AET vs. AED", CVPR 2019.

    >>> warped(1)(np.full((1, 8, 8, 3), 128, np.uint8), np.zeros(1, int))[0, 4, 4].tolist()
    [128, 128, 128]
    """
    rng = np.random.default_rng(seed)
    drawn = {name: rng.uniform(*ends, num_images) for name, ends in AFFINE_RANGES.items()}
    drawn["translation"] = np.stack(
        [drawn["translation"], rng.uniform(*AFFINE_RANGES["translation"], num_images)], axis=1
    )

    def transformation(images: np.ndarray, places: np.ndarray) -> np.ndarray:
        own = {name: values[places] for name, values in drawn.items()}
        maps = affine_maps(images.shape[1], **own)
        result = ops.image.affine_transform(
            images.astype(np.float32),
            maps.astype(np.float32),
            interpolation="bilinear",
            fill_mode="constant",
            fill_value=_GREY,
            data_format="channels_last",
        )
        return np.clip(np.rint(ops.convert_to_numpy(result)), 0, 255).astype(np.uint8)

    return transformation


def affine_maps(
    size: int,
    angle: np.ndarray,
    translation: np.ndarray,
    scale: np.ndarray,
    shear: np.ndarray,
) -> np.ndarray:
    """Returns the maps from places in the result to places in the image, about its centre.

    Args:
        size: side of the square images, pixels.
        angle: `[N]` degrees, counter-clockwise as the image is seen.
        translation: `[N, 2]`, to the right and down, as shares of the side.
        scale: `[N]`, above 1 enlarges.
        shear: `[N]` degrees, below 90: by how much vertical lines lean.

    Returns:
        float64 `[N, 8]`, as `keras.ops.image.affine_transform` takes them.

    >>> identity = affine_maps(8, np.zeros(1), np.zeros((1, 2)), np.ones(1), np.zeros(1))
    >>> bool(np.allclose(identity, [[1, 0, 0, 0, 1, 0, 0, 0]]))
    True
    """
    # With the rows counted downwards a counter-clockwise turn has the sign of a clockwise one.
    turn, lean = -np.deg2rad(angle), np.deg2rad(shear)
    forward = np.empty((len(turn), 2, 2))
    forward[:, 0, 0], forward[:, 0, 1] = np.cos(turn), -np.sin(turn + lean)
    forward[:, 1, 0], forward[:, 1, 1] = np.sin(turn), np.cos(turn + lean)
    backward = np.linalg.inv(forward * np.reshape(scale, (-1, 1, 1)))
    centre = np.full(2, (size - 1) / 2)
    moved = centre + size * np.asarray(translation)
    offset = centre - np.einsum("nij,nj->ni", backward, moved)
    zeros = np.zeros((len(turn), 2))
    rows = [backward[:, 0], offset[:, :1], backward[:, 1], offset[:, 1:], zeros]
    return np.concatenate(rows, axis=1)
