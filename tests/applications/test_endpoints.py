"""Endpoints by name, for own and other networks."""

import keras
import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.applications import (
    AlexNet,
    SixLayer,
    endpoints,
    feature_extractor,
    pooled_feature_model,
)
from rfd_tf.applications.endpoints import cut
from rfd_tf.errors import UserError

IMAGES = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return SixLayer(include_top=False, input_shape=(16, 16, 3))


def test_feature_extractor_gives_each_layers_output(model):
    features = feature_extractor(model, ["block1", "block3_conv", "block6"])(IMAGES)
    assert list(features) == ["block1", "block3_conv", "block6"]
    np.testing.assert_allclose(features["block6"], model(IMAGES), rtol=1e-6)
    single = feature_extractor(model, "block2")(IMAGES)
    assert single["block2"].shape == (3, 8, 8, 32)


def test_pooled_features(model):
    maps = np.asarray(feature_extractor(model, "block4")(IMAGES)["block4"])
    average = pooled_feature_model(model, "block4")(IMAGES)
    np.testing.assert_allclose(average, maps.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    maximum = pooled_feature_model(model, "block4", pooling="max")(IMAGES)
    np.testing.assert_allclose(maximum, maps.max(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert pooled_feature_model(model).output_shape == (None, 128)


def test_vectors_stay_as_they_are():
    model = AlexNet(include_top=False, width=0.02, input_shape=(63, 63, 3))
    images = np.random.default_rng(0).normal(size=(2, 63, 63, 3)).astype("float32")
    np.testing.assert_array_equal(pooled_feature_model(model)(images), model(images))
    assert endpoints(model) == ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")


def test_unknown_names(model):
    with pytest.raises(UserError, match="unknown endpoint 'block7'.*options: block1, block2"):
        feature_extractor(model, ["block1", "block7"])
    with pytest.raises(UserError, match="unknown endpoint 'fc7'"):
        pooled_feature_model(model, "fc7")
    with pytest.raises(UserError, match="unknown pooling 'sum'"):
        pooled_feature_model(model, "block1", pooling="sum")
    with pytest.raises(UserError, match="no endpoint asked for"):
        feature_extractor(model, [])


def test_other_networks_give_one_layer_a_resolution():
    image = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="half")(image)
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    x = keras.layers.Multiply(name="gated")([x, keras.layers.Conv2D(4, 1, name="excite")(gate)])
    y = keras.layers.ZeroPadding2D(1, name="border")(x)
    y = keras.layers.Conv2D(4, 3, strides=2, name="quarter")(y)
    z = keras.layers.ReLU(name="branch")(y)
    y = keras.layers.Add(name="sum")([y, z])
    y = keras.layers.GlobalAveragePooling2D(name="pool")(y)
    model = keras.Model(image, keras.layers.Dense(5, name="predictions")(y))
    assert endpoints(model) == ("gated", "sum")


def test_model_must_be_functional():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UserError, match="functional Keras model"):
        endpoints(Subclassed())


def test_sequential_is_refused():
    with pytest.raises(UserError, match="functional Keras model is needed, not Sequential"):
        endpoints(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]))


@pytest.mark.parametrize(
    ("backbone", "arguments", "name", "tensors"),
    [
        ("six_layer", {}, "block2", 1),
        # Within a residual block the shortcut goes past the endpoint.
        ("resnet18", {"width": 0.1}, "block2_unit1_conv1", 2),
        ("mobilenet_v2", {"alpha": 0.35}, "block_6_expand_relu", 1),
        ("alexnet", {"width": 0.05}, "fc7", 0),
    ],
)
def test_a_cut_model_gives_what_the_whole_gives(backbone, arguments, name, tensors):
    size = 67 if backbone == "alexnet" else 32
    model = applications.build(backbone, size, **arguments)
    first, rest = cut(model, name)
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    between = first(x)
    assert (rest is None) == (tensors == 0)
    assert (len(between) if isinstance(between, list) else int(tensors > 0)) == tensors
    found = between if rest is None else rest(between)
    np.testing.assert_allclose(found, model(x), rtol=1e-5, atol=1e-6)
    later = set() if rest is None else {layer.name for layer in rest.layers if layer.weights}
    assert not later & {layer.name for layer in first.layers}
    assert first.count_params() + (rest.count_params() if rest else 0) == model.count_params()
    with pytest.raises(UserError, match="unknown endpoint 'none'"):
        cut(model, "none")
