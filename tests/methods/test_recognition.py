"""Recognition in a memory bank: each form of the loss against NumPy, and chance levels."""

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.errors import UserError
from rfd_tf.losses.nce_ratio import nce_ratio
from rfd_tf.methods.recognition import InstanceRecognition, default_negatives

INDEX = np.array([4, 17, 0])


def unit(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype("float32")


def ratio_oracle(logits, valid=None):
    losses = []
    for row, entry in enumerate(logits.astype("float64")):
        kept = [0] + [j for j in range(1, len(entry)) if valid is None or valid[row][j - 1]]
        share = np.exp(entry[kept]) / np.exp(entry[kept]).sum()
        losses.append(-np.log(share[0]) - np.log(1 - share[1:]).sum())
    return np.mean(losses)


def test_ratio_form_follows_the_formula():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 8)).astype("float32") * 4
    np.testing.assert_allclose(nce_ratio(logits), ratio_oracle(logits), rtol=1e-5)
    valid = rng.integers(0, 2, (5, 7))
    np.testing.assert_allclose(nce_ratio(logits, valid), ratio_oracle(logits, valid), rtol=1e-5)


def test_ratio_form_is_finite_at_the_extremes():
    logits = tf.constant([[-80.0, 80.0, 0.0], [80.0, -80.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = nce_ratio(logits)
    assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, logits)).all()


@pytest.mark.parametrize("negatives", ["shared", "per_image"])
def test_logits_compare_with_the_bank(negatives):
    recognition = InstanceRecognition(
        30, 6, temperature=0.2, negatives=negatives, num_negatives=10, seed=1
    )
    bank, x = np.asarray(recognition.bank.rows()), unit(3, 6)
    given = np.random.default_rng(3).integers(0, 30, (3, 10))
    logits, valid = recognition.logits(x, INDEX, given)
    assert valid is None
    np.testing.assert_allclose(logits[:, 0], (x * bank[INDEX]).sum(1) / 0.2, rtol=1e-4, atol=1e-5)
    expected = np.einsum("bd,bkd->bk", x, bank[given]) / 0.2
    np.testing.assert_allclose(logits[:, 1:], expected, rtol=1e-4, atol=1e-5)
    drawn, valid = recognition.logits(x, INDEX)
    assert drawn.shape == (3, 11) and (valid is None) == (negatives == "per_image")


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({"loss": "softmax"}, True),
        ({"form": "ratio"}, False),
        ({"normalizer": "analytic"}, False),
        ({"normalizer": "running"}, False),
    ],
)
def test_unrelated_embeddings_give_the_chance_level(options, exact):
    recognition = InstanceRecognition(20_000, 64, temperature=0.15, num_negatives=2048, **options)
    x, index = unit(256, 64), np.arange(256)
    # The exact softmax of unrelated rows is above ln N by the spread of the similarities.
    spread = 1 / (2 * 64 * 0.15**2) if exact else 0.0
    loss = float(recognition.loss(x, index, training=True))
    assert loss == pytest.approx(recognition.chance_level() + spread, rel=0.02)


def test_each_kind_of_embedding_may_have_its_own_constant():
    recognition = InstanceRecognition(30, 6, num_negatives=10, normalizer="first_batch")
    other = recognition.make_constant("other")
    x = unit(3, 6)
    recognition.loss(x, INDEX, constant=other, training=True)
    assert float(other.constant) > 0 and float(recognition.constant.constant) == 0
    assert InstanceRecognition(30, 6, form="ratio").make_constant("none") is None


def test_default_number_of_negatives():
    assert [default_negatives(n) for n in (2, 1000, 10**6)] == [1, 500, 4096]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "triplet"}, "options: nce, softmax"),
        ({"form": "sum"}, "options: constant, ratio"),
        ({"negatives": "none"}, "options: shared, per_image"),
        ({"normalizer": "sum"}, "options: first_batch, running, analytic"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"num_negatives": 30}, "30 images are too few for 30 negatives"),
        ({"num_negatives": 0}, "num_negatives 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        InstanceRecognition(30, 4, **options)
