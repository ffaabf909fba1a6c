"""Portable copies run without this package; fused copies compute the same."""

import subprocess

import keras
import numpy as np
import pytest
import warm_python

from rfd_tf.applications import SixLayer, build, fuse_batch_normalization, portable
from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization

IMAGES = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")


def shake(model):
    """Gives every weight, moving statistics too, a value of its own."""
    rng = np.random.default_rng(1)
    model.set_weights([w + 0.1 * np.abs(rng.standard_normal(w.shape)) for w in model.get_weights()])


LOAD = """
import sys
import keras, numpy as np
model = keras.models.load_model("model.keras")
assert not any(name.startswith("rfd_tf") for name in sys.modules)
assert all(layer.dtype_policy.name == "float32" for layer in model.layers)
np.save("outputs.npy", np.asarray(model(np.load("images.npy"))))
"""


def test_portable_file_loads_in_a_process_without_this_package(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = SixLayer(include_top=False, pooling="avg", input_shape=(16, 16, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    shake(model)
    copy = portable(model)
    assert copy.output.dtype == "float32"
    assert [v.name for v in copy.layers] == [v.name for v in model.layers]
    for old, new in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    copy.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    subprocess.run([*warm_python.command(), "-c", LOAD], cwd=tmp_path, check=True)
    outputs = np.load(tmp_path / "outputs.npy")
    np.testing.assert_allclose(outputs, copy(IMAGES), rtol=1e-5, atol=1e-6)
    reference = build("six_layer", 16, pooling="avg")
    reference.set_weights(model.get_weights())
    np.testing.assert_allclose(outputs, reference(IMAGES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["network_in_network", "resnet18"])
def test_there_and_back(name):
    model = build(name, 32, width=0.1)
    shake(model)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    stock = portable(model)
    norms = [v for v in stock.layers if isinstance(v, keras.layers.BatchNormalization)]
    assert norms and all(type(v) is keras.layers.BatchNormalization for v in norms)
    fused = fuse_batch_normalization(stock)
    norms = [v for v in fused.layers if isinstance(v, keras.layers.BatchNormalization)]
    assert all(type(v) is BatchNormalization and v.synchronized is None for v in norms)
    np.testing.assert_allclose(stock(images), model(images), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(fused(images), model(images))


def test_frozen_layers_stay_frozen():
    model = build("six_layer", 16)
    model.get_layer("block2_conv").trainable = False
    assert not portable(model).get_layer("block2_conv").trainable


def test_normalization_becomes_constants():
    image = keras.Input((4, 4, 3))
    norm = keras.layers.Normalization(name="norm")
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(norm(image)))
    norm.set_weights([np.float32([0.1, 0.2, 0.3]), np.float32([0.5, 1.0, 2.0]), np.int32(0)])
    norm.finalize_state()
    copy = portable(model)
    assert isinstance(copy.get_layer("norm"), keras.layers.Rescaling)
    # (Where the convolution's terms cancel, their rounding is large beside the sum.)
    np.testing.assert_allclose(
        copy(IMAGES[:, :4, :4]), model(IMAGES[:, :4, :4]), rtol=1e-5, atol=1e-6
    )
    kept = fuse_batch_normalization(model)
    np.testing.assert_array_equal(kept(IMAGES[:, :4, :4]), model(IMAGES[:, :4, :4]))


def test_model_must_be_functional():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(UserError, match="functional Keras model"):
        portable(Subclassed())
