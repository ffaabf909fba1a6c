"""LiteRT files: they give Keras' features for any batch, by LiteRT's own operations alone."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_helpers import RECORD, numpy_embedding
from PIL import Image
from tensorflow.lite.tools import flatbuffer_utils

from rfd_tf import applications
from rfd_tf.data import digits
from rfd_tf.errors import UserError
from rfd_tf.export import LiteRTModel, export_backbone, litert, snippets, write_litert
from rfd_tf.extras import EXTRAS

KINDS = ("float32", "int8", "float16")


@pytest.fixture(scope="module")
def exported(run_folder, tmp_path_factory):
    """An export in LiteRT's three precisions, calibrated on digits, whose labels give kNN."""
    folder = tmp_path_factory.mktemp("litert") / "small"
    card = export_backbone(
        run_folder, folder, ["litert"], endpoints=["block2"], outputs=["f1", "f2"],
        quantize=["int8", "float16"], calibration=digits(), calibration_images=32,
    )  # fmt: skip
    return folder, card


def path_of(folder, kind):
    return folder / ("model.tflite" if kind == "float32" else f"model.{kind}.tflite")


@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_the_file_gives_keras_features_for_any_batch(exported, backbone, size):
    model = LiteRTModel(exported[0] / "model.tflite")
    pixels = np.random.default_rng(size).integers(0, 256, (size, 32, 32, 3), np.uint8)
    given = model(pixels)
    expected = numpy_embedding(backbone, RECORD, pixels)
    assert sorted(given) == model.outputs == ["block2", "embedding", "f1", "f2"]
    np.testing.assert_allclose(given["embedding"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given["f2"], expected[:, 24:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given["f1"], expected[:, :24], rtol=1e-4, atol=1e-5)
    assert given["block2"].shape == (size, 16, 16, 12)
    assert list(model(pixels, ["f1"])) == ["f1"]


def test_the_card_reports_the_comparison_with_keras_and_what_smaller_files_lose(exported):
    folder, card = exported
    (run,) = card["verification"]["litert"].values()
    assert set(run) == {"embedding", "block2", "f1", "f2"}
    assert max(figures["relative_difference"] for figures in run.values()) < 1e-4
    assert card["inputs"]["litert"]["pixels"]["shape"] == ["batch", 32, 32, 3]
    for kind, least in (("int8", 0.99), ("float16", 0.99999)):
        found = card["quantization"][f"litert_{kind}"]
        assert found["outputs"]["embedding"]["lowest_cosine"] > least
        assert found["knn"]["lost"] == found["knn"]["float32"] - found["knn"][f"litert_{kind}"]
        assert abs(found["knn"]["lost"]) < 0.1 and found["images"] == 296
        assert f"| `model.{kind}.tflite` | `embedding` |" in (folder / "README.md").read_text()
    assert card["quantization"]["litert_int8"]["calibration"] == {
        "images": 32,
        "of": "digits/train",
    }
    sizes = [path_of(folder, kind).stat().st_size for kind in KINDS]
    assert sizes[1] < 0.7 * sizes[0] and sizes[2] < 0.8 * sizes[0]
    assert set(card["files"]) >= {path_of(folder, kind).name for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_needs_operations_of_tensorflow(exported, kind):
    tree = flatbuffer_utils.read_model(str(path_of(exported[0], kind)))
    assert tree.operatorCodes and not any(code.customCode for code in tree.operatorCodes)


def test_int8_computes_in_eight_bits(exported):
    tree = flatbuffer_utils.read_model(str(path_of(exported[0], "int8")))
    types = {t.name.decode(): t.type for g in tree.subgraphs for t in g.tensors}
    from tensorflow.lite.python.schema_py_generated import TensorType

    convolved = [t for name, t in types.items() if "conv" in name.lower()]
    assert convolved and TensorType.INT8 in convolved
    assert TensorType.UINT8 in types.values()  # pixels go in as they are


@pytest.mark.parametrize("kind", KINDS)
def test_files_say_what_they_are(exported, kind):
    folder, card = exported
    found = LiteRTModel(path_of(folder, kind)).metadata
    assert found["weights_sha256"] == card["weights_sha256"]
    assert found["preprocessing"]["mean"] == RECORD["mean"]
    assert found.get("precision") == (None if kind == "float32" else kind)


def test_heads_are_outputs_by_option(tmp_path):
    folder = tmp_path / "shipped"
    card = export_backbone(
        "six_layer.rfd_cifar10", folder, ["litert"], feature="f2", outputs=["f1"]
    )
    given = LiteRTModel(folder / "model.tflite")(np.zeros((1, 32, 32, 3), np.uint8))
    assert {name: values.shape for name, values in given.items()} == {
        "embedding": (1, 64), "f1": (1, 64),
    }  # fmt: skip
    assert card["formats"] == ["litert"]


def test_the_snippet_of_the_card_runs(exported, tmp_path):
    pytest.importorskip("ai_edge_litert")
    folder, card = exported
    Image.new("RGB", (60, 40), (200, 30, 90)).save(folder / "photo.jpg")
    (code,) = [code for title, code in snippets.snippets(card) if title.startswith("LiteRT")]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(1, 64)"


def test_what_is_no_litert_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no such LiteRT file: 'nowhere.tflite'"):
        LiteRTModel("nowhere.tflite")
    (tmp_path / "x.tflite").write_bytes(b"no model" * 9)
    with pytest.raises(UserError, match="x.tflite' cannot be run as LiteRT"):
        LiteRTModel(tmp_path / "x.tflite")


def test_operations_that_litert_lacks_are_refused_by_name(tmp_path):
    pixels = keras.Input((8, 8, 3), name="pixels")
    bessel = keras.layers.Lambda(tf.math.bessel_i0, output_shape=(8, 8, 3))(pixels)
    model = keras.Model(pixels, {"embedding": keras.layers.GlobalAveragePooling2D()(bessel)})
    with pytest.raises(UserError, match="LiteRT does not have all .*BesselI0"):
        write_litert(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_int8_needs_images(run_folder, tmp_path):
    with pytest.raises(UserError, match="int8 needs images"):
        export_backbone(run_folder, tmp_path / "out", ["litert"], quantize=["int8"])
    with pytest.raises(UserError, match="int8 needs images"):
        write_litert(applications.build("six_layer", 16), tmp_path / "x", precision="int8")


def test_without_its_package_tensorflow_runs_the_files(exported, monkeypatch, pixels):
    assert EXTRAS["ai_edge_litert"] == "litert"
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert litert.description() == f"tensorflow.lite {tf.__version__}"
    model = LiteRTModel(exported[0] / "model.tflite")
    assert model(pixels)["embedding"].shape == (len(pixels), 64)


def test_the_card_is_json_and_names_the_formats(exported):
    folder, card = exported
    assert json.loads((folder / "card.json").read_text())["formats"] == card["formats"]
