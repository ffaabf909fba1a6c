"""Nearest neighbours by cosine similarity or Euclidean distance, without training."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation.base import Features, Result
from rfd_tf.evaluation.frozen import Evaluator
from rfd_tf.rules import Including, Rule

DISTANCES = ("cosine", "euclidean")
#: The metric of accuracies by Euclidean distance.
EUCLIDEAN = "accuracy (Euclidean)"
#: Bytes that a search may take beyond the features themselves.
MEMORY = 1 << 29
_GROUPS = 16
_MOST_ROWS = 1024  # test rows in one product: more gain nothing


def default_k(num_train: int) -> int:
    """Returns the number of neighbours for a train set: 200, or a tenth of a smaller set.

    200 is the usual number (Wu et al., CVPR 2018) for 50,000 images and more; on a few hundred
    images it would reach beyond the image's own class.

    >>> default_k(50_000), default_k(1_500), default_k(4)
    (200, 150, 1)
    """
    return max(1, min(200, num_train // 10))


def _check(k: Any, temperature: float) -> None:
    """Raises a `UserError` unless k, where it is given, and the temperature are possible."""
    whole = isinstance(k, numbers.Real) and k >= 1 and k % 1 == 0
    if not (k is None or whole) or temperature <= 0:
        raise UserError(
            f"k is 1 or more, a whole number, and temperature above 0; got {k!r} and {temperature}"
        )


def knn_predictions(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    k: int | None = 200,
    temperature: float = 0.07,
    num_classes: int | None = None,
    memory: int = MEMORY,
    distance: str = "cosine",
) -> np.ndarray:
    """Class of each test row by a vote of its k nearest train rows.

    By "cosine", a neighbour of similarity s votes for its class with weight `exp(s / temperature)`
    (Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR
    2018, section 3.4). By "euclidean", all k neighbours have the same vote. Of equally near train
    rows at the k-th place the first ones count; of equal votes the lowest class wins.

    Args:
        train_features: `[num_train, dim]`, any float dtype; computed in float32.
        train_labels: `[num_train]` whole numbers from 0.
        test_features: `[num_test, dim]`.
        k: neighbours that vote; more than `num_train` means all; None means `default_k`.
        temperature: above 0; only "cosine" reads it.
        num_classes: number of classes; by default the largest label + 1.
        memory: bytes taken at most, beyond the features given. Features may be memory-mapped
            files of millions of rows: they are processed in blocks. The result is the same.
        distance: of `DISTANCES`.

    Returns:
        int64 `[num_test]`.

    Raises:
        UserError: k or temperature out of range, an unknown distance, shapes that do not fit, or
            features with NaN.

    >>> train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> knn_predictions(train, np.array([0, 0, 1]), np.array([[0.2, 2.0], [3.0, 1.0]]), k=2)
    array([1, 0])
    """
    votes = knn_votes(
        train_features, train_labels, test_features, k, temperature, num_classes, memory, distance
    )
    predictions = np.empty(len(test_features), np.int64)
    for start, each in votes:
        predictions[start : start + len(each)] = each.argmax(axis=1)
    return predictions


def knn_votes(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    k: int | None = 200,
    temperature: float = 0.07,
    num_classes: int | None = None,
    memory: int = MEMORY,
    distance: str = "cosine",
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the votes for each class, some test rows at a time.

    Args:
        train_features, train_labels, test_features, k, temperature, num_classes, memory, distance:
            see `knn_predictions`.

    Yields:
        The first of these test rows, and float64 `[rows, num_classes]`, not below 0.

    Raises:
        UserError: see `knn_predictions`.
    """
    train_labels = np.asarray(train_labels, np.int64)
    num_train = len(train_features)
    if num_train == 0 or len(train_labels) != num_train:
        raise UserError(f"{num_train} train features and {len(train_labels)} train labels")
    if np.ndim(train_features) != 2 or np.shape(train_features)[1:] != np.shape(test_features)[1:]:
        raise UserError(
            "train and test features are [rows, dim] with one dim; got shapes "
            f"{np.shape(train_features)} and {np.shape(test_features)}"
        )
    if distance not in DISTANCES:
        raise unknown("distance of nearest neighbours", distance, DISTANCES)
    _check(k, temperature)
    k = min(default_k(num_train) if k is None else int(k), num_train)
    num_classes = int(train_labels.max()) + 1 if num_classes is None else num_classes
    search = _Search(train_features, k, memory, distance)
    for start, columns, values in search(test_features):
        weights = np.ones(values.shape)
        if distance == "cosine":
            weights = np.exp((values - values.max(axis=1, keepdims=True)) / np.float64(temperature))
        slots = np.arange(len(values))[:, None] * num_classes + train_labels[columns]
        votes = np.bincount(slots.ravel(), weights.ravel(), minlength=len(values) * num_classes)
        yield start, votes.reshape(-1, num_classes)


