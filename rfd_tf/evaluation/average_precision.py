"""Average precision as PASCAL VOC counts it."""

from __future__ import annotations

import numpy as np

#: The ways of turning an interpolated precision-recall curve into one number, and what each is.
INTERPOLATED = {
    "11-point": "VOC2007's: mean over the recalls 0, 0.1, ... 1 of the highest precision at that "
    "recall or a higher one",
    "all-point interpolated": "that of VOC2010 and later: area under the curve whose precision is "
    "the highest at that recall or a higher one",
}
ELEVEN_POINT, NON_INTERPOLATED = "mean AP (11-point)", "mean AP (non-interpolated)"
#: Metric's name -> what it is, for protocols.
DEFINITIONS = {
    ELEVEN_POINT: INTERPOLATED["11-point"],
    NON_INTERPOLATED: "scikit-learn's average_precision_score: the precision at every recall that "
    "is reached, weighed by the step to it; not VOC2010's, which interpolates",
}


def average_precision(right: np.ndarray, num_objects: int, method: str = "11-point") -> float:
    """Returns the average precision of detections in the order of falling scores.

    Args:
        right: bool `[n]`, whether each detection is right.
        num_objects: how many were to be found, 1 or more.
        method: `"11-point"`: mean over the recalls 0, 0.1, ... 1 of the highest precision at that
            recall or a higher one (VOC2007); `"all-point interpolated"`: area under the curve
            whose precision is the highest at that recall or a higher one (VOC2010 and later).

    Returns:
        0 to 1.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2,
    and the development kit of VOC2012.

    >>> average_precision(np.array([True, False, True]), 2, "all-point interpolated")
    0.8333333333333333
    """
    right = np.asarray(right, bool)
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    # The highest precision at the recall of each detection or a higher one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if method == "all-point interpolated":
        return float(best[right].sum() / num_objects)
    # Whole numbers: 3 of 10 is a recall of 0.3, which floating point may miss.
    heights = [best[found * 10 >= tenth * num_objects].max(initial=0.0) for tenth in range(11)]
    return float(np.mean(heights))


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
    right = np.asarray(positive, bool)[np.argsort(-np.asarray(scores), kind="stable")]
    return average_precision(right, int(right.sum()))


def non_interpolated(positive: np.ndarray, scores: np.ndarray) -> float:
    """Average precision over every recall that is reached, not interpolated: scikit-learn's.

    Args:
        positive: bool `[N]`; at least one True.
        scores: `[N]`.

    >>> round(non_interpolated(np.array([True, False, True]), np.array([3.0, 2.0, 1.0])), 4)
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
    values = {ELEVEN_POINT: eleven_point, NON_INTERPOLATED: non_interpolated}
    result = {name: np.full(scores.shape[1], np.nan) for name in values}
    for column in range(scores.shape[1]):
        counted = ~ignored[:, column]
        if positive[counted, column].any():
            for name, of in values.items():
                result[name][column] = of(positive[counted, column], scores[counted, column])
    return result
