"""What a smaller file loses against the float32 one: on features, and on kNN accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rfd_tf.data.sources import Source
from rfd_tf.errors import UserError
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.evaluation.knn import default_k, knn_accuracy
from rfd_tf.evaluation.splits import held_out, subset
from rfd_tf.export.features import EMBEDDING
from rfd_tf.export.litert import LiteRTModel
from rfd_tf.export.onnx_model import OnnxModel

Model = OnnxModel | LiteRTModel

CALIBRATION_IMAGES = 256
_BATCH = 32
_MOST_MEASURED, _MOST_TRAIN = 1000, 4000
_LEAST_LABELLED = 20  # fewer evaluated images say nothing of an accuracy


class Division(NamedTuple):
    """Which images calibrate and which evaluate. Rows are increasing indices into the source.

    Attributes:
        calibration: rows whose images set the scales.
        evaluated: rows whose features are compared; none of them calibrates, unless the source has
            one image only.
        train: rows that kNN learns from; None where the images have no labels, or too few.
    """

    calibration: np.ndarray
    evaluated: np.ndarray
    train: np.ndarray | None


def divide(source: Source, calibration_images: int = CALIBRATION_IMAGES) -> Division:
    """Divides images into those that calibrate and those that evaluate, by the hash of their index.

    Args:
        source: the images, with or without labels.
        calibration_images: most images that calibrate.

    Raises:
        UserError: `calibration_images` is less than 1.

    >>> from rfd_tf import data
    >>> parts = divide(data.digits(), calibration_images=100)
    >>> [len(rows) for rows in parts]
    [100, 296, 1204]
    """
    if calibration_images < 1:
        raise UserError(f"calibration needs 1 image or more, not {calibration_images}")
    rows, labels = np.arange(source.num_images), source.labels
    if labels is not None and (labels >= 0).any():
        rows, labels = rows[labels >= 0], labels[labels >= 0]
    classes = 1 if labels is None else len(np.unique(labels))
    evaluated = held_out(np.zeros(len(rows), np.int64) if classes < 2 else labels)
    train, chosen = rows[~evaluated], rows[evaluated]
    calibration = subset(train, calibration_images)
    if not len(chosen):
        chosen = calibration
    chosen = subset(chosen, _MOST_MEASURED)
    if classes < 2 or len(chosen) < _LEAST_LABELLED:
        return Division(calibration, chosen, None)
    return Division(calibration, chosen, subset(train, _MOST_TRAIN))


def accuracy_lost(
    float32: Model,
    smaller: Mapping[str, Model],
    source: Source,
    division: Division,
) -> dict[str, dict[str, Any]]:
    """Compares smaller files with the float32 one on images.

    Args:
        float32: the file they were made from.
        smaller: the smaller files by kind.
        source: the images.
        division: which of them evaluate.

    Returns:
        For each kind: "images" (how many were compared); "outputs": for each output "cosine" (mean
        over the images of the cosine to the float32 output), "lowest_cosine",
        "largest_difference" (absolute) and "relative_difference" (as a fraction of the largest
        float32 value); and where there are labels "knn": accuracies 0 to 1 of "float32" and of the
        kind, "lost" (their difference), "k", "num_train".
    """
    models = {"float32": float32, **smaller}
    size = float32.image_size
    evaluated = ImageSet(source, division.evaluated, size, _BATCH)
    found, embeddings = _compared(models, evaluated.batches())
    if division.train is not None:
        train = ImageSet(source, division.train, size, _BATCH)
        accuracies = _knn(models, train, evaluated, embeddings)
        for kind in smaller:
            lost = accuracies["float32"] - accuracies[kind]
            found[kind]["knn"] = {
                "float32": accuracies["float32"],
                kind: accuracies[kind],
                "lost": lost,
                "k": default_k(len(train)),
                "num_train": len(train),
            }
    return found


def on_pixels(
    float32: Model, smaller: Mapping[str, Model], pixels: np.ndarray
) -> dict[str, dict[str, Any]]:
    """As `accuracy_lost`, on uint8 pixels `[N, S, S, 3]` and without kNN."""
    batches = [{"image": pixels[start : start + _BATCH]} for start in range(0, len(pixels), _BATCH)]
    return _compared({"float32": float32, **smaller}, batches)[0]


class _Agreement:
    """How well one output of a smaller file agrees, added up batch by batch."""

    def __init__(self) -> None:
        self.cosines: list[np.ndarray] = []
        self.difference = self.scale = 0.0

    def add(self, expected: np.ndarray, actual: np.ndarray) -> None:
        expected, actual = (
            np.asarray(v, np.float64).reshape(len(v), -1) for v in (expected, actual)
        )
        lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
        both_zero = (lengths == 0) & (expected == actual).all(axis=1)
        cosines = np.sum(expected * actual, axis=1) / np.maximum(lengths, 1e-30)
        self.cosines.append(np.where(both_zero, 1.0, cosines))
        # (np.maximum, unlike max, keeps what is not a number.)
        self.difference = float(np.maximum(self.difference, np.abs(expected - actual).max()))
        self.scale = max(self.scale, float(np.abs(expected).max()))

    def agreement(self) -> dict[str, float]:
        cosines = np.concatenate(self.cosines)
        return {
            "cosine": float(cosines.mean()),
            "lowest_cosine": float(cosines.min()),
            "largest_difference": self.difference,
            "relative_difference": self.difference / max(self.scale, 1e-30),
        }


def _compared(
    models: Mapping[str, Model], batches: Iterable[Mapping[str, np.ndarray]]
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    names = models["float32"].outputs
    kinds = [kind for kind in models if kind != "float32"]
    sums = {kind: {name: _Agreement() for name in names} for kind in kinds}
    embeddings: dict[str, list[np.ndarray]] = {kind: [] for kind in models}
    images = 0
    for batch in batches:
        images += len(batch["image"])
        given = {kind: model(batch["image"]) for kind, model in models.items()}
        for kind, outputs in given.items():
            embeddings[kind].append(outputs[EMBEDDING])
        for kind in kinds:
            for name in names:
                sums[kind][name].add(given["float32"][name], given[kind][name])
    agreement = {
        kind: {"images": images, "outputs": {name: sums[kind][name].agreement() for name in names}}
        for kind in kinds
    }
    return agreement, {kind: np.concatenate(parts) for kind, parts in embeddings.items()}


def _knn(
    models: Mapping[str, Model],
    train: ImageSet,
    evaluated: ImageSet,
    embeddings: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """Accuracy of each file's embedding, 0 to 1, if every value of it is finite."""
    embedded: dict[str, list[np.ndarray]] = {kind: [] for kind in models}
    for batch in train.batches():
        for kind, model in models.items():
            embedded[kind].append(model(batch["image"], [EMBEDDING])[EMBEDDING])
    return {
        kind: knn_accuracy(
            np.concatenate(parts), train.labels, embeddings[kind], evaluated.labels, k=None
        )
        if np.isfinite(embeddings[kind]).all()
        else 0.0
        for kind, parts in embedded.items()
    }
