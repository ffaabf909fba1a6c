"""PyTorch entries in our networks against PyTorch's arithmetic, written out in NumPy."""

import keras
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from rfd_tf.applications import AlexNet, NetworkInNetwork, feature_extractor
from rfd_tf.applications.torch_import import convert_backbone, convert_linear, network_for
from rfd_tf.errors import UserError


def batch_norm_entries(rng, name, channels):
    return {
        f"{name}.weight": 1 + 0.1 * rng.standard_normal(channels),
        f"{name}.bias": 0.1 * rng.standard_normal(channels),
        f"{name}.running_mean": 0.1 * rng.standard_normal(channels),
        f"{name}.running_var": 1 + 0.1 * np.abs(rng.standard_normal(channels)),
        f"{name}.num_batches_tracked": np.int64(7),
    }


def matrix(rng, *shape):
    return rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))


def conv(x, kernel, bias=0.0, stride=1, padding=0):
    """x [B, C, H, W], kernel [O, C, h, w]."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, kernel.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    result = np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True)
    return result + np.reshape(bias, (-1, 1, 1))


def pool(x, function, padding=0):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return function(sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2], axis=(4, 5))


def norm_relu(x, entries, name):
    shape = (-1,) + (1,) * (x.ndim - 2)
    mean, var, gamma, beta = (
        entries[f"{name}.{kind}"].reshape(shape)
        for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return np.maximum((x - mean) / np.sqrt(var + 1e-5) * gamma + beta, 0)


def nin_entries(rng, width):
    entries, channels = {}, 3
    for block in (1, 2, 3):
        outputs = (192, 160, 96) if block == 1 else (192, 192, 192)
        for step, filters in enumerate(outputs, start=1):
            filters = round(filters * width)
            size = 1 if step > 1 else 5 if block < 3 else 3
            name = f"_feature_blocks.{block - 1}.Block{block}_ConvB{step}.layers"
            entries[f"{name}.Conv.weight"] = matrix(rng, filters, channels, size, size)
            entries |= batch_norm_entries(rng, f"{name}.BatchNorm", filters)
            channels = filters
    entries["_feature_blocks.3.Classifier.weight"] = matrix(rng, 4, channels)
    entries["_feature_blocks.3.Classifier.bias"] = 0.1 * rng.standard_normal(4)
    return entries


def nin_forward(entries, x):
    for block in (1, 2, 3):
        for step in (1, 2, 3):
            name = f"_feature_blocks.{block - 1}.Block{block}_ConvB{step}.layers"
            kernel = entries[f"{name}.Conv.weight"]
            x = conv(x, kernel, padding=kernel.shape[-1] // 2)
            x = norm_relu(x, entries, f"{name}.BatchNorm")
        if block < 3:
            x = pool(x, np.max if block == 1 else np.mean, padding=1)
    logits = x.mean(axis=(2, 3)) @ entries["_feature_blocks.3.Classifier.weight"].T
    return x, logits + entries["_feature_blocks.3.Classifier.bias"]


def test_network_in_network():
    rng = np.random.default_rng(0)
    entries = nin_entries(rng, 1 / 16)
    images = rng.standard_normal((2, 12, 12, 3)).astype("float32")
    last, logits = nin_forward(entries, images.transpose(0, 3, 1, 2).astype("float64"))
    model = NetworkInNetwork(
        blocks=3, width=1 / 16, classes=4, classifier_activation=None, input_shape=(12, 12, 3)
    )
    convert_backbone({f"module.{k}": v for k, v in entries.items()}, model, "network_in_network")
    found = feature_extractor(model, ["block3", "predictions"])(images)
    np.testing.assert_allclose(found["predictions"], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["block3"], last.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


# Block, channels, kernel size, stride, padding.
CONVOLUTIONS = (
    (0, 64, 11, 4, 2),
    (2, 192, 5, 1, 2),
    (4, 384, 3, 1, 1),
    (5, 256, 3, 1, 1),
    (6, 256, 3, 1, 1),
)


def alexnet_entries(rng, width, side):
    entries, channels = {}, 3
    for block, filters, size, _, _ in CONVOLUTIONS:
        filters = max(1, round(filters * width))
        name = f"_feature_blocks.{block}"
        entries[f"{name}.0.weight"] = matrix(rng, filters, channels, size, size)
        entries[f"{name}.0.bias"] = 0.1 * rng.standard_normal(filters)
        entries |= batch_norm_entries(rng, f"{name}.1", filters)
        channels = filters
    inputs, units = channels * side * side, round(4096 * width)
    for step in (1, 4):
        entries[f"_feature_blocks.8.{step}.weight"] = matrix(rng, units, inputs)
        entries |= batch_norm_entries(rng, f"_feature_blocks.8.{step + 1}", units)
        inputs = units
    return entries


def alexnet_forward(entries, x):
    for block, _, _, stride, padding in CONVOLUTIONS:
        name = f"_feature_blocks.{block}"
        x = conv(x, entries[f"{name}.0.weight"], entries[f"{name}.0.bias"], stride, padding)
        x = norm_relu(x, entries, f"{name}.1")
        if block in (0, 2, 6):
            x = pool(x, np.max)
    x = x.reshape(len(x), -1)
    for step in (1, 4):
        x = x @ entries[f"_feature_blocks.8.{step}.weight"].T
        x = norm_relu(x, entries, f"_feature_blocks.8.{step + 1}")
    return x


@pytest.fixture(scope="module")
def alexnet():
    entries = alexnet_entries(np.random.default_rng(0), 1 / 32, side=2)
    return entries, AlexNet(include_top=False, width=1 / 32, input_shape=(99, 99, 3))


def test_alexnet(alexnet):
    entries, model = alexnet
    images = np.random.default_rng(1).standard_normal((2, 99, 99, 3)).astype("float32")
    wanted = alexnet_forward(entries, images.transpose(0, 3, 1, 2).astype("float64"))
    convert_backbone(entries, model, "alexnet")
    np.testing.assert_allclose(model(images), wanted, rtol=1e-4, atol=1e-5)


def test_network_is_read_off_the_entries():
    rng = np.random.default_rng(0)
    model = network_for(nin_entries(rng, 1.0), "network_in_network")
    assert model.output_shape == (None, 4) and len(model.get_layer("block3").output.shape) == 4
    entries = nin_entries(rng, 1.0)
    without = {k: v for k, v in entries.items() if "Classifier" not in k}
    model = network_for(without, "network_in_network")
    assert model.output_shape == (None, None, None, 192)


def test_linear_layers():
    rng = np.random.default_rng(0)
    layer = keras.layers.Dense(4)
    layer.build((None, 6))
    entries = {"fc_classifier.0.weight": matrix(rng, 4, 6), "fc_classifier.0.bias": np.ones(4)}
    convert_linear(entries, layer)
    x = rng.standard_normal((2, 6)).astype("float32")
    wanted = x @ entries["fc_classifier.0.weight"].T + 1
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="no entry fills 1 weights of dense layer"):
        convert_linear({"norm.0.weight": entries["fc_classifier.0.weight"]}, layer)
    with pytest.raises(UserError, match="has no place in a dense layer"):
        convert_linear({"norm.0.scale": np.ones(4)}, layer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_feature_blocks.0.0.weight": None}, "no entry fills 1 weights of alexnet: conv1_conv"),
        ({"_feature_blocks.7.0.weight": np.ones(3)}, "'_feature_blocks.7.0.weight' has no place"),
        ({"_feature_blocks.9.0.bias": np.ones(3)}, "it has no predictions"),
        ({"module._feature_blocks.0.0.bias": np.ones(2)}, "a second time"),
        ({"_feature_blocks.0.0.bias": np.ones(5)}, r"has shape \(5,\) and does not fit conv1_conv"),
        ({"_feature_blocks.8.1.weight": np.ones((128, 7))}, "does not fit fc6_dense"),
        ({"_feature_blocks.0.0.bias": np.array([1, np.nan])}, "finite floating-point"),
        ({"_feature_blocks.0.0.bias": np.array([1, 2])}, "finite floating-point"),
    ],
)
def test_entries_that_do_not_fit(alexnet, change, message):
    entries, model = alexnet
    changed = {k: v for k, v in {**entries, **change}.items() if v is not None}
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        convert_backbone(changed, model, "alexnet")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_unknown_architecture(alexnet):
    with pytest.raises(UserError, match="unknown architecture 'vgg'; options: alexnet, network"):
        convert_backbone(alexnet[0], alexnet[1], "vgg")
