import keras
import numpy as np
import pytest

from rfd_tf import data
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Data, Settings
from rfd_tf.evaluation.finetune import FineTuning, classifier


def test_the_whole_network_is_trained_from_its_weights(rfd_subject):
    model = classifier(rfd_subject, 10)
    backbone = rfd_subject.network()
    assert len(model.trainable_weights) == len(backbone.trainable_weights) + 2
    for ours, theirs in zip(model.weights, backbone.weights, strict=False):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    assert not np.array(model(x, training=False)).any()  # the classifier starts from zero
    scratch = classifier(rfd_subject.random_twin(0), 10)
    assert np.abs(np.array(scratch.weights[0]) - np.array(model.weights[0])).max() > 0.01


def test_fine_tuning_learns_the_digits(rfd_subject):
    digits = Data(data.digits(), data.digits("test"), 16)
    keras.utils.set_random_seed(0)
    task = FineTuning(epochs=4, learning_rate=0.03, batch_size=50)
    found = {(r.images, r.when): r for r in task.run(rfd_subject, digits, Settings())}
    assert found["upright", "last epoch"].value > 0.8
    assert found["rotated", "last epoch"].value < found["upright", "last epoch"].value
    assert {r.feature for r in found.values()} == {"all layers"}


def test_mistakes_are_named(rfd_subject, small_digits):
    with pytest.raises(UserError, match="epochs are 1 or more; got 0"):
        FineTuning(epochs=0)
    with pytest.raises(UserError, match="learning rate is above 0"):
        FineTuning(learning_rate=0)
    with pytest.raises(UserError, match="unknown endpoint 'block9'"):
        FineTuning(endpoint="block9").check(rfd_subject, small_digits)
