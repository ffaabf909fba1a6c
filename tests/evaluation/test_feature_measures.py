"""Measures of features without labels, against plain loops and known sets."""

import math

import numpy as np
import pytest

from rfd_tf.errors import UserError
from rfd_tf.evaluation import feature_measures as measures


def random_rows(count=512, dimensions=16):
    return np.random.default_rng(0).normal(size=(count, dimensions))


def test_spread_and_rank_of_known_sets():
    rows = random_rows()
    assert measures.spread(rows) == pytest.approx(1, abs=0.05)
    assert measures.effective_rank(rows) == pytest.approx(16, rel=0.05)
    # Length says nothing.
    lengths = np.linspace(0.1, 10, len(rows))[:, None]
    assert measures.spread(lengths * rows) == pytest.approx(measures.spread(rows))
    plane = rows.copy()
    plane[:, 2:] = 0
    assert measures.effective_rank(plane) == pytest.approx(2, rel=0.05)
    same = np.ones((8, 4))
    assert measures.spread(same) == pytest.approx(0)
    assert measures.effective_rank(same) == pytest.approx(1)
    assert measures.effective_rank(same, centred=True) == 0
    assert measures.effective_rank(np.zeros((8, 4))) == 0
    line = np.array([0.6, 0.8]) + np.outer(np.arange(5.0), [1.0, -2.0])
    assert measures.effective_rank(line) > 1.1
    assert measures.effective_rank(line, centred=True) == pytest.approx(1)


def test_rank_is_the_published_formula():
    rows = np.random.default_rng(1).normal(size=(40, 6)) * [9, 5, 3, 1, 0.5, 0.1] + 2
    # Singular values are the roots of the eigenvalues of the Gram matrix.
    values = np.sqrt(np.linalg.eigvals(rows.T @ rows).real)
    entropy = -sum(p * math.log(p) for p in values / values.sum())
    assert measures.effective_rank(rows) == pytest.approx(math.exp(entropy))
    assert measures.effective_rank(3 * rows) == pytest.approx(math.exp(entropy))


def test_alignment_and_uniformity_are_the_published_formulas():
    one, other = random_rows(20, 5), random_rows(40, 5)[20:]
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    distances = [sum((a - b) ** 2) for a, b in zip(x, y, strict=True)]
    assert measures.alignment(one, other) == pytest.approx(np.mean(distances))
    pairs = [math.exp(-2 * sum((x[i] - x[j]) ** 2)) for i in range(20) for j in range(20) if i != j]
    assert measures.uniformity(7 * one) == pytest.approx(math.log(np.mean(pairs)))


def test_the_rotation_leaks_where_it_is_linear_and_nowhere_else():
    content = random_rows(128, 12)[:, None]
    rotation = np.zeros((1, 4, 12))
    rotation[0, :, :4] = np.eye(4)
    assert measures.rotation_leak(content + 5 * rotation) > 0.95
    assert measures.rotation_leak(0.01 * (content + 5 * rotation) + 7) > 0.95  # scale, offset
    assert 0.25 < measures.rotation_leak(content + rotation) < 0.9
    # Features without any rotation: all views alike, or unrelated.
    assert measures.rotation_leak(np.repeat(content, 4, axis=1)) == pytest.approx(0.25, abs=0.01)
    noise = np.random.default_rng(2).normal(size=(128, 4, 300))
    assert measures.rotation_leak(noise) == pytest.approx(0.25, abs=0.08)
    assert measures.rotation_leak(np.ones((8, 4, 3))) == pytest.approx(0.25)


def test_neighbours_against_a_loop():
    rows = random_rows(30, 4)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = measures.neighbours(rows, 5)
    for i in range(30):
        others = sorted((j for j in range(30) if j != i), key=lambda j: -units[i] @ units[j])
        assert found[i].tolist() == others[:5]
    shuffled = np.random.default_rng(0).permuted(found, axis=1)
    assert measures.neighbours_kept(found, shuffled) == 1
    rest = measures.neighbours(-rows, 29)[:, :0:-1][:, :5]
    expected = np.mean([len({*a} & {*b}) / 5 for a, b in zip(found, rest, strict=True)])
    assert measures.neighbours_kept(found, rest) == pytest.approx(expected)
    with pytest.raises(UserError, match="30 neighbours out of 30 images"):
        measures.neighbours(rows, 30)
