"""Data-dependent rescaling: variances, relative gradients, and the function that stays."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf import applications
from rfd_tf.applications.rescale import check_rescalable, rescale_weights
from rfd_tf.errors import UserError


def network(kind):
    """A network with uneven weights, and images for it."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(2)
    if kind == "plain":
        inputs = x = keras.Input((12, 12, 3))
        for number in range(3):
            x = keras.layers.Conv2D(6, 3, padding="same", name=f"conv{number}")(x)
            x = keras.layers.ReLU()(x)
            x = keras.layers.MaxPooling2D(2, padding="same")(x)
        x = keras.layers.Dense(5, name="fc")(keras.layers.Flatten()(x))
        model = keras.Model(inputs, x)
    else:
        options = {"width": 0.05} if kind == "alexnet" else {"filters": [6] * 6}
        options |= {"sobel": True} if kind == "sobel" else {}
        name, size = ("alexnet", 67) if kind == "alexnet" else ("six_layer", 16)
        model = applications.pooled_feature_model(applications.build(name, size, **options))
    for layer in model.layers:
        if layer.weights and layer.trainable:
            values = [w * rng.uniform(0.3, 4) for w in layer.get_weights()]
            if isinstance(layer, keras.layers.BatchNormalization):
                size = len(values[0])
                values = [rng.uniform(0.3, 3, size) for _ in range(4)]
                values[1] -= 1
                values[2] -= 1
            elif len(values) == 2:
                values[1] = rng.normal(0, 0.3, values[1].shape)
            layer.set_weights(values)
    images = rng.normal(size=(16, *model.input_shape[1:])).astype("float32")
    return model, images


def layers_of(model):
    """Each affine layer with the one that its variance is measured at."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            found[next(reversed(found))] = layer
        elif hasattr(layer, "kernel") and layer.trainable:
            found[layer.name] = layer
    return found


def stds_of(model, images):
    found = {}
    for name, layer in layers_of(model).items():
        values = np.array(keras.Model(model.inputs[0], layer.output)(images), np.float64)
        found[name] = np.sqrt(values.reshape(-1, values.shape[-1]).var(axis=0).mean())
    return found


def rates_of(model, images, seed):
    """C_k of an equal network without batch normalisation, folded by hand."""
    noise = np.random.default_rng(seed).standard_normal(model(images).shape).astype("float32")
    last, folded = layers_of(model), {}
    for name, layer in last.items():
        affine = model.get_layer(name)
        scale = np.ones(affine.kernel.shape[-1], "float32")
        offset = np.zeros_like(scale) if affine.bias is None else np.array(affine.bias)
        if layer is not affine:
            gamma, beta, mean, variance = layer.get_weights()
            scale = gamma / np.sqrt(variance + layer.epsilon)
            offset = (offset - mean) * scale + beta
        folded[name] = tf.Variable(np.array(affine.kernel) * scale), offset
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        for layer in model.layers[1:]:
            if layer.name in folded:
                kernel, offset = folded[layer.name]
                if isinstance(layer, keras.layers.Dense):
                    x = x @ kernel + offset
                else:
                    x = tf.nn.conv2d(x, kernel, layer.strides, layer.padding.upper()) + offset
            elif not isinstance(layer, keras.layers.BatchNormalization):
                x = layer(x)
        value = tf.reduce_sum(x * noise)
    kernels = [kernel for kernel, _ in folded.values()]
    return np.array(
        [
            np.sqrt(np.mean(np.square(gradient)) / np.mean(np.square(kernel)))
            for gradient, kernel in zip(tape.gradient(value, kernels), kernels, strict=True)
        ]
    )


@pytest.mark.parametrize("kind", ["plain", "six_layer", "alexnet", "sobel"])
def test_activations_get_the_variance_1(kind):
    model, images = network(kind)
    before, expected = stds_of(model, images), np.array(model(images))
    assert max(before.values()) / min(before.values()) > 2
    found = rescale_weights(model, images, even_gradients=False)
    for name, std in stds_of(model, images).items():
        assert std == pytest.approx(1, rel=1e-3)
        assert found[name]["std"] == pytest.approx(before[name], rel=1e-3)
    factor = list(found.values())[-1]["factor"]
    np.testing.assert_allclose(model(images), expected * factor, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "six_layer", "alexnet", "sobel"])
def test_relative_gradients_become_even_and_features_stay(kind):
    model, images = network(kind)
    expected = np.array(model(images))
    before = rates_of(model, images, 3)
    assert before.max() / before.min() > 1.5
    found = rescale_weights(model, images, seed=3)
    after = rates_of(model, images, 3)
    np.testing.assert_allclose(after, np.full(len(after), after.mean()), rtol=5e-3)
    last = list(found)[-1]
    assert stds_of(model, images)[last] == pytest.approx(1, rel=1e-3)
    factor = found[last]["factor"]
    np.testing.assert_allclose(model(images), expected * factor, rtol=5e-3, atol=1e-4)


def test_networks_that_are_no_chain_are_refused():
    with pytest.raises(UserError, match="form a chain .*branches"):
        check_rescalable(applications.build("resnet18", 32, width=0.1))
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(2, 1, activation="tanh", name="curved")(inputs)
    with pytest.raises(UserError, match="'curved' is not homogeneous"):
        check_rescalable(keras.Model(inputs, x))
    with pytest.raises(UserError, match="no layer to rescale"):
        check_rescalable(keras.Model(inputs, keras.layers.ReLU()(inputs)))


def test_dead_layers_are_named():
    model, images = network("plain")
    model.get_layer("conv1").kernel.assign(np.zeros(model.get_layer("conv1").kernel.shape))
    with pytest.raises(UserError, match="'conv1' cannot be rescaled"):
        rescale_weights(model, images)
