"""The fused batch normalisation is the stock layer, faster."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.layers import BatchNormalization, limit_momentum

SHAPES = [(8, 5, 5, 3), (16, 6), (4, 2, 3, 4, 5)]


def pair(**options):
    return keras.layers.BatchNormalization(**options), BatchNormalization(**options)


def randomised(layers, shape):
    rng = np.random.default_rng(0)
    for layer in layers:
        layer.build(shape)
    weights = [rng.uniform(0.5, 1.5, w.shape) for w in layers[0].get_weights()]
    for layer in layers:
        layer.set_weights(weights)
    return layers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 1e-5}])
def test_same_outputs_gradients_and_moving_statistics_as_the_stock_layer(shape, options):
    layers = randomised(pair(momentum=0.8, **options), shape)
    x = tf.constant(np.random.default_rng(1).normal(2, 3, shape).astype("float32"))
    seen = []
    for layer in layers:
        with tf.GradientTape() as tape:
            tape.watch(x)
            trained = layer(x, training=True)
            loss = tf.reduce_sum(tf.sin(trained))
        gradients = tape.gradient(loss, [x, *[w.value for w in layer.trainable_weights]])
        seen.append([trained, *gradients, *layer.get_weights(), layer(x, training=False)])
    for stock, fused in zip(*seen, strict=True):
        np.testing.assert_allclose(fused, stock, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_unbiased_moving_variance_is_pytorchs(shape):
    layer = BatchNormalization(momentum=0.9, unbiased_moving_variance=True)
    x = np.random.default_rng(1).normal(size=shape).astype("float32")
    layer(x, training=True)
    axes = tuple(range(len(shape) - 1))
    expected = 0.9 + 0.1 * x.var(axes, ddof=1)
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-5)


def test_one_fused_operation_in_the_graph():
    layer = BatchNormalization()
    function = tf.function(lambda x: layer(x, training=True))
    graph = function.get_concrete_function(tf.TensorSpec((2, 4, 4, 3))).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("FusedBatchNormV3") == 1


def test_bfloat16_keeps_statistics_in_float32():
    layer = BatchNormalization(dtype="mixed_bfloat16")
    x = np.random.default_rng(1).normal(size=(64, 4, 4, 3)).astype("float32")
    y = layer(x, training=True)
    assert y.dtype == tf.bfloat16 and layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(layer.moving_mean, 0.01 * x.mean((0, 1, 2)), rtol=2e-2, atol=1e-4)


def test_frozen_layer_uses_its_moving_statistics():
    layer = BatchNormalization()
    layer.build((None, 4, 4, 3))
    layer.trainable = False
    x = np.ones((2, 4, 4, 3), "float32") * 5
    np.testing.assert_allclose(layer(x, training=True), layer(x, training=False))
    np.testing.assert_array_equal(layer.moving_mean, 0)


def test_masked_input_follows_the_stock_layer():
    stock, fused = randomised(pair(momentum=0.5), (4, 6, 3))
    x = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
    mask = np.arange(6)[None] < np.array([[6], [3], [2], [5]])
    np.testing.assert_allclose(
        fused(x, training=True, mask=mask), stock(x, training=True, mask=mask), atol=1e-5
    )
    np.testing.assert_allclose(fused.moving_mean, stock.moving_mean, atol=1e-6)


def test_saves_and_loads(tmp_path):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, BatchNormalization(unbiased_moving_variance=True)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].get_config() == model.layers[1].get_config()


def test_a_bounded_momentum_lets_statistics_arrive():
    def network(momentum):
        inner = keras.Sequential([keras.Input((3,)), BatchNormalization(momentum=momentum)])
        stock = keras.layers.BatchNormalization(momentum=0.999, trainable=False)
        return keras.Sequential([keras.Input((3,)), inner, stock])

    x = np.random.default_rng(0).normal(5, 1, (256, 3)).astype("float32")
    means = []
    for model in (network(0.999), limit_momentum(network(0.999)), limit_momentum(network(0.5))):
        model.compile(optimizer="sgd", loss="mse")
        model.fit(x, x, batch_size=8, epochs=1, verbose=0)
        means.append(np.array(model.layers[0].layers[0].moving_mean))
    assert (means[0] < 0.5).all()
    np.testing.assert_allclose(means[1:], 5, atol=1)
    assert [layer.momentum for layer in model.layers[0].layers] == [0.5]
    assert model.layers[1].momentum == 0.9