def nearest(
    train_features: np.ndarray, test_features: np.ndarray, k: int, memory: int = MEMORY
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar train rows of each test row by cosine, the most similar first.

    Args:
        train_features: `[num_train, dim]`, any float dtype; computed in float32.
        test_features: `[num_test, dim]`.
        k: 1 to `num_train`.
        memory: see `knn_predictions`.

    Returns:
        Rows of the train features int64 `[num_test, k]` and similarities float32 `[num_test, k]`,
        -1 to 1. Ties keep the order of the rows.

    Raises:
        UserError: k out of range, or features with NaN.

    >>> rows, similarity = nearest(np.eye(3), np.array([[0.0, 2.0, 1.0]]), k=2)
    >>> rows.tolist(), similarity.round(1).astype(str).tolist()
    ([[1, 2]], [['0.9', '0.4']])
    """
    if not 1 <= k <= len(train_features):
        raise UserError(f"{k} neighbours out of {len(train_features)} images cannot be found")
    rows = np.empty((len(test_features), k), np.int64)
    similarity = np.empty((len(test_features), k), np.float32)
    for start, columns, values in _Search(train_features, k, memory)(test_features):
        order = np.argsort(-values, axis=1, kind="stable")
        part = slice(start, start + len(values))
        rows[part] = np.take_along_axis(columns, order, axis=1)
        similarity[part] = np.take_along_axis(values, order, axis=1)
    return rows, similarity


class _Search:
    """The k nearest train rows of test rows, in blocks of both.

    Both distances are one product of prepared rows, whose largest values are the nearest: of rows
    of length 1 for the cosine. The Euclidean distance |a - b| is smallest where a b - |b|^2 / 2 is
    largest, which is the product of (a, 1) with (b, -|b|^2 / 2); the train rows' mean is taken off
    both first, so that float32 keeps its digits for the differences.

    A quarter of the memory is for similarities and what sorting them takes, a quarter for
    normalised train rows, and half for normalised test rows and the best found for each so far.
    """

    def __init__(self, train: np.ndarray, k: int, memory: int, distance: str = "cosine"):
        self._train, self._k = train, k
        self._mean = None
        num_train, dim = train.shape
        if distance == "euclidean":
            self._mean = np.mean(train, axis=0, dtype=np.float64)
            dim += 1
        quarter = max(1, memory // 4)
        self._entries = max(1, quarter // 4)
        self._train_rows = max(1, min(num_train, quarter // (4 * dim)))
        # Where the train rows are many, rather less of them than few test rows at a time.
        few = min(64, self._entries)
        self._train_rows = min(self._train_rows, max(k, self._entries // few))
        self._test_rows = max(1, 2 * quarter // (4 * dim + 48 * k))
        self._only = self._prepared(train, True) if self._train_rows >= num_train else None

    def _prepared(self, rows: np.ndarray, train: bool) -> np.ndarray:
        if self._mean is None:
            return _normalized(rows)
        found = np.empty((len(rows), rows.shape[1] + 1), np.float32)
        centred = found[:, :-1]
        np.subtract(rows, self._mean, out=centred, casting="unsafe")
        squares = np.einsum("nd,nd->n", centred, centred)
        _check_finite(squares)
        found[:, -1] = -squares / 2 if train else 1
        return found

    def __call__(self, test: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields (first test row, columns `[rows, k]`, similarities `[rows, k]`)."""
        for start in range(0, len(test), self._test_rows):
            rows = self._prepared(test[start : start + self._test_rows], False)
            step = max(1, min(_MOST_ROWS, self._entries // self._train_rows, len(rows)))
            memory = np.empty((step, min(self._train_rows, len(self._train))), np.float32)
            best: dict[int, tuple[np.ndarray, np.ndarray]] = {}
            for first, train in self._blocks():
                for at in range(0, len(rows), step):
                    part = rows[at : at + step]
                    similarity = np.matmul(part, train.T, out=memory[: len(part), : len(train)])
                    columns, values = _largest(similarity, min(self._k, len(train)))
                    # (A copy: where all are taken, the values are the memory itself.)
                    found = columns + first, values.copy() if values.base is not None else values
                    best[at] = _merged(best[at], found, self._k) if at in best else found
            for at in sorted(best):
                yield start + at, *best.pop(at)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        if self._only is not None:
            yield 0, self._only
            return
        for first in range(0, len(self._train), self._train_rows):
            yield first, self._prepared(self._train[first : first + self._train_rows], True)


def _merged(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of two lists, both in the order of their columns, `one` before `other`."""
    columns, values = (np.concatenate(pair, axis=1) for pair in zip(one, other, strict=True))
    if values.shape[1] <= k:
        return columns, values
    places, values = _largest(values, k)
    return np.take_along_axis(columns, places, axis=1), values


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int | None = 200,
    temperature: float = 0.07,
    num_classes: int | None = None,
    memory: int = MEMORY,
    distance: str = "cosine",
) -> float:
    """Share of test rows, 0 to 1, whose class `knn_predictions` (same arguments) gets right.

    50,000 x 10,000 rows of 256 numbers take a few seconds on two cores.

    >>> features, labels = np.eye(4), np.array([0, 1, 2, 3])
    >>> knn_accuracy(features, labels, 5 * features, labels, k=1)
    1.0
    """
    if len(test_features) == 0 or len(test_labels) != len(test_features):
        raise UserError(f"{len(test_features)} test features and {len(test_labels)} test labels")
    predictions = knn_predictions(
        train_features, train_labels, test_features, k, temperature, num_classes, memory, distance
    )
    return float(np.mean(predictions == np.asarray(test_labels)))


def _normalized(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float32)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    _check_finite(norms)
    # A row of zeros (every unit off) stays zero: similarity 0 to everything.
    return features / np.maximum(norms, 1e-12)


def _check_finite(norms: np.ndarray) -> None:
    if not np.isfinite(norms).all():
        raise UserError("the features hold NaN or infinite values: the network has diverged")


def _largest(similarity: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values `[rows, k]` of each row's k largest; ties at the end by column."""
    rows, num = similarity.shape
    if k == num:
        return np.broadcast_to(np.arange(num), similarity.shape), similarity
    floor = np.full((rows, 1), -np.inf, np.float32)
    groups = num // _GROUPS
    if groups >= 2 * k:
        # The k-th largest of the groups' maxima is a lower bound of the k-th largest value, and
        # a close one: a partition of a sixteenth of the columns replaces one of all of them.
        maxima = similarity[:, : groups * _GROUPS].reshape(rows, _GROUPS, groups).max(axis=1)
        floor = np.partition(maxima, groups - k, axis=1)[:, groups - k, None]
    found = np.flatnonzero(similarity >= floor)
    found_rows, found_columns = np.divmod(found, num)
    counts = np.bincount(found_rows, minlength=rows)
    place = np.arange(len(found_rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.full((rows, counts.max()), -np.inf, np.float32)
    columns = np.zeros(values.shape, np.int64)
    values[found_rows, place] = similarity.ravel()[found]
    columns[found_rows, place] = found_columns

    last = values.shape[1] - k
    kth = np.partition(values, last, axis=1)[:, last, None]
    above, equal = values > kth, values == kth
    wanted = k - above.sum(axis=1, keepdims=True)
    keep = above | (equal & (np.cumsum(equal, axis=1) <= wanted))
    return columns[keep].reshape(rows, k), values[keep].reshape(rows, k)


class KNearestNeighbours(Evaluator):
    """Evaluator: k-nearest-neighbour accuracy, maps global-average pooled.

    On every endpoint, on f, f1 and f2, and, where the run folder holds the head, on the projected
    embedding of the instance loss (of BiGAN: the latent).

    Args:
        k: number of neighbours, at most all. None takes 200, or a tenth of a train set below 2,000,
            for cosine and 1 for Euclidean distance, as published.
        temperature: temperature of the cosine-weighted vote.
        memory: bytes that the search may take beyond the features.
        raw_pixels: also evaluate the images themselves, as "pixels" from 0 to 1: a baseline, which
            is strong on small images (nearly perfect on handwritten digits).
        distances: "cosine", "euclidean" or both. "euclidean" is the evaluation of permutation-MNIST
            in Donahue et al., ICLR 2017 (k = 1), always next to raw pixels.

    Raises:
        UserError: an option out of range.

    >>> features, labels = {"f": np.eye(4)}, np.array([0, 1, 2, 3])
    >>> [(r.feature, r.value)
    ...  for r in KNearestNeighbours(k=1).evaluate(features, labels, features, labels, 4)]
    [('f', 1.0)]
    """

    name = "knn"
    pooling = ("average", 1)
    embedding = True
    rules = (Rule(("temperature",), {"distances": Including(("cosine",))}),)

    def __init__(
        self,
        k: int | None = None,
        temperature: float = 0.07,
        memory: int = MEMORY,
        raw_pixels: bool = False,
        distances: Sequence[str] = ("cosine",),
    ):
        _check(k, temperature)
        if memory < 1 << 20:
            raise UserError(
                f"the neighbours' search needs 1 MiB of memory or more; got {memory} bytes"
            )
        for distance in distances or [""]:
            if distance not in DISTANCES:
                raise unknown("distance of nearest neighbours", distance, DISTANCES)
        self.k, self.temperature, self.memory = k, temperature, memory
        self.distances = tuple(dict.fromkeys(distances))
        self.pixels = bool(raw_pixels) or "euclidean" in self.distances

    def _neighbours(self, distance: str, num_train: int) -> int:
        if self.k is not None:
            return min(self.k, num_train)
        return default_k(num_train) if distance == "cosine" else 1

    def settings(self, num_train: int) -> dict:
        settings = {}
        if "cosine" in self.distances:
            settings = {
                "k": self._neighbours("cosine", num_train),
                "temperature": self.temperature,
                "similarity": "cosine",
                "vote": "exp(similarity / temperature)",
            }
        if "euclidean" in self.distances:
            settings["euclidean"] = {
                "k": self._neighbours("euclidean", num_train),
                "vote": "one of each neighbour",
            }
        settings["features"] = "maps global-average pooled, vectors as they are"
        return {**settings, "pixels": "from 0 to 1"} if self.pixels else settings

    def fit(self, train: Features, labels: np.ndarray, num_classes: int) -> None:
        self._train, self._labels, self._num_classes = train, labels, num_classes

    def score(self, test: Features, labels: np.ndarray) -> Iterator[Result]:
        for name, features in test.items():
            for distance in self.distances:
                accuracy = knn_accuracy(
                    self._train[name],
                    self._labels,
                    features,
                    labels,
                    k=self._neighbours(distance, len(self._labels)),
                    temperature=self.temperature,
                    num_classes=self._num_classes,
                    memory=self.memory,
                    distance=distance,
                )
                metric = "accuracy" if distance == "cosine" else EUCLIDEAN
                yield Result(name, accuracy, metric=metric, when="")
