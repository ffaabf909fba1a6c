"""Caffe's AlexNets, built here byte by byte, against the same arithmetic in NumPy and Keras."""

import caffe_files
import keras
import numpy as np
import pytest
from caffe_files import layer, old_layer, sized
from script_driver import check_mistakes, run_many

from rfd_tf import applications
from rfd_tf.applications import caffe_import
from rfd_tf.applications.caffemodel import read_caffemodel
from rfd_tf.errors import UserError

# A 32nd of RotNet's channels, two groups in conv2, conv4 and conv5.
CHANNELS = (2, 6, 12, 8, 8)
KERNELS = (11, 5, 3, 3, 3)
GROUPS = (1, 2, 1, 2, 2)
HIDDEN = 128
MEAN = np.array(caffe_import.PIXEL_MEAN)


@pytest.fixture(scope="module")
def weights():
    """The weights of a narrow AlexNet with groups in Caffe's order, by layer: kernel, bias."""
    rng = np.random.default_rng(0)
    found, inputs = {}, 3
    for place, (outputs, size, groups) in enumerate(zip(CHANNELS, KERNELS, GROUPS, strict=True)):
        shape = (outputs, inputs // groups, size, size)
        fan_in = np.prod(shape[1:])
        found[f"conv{place + 1}"] = (
            rng.normal(0, np.sqrt(2 / fan_in), shape).astype("float32"),
            rng.normal(0, 0.1, outputs).astype("float32"),
        )
        inputs = outputs
    inputs = 36 * CHANNELS[-1]
    for name in ("fc6", "fc7"):
        found[name] = (
            rng.normal(0, np.sqrt(2 / inputs), (HIDDEN, inputs)).astype("float32"),
            rng.normal(0, 0.1, HIDDEN).astype("float32"),
        )
        inputs = HIDDEN
    return found


def plain(weights, make=layer, kinds=("Convolution", "InnerProduct", "ReLU")):
    """A network without normalisation, as CaffeNet without LRN."""
    content, bottom = b"", "data"
    for name, blobs in weights.items():
        kind = kinds[0] if name.startswith("conv") else kinds[1]
        stride = {"stride": 4} if name == "conv1" else {}
        content += make(name, kind, bottom, name, blobs, **stride)
        content += make(f"relu_{name}", kinds[2], name, name)
        bottom = name
    return content


def reference(weights, pixels, normalise=None):
    """`conv5` and `fc7` of RGB pixels, groups and channels last to first as Caffe has them."""
    x = ((pixels - MEAN)[..., ::-1]).astype("float32")  # BGR
    for place, groups in enumerate(GROUPS):
        name = f"conv{place + 1}"
        kernel, bias = weights[name]
        stride, padding = (4, "VALID") if place == 0 else (1, "SAME")
        if place == 0:
            x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        parts = [
            keras.ops.conv(part, np.transpose(own, (2, 3, 1, 0)), stride, padding)
            for part, own in zip(
                np.split(np.asarray(x), groups, axis=-1), np.split(kernel, groups), strict=True
            )
        ]
        x = np.concatenate([np.asarray(part) for part in parts], axis=-1) + bias
        x = x if normalise is None else normalise(name, x)
        x = np.maximum(x, 0)
        if place == 4:
            conv5 = x
        if place in (0, 1, 4):
            x = np.asarray(keras.ops.max_pool(x, 3, 2, "valid"))
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    for name in ("fc6", "fc7"):
        kernel, bias = weights[name]
        x = x @ kernel.T + bias
        x = np.maximum(x if normalise is None else normalise(name, x), 0)
    return conv5, x


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3)).astype("float32")


def outputs_of(path, pixels):
    model, record = applications.load_backbone(path)
    x = applications.preprocess_input(pixels, mean=record["mean"], std=record["std"])
    found = applications.feature_extractor(model, ["conv5", "fc7"])(x, training=False)
    return np.array(found["conv5"]), np.array(found["fc7"]), record


