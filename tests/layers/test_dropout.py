"""Dropout and stochastic depth draw for the global batch, on however many replicas."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from rfd_tf import applications
from rfd_tf.layers import Dropout, dropout
from rfd_tf.methods import RotationPrediction

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
import training_runs  # noqa: E402


@pytest.mark.parametrize("noise_shape", [None, (None, 1, 1, 1), (None, 1, 1, 5), (1, 1, 1, 5)])
def test_a_share_is_dropped_and_the_rest_scaled_up(noise_shape):
    layer = Dropout(0.25, noise_shape, seed=0)
    outputs = np.asarray(layer(ops.ones((4000, 2, 3, 5)), training=True))
    np.testing.assert_allclose(np.unique(outputs), [0, 4 / 3], rtol=1e-6)
    shape = [size if wanted is None else wanted for size, wanted in zip(
        outputs.shape, noise_shape or (None,) * 4, strict=True
    )]  # fmt: skip
    mask = outputs[: shape[0], : shape[1], : shape[2], : shape[3]]
    np.testing.assert_array_equal(outputs, np.broadcast_to(mask, outputs.shape))
    if mask.size >= 4000:
        assert abs((mask == 0).mean() - 0.25) < 0.02
    inputs = np.random.default_rng(0).normal(size=(2, 2, 3, 5)).astype("float32")
    np.testing.assert_array_equal(layer(inputs), inputs)
    assert not np.asarray(Dropout(1.0)(inputs, training=True)).any()


def test_the_networks_of_keras_hold_no_layer_whose_masks_depend_on_the_replicas():
    network = applications.build("efficientnet_b0", 32)
    assert dropout.not_agreeing(network) == []
    own = [layer for layer in network.layers if type(layer) is Dropout]
    assert own and {layer.noise_shape for layer in own} == {(None, 1, 1, 1)}
    portable = applications.portable(network)
    stock = [layer for layer in portable.layers if type(layer) is keras.layers.Dropout]
    assert len(stock) == len(own)
    assert not any(isinstance(layer, Dropout) for layer in portable.layers)
    assert dropout.not_agreeing(portable) == [layer.name for layer in stock]


def backbone():
    inputs = x = keras.Input((training_runs.SIZE, training_runs.SIZE, 3))
    for filters in (4, 8):
        x = keras.layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
        branch = keras.layers.Conv2D(filters, 1)(x)
        branch = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), seed=1)(branch)
        x = keras.layers.Add()([x, branch])
        x = keras.layers.SpatialDropout2D(0.2, seed=2)(x)
        x = keras.layers.Dropout(0.2, seed=3)(x)
    return applications.fuse_batch_normalization(keras.Model(inputs, x))


def test_two_replicas_with_stochastic_layers_train_as_one(monkeypatch):
    monkeypatch.setattr(training_runs, "shallow_backbone", backbone)
    training_runs.assert_replicas_agree(RotationPrediction)
