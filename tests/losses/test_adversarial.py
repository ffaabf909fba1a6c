"""The adversarial losses against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss

from rfd_tf.losses import adversarial_loss, discrimination_accuracy

LOGITS = np.random.default_rng(0).normal(0, 2, (2, 9, 1)).astype("float32")
LABELS = np.repeat([1, 0], 9)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_labels_or_of_the_swapped_ones(swapped):
    labels = 1 - LABELS if swapped else LABELS
    expected = log_loss(labels, 1 / (1 + np.exp(-LOGITS.ravel().astype("float64"))))
    found = adversarial_loss(*LOGITS, swapped=swapped)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_swapped_loss_grows_where_the_discriminator_is_sure():
    # Its gradient does not vanish there: the loss is the logit itself.
    assert float(adversarial_loss([90.0], [-90.0], swapped=True)) == pytest.approx(90)
    assert float(adversarial_loss([90.0], [-90.0])) == pytest.approx(0, abs=1e-6)


def test_the_accuracy_weighs_real_and_generated_alike():
    real, generated = LOGITS[0, :5], LOGITS[1]
    labels = np.repeat([1, 0], [5, 9])
    told = np.concatenate([real, generated]).ravel() > 0
    expected = balanced_accuracy_score(labels, told)
    assert float(discrimination_accuracy(real, generated)) == pytest.approx(expected)