def agree(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("old", [False, True])
def test_a_plain_network_gives_caffe_s_outputs(weights, pixels, tmp_path, old):
    content = plain(weights, old_layer, (4, 14, 18)) if old else plain(weights)
    (tmp_path / "net.caffemodel").write_bytes(sized(1, "AlexNet") + content)
    output = tmp_path / "net.weights.h5"
    record = caffe_import.import_caffe(tmp_path / "net.caffemodel", output, method="bigan")
    assert record["arguments"] == {"bigger": False, "width": 0.03125}
    assert record["method"] == "bigan" and record["feature"]["endpoint"] == "fc7"
    *found, kept = outputs_of(output, pixels)
    agree(found, reference(weights, pixels))
    assert kept == applications.read_record(output) and found[1].max() > 0


def test_batch_normalisation_is_taken_over(weights, pixels, tmp_path):
    rng = np.random.default_rng(5)
    content, bottom, statistics = b"", "data", {}
    for name, blobs in weights.items():
        size = len(blobs[1])
        mean, variance, gamma, beta = rng.normal(0, 0.3, (4, size)).astype("float32")
        variance, gamma = np.abs(variance) + 0.5, gamma + 1
        statistics[name] = mean, variance, gamma, beta
        kind = "Convolution" if name.startswith("conv") else "InnerProduct"
        stride = {"stride": 4} if name == "conv1" else {}
        content += layer(name, kind, bottom, name, blobs, **stride)
        # Caffe keeps running sums, and what to divide them by.
        sums = [mean * 20, variance * 20, np.array([20.0])]
        content += layer(f"{name}_bn", "BatchNorm", name, f"{name}/bn", sums, epsilon=1e-3)
        content += layer(f"{name}_scale", "Scale", f"{name}/bn", f"{name}/bn", [gamma, beta])
        content += layer(f"{name}_relu", "ReLU", f"{name}/bn", name)
        bottom = name
    content += layer("fc8", "InnerProduct", "fc7", "fc8", [np.ones((7, HIDDEN)), np.zeros(7)])
    (tmp_path / "net.caffemodel").write_bytes(content)
    output = tmp_path / "net.weights.h5"
    caffe_import.import_caffe(tmp_path / "net.caffemodel", output, method="rfd")

    def normalise(name, x):
        mean, variance, gamma, beta = statistics[name]
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    *found, record = outputs_of(output, pixels)
    agree(found, reference(weights, pixels, normalise))
    assert record["feature"]["split"] == [64, 64]
    top = applications.AlexNet(weights=str(output), classes=7, **record["arguments"])
    assert top.output_shape == (None, 7)


def test_two_channels_stand_on_fixed_filters(weights, tmp_path):
    grey = np.full((1, 3, 1, 1), 1 / 3)
    edges = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    sobel = np.stack([edges, edges.T])[:, None]
    mine = {**weights, "conv1": (weights["conv1"][0][:, :2], weights["conv1"][1])}
    content = layer("gray", "Convolution", "data", "gray", [grey])
    content += layer("sobel", "Convolution", "gray", "sobel", [sobel])
    content += plain(mine).replace(b"\x1a\x04data", b"\x1a\x04sobe")
    (tmp_path / "net.caffemodel").write_bytes(content)
    record = caffe_import.import_caffe(tmp_path / "net.caffemodel", tmp_path / "a.weights.h5")
    assert record["arguments"]["sobel"] is True and "method" not in record
    model, _ = applications.load_backbone(tmp_path / "a.weights.h5")
    own = applications.AlexNet(include_top=False, **record["arguments"])
    kernels = [np.array(each.get_layer("sobel").kernel) for each in (model, own)]
    np.testing.assert_allclose(*kernels, atol=1e-6)


def test_convolutions_alone_are_an_alexnet_too(weights, tmp_path):
    part = {name: blobs for name, blobs in weights.items() if name.startswith("conv")}
    (tmp_path / "net.caffemodel").write_bytes(plain(part))
    record = caffe_import.import_caffe(
        tmp_path / "net.caffemodel",
        tmp_path / "a.weights.h5",
        color_order="rgb",
        pixel_mean=[127.5] * 3,
        pixel_std=[255.0] * 3,
    )
    assert record["arguments"]["fully_connected"] is False
    assert record["feature"]["endpoint"] == "conv5"
    assert record["mean"] == [0.5] * 3 and record["std"] == [1.0] * 3
    model, _ = applications.load_backbone(tmp_path / "a.weights.h5")
    kernel = np.array(model.get_layer("conv1_conv").kernel)
    np.testing.assert_array_equal(kernel, weights["conv1"][0].transpose(2, 3, 1, 0))


def test_the_script_imports_and_names_mistakes(weights, tmp_path):
    good = plain(weights)
    files = {
        "good": good,
        "cut": good[:-100],
        "text": b"no caffe model at all, but text",
        "lrn": good + layer("norm1", "LRN", "conv1", "norm1"),
        "leaky": good + layer("leak", "ReLU", "fc7", "fc7", slope=0.2),
        "other": good + layer("conv9", "Convolution", "fc7", "x", [np.ones((1, 1, 1, 1))]),
        "stride": layer("conv1", "Convolution", "data", "x", weights["conv1"], stride=2),
        "short": layer("conv1", "Convolution", "data", "x", weights["conv1"], stride=4),
        "nan": plain({**weights, "fc7": (weights["fc7"][0] * np.nan, weights["fc7"][1])}),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    output = f"--output={tmp_path / 'out.weights.h5'}"
    ((code, out, err),) = run_many(
        "import_caffe", [[f"--caffemodel={tmp_path / 'good'}", output, "--method=rotation"]]
    )
    assert code == 0, err
    assert "imported alexnet (bigger=False, width=0.03125)" in out and "endpoint conv4" in out
    more = f"--output={tmp_path / 'more.weights.h5'}"
    lines = {
        "--caffemodel is missing": [more],
        "exists; give another --output": [f"--caffemodel={tmp_path / 'good'}", output],
        "no such Caffe file": ["--caffemodel=none", more],
        "unknown method 'moco'": [f"--caffemodel={tmp_path / 'good'}", more, "--method=moco"],
        "--pixel_mean needs three numbers": [
            f"--caffemodel={tmp_path / 'good'}", more, "--pixel_mean=a,b,c"
        ],
        "three numbers each": [f"--caffemodel={tmp_path / 'good'}", more, "--pixel_std=1"],
        "is no Caffe model, or is damaged": [f"--caffemodel={tmp_path / 'text'}", more],
        "it is cut off": [f"--caffemodel={tmp_path / 'cut'}", more],
        "local response normalisation ('norm1')": [f"--caffemodel={tmp_path / 'lrn'}", more],
        "leaky ReLU": [f"--caffemodel={tmp_path / 'leaky'}", more],
        "layer 'conv9' has no place": [f"--caffemodel={tmp_path / 'other'}", more],
        "'conv1' has stride 2, not 4": [f"--caffemodel={tmp_path / 'stride'}", more],
        "it lacks conv2, conv3": [f"--caffemodel={tmp_path / 'short'}", more],
        "does not hold finite": [f"--caffemodel={tmp_path / 'nan'}", more],
    }  # fmt: skip
    check_mistakes("import_caffe", [], lines)
    assert not (tmp_path / "more.weights.h5").exists()


def test_damaged_files_raise_user_errors_only(weights, tmp_path):
    content = bytearray(plain({"conv1": weights["conv1"]}))
    rng = np.random.default_rng(0)
    for trial in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, 200, rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        (tmp_path / "x").write_bytes(
            damaged[: rng.integers(1, len(damaged)) if trial % 2 else None]
        )
        try:
            found = read_caffemodel(tmp_path / "x")
            caffe_import.alexnet_from(found)
        except UserError:
            pass


def test_old_layers_in_layers_are_read(tmp_path):
    kernel = np.arange(6, dtype="float32").reshape(2, 3, 1, 1)
    inner = sized(1, "conv1") + sized(2, "conv") + caffe_files.number(10, 4)
    inner += sized(50, caffe_files.blob(kernel, old_shape=True))
    (tmp_path / "x").write_bytes(sized(2, sized(1, inner) + sized(2, "data")))
    (found,) = read_caffemodel(tmp_path / "x")
    assert (found.name, found.type, found.stride) == ("conv1", "Convolution", 4)
    np.testing.assert_array_equal(found.blobs[0], kernel)
