"""Gradient maps against linear networks and finite differences."""

import keras
import numpy as np
import pytest
from keras import ops

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.interpret.saliency import GradientMaps, saliency_maps
from rfd_tf.layers import BatchNormalization

SIDE = 6


@pytest.fixture(scope="module")
def linear():
    """A linear network of five outputs, whose gradients are its weights."""
    inputs = keras.Input((SIDE, SIDE, 3))
    dense = keras.layers.Dense(5)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    weights = ops.convert_to_numpy(dense.kernel).T.reshape(5, SIDE, SIDE, 3)
    return model, weights


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(7, SIDE, SIDE, 3)).astype("float32")


@pytest.mark.parametrize("rows", [None, 1, 4, 11])
def test_a_linear_networks_gradients_are_its_weights(linear, images, rows):
    model, weights = linear
    found = saliency_maps(model, images, group="each", rows_per_pass=rows)
    expected = np.broadcast_to(np.abs(weights).max(axis=-1), (7, 5, SIDE, SIDE))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    grouped = saliency_maps(model, images, rows_per_pass=rows)
    np.testing.assert_allclose(grouped, expected.max(axis=1, keepdims=True), rtol=1e-5)


def test_colours_and_neurons_may_be_chosen(linear, images):
    model, weights = linear
    found = saliency_maps(model, images[:1], neurons=[3, 1], group="each", colors="mean")
    np.testing.assert_allclose(found[0], np.abs(weights[[3, 1]]).mean(axis=-1), rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    # Without kinks, so that differences tell the slope.
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(4, 3, activation="tanh")(inputs)
    x = BatchNormalization()(x)
    x = keras.layers.Conv2D(6, 3, activation="tanh")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(3)
    # Moving statistics, which inference goes by, that are not 0 and 1.
    model.layers[2].moving_mean.assign(rng.normal(size=4) / 10)
    model.layers[2].moving_variance.assign(rng.uniform(0.5, 2, 4))
    image = rng.normal(size=(1, SIDE, SIDE, 3)).astype("float32")
    step, size = 1e-2, image.size
    moves = step * np.eye(size, dtype="float32").reshape(size, *image.shape[1:])
    above, below = (model(image + sign * moves, training=False) for sign in (1, -1))
    slopes = np.asarray(above - below) / (2 * step)  # [pixels and colours, neurons]
    expected = np.abs(slopes.T.reshape(6, SIDE, SIDE, 3))
    for colors, reduce in (("maximum", np.max), ("mean", np.mean)):
        found = saliency_maps(model, image, group="each", colors=colors)[0]
        np.testing.assert_allclose(found, reduce(expected, axis=-1), rtol=0.02, atol=1e-4)


def test_smoothing_averages_signed_gradients_over_noise():
    # The slope of |x| is a sign: with much noise around 0 it averages out, plainly it is 1.
    inputs = keras.Input((2, 2, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(ops.absolute(inputs))[:, :1])
    image = np.full((1, 2, 2, 3), 1e-3, "float32")
    image[0, 1, 1] = -1.0  # the range that the noise is a share of
    assert saliency_maps(model, image)[0, 0, 0, 0] == 1
    smooth = saliency_maps(model, image, draws=200, noise=0.5)[0, 0, 0, 0]
    assert smooth < 0.25
    assert saliency_maps(model, image, draws=5, noise=0.0)[0, 0, 0, 0] == pytest.approx(1)


def test_smoothing_does_not_depend_on_the_batch(images):
    inputs = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(ops.square(inputs))[:, :9])
    options = {"draws": 3, "seed": 4, "group": "each"}
    whole = saliency_maps(model, images, **options)
    np.testing.assert_allclose(whole, saliency_maps(model, images, rows_per_pass=2, **options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neurons": [5]}, "neurons lie in 0 to 4"),
        ({"neurons": []}, "neurons lie in 0 to 4"),
        ({"group": "some"}, "options: maximum, each"),
        ({"colors": "grey"}, "options: maximum, mean"),
        ({"draws": -1}, "at least 0"),
    ],
)
def test_wrong_arguments_are_named(linear, arguments, message):
    with pytest.raises(UserError, match=message):
        GradientMaps(linear[0], **arguments)


def test_maps_are_not_vectors():
    with pytest.raises(UserError, match="pool the map first"):
        GradientMaps(applications.build("six_layer", 16))
