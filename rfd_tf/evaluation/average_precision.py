"""Average precision as PASCAL VOC counts it."""

from __future__ import annotations

import numpy as np

ELEVEN_POINT, ALL_POINT = "mean AP (11-point)", "mean AP (all-point)"


def eleven_point(positive: np.ndarray, scores: np.ndarray) -> float:
    """Average precision of VOC2007: mean over 11 recalls of the best precision from there on.

    Args:
        positive: bool `[N]`; at least one True.
        scores: `[N]`, higher is more likely positive. Equal scores keep their order.

    Returns:
        0 to 1.

    Source: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010,
    section 4.2.

    >>> round(eleven_point(np.array([True, False, True]), np.array([3.0, 2.0, 1.0])), 4)
    0.8485
    """
    hits = np.asarray(positive, bool)[np.argsort(-np.asarray(scores), kind="stable")]
    found = np.cumsum(hits)
    precision, recall = found / np.arange(1, len(hits) + 1), found / hits.sum()
    # (Tenths that float arithmetic misses by a hair count as reached.)
    reached = recall[None] >= np.linspace(0, 1, 11)[:, None] - 1e-12
    return float(np.where(reached, precision[None], 0.0).max(axis=1).mean())


def all_point(positive: np.ndarray, scores: np.ndarray) -> float:
    """Average precision over every recall, not interpolated: scikit-learn's definition.

    Args:
        positive: bool `[N]`; at least one True.
        scores: `[N]`.

    >>> round(all_point(np.array([True, False, True]), np.array([3.0, 2.0, 1.0])), 4)
    0.8333
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, scores))


def per_class(
    scores: np.ndarray, positive: np.ndarray, ignored: np.ndarray
) -> dict[str, np.ndarray]:
    """Both average precisions of every class.

    Args:
        scores: `[N, C]`.
        positive: bool `[N, C]`.
        ignored: bool `[N, C]`: pictures that do not count for a class.

    Returns:
        Metric's name -> `[C]`; NaN for a class without a positive picture.
    """
    values = {ELEVEN_POINT: eleven_point, ALL_POINT: all_point}
    result = {name: np.full(scores.shape[1], np.nan) for name in values}
    for column in range(scores.shape[1]):
        counted = ~ignored[:, column]
        if positive[counted, column].any():
            for name, of in values.items():
                result[name][column] = of(positive[counted, column], scores[counted, column])
    return result
