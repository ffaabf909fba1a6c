"""The four networks of this package: sizes, shapes, endpoints, arithmetic, errors."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from rfd_tf import applications
from rfd_tf.applications import AlexNet, NetworkInNetwork, ResNet18, SixLayer, build, endpoints
from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization

SMALL = {
    "six_layer": (16, {"filters": (2, 3, 4, 5, 6, 7)}),
    "network_in_network": (16, {"width": 0.05}),
    "alexnet": (63, {"width": 0.02}),
    "resnet18": (32, {"width": 0.1}),
}


def test_six_layer_parameters():
    convolutions = 9 * (3 * 16 + 16 * 32 + 32 * 32 + 32 * 48 + 48 * 48 + 48 * 128)
    statistics = 4 * (16 + 32 + 32 + 48 + 48 + 128)
    assert convolutions == 104_112
    model = SixLayer(include_top=False)
    assert model.count_params() == convolutions + statistics == 105_328
    assert SixLayer().count_params() == 105_328 + 128 * 10 + 10
    larger = SixLayer(include_top=False, filters=(16, 32, 32, 64, 64, 256))
    assert larger.count_params() == 217_008 + 4 * 464


def test_network_in_network_parameters():
    block1 = 3 * 25 * 192 + 192 * 160 + 160 * 96
    block2 = 96 * 25 * 192 + 2 * 192 * 192
    block3 = 192 * 9 * 192 + 2 * 192 * 192
    for blocks in (3, 4, 5):
        convolutions = block1 + block2 + (blocks - 2) * block3
        statistics = 4 * (192 + 160 + 96 + (blocks - 1) * 3 * 192)
        model = NetworkInNetwork(include_top=False, blocks=blocks)
        assert model.count_params() == convolutions + statistics
        assert endpoints(model) == tuple(f"block{n}" for n in range(1, blocks + 1))
    half = NetworkInNetwork(include_top=False, width=0.5)
    assert half.get_layer("block1_conv2").filters == 80


def test_alexnet_parameters():
    trunk = AlexNet(include_top=False, fully_connected=False)
    convolutions = 363 * 64 + 1600 * 192 + 1728 * 384 + 3456 * 256 + 2304 * 256
    channels = 64 + 192 + 384 + 256 + 256
    assert trunk.count_params() == convolutions + channels + 4 * channels == 2_474_304
    bigger = AlexNet(include_top=False, fully_connected=False, bigger=True)
    assert [bigger.get_layer(f"conv{n}_conv").filters for n in range(1, 6)] == [
        96, 256, 384, 384, 256,
    ]  # fmt: skip
    whole = AlexNet(include_top=False)
    assert whole.output_shape == (None, 4096)
    assert whole.count_params() == 2_474_304 + 9216 * 4096 + 4096 * 4096 + 2 * 4 * 4096


def test_resnet18_parameters():
    # torchvision's count, and the moving statistics, which it does not count.
    assert ResNet18().count_params() == 11_689_512 + 2 * 4_800
    # The other stem has 27 x 64 weights in place of 147 x 64.
    cifar = ResNet18(include_top=False, cifar_stem=True)
    assert cifar.count_params() == 11_689_512 + 9_600 - 120 * 64 - 513_000


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("six_layer", 32, {"block1": (32, 16), "block2": (16, 32), "block6": (8, 128)}),
        ("network_in_network", 32, {"block1": (16, 96), "block2": (8, 192), "block4": (8, 192)}),
        ("alexnet", 224, {"conv1": (55, 64), "conv2": (27, 192), "conv5": (13, 256)}),
        ("resnet18", 224, {"stem": (56, 64), "block1": (56, 64), "block4": (7, 512)}),
    ],
)
def test_shapes_of_endpoints(name, size, expected):
    options = {"fully_connected": False} if name == "alexnet" else {}
    model = build(name, size, **options)
    for endpoint, (side, channels) in expected.items():
        assert endpoint in endpoints(model)
        assert model.get_layer(endpoint).output.shape == (None, side, side, channels)


def test_alexnet_ends():
    assert AlexNet(include_top=False, width=0.02, pooling="avg").output_shape == (None, 82)
    trunk = AlexNet(include_top=False, fully_connected=False)
    assert trunk.output_shape == (None, None, None, 256)
    fixed = AlexNet(include_top=False, fully_connected=False, input_shape=(224, 224, 3))
    assert fixed.output_shape == (None, 6, 6, 256)
    top = AlexNet(width=0.02, classes=4)
    assert top.output_shape == (None, 4)
    assert endpoints(top)[-2:] == ("fc6", "fc7")


@pytest.mark.parametrize("name", SMALL)
def test_common_options(name):
    size, options = SMALL[name]
    shape = (size, size, 3)
    constructor = applications.BACKBONES[name]
    top = constructor(input_shape=shape, classes=5, name="mine", **options)
    assert top.name == "mine" and top.output_shape == (None, 5)
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    np.testing.assert_allclose(np.sum(top(images), axis=1), 1.0, rtol=1e-5)
    pooled = constructor(include_top=False, pooling="max", input_shape=shape, **options)
    assert len(pooled.output_shape) == 2
    tensor = keras.Input(shape, batch_size=2)
    built_on = constructor(include_top=False, input_tensor=tensor, **options)
    assert built_on.input is tensor
    own_names = [layer.name for layer in pooled.layers if "input" not in layer.name]
    assert len(own_names) == len(set(own_names))
    again = constructor(include_top=False, pooling="max", input_shape=shape, **options)
    assert [layer.name for layer in again.layers] == [layer.name for layer in pooled.layers]
    norms = [v for v in pooled.layers if isinstance(v, keras.layers.BatchNormalization)]
    assert all(type(v) is BatchNormalization and v.epsilon == 1e-5 for v in norms)
    assert all(v.momentum == 0.9 for v in norms)


@pytest.mark.parametrize("name", SMALL)
def test_keras_file_returns_the_same(name, tmp_path):
    size, options = SMALL[name]
    model = build(name, size, **options)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    np.testing.assert_array_equal(model(images), again(images))


def test_initialisation_is_that_of_pytorch():
    kernel = np.asarray(NetworkInNetwork(include_top=False).get_layer("block2_conv1").kernel)
    bound = 1 / np.sqrt(96 * 25)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    kernel = np.asarray(ResNet18(include_top=False).get_layer("block2_unit2_conv2").kernel)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=0.02)


def test_average_pooling_counts_its_border():
    model = NetworkInNetwork(include_top=False, width=0.05, input_shape=(8, 8, 3))
    probe = keras.Model(
        model.input, [model.get_layer(n).output for n in ("block2_conv3_relu", "block2")]
    )
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    before, after = (np.asarray(x) for x in probe(images))
    padded = np.pad(before, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for row in range(2):
        for column in range(2):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            np.testing.assert_allclose(
                after[:, row, column], window.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("alexnet", 16), "size 16 is too small for backbone alexnet: at least 63"),
        (lambda: build("resnet18", 31), "too small for backbone resnet18: at least 32"),
        (lambda: build("six_layer", 3), "at least 4"),
        (lambda: build("alexnett", 64), r"unknown backbone 'alexnett' \(did you mean 'alexnet'"),
        (lambda: build("six_layer", 32, width=2), "unknown argument of backbone six_layer 'width'"),
        (lambda: build("six_layer", 0), "image_size must be a positive whole number"),
        (lambda: build("six_layer", 32, pooling="mean"), "unknown pooling 'mean'; options: None"),
        (lambda: SixLayer(classes=0), "classes must be a positive whole number"),
        (lambda: SixLayer(filters=(1, 2)), "filters must be six"),
        (lambda: NetworkInNetwork(blocks=6), "blocks must be 3, 4 or 5"),
        (lambda: NetworkInNetwork(width=0), "width must be a number above 0"),
        (lambda: AlexNet(fully_connected=False), "needs fully_connected=True"),
        (lambda: AlexNet(input_shape=(None, None, 3)), "needs a known image size"),
        (lambda: SixLayer(input_shape=(32, 32)), r"must be \(height, width, channels\)"),
        (lambda: SixLayer(input_tensor=np.zeros((1, 32, 32, 3))), "must be a Keras tensor"),
        (lambda: SixLayer(weights="rotnet"), "unknown weights 'rotnet'.*path of a .weights.h5"),
        (lambda: SixLayer(weights="runs/nowhere"), "no such weights file: 'runs/nowhere'"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_smallest_sizes_work():
    assert build("alexnet", 63, width=0.02, fully_connected=False).output_shape[1:3] == (1, 1)
    assert build("six_layer", 4).output_shape[1:3] == (1, 1)
    assert build("network_in_network", 4, width=0.05).output_shape[1:3] == (1, 1)
    assert build("resnet18", 32, width=0.05).output_shape[1:3] == (1, 1)
    assert build("resnet18", 8, width=0.05, cifar_stem=True).output_shape[1:3] == (1, 1)


@pytest.mark.parametrize("name", SMALL)
def test_sobel_filters_come_first_and_are_not_trained(name, tmp_path):
    size, options = SMALL[name]
    model = build(name, size, sobel=True, **options)
    layer = model.get_layer("sobel")
    assert endpoints(model) == endpoints(build(name, size, **options))
    assert not any(weight is layer.kernel for weight in model.trainable_variables)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    filtered = np.asarray(keras.Model(model.input, layer.output)(images))
    grey = images.mean(axis=-1)
    # SciPy's filter smooths along one axis and takes right minus left, bottom minus top.
    for channel, axis in ((0, 2), (1, 1)):
        expected = np.stack([-ndimage.sobel(one, axis - 1, mode="constant") for one in grey])
        np.testing.assert_allclose(filtered[..., channel], expected, atol=1e-5)
    # What Keras alone reads has them too, and so does a weights file.
    applications.portable(model).save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert not again.get_layer("sobel").trainable
    np.testing.assert_allclose(again(images), model(images), rtol=1e-4, atol=1e-5)
    arguments = {**options, "sobel": True}
    record = {"format": 1, "backbone": name, "arguments": arguments, "image_size": size}
    path = applications.save_backbone(model, tmp_path / "a.weights.h5", record)
    loaded, _ = applications.load_backbone(path)
    np.testing.assert_array_equal(loaded(images), model(images))
    with pytest.raises(UserError, match="sobel=True.*, not "):
        build(name, size, weights=str(path), **options)


def test_network_in_network_begins_with_either_published_initialisation():
    for initialization, deviation in (
        ("fan_in_uniform", np.sqrt(1 / (3 * 25 * 96))),
        ("fan_out_normal", np.sqrt(2 / (25 * 192))),
    ):
        network = NetworkInNetwork(include_top=False, initialization=initialization)
        kernel = np.asarray(network.get_layer("block2_conv1").kernel)
        assert kernel.shape == (5, 5, 96, 192)
        assert kernel.std() == pytest.approx(deviation, rel=0.01)
        assert abs(kernel.mean()) < deviation / 100
    with pytest.raises(UserError, match="unknown initialization 'he'"):
        NetworkInNetwork(initialization="he")
