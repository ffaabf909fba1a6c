"""VOC's average precisions against hand-worked cases and scikit-learn."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rfd_tf.evaluation import average_precision


def test_eleven_points_by_hand():
    # Ranked hit, miss, hit, miss: precision 1 up to recall 0.5, 2/3 from there to 1.
    positive = np.array([True, False, True, False])
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    expected = (6 * 1 + 5 * 2 / 3) / 11
    assert average_precision.eleven_point(positive, scores) == pytest.approx(expected)
    assert average_precision.eleven_point(positive, -scores) == pytest.approx(
        (6 * 0.5 + 5 * 0.5) / 11
    )


def test_tenths_of_recall_are_reached_exactly():
    positive = np.ones(10, bool)
    assert average_precision.eleven_point(positive, np.arange(10.0)) == pytest.approx(1)
    mixed = np.array([True] * 3 + [False] * 10 + [True] * 7)
    ranked = -np.arange(20.0)
    steps = [1.0] * 4 + [10 / 20] * 7  # recall 0 to 0.3 at precision 1; then at best 10 of 20
    assert average_precision.eleven_point(mixed, ranked) == pytest.approx(np.mean(steps))


def test_eleven_points_are_those_of_the_development_kit():
    # VOCevaldet.m of VOC2007, in fractions: for t = 0:0.1:1, the highest precision of recall >= t.
    rng = np.random.default_rng(2)
    for _ in range(50):
        right = rng.random(rng.integers(1, 40)) < rng.random()
        objects = int(right.sum() + rng.integers(0, 10)) or 1
        found = np.cumsum(right)
        points = [(Fraction(int(n), objects), n / (place + 1)) for place, n in enumerate(found)]
        best = [
            max([p for recall, p in points if recall >= Fraction(tenth, 10)], default=0.0)
            for tenth in range(11)
        ]
        value = average_precision.average_precision(right, objects)
        assert value == pytest.approx(np.mean(best), rel=1e-12)
        if objects == right.sum():
            assert average_precision.eleven_point(right, -np.arange(len(right))) == value


def test_classes_leave_out_what_is_ignored():
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=(40, 3)), rng.random((40, 3)) < 0.3
    ignored = rng.random((40, 3)) < 0.2
    positive[:, 2] = False
    found = average_precision.per_class(scores, positive, ignored)
    for column in range(2):
        counted = ~ignored[:, column]
        expected = average_precision_score(positive[counted, column], scores[counted, column])
        assert found[average_precision.NON_INTERPOLATED][column] == pytest.approx(expected)
    assert np.isnan(found[average_precision.ELEVEN_POINT][2])
