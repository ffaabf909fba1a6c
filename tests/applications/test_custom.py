"""Keras models that are in no registry, as backbones."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from rfd_tf import applications
from rfd_tf.applications import custom
from rfd_tf.applications.endpoints import endpoint_output
from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization


@keras.saving.register_keras_serializable(package="tests")
class ClassToken(layers.Layer):
    """Puts a trained token in front of a sequence, and adds positions."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[2]), name="positions")

    def call(self, x):
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[2]))
        return keras.ops.concatenate([keras.ops.cast(token, x.dtype), x], axis=1) + self.positions

    def compute_output_shape(self, shape):
        return shape[0], shape[1] + 1, shape[2]


class Unregistered(layers.Layer):
    def call(self, x):
        return x


def vit(size=16):
    image = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(8, 4, strides=4)(x)
    x = ClassToken()(layers.Reshape(((size // 4) ** 2, 8))(x))
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 4)(y, y)
    return keras.Model(image, layers.LayerNormalization()(x), name="vit")


def convolutional(size=16, outputs="map"):
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(6, 3, padding="same")(x)
    if outputs == "vector":
        x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    if outputs == "operation":
        x = x[:, ::2]
    return keras.Model(image, x)


def nested():
    image = keras.Input((16, 16, 3))
    return keras.Model(image, convolutional()(image))


def sequential():
    return keras.Sequential([keras.Input((16, 16, 3)), *convolutional().layers[1:]])


CASES = {
    "map": (convolutional, None, lambda y: y),
    "vector": (lambda: convolutional(outputs="vector"), None, lambda y: y),
    "an operation's output": (lambda: convolutional(outputs="operation"), None, lambda y: y),
    "sequential": (sequential, None, lambda y: y),
    "tokens": (vit, None, lambda y: y.mean(axis=1)),
    "class token": (vit, "class", lambda y: y[:, 0]),
}
IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_adapted_stored_and_built_again(case, tmp_path):
    make, pooling, expected = CASES[case]
    given = make()
    model = custom.adapted(given, pooling)
    before = np.asarray(given(IMAGES))
    np.testing.assert_allclose(np.asarray(model(IMAGES)), expected(before), atol=1e-5)

    # The feature is the model's output, whatever map comes before.
    feature = applications.endpoints(model)[-1]
    vector = np.asarray(applications.pooled_feature_model(model)(IMAGES))
    pooled = expected(before)
    pooled = pooled if pooled.ndim == 2 else pooled.mean(axis=(1, 2))
    np.testing.assert_allclose(vector, pooled, atol=1e-5, err_msg=feature)

    path = tmp_path / "model.keras"
    model.save(path)
    keras.utils.set_random_seed(3)
    new = applications.build(str(path), 16)
    assert [w.shape for w in new.weights] == [w.shape for w in model.weights]
    assert any(
        not np.array_equal(one, other)
        for one, other in zip(new.get_weights(), model.get_weights(), strict=True)
    )
    keras.utils.set_random_seed(3)
    for one, other in zip(
        new.get_weights(), applications.build(str(path), 16).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    new.set_weights(model.get_weights())
    np.testing.assert_allclose(np.asarray(new(IMAGES)), np.asarray(model(IMAGES)), atol=1e-5)
    # (Names of layers go by how many there are in the process.)
    assert custom.digest(custom.adapted(make(), pooling)) == custom.digest(model)
    assert custom.digest(custom.adapted(convolutional(32))) != custom.digest(model)


def test_batch_normalisation_is_the_fused_one_and_the_size_may_differ(tmp_path):
    path = tmp_path / "model.keras"
    custom.adapted(convolutional(None)).save(path)
    assert applications.default_image_size(str(path)) == 224
    network = applications.build(str(path), 24)
    assert network.output_shape == (None, 12, 12, 6)
    # At another size its endpoints are still found, and connected.
    names = applications.endpoints(network)
    tensors = [endpoint_output(network, name) for name in names]
    given = keras.Model(network.inputs, dict(zip(names, tensors, strict=True)))
    assert names and set(given(np.zeros((1, 24, 24, 3)))) == set(names)
    kinds = [type(layer) for layer in network.layers]
    assert BatchNormalization in kinds and layers.BatchNormalization not in kinds
    vit().save(path)
    with pytest.raises(UserError, match="cannot take images of 24 x 24"):
        applications.build(str(path), 24)
    with pytest.raises(UserError, match="unknown argument of backbone .* 'width'"):
        applications.build(str(path), 16, width=2)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def two_inputs():
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([first, second], layers.Conv2D(2, 3)(first + second))


def two_outputs():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, [layers.Conv2D(2, 3)(image), layers.Conv2D(2, 3)(image)])


def of_shape(*shape):
    image = keras.Input(shape)
    return keras.Model(image, layers.Conv2D(2, 3)(image))


def with_layers(*more):
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3), *more])


BAD = {
    "text": (lambda: 3, "backbone of type int: give the name of a network"),
    "subclassed": (Subclassed, "is a subclass of keras.Model"),
    "two inputs": (two_inputs, "has 2 inputs and 1 outputs"),
    "two outputs": (two_outputs, "has 1 inputs and 2 outputs"),
    "grey": (lambda: of_shape(8, 8, 1), r"takes inputs of shape \(None, 8, 8, 1\)"),
    "channels first": (lambda: of_shape(3, 8, 8), r"takes inputs of shape \(None, 3, 8, 8\)"),
    "oblong": (lambda: of_shape(8, 9, 3), "needs square RGB images"),
    "no weights": (
        lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.ReLU()]),
        "has no trainable weights",
    ),
    "five dimensions": (lambda: with_layers(layers.Reshape((6, 6, 1, 2))), "gives outputs of"),
    "nested": (nested, "has the model '.*' as a layer"),
    "no size": (lambda: keras.Sequential([layers.Conv2D(2, 3)]), "has no input shape yet"),
    "unknown layer": (lambda: with_layers(Unregistered()), "register_keras_serializable"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_model_that_cannot_serve_is_refused(case):
    make, message = BAD[case]
    with pytest.raises(UserError, match=message):
        custom.adapted(make())


def test_other_bad_values_are_named(tmp_path):
    with pytest.raises(UserError, match="token_pooling 'class' has no meaning"):
        custom.adapted(convolutional(), "class")
    with pytest.raises(UserError, match="unknown token_pooling 'max'"):
        custom.adapted(vit(), "max")
    with pytest.raises(UserError, match=r"no such Keras model: '.*nowhere.keras'"):
        applications.build(str(tmp_path / "nowhere.keras"), 32)
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(UserError, match="text.keras' is no Keras model, or is cut off"):
        applications.build(str(tmp_path / "text.keras"), 32)
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(UserError, match="cannot be loaded as a Keras model"):
        applications.build(str(tmp_path / "other.keras"), 32)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "backbone.weights.h5").touch()
    for place in (tmp_path / "run", tmp_path / "run" / "backbone.weights.h5"):
        with pytest.raises(UserError, match="holds weights; give it as init_weights, and as back"):
            applications.build(str(place), 32)
