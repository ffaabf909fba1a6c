"""Losses against NumPy re-derivations, and the properties they are named for."""

import math

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf import losses
from rfd_tf.errors import UserError


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype("float32")


def test_rotation_cross_entropy_divides_by_views_not_by_weights():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(12, 4)).astype("float32"), np.tile(np.arange(4), 3)
    weights = rng.uniform(size=12).astype("float32")
    each = -np.log(softmax(logits)[np.arange(12), labels])
    np.testing.assert_allclose(losses.rotation_cross_entropy(logits, labels), each.mean(), 1e-6)
    np.testing.assert_allclose(
        losses.rotation_cross_entropy(logits, labels, weights), (weights * each).sum() / 12, 1e-6
    )


def test_rotation_accuracy():
    logits = np.eye(4, dtype="float32")[[0, 1, 2, 0]]
    assert float(losses.rotation_accuracy(logits, np.arange(4))) == 0.75


def test_positive_unlabeled_weights_spare_the_upright_view():
    p = np.random.default_rng(0).uniform(size=(5, 4)).astype("float32")
    weights = np.asarray(losses.positive_unlabeled_weights(p, 3.0))
    np.testing.assert_allclose(weights[:, 1:], 1 - p[:, 1:] ** 3, rtol=1e-5)
    np.testing.assert_array_equal(weights[:, 0], 1)


@pytest.mark.parametrize("form", losses.DISTANCES)
def test_rotation_irrelevance(form):
    f = np.random.default_rng(1).normal(size=(3, 4, 8)).astype("float32")
    difference = f - f.mean(1, keepdims=True)
    squared = (difference**2).mean()
    euclidean = np.sqrt((difference**2).sum(-1)).mean()
    expected = squared if form == "mean_squared" else euclidean
    np.testing.assert_allclose(losses.rotation_irrelevance(f, form), expected, 1e-6)


def test_rotation_irrelevance_has_a_finite_gradient_where_views_agree():
    f = tf.ones((2, 4, 8))
    with tf.GradientTape() as tape:
        tape.watch(f)
        value = losses.rotation_irrelevance(f, "euclidean")
    assert float(value) == 0.0
    np.testing.assert_array_equal(tape.gradient(value, f), np.zeros((2, 4, 8)))


def test_rotation_irrelevance_takes_the_mean_as_a_constant():
    f = tf.constant(np.random.default_rng(2).normal(size=(3, 4, 8)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(f)
        value = losses.rotation_irrelevance(f, "euclidean")
    difference = f - tf.reduce_mean(f, 1, keepdims=True)
    expected = difference / tf.norm(difference, axis=-1, keepdims=True) / 12
    np.testing.assert_allclose(tape.gradient(value, f), expected, rtol=1e-4, atol=1e-7)


def test_rotation_irrelevance_names_its_forms():
    with pytest.raises(UserError, match="mean_squared, euclidean"):
        losses.rotation_irrelevance(np.zeros((1, 4, 2)), "cosine")


def nce_oracle(logits, z, n):
    """The published program's formula, in float64."""
    p = np.exp(logits.astype("float64")) / z
    k = logits.shape[1] - 1
    positive = np.log(p[:, 0] / (p[:, 0] + k / n + 1e-7))
    negative = np.log((k / n) / (p[:, 1:] + k / n + 1e-7))
    return -(positive.sum() + negative.sum()) / len(logits)


def test_nce_follows_the_published_formula():
    rng = np.random.default_rng(3)
    logits = (rng.normal(size=(6, 17)) * 3).astype("float32")
    np.testing.assert_allclose(losses.nce(logits, 55.0, 40), nce_oracle(logits, 55.0, 40), 1e-5)
    np.testing.assert_allclose(
        losses.nce_probabilities(logits, 55.0), np.exp(logits) / 55.0, rtol=1e-5
    )


def test_nce_leaves_invalid_negatives_out():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(1, 5)).astype("float32")
    valid = np.array([[1, 0, 1, 1]], "float32")
    full, without = losses.nce(logits, 9.0, 20), losses.nce(logits, 9.0, 20, valid)
    p = np.exp(logits[0, 2]) / 9.0
    dropped = -math.log(0.2 / (p + 0.2 + 1e-7))
    np.testing.assert_allclose(full - without, dropped, rtol=1e-4)


def test_nce_stays_finite_at_a_temperature_whose_exponential_overflows():
    logits = np.array([[1.0, -1.0, 0.5]], "float32") / 0.005
    assert np.isfinite(float(losses.nce(logits, 1e30, 100)))


def test_nce_chance_level_is_what_unrelated_embeddings_give():
    rng = np.random.default_rng(5)
    k, d, t, n = 512, 128, 0.1, 100_000
    x, m = unit(rng, 64, d), unit(rng, 64, k + 1, d)
    logits = np.einsum("bd,bkd->bk", x, m).astype("float32") / t
    z = np.exp(logits).mean() * n
    level = losses.nce_chance_level(k, d, t)
    assert level == pytest.approx(7.63, abs=0.01)
    assert float(losses.nce(logits, z, n)) == pytest.approx(level, abs=0.1)


def test_instance_softmax():
    rng = np.random.default_rng(6)
    x, bank, index = unit(rng, 5, 8), unit(rng, 30, 8), np.array([3, 0, 29, 7, 3])
    expected = -np.log(softmax(x @ bank.T / 0.2)[np.arange(5), index]).mean()
    np.testing.assert_allclose(losses.instance_softmax(x, bank, index, 0.2), expected, 1e-5)


def test_nt_xent_matches_other_views_of_the_same_image():
    e, temperature = unit(np.random.default_rng(0), 5, 3, 8), 0.3
    flat, image = e.reshape(15, 8), np.repeat(np.arange(5), 3)
    each = []
    for anchor in range(15):
        others = np.arange(15) != anchor
        exponentials = np.exp(flat @ flat[anchor] / temperature)
        positives = others & (image == image[anchor])
        each.append(-np.log(exponentials[positives] / exponentials[others].sum()).mean())
    value = losses.view_contrast(e, temperature)
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-5)
    # Parts of a global batch together give the whole.
    parts = [
        losses.view_contrast(e[a:b], temperature, e, a) * (b - a) / 5 for a, b in ((0, 2), (2, 5))
    ]
    np.testing.assert_allclose(sum(float(part) for part in parts), value, rtol=1e-5)


def test_view_contrast_starts_at_its_chance_level():
    e = unit(np.random.default_rng(1), 64, 4, 128)
    chance = np.log(64 * 4 - 1) + 1 / (2 * 128 * 0.5**2)
    assert float(losses.view_contrast(e, 0.5)) == pytest.approx(chance, abs=0.05)
