"""The non-negative PU risk against a NumPy re-derivation, its gradient included."""

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.errors import UserError
from rfd_tf.losses.non_negative_pu import non_negative_pu


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def slope(z):
    return sigmoid(z) * sigmoid(-z)


def risks(positive, unlabeled, prior):
    plus = prior * sigmoid(-positive).mean()
    minus = sigmoid(unlabeled).mean() - prior * sigmoid(positive).mean()
    return plus, minus


def value_and_gradients(positive, unlabeled, **options):
    positive, unlabeled = (tf.constant(z, tf.float32) for z in (positive, unlabeled))
    with tf.GradientTape() as tape:
        tape.watch([positive, unlabeled])
        value = non_negative_pu(positive, unlabeled, **options)
    return float(value), [g.numpy() for g in tape.gradient(value, [positive, unlabeled])]


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(1.0, 1.0, 6), rng.normal(-0.5, 1.0, (5, 3))


def test_value_and_gradient_where_the_negative_risk_is_positive(logits):
    positive, unlabeled = logits
    prior = 0.2
    plus, minus = risks(positive, unlabeled, prior)
    assert minus > 0
    value, (on_positive, on_unlabeled) = value_and_gradients(positive, unlabeled, prior=prior)
    np.testing.assert_allclose(value, plus + minus, rtol=1e-6)
    # d/dz of prior * l(z) - prior * l(-z), and of l(-z), in the means.
    np.testing.assert_allclose(on_positive, -2 * prior * slope(positive) / 6, rtol=1e-5)
    np.testing.assert_allclose(on_unlabeled, slope(unlabeled) / 15, rtol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.25, 0.0])
def test_an_impossible_negative_risk_is_pushed_back_up(logits, gamma):
    positive, unlabeled = logits[0] + 3, logits[1] - 5
    prior = 0.6
    plus, minus = risks(positive, unlabeled, prior)
    assert minus < 0
    value, (on_positive, on_unlabeled) = value_and_gradients(
        positive, unlabeled, prior=prior, gamma=gamma
    )
    # The value says 0 for the negative risk; the gradient is that of -gamma * negative risk.
    np.testing.assert_allclose(value, plus, atol=1e-7)
    np.testing.assert_allclose(on_unlabeled, -gamma * slope(unlabeled) / 15, rtol=1e-5)
    np.testing.assert_allclose(on_positive, gamma * prior * slope(positive) / 6, rtol=1e-5)
    # A small step downhill raises the negative risk.
    if gamma:
        after = risks(positive - 0.1 * on_positive, unlabeled - 0.1 * on_unlabeled, prior)
        assert after[1] > minus


def test_the_tolerance_moves_the_border(logits):
    positive, unlabeled = logits[0] + 3, logits[1] - 5
    plus, minus = risks(positive, unlabeled, 0.6)
    inside, _ = value_and_gradients(positive, unlabeled, prior=0.6, beta=-minus + 0.01)
    np.testing.assert_allclose(inside, plus + minus, rtol=1e-5)
    outside, _ = value_and_gradients(positive, unlabeled, prior=0.6, beta=-minus / 2)
    np.testing.assert_allclose(outside, plus + minus / 2, rtol=1e-5)


def test_known_values():
    far = np.full(4, 50.0)
    # Everything called negative costs the prior; all told apart costs nothing.
    assert value_and_gradients(-far, -far, prior=0.1)[0] == pytest.approx(0.1)
    assert value_and_gradients(far, np.r_[far, np.full(36, -50.0)], prior=0.1)[0] == pytest.approx(
        0.0, abs=1e-7
    )


@pytest.mark.parametrize(
    "options",
    [{"prior": 0.0}, {"prior": 1.0}, {"prior": 0.1, "beta": -1}, {"prior": 0.1, "gamma": 2}],
)
def test_refuses(options):
    with pytest.raises(UserError):
        non_negative_pu(np.zeros(2), np.zeros(2), **options)
