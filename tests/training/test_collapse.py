"""A collapse is noticed, and a healthy network is left alone."""

import warnings

import keras
import numpy as np
import pytest

from rfd_tf import applications, data
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.training import collapse


def random_rows(count=512, dimensions=16):
    return np.random.default_rng(0).normal(size=(count, dimensions))


def test_the_measures_of_known_sets():
    rows = random_rows()
    assert collapse.spread(rows) == pytest.approx(1, abs=0.05)
    assert collapse.effective_rank(rows) == pytest.approx(16, rel=0.05)
    # Length says nothing.
    lengths = np.linspace(0.1, 10, len(rows))[:, None]
    assert collapse.spread(lengths * rows) == pytest.approx(collapse.spread(rows))
    plane = rows.copy()
    plane[:, 2:] = 0
    assert collapse.effective_rank(plane) == pytest.approx(2, rel=0.05)
    same = np.ones((8, 4))
    assert collapse.spread(same) == pytest.approx(0) and collapse.effective_rank(same) == 0


def make():
    keras.utils.set_random_seed(0)
    backbone = applications.build("six_layer", image_size=16, filters=(4, 4, 4, 4, 4, 8))
    return RotationFeatureDecoupling(backbone, 64, num_negatives=5, projection_dimensions=16)


@pytest.fixture
def check():
    method = make()
    checked = collapse.CollapseCheck(data.load_images(data.digits(), 16, np.arange(32)))
    checked._model = method

    def logs(epoch=0):
        found = {}
        checked.on_epoch_end(epoch, found)
        return found

    return method, logs


def test_a_collapsed_bank_is_told_once_and_again_after_recovering(check):
    method, logs = check
    healthy = np.array(method.memory_bank.bank)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = logs()
    assert before["feature_spread"] > collapse.MIN_SPREAD
    assert before["bank_effective_rank"] > 10
    for epoch in (1, 3):
        method.memory_bank.bank.assign(np.tile(healthy[:1], (64, 1)))
        with pytest.warns(UserWarning, match=f"memory bank's .* after epoch {epoch + 1}, below"):
            assert logs(epoch)["bank_effective_rank"] == 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            logs(epoch)
            method.memory_bank.bank.assign(healthy)
            logs(epoch)


def test_collapsed_features_are_told(check):
    method, logs = check
    # The last convolution gives the same whatever it sees.
    for weight in method.backbone.weights[-6:]:
        if weight.name == "gamma":
            weight.assign(np.zeros(weight.shape))
        if weight.name == "beta":
            weight.assign(np.ones(weight.shape))
    with pytest.warns(UserWarning, match="the features' spread is .* after epoch 1, below 0.01"):
        assert logs()["feature_spread"] == pytest.approx(0, abs=1e-6)
