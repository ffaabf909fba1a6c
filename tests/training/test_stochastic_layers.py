"""Networks with random layers: resuming within an epoch, and the warning where replicas differ."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf import applications, data, methods
from rfd_tf.training import checkpoint
from rfd_tf.training.pretraining import Optimization, Pretraining

SIZE, STEPS = 16, 4


def stock():
    inputs = x = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(x)
    x = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop_path")(x)
    x = keras.layers.GaussianNoise(0.1, name="noise")(x)
    return keras.Model(inputs, keras.layers.Dropout(0.3, name="drop")(x))


def session(backbone=stock, strategy=None):
    return Pretraining(
        build_backbone=backbone,
        build_method=methods.RotationPrediction,
        source=data.digits(),
        image_size=SIZE,
        optimization=Optimization(epochs=1, batch_size=4, steps_per_epoch=STEPS),
        strategy=strategy,
    )


class StopAfter(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch + 1 == self.step


@pytest.mark.parametrize(
    "backbone", [stock, lambda: applications.fuse_batch_normalization(stock())]
)
def test_a_resumed_run_draws_what_one_never_stopped_draws(backbone, tmp_path):
    straight = session(backbone)
    states = [v for v in straight.method.variables if v.path.endswith("seed_generator_state")]
    assert len(states) == 3
    straight.train()
    stopped = session(backbone)
    stopped.train(callbacks=[StopAfter(2)])
    path = checkpoint.save(tmp_path / "c.npz", stopped.method, stopped.optimizer, {"step": 2})
    resumed = session(backbone)
    checkpoint.load(path, resumed.method, resumed.optimizer)
    resumed.train(start_step=2)
    for one, other in zip(
        checkpoint.snapshot(straight.method, straight.optimizer),
        checkpoint.snapshot(resumed.method, resumed.optimizer),
        strict=True,
    ):
        np.testing.assert_array_equal(one[1], other[1], one[0])
    assert all(np.asarray(state)[1] == STEPS for state in states)


def test_layers_that_differ_between_replicas_are_named():
    devices = [f"CPU:{i}" for i in range(2)]
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)
    with pytest.warns(UserWarning, match="layers drop_path, noise, drop draw their random numbers"):
        session(strategy=strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session()
