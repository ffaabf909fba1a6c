"""The first epochs train on smaller images, with the same weights, and resume exactly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf import applications, methods
from rfd_tf.config import PretrainConfig
from rfd_tf.data import digits
from rfd_tf.errors import UserError
from rfd_tf.training.pretraining import Augmentation, Optimization, Pretraining, small_size

FILTERS = (4, 4, 4, 6, 6, 8)


def session(build_backbone=None, build_method=None, strategy=None, **optimization):
    """Returns a training of four epochs of two steps, the first two on 16 of 24 pixels."""
    settings = {"epochs": 4, "batch_size": 8, "steps_per_epoch": 2, "small_epochs": 0.5}
    return Pretraining(
        build_backbone=build_backbone
        or (lambda: applications.build("six_layer", 24, filters=FILTERS)),
        build_method=build_method
        or (
            lambda backbone: methods.RotationFeatureDecoupling(
                backbone, num_images=digits().num_images, num_negatives=8
            )
        ),
        source=digits(),
        image_size=24,
        optimization=Optimization(**{**settings, **optimization}),
        augmentation=Augmentation(crop="resized", crops=4),
        strategy=strategy,
    )


class StateAt(keras.callbacks.Callback):
    """Copies the state of a method after given steps."""

    def __init__(self, steps):
        self.steps, self.states = steps, {}

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 in self.steps:
            method = self.model
            variables = [*method.variables, *method.optimizer.variables]
            self.states[batch + 1] = [(v, v.numpy()) for v in variables]


@pytest.fixture(scope="module")
def trained():
    """A whole training, with its states after steps within and at the end of the small epochs."""
    training, states = session(), StateAt((3, 4, 8))
    training.train(callbacks=[states])
    return training, states.states


def test_the_first_epochs_have_three_quarters_of_the_size_and_the_others_all_of_it(trained):
    training, _ = trained
    assert small_size(24) == 16
    for step, size in ((0, 16), (3, 16), (4, 24), (7, 24)):
        batch = next(iter(training.dataset(step)))
        assert batch["image"].shape == (8, 4, size, size, 3)
    assert training.dataset(0, augmented=False).element_spec["image"].shape[-2] == 24
    assert training.settings()["small_epochs"] == 0.5


def test_images_and_their_order_do_not_depend_on_the_size(trained):
    training, _ = trained
    plain = session(small_epochs=0.0)
    for step in (1, 5):
        small, whole = (next(iter(each.dataset(step)))["index"] for each in (training, plain))
        np.testing.assert_array_equal(small, whole)


@pytest.mark.parametrize("step", (3, 4))
def test_a_training_resumes_exactly_within_and_after_the_small_epochs(trained, step):
    training, states = trained
    for variable, value in states[step]:
        variable.assign(value)
    training.train(start_step=step)
    for variable, value in states[8]:
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def test_both_sizes_pass_through_the_same_layers(trained):
    training, _ = trained
    method = training.method
    own = {id(weight) for weight in method.backbone.weights}
    assert {id(weight) for weight in method._other_size.weights} <= own
    assert len({id(v) for v in method.trainable_variables}) == len(method.trainable_variables)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3))
    features = method.features(method.preprocess(images))
    backbone = applications.build("six_layer", 16, filters=FILTERS)
    backbone.set_weights(method.backbone.get_weights())
    expected = applications.pooled_feature_model(backbone, method.feature_endpoint)(
        method.preprocess(images)
    )
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_replicas_train_on_both_sizes():
    # Of collective operations, only one strategy in a process can use those of TensorFlow.
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=reduction)
    training = session(strategy=strategy, epochs=2, steps_per_epoch=1)
    training.train()
    assert np.isfinite(training.method.logs()["loss"])


def test_a_network_for_one_size_trains_on_it_in_all_epochs_with_a_warning():
    def build():
        inputs = keras.Input((24, 24, 3))
        x = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(inputs)
        return keras.Model(inputs, keras.layers.Dense(8)(keras.layers.Flatten()(x)))

    with pytest.warns(UserWarning, match="all epochs train on images of 24 pixels.*16 x 16"):
        training = session(build, lambda backbone: methods.RotationPrediction(backbone), epochs=2)
    assert next(iter(training.dataset(0)))["image"].shape[-2] == 24


@pytest.mark.parametrize(
    ("settings", "problem"),
    (
        ({"method": "jigsaw", "small_epochs": 0.5}, "small_epochs"),
        ({"small_epochs": 1.5}, "small_epochs.*1.5"),
    ),
)
def test_settings_without_meaning_are_refused(settings, problem):
    with pytest.raises(UserError, match=problem):
        PretrainConfig.create({"dataset": "digits", **settings}).drop_moot()
