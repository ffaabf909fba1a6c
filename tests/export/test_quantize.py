"""Smaller ONNX files: they run, their loss is stated, and calibration is what makes int8 work."""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from export_helpers import RECORD
from PIL import Image

from rfd_tf.data import ArraySource, digits, image_folder
from rfd_tf.errors import UserError
from rfd_tf.export import ExportMismatch, OnnxModel, export_backbone, quantize_int8, write_onnx
from rfd_tf.export.accuracy_lost import divide
from rfd_tf.export.backbone import LEAST_COSINE


@pytest.fixture(scope="module")
def quantized(run_folder, tmp_path_factory):
    """An export with both smaller files, calibrated on digits, whose labels give kNN."""
    folder = tmp_path_factory.mktemp("quantized") / "small"
    card = export_backbone(
        run_folder, folder, ["onnx"], endpoints=["block2"], outputs=["f2"],
        quantize=["int8", "float16"], calibration=digits(), calibration_images=32,
    )  # fmt: skip
    return folder, card


@pytest.mark.parametrize(
    ("kind", "share", "least_cosine"), [("int8", 0.7, 0.99), ("float16", 0.6, 0.99999)]
)
def test_smaller_files_give_nearly_the_features_of_the_whole(
    kind, share, least_cosine, quantized, pixels
):
    folder, card = quantized
    whole, smaller = OnnxModel(folder / "model.onnx"), OnnxModel(folder / f"model.{kind}.onnx")
    assert smaller.path.stat().st_size < share * whole.path.stat().st_size
    assert smaller.outputs == whole.outputs
    assert sorted(whole.outputs) == ["block2", "embedding", "f2"]
    for size in (1, 7, 64):
        images = np.resize(digits("test").images, (size, 32, 32, 3))
        expected, given = whole(images), smaller(images)
        for name in whole.outputs:
            a, b = (values[name].reshape(size, -1) for values in (expected, given))
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert a.shape == b.shape and cosine.min() > least_cosine, name
    assert not np.array_equal(whole(pixels)["embedding"], smaller(pixels)["embedding"])
    found = card["quantization"][kind]
    assert found["outputs"]["embedding"]["lowest_cosine"] > least_cosine
    assert found["images"] == 296 and found["measured_on"] == "digits/train"
    assert smaller.metadata["precision"] == kind
    assert smaller.metadata["weights_sha256"] == card["weights_sha256"]
    assert f"model.{kind}.onnx" in card["files"]


def test_the_model_card_reports_the_accuracy_lost(quantized):
    folder, card = quantized
    assert json.loads((folder / "card.json").read_text()) == card
    knn = card["quantization"]["int8"]["knn"]
    assert knn["lost"] == knn["float32"] - knn["int8"] and knn["float32"] > 0.3
    assert card["quantization"]["int8"]["calibration"] == {"images": 32, "of": "digits/train"}
    text = (folder / "README.md").read_text()
    row = f"{100 * knn['float32']:.1f} -> {100 * knn['int8']:.1f}"
    assert "## Quantised files" in text and row in text
    assert "calibrated with 32 others" in text


def test_int8_means_integers_with_a_scale_for_each_channel(quantized):
    proto = onnx.load(quantized[0] / "model.int8.onnx")
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    kernels = [
        constants[node.input[0]].data_type
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in constants
        and len(constants[node.input[0]].dims) == 4
        and len(constants[node.input[1]].dims) == 1  # scales, one for each output channel
    ]
    assert kernels == [onnx.TensorProto.INT8] * 6
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    assert opsets[""] == 17


def int8_weights(path):
    """The weights of the products in an int8 file: name of the operation -> int8 array."""
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    origin = {node.output[0]: node for node in graph.node}
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            stored = origin.get(node.input[1])
            assert stored is not None and stored.op_type == "DequantizeLinear", node.name
            found[node.name] = constants[stored.input[0]]
    return found


