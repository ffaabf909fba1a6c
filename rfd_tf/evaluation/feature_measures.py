"""Measures of features that need no labels: pure functions of NumPy arrays."""

from __future__ import annotations

import numpy as np

from rfd_tf.data.views import NUM_ROTATIONS
from rfd_tf.errors import UserError

# Ridge of `rotation_leak`, as a share of the mean squared length of the standardised rows.
_RIDGE = 0.1


def spread(features: np.ndarray) -> float:
    """Returns how far features lie apart, whatever their length.

    Each row is brought to length 1; the result is the root mean square distance of the rows from
    their mean.

    Args:
        features: `[images, dimensions]`, any floating-point type.

    Returns:
        0, where all point the same way, to 1, where they point evenly in all directions.

    >>> spread(np.array([[1.0, 0.0], [-3.0, 0.0]])), spread(np.ones((5, 3)))
    (1.0, 0.0)
    """
    rows = _directions(features)
    return float(np.sqrt(np.mean(np.sum(np.square(rows - rows.mean(0)), axis=1))))


def effective_rank(features: np.ndarray, centred: bool = False) -> float:
    """Returns in how many directions features reach: exp of the entropy of the singular values.

    With `p = s / sum(s)` for the singular values `s` of the matrix it is `exp(-sum(p log p))`.

    Args:
        features: `[images, dimensions]`, any floating-point type.
        centred: whether to subtract the mean of the rows first.

    Returns:
        From 1, all on a line, to `min(images, dimensions)`; 0 where nothing is left of the rows.

    Reference: RankMe, Garrido et al., ICML 2023, equation 1; Roy and Vetterli, EUSIPCO 2007.

    >>> round(effective_rank(np.eye(4)), 6), effective_rank(np.ones((5, 3)), centred=True)
    (4.0, 0.0)
    """
    rows = np.asarray(features, np.float64)
    length = np.linalg.norm(rows)
    if centred:
        rows = rows - rows.mean(0)
    # From the smaller Gram matrix: a tenth of the time of a singular value decomposition.
    gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))
    if not length or np.linalg.norm(values) < 1e-6 * length:
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def alignment(features: np.ndarray, positives: np.ndarray) -> float:
    """Returns the mean squared distance between the features of two views of an image.

    Rows are brought to length 1 first: `mean |x - y|^2`.

    Args:
        features, positives: `[images, dimensions]`, any floating-point type; rows belong together.

    Returns:
        0, where views have one feature, to 4; 2 for views that are unrelated.

    Reference: Wang and Isola, ICML 2020, equation 1, with alpha = 2.

    >>> alignment(np.eye(2), 3 * np.eye(2)), alignment(np.eye(2), np.eye(2)[::-1])
    (0.0, 2.0)
    """
    difference = _directions(features) - _directions(positives)
    return float(np.mean(np.sum(np.square(difference), axis=1)))


def uniformity(features: np.ndarray) -> float:
    """Returns how evenly features cover the sphere: the less, the more evenly.

    Rows are brought to length 1 first: `log mean exp(-2 |x - y|^2)` over all pairs of different
    images.

    Args:
        features: `[images, dimensions]` of 2 images or more, any floating-point type.

    Returns:
        0, where all point the same way, to about -4, where all are orthogonal.

    Reference: Wang and Isola, ICML 2020, equation 2, with t = 2.

    >>> uniformity(np.ones((5, 3))), uniformity(np.eye(4))
    (0.0, -4.0)
    """
    rows = _directions(features)
    squared = np.maximum(2.0 - 2.0 * rows @ rows.T, 0.0)
    pairs = np.exp(-2.0 * squared[np.triu_indices(len(rows), 1)])
    return float(np.log(pairs.mean()))


def rotation_leak(features: np.ndarray) -> float:
    """Returns how well a linear classifier reads the rotation from features.

    Ridge regression to one-hot targets, on standardised features, is fitted to the views of every
    second image and predicts those of the others, then the other way round.

    Args:
        features: `[images, 4, dimensions]` of 2 images or more, each in its four rotations.

    Returns:
        The share of rotations predicted, 0 to 1; 0.25 is chance.

    >>> turned = np.random.default_rng(0).normal(size=(64, 1, 8)) + 9 * np.eye(4, 8)
    >>> rotation_leak(turned)
    1.0
    """
    rows = np.asarray(features, np.float64)
    dimensions = rows.shape[2]
    right = []
    for first in (0, 1):
        train = rows[first::2].reshape(-1, dimensions)
        test = rows[1 - first :: 2].reshape(-1, dimensions)
        mean, deviation = train.mean(0), train.std(0)
        # Units that never change carry nothing.
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
        train, test = (train - mean) * scale, (test - mean) * scale
        targets = np.tile(np.eye(NUM_ROTATIONS) - 1 / NUM_ROTATIONS, (len(train) // 4, 1))
        # In the space of the rows, which are few, whatever the number of dimensions.
        kernel = train @ train.T
        kernel[np.diag_indices_from(kernel)] += max(_RIDGE * np.trace(kernel) / len(train), 1e-12)
        scores = test @ (train.T @ np.linalg.solve(kernel, targets))
        truth = np.tile(np.arange(NUM_ROTATIONS), len(test) // 4)
        right.append(scores.argmax(axis=1) == truth)
    return float(np.mean(np.concatenate(right)))


def neighbours(features: np.ndarray, k: int) -> np.ndarray:
    """Returns the k images nearest to each by cosine similarity, itself left out.

    Args:
        features: `[images, dimensions]`, any floating-point type.
        k: 1 to `images - 1`.

    Returns:
        int64 `[images, k]`, the nearest first.

    >>> neighbours(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 1).tolist()
    [[1], [0], [1]]
    """
    rows = _directions(features)
    if not 1 <= k < len(rows):
        raise UserError(f"{k} neighbours out of {len(rows)} images cannot be found")
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def neighbours_kept(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the share of each image's neighbours that it still has, 0 to 1.

    Args:
        before, after: `[images, k]`, see `neighbours`.

    >>> neighbours_kept(np.array([[1, 2], [0, 2]]), np.array([[2, 3], [2, 0]]))
    0.75
    """
    shared = (np.asarray(before)[:, :, None] == np.asarray(after)[:, None, :]).any(axis=2)
    return float(shared.mean())


def _directions(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
