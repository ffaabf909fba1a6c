"""Grad-CAM by hand, and attention."""

import keras
import numpy as np
import pytest

from rfd_tf.errors import UserError
from rfd_tf.interpret.activation import attention_map, enlarge, grad_cam


@pytest.fixture(scope="module")
def network():
    """Two channels of 2 x 2, picked from the image, and three outputs on their means."""
    inputs = keras.Input((4, 4, 3))
    maps = keras.layers.AveragePooling2D(2, name="maps")(inputs[..., :2])
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(maps)))
    dense.set_weights([np.array([[4.0, 0.0, -4.0], [-8.0, 4.0, 0.0]])])
    return model


@pytest.fixture(scope="module")
def image():
    image = np.zeros((1, 4, 4, 3), "float32")
    image[0, :2, :2, 0] = 3  # first channel: top left
    image[0, 2:, :, 1] = 1  # second: bottom
    return image


def test_grad_cam_by_hand(network, image):
    found = grad_cam(network, image, layer="maps", group="each")
    # The mean of the gradient is the weight / 4: 1 and -2, 0 and 1, -1 and 0.
    small = np.array([[[3, 0], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [0, 0]]], "float32")
    np.testing.assert_allclose(found[0], enlarge(small, 4), atol=1e-6)
    grouped = grad_cam(network, image, layer="maps")
    expected = enlarge(small.max(axis=0, keepdims=True), 4)
    np.testing.assert_allclose(grouped[0], expected, atol=1e-6)


def test_grad_cam_of_several_batches(network, image):
    images = np.concatenate([image, 2 * image, image[:, ::-1]])
    found = grad_cam(network, images, layer="maps", batch_size=2)
    np.testing.assert_allclose(found[1], 2 * found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0][:, ::-1], atol=1e-6)


@pytest.mark.parametrize("power", [1, 2, 4])
def test_attention_is_a_sum_of_powers(network, image, power):
    found = attention_map(network, -image, power, layer="maps")
    small = np.array([[[3.0**power, 0], [1, 1]]], "float32")
    np.testing.assert_allclose(found, enlarge(small, 4), rtol=1e-6)


def test_the_last_map_is_the_default(network, image):
    np.testing.assert_array_equal(
        attention_map(network, image), attention_map(network, image, layer="maps")
    )


def test_enlarging_is_bilinear():
    expected = [[0, 0.25, 0.75, 1]]
    np.testing.assert_allclose(enlarge(np.array([[[0, 1]]]), 4)[0, :1], expected)


def test_what_has_no_map_is_named(network, image):
    for make in (grad_cam, attention_map):
        with pytest.raises(UserError, match="unknown layer with a map 'dense'.*maps"):
            make(network, image, layer="dense")
    with pytest.raises(UserError, match="power"):
        attention_map(network, image, power=0)
