"""Measures the kNN accuracy of a network during training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from rfd_tf.applications.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from rfd_tf.data.sources import Source
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.knn import default_k, knn_accuracy
from rfd_tf.evaluation.splits import check_classes, split

# Pixels that are kept in memory between the epochs.
_KEEP_BYTES = 1 << 29


def comparison(
    accuracy: float,
    random_init: float | None,
    start: float | None = None,
    images: int | None = None,
) -> str:
    """Returns a sentence that compares a kNN accuracy with its baselines.

    Args:
        accuracy: of the trained feature, 0 to 1.
        random_init: of the untrained network; None if it was not measured.
        start: of the weights that training started from; None if it started from random ones.
        images: number of test images; where two standard errors of a difference between so many
            independent answers are more than a difference found, a second sentence says so.

    >>> print(comparison(0.411, 0.231, 0.379))
    kNN accuracy 41.1 %: better than random init by 18.0 points, than the starting weights by 3.2.
    >>> print(comparison(0.2, 0.25))
    kNN accuracy 20.0 %: worse than random init by 5.0 points.
    >>> comparison(0.59, 0.564, images=39).partition(". ")[2]
    'With 39 test images, differences below 22 points are uncertain.'
    """
    parts, before, uncertain = [], "", 0.0
    for name, other in (("random init", random_init), ("the starting weights", start)):
        if other is None:
            continue
        points = round(100 * accuracy, 1) - round(100 * other, 1)
        word = "better" if points > 0.05 else "worse" if points < -0.05 else "not better"
        unit = "" if any("points" in part for part in parts) else " points"
        by = "" if word == "not better" else f" by {abs(points):.1f}{unit}"
        parts.append(f"{'' if word == before else word + ' '}than {name}{by}")
        before = word
        if images:
            error = 2 * math.sqrt((accuracy * (1 - accuracy) + other * (1 - other)) / images)
            if abs(accuracy - other) < error:
                uncertain = max(uncertain, error)
    compared = f": {', '.join(parts)}" if parts else ""
    text = f"kNN accuracy {100 * accuracy:.1f} %{compared}."
    if uncertain:
        text += (
            f" With {images} test images, differences below {100 * uncertain:.0f} points are "
            "uncertain."
        )
    return text


class NeighbourMonitor:
    """Measures the weighted kNN accuracy of a feature, repeatedly during training.

    A fixed part of the labelled images is read once and kept in memory. Each call extracts their
    features with the current weights and returns the accuracy. Labels are used for nothing else.

    Args:
        model: Keras model from normalised images to the feature `[batch, dimensions]`.
        train: labelled images that vote.
        test: labelled images to evaluate on; None holds out a fixed fifth of `train`.
        image_size: side of the images, pixels.
        mean, std: of the normalisation.
        max_train: largest number of images that vote; fewer if their pixels do not fit into
            512 MiB. At most a fifth as many are evaluated.
        stretch: whether images are stretched to squares, as in training, instead of cropped.

    Attributes:
        num_test: number of images that are evaluated.

    Raises:
        UserError: no labels, a single class, or classes that differ.

    >>> from rfd_tf import applications, data
    >>> network = applications.build("six_layer", 32, pooling="avg")
    >>> monitor = NeighbourMonitor(network, data.digits(), data.digits("test"), 32, max_train=100)
    >>> 0 <= monitor() <= 1
    True
    """

    def __init__(
        self,
        model: keras.Model,
        train: Source,
        test: Source | None,
        image_size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        max_train: int = 10_000,
        stretch: bool = False,
    ):
        from rfd_tf.data.pipeline import load_images

        self.num_classes = check_classes(train, test)
        most = max(1, min(max_train, int(_KEEP_BYTES / 1.2) // (image_size**2 * 3)))
        votes, test, tests = split(
            train, test, most, max(1, most // 5), way_out="use --monitor_every=0"
        )
        self.train = load_images(train, image_size, votes, stretch), train.labels[votes]
        self.test = load_images(test, image_size, tests, stretch), test.labels[tests]
        self.num_test = len(tests)
        self.k = default_k(len(votes))
        self._extract = FeatureExtractor(model, mean, std)

    def __call__(self) -> float:
        """Returns the accuracy with the current weights, 0 to 1."""
        train, test = (self._extract(images)["features"] for images, _ in (self.train, self.test))
        return knn_accuracy(
            train, self.train[1], test, self.test[1], k=self.k, num_classes=self.num_classes
        )