def pairs_in_16_bits(activations, weights):
    """Sums of products by row; pairs are added in 16 bits and saturate, as on x86 without VNNI."""
    products = activations.astype(np.int64) * weights.astype(np.int64)
    pairs = products[:, 0::2] + products[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(1)


SHIPPED = sorted((Path(__file__).parents[2] / "exported").glob("*/model.int8.onnx"))


@pytest.mark.parametrize("file", ["export", "dense", *SHIPPED], ids=lambda file: str(file)[-60:])
def test_int8_products_are_exact_without_vnni(file, quantized, tmp_path):
    if file == "export":
        file = quantized[0] / "model.int8.onnx"
    elif file == "dense":
        file = dense_model_in_int8(tmp_path)
    weights = int8_weights(file)
    assert weights
    rng = np.random.default_rng(0)
    for name, values in weights.items():
        assert values.dtype == np.int8, name
        # No order of the weights, and no activations, reach 16 bits.
        assert 2 * 255 * int(np.abs(values.astype(np.int64)).max()) < 2**15, name
        flat = values.reshape(-1)[: values.size // 2 * 2]
        activations = rng.choice([0, 254, 255], (8, flat.size))
        exact = activations @ flat.astype(np.int64)
        np.testing.assert_array_equal(pairs_in_16_bits(activations, flat[None]), exact)


def dense_model_in_int8(folder):
    """A file with a matrix product, which the backbones of the other files do not have."""
    inputs = keras.Input((8, 8, 3))
    values = keras.layers.Dense(6, activation="relu")(keras.layers.Flatten()(inputs / 255))
    write_onnx(keras.Model(inputs, {"embedding": values}), folder / "dense.onnx")
    images = np.random.default_rng(3).integers(0, 256, (8, 8, 8, 3), np.uint8)
    quantize_int8(folder / "dense.onnx", folder / "int8.onnx", images)
    return folder / "int8.onnx"


def test_the_check_of_exact_products_finds_weights_of_8_bits():
    activations, weights = np.full((1, 2), 255), np.array([[127, 127]])
    assert pairs_in_16_bits(activations, weights) == 2**15 - 1 < (activations * weights).sum()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.parent.name)
def test_shipped_int8_files_give_the_scores_on_their_cards(file):
    card = json.loads((file.parent / "card.json").read_text())
    assert card["files"][file.name] == {
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    images = digits("test").images
    images = np.stack([np.array(Image.fromarray(image).resize((32, 32))) for image in images[:64]])
    a, b = (
        OnnxModel(file.parent / name)(images)["embedding"] for name in ("model.onnx", file.name)
    )
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    stated = card["quantization"]["int8"]["outputs"]["embedding"]
    assert stated["cosine"] > 0.999 and stated["lowest_cosine"] > 0.998
    # (Digits are images of another kind than those that calibrated.)
    assert cosine.mean() > 0.99


def test_the_images_that_calibrate_matter(quantized, tmp_path):
    # Of the mean colour all over: after the normalisation there is little to set a scale by.
    grey = np.full((16, 32, 32, 3), np.round(255 * np.array(RECORD["mean"])), np.uint8)
    quantize_int8(quantized[0] / "model.onnx", tmp_path / "grey.onnx", grey)
    images = digits("test").images[:40]
    expected, good, bad = (
        OnnxModel(path)(images)["embedding"]
        for path in (
            quantized[0] / "model.onnx", quantized[0] / "model.int8.onnx", tmp_path / "grey.onnx"
        )
    )  # fmt: skip
    assert 3 * np.abs(good - expected).mean() < np.abs(bad - expected).mean()


def test_a_file_that_loses_too_much_is_refused(run_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(LEAST_COSINE, "int8", 0.9999999)
    with pytest.raises(ExportMismatch, match="int8 gives other embeddings.*more images"):
        export_backbone(
            run_folder, tmp_path / "out", ["onnx"], quantize="int8", calibration=digits("test")
        )
    assert not list(tmp_path.iterdir())


def test_images_of_any_size_without_labels_do(run_folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(digits().images[:12]):
        Image.fromarray(image).resize((50, 40)).save(images / f"{number}.jpg")
    with pytest.warns(UserWarning, match="int8 is calibrated with 10 images only"):
        card = export_backbone(
            run_folder, tmp_path / "out", ["onnx"], quantize="int8", onnx_layout="nchw",
            onnx_input="float32", opset=13, calibration=image_folder(images),
        )  # fmt: skip
    found = card["quantization"]["int8"]
    assert "knn" not in found and found["images"] == 2 and found["calibration"]["images"] == 10
    model = onnx.load(tmp_path / "out" / "model.int8.onnx")
    assert [v.dim_value for v in model.graph.input[0].type.tensor_type.shape.dim][1:] == [3, 32, 32]


def test_float16_needs_no_images(run_folder, tmp_path):
    card = export_backbone(run_folder, tmp_path / "out", ["onnx"], quantize="float16")
    found = card["quantization"]["float16"]
    assert found["measured_on"] == "made-up images" and found["images"] == 10
    assert (tmp_path / "out" / "model.float16.onnx").exists()


def test_calibrating_and_evaluating_are_done_on_different_images():
    parts = divide(digits(), 2000)
    assert not set(parts.evaluated) & (set(parts.calibration) | set(parts.train))
    with pytest.raises(UserError, match="1 image or more, not 0"):
        divide(digits(), 0)


def test_a_card_says_that_calibrated_images_were_evaluated(run_folder, tmp_path):
    one = ArraySource(digits().images[:1], name="one")
    card = export_backbone(run_folder, tmp_path / "out", "onnx", quantize=["int8"], calibration=one)
    assert card["quantization"]["int8"]["calibration"]["evaluated"] == 1
    text = (tmp_path / "out" / "README.md").read_text()
    assert "among them these: there were too few" in text
    assert "not used for the calibration" not in text


def test_images_of_the_wrong_size_are_an_error(quantized, tmp_path):
    with pytest.raises(UserError, match=r"needs images \[N, 32, 32, 3\] and got \[2, 16, 16, 3\]"):
        quantize_int8(
            quantized[0] / "model.onnx", tmp_path / "x.onnx", np.zeros((2, 16, 16, 3), np.uint8)
        )
