import json
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from export_helpers import RECORD, numpy_embedding
from PIL import Image

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.export import OPSETS, deployable, verification_images, verify_onnx, write_onnx
from rfd_tf.export.onnx import check_graph
from rfd_tf.export.verify import reference_features

# Runs the code of a card where TensorFlow cannot be imported.
WITHOUT_TENSORFLOW = """
import json, sys
for name in ("tensorflow", "keras", "rfd_tf", "tf2onnx"):
    sys.modules[name] = None
exec(json.load(sys.stdin))
print(json.dumps(embedding.tolist()))
"""


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def model(backbone):
    return deployable(backbone, RECORD, endpoints=["block2"])


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_gives_the_features_of_keras(opset, model, backbone, pixels, tmp_path):
    path = tmp_path / "model.onnx"
    write_onnx(model, path, opset=opset)
    proto = onnx.load(path)
    assert [(v.domain, v.version) for v in proto.opset_import][0] == ("", opset)
    expected = numpy_embedding(backbone, RECORD, pixels)
    for size in (1, 5):
        (embedding,) = session(path).run(["embedding"], {"pixels": pixels[:size]})
        np.testing.assert_allclose(embedding, expected[:size], atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_input_kinds(dtype, layout, model, backbone, pixels, tmp_path):
    path = tmp_path / "model.onnx"
    write_onnx(model, path, input_dtype=dtype, layout=layout)
    run = session(path)
    (value,) = run.get_inputs()
    shape = ["batch", 32, 32, 3] if layout == "nhwc" else ["batch", 3, 32, 32]
    kind = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}[dtype]
    assert (value.name, value.type, value.shape) == ("pixels", kind, shape)
    outputs = {v.name: (v.type, v.shape) for v in run.get_outputs()}
    assert outputs == {
        "embedding": ("tensor(float)", ["batch", 64]),
        "block2": ("tensor(float)", ["batch", 16, 16, 12]),
    }
    images = pixels.astype(dtype)
    images = images if layout == "nhwc" else images.transpose(0, 3, 1, 2)
    (embedding,) = run.run(["embedding"], {"pixels": images})
    np.testing.assert_allclose(embedding, numpy_embedding(backbone, RECORD, pixels), atol=1e-5)


def test_metadata_says_what_the_file_is(exported):
    folder, card = exported
    found = session(folder / "model.onnx").get_modelmeta().custom_metadata_map
    assert found["method"] == "rfd" and found["dataset"] == "digits"
    assert found["weights_sha256"] == card["weights_sha256"]
    assert found["rfd_tf_version"] == card["versions"]["rfd_tf"]
    preprocessing = json.loads(found["preprocessing"])
    assert preprocessing["mean"] == RECORD["mean"] and preprocessing["image_size"] == 32
    assert set(json.loads(found["outputs"])) == {"embedding", "block2"}


def test_the_graph_is_lean(exported):
    proto = onnx.load(exported[0] / "model.onnx")
    operations = [node.op_type for node in proto.graph.node]
    assert operations.count("Conv") == 6
    # Batch normalisation belongs to the convolutions, not to a chain of its own.
    assert len(operations) < 30
    assert sum(np.prod(v.dims) for v in proto.graph.initializer) < 30_000


def test_constants_that_keras_captures_do_not_become_inputs(tmp_path):
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Normalization(mean=[120.0, 110, 100], variance=[3e3, 2e3, 1e3])(pixels)
    model = keras.Model(pixels, {"embedding": keras.ops.mean(x, (1, 2))})
    write_onnx(model, tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    expected = {"embedding": np.asarray(model(images.astype("float32"))["embedding"])}
    report = verify_onnx(tmp_path / "model.onnx", images, expected)
    assert report["onnxruntime"]["embedding"]["relative_difference"] < 1e-5


def test_a_graph_in_training_mode_is_found_out(backbone):
    import tf2onnx

    spec = tf.TensorSpec([None, 32, 32, 3], tf.float32, name="pixels")
    norm = keras.layers.BatchNormalization()
    norm.build((None, 32, 32, 3))

    def converted(training):
        @tf.function(input_signature=[spec])
        def function(pixels):
            x = norm(pixels, training=training)
            return {"embedding": tf.reduce_mean(x, [1, 2])}

        proto, _ = tf2onnx.convert.from_function(function, [spec], opset=18)
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        return proto

    check_graph(converted(False), ["embedding"])
    with pytest.raises(RuntimeError, match="training mode"):
        check_graph(converted(True), ["embedding"])
    with pytest.raises(RuntimeError, match="gives"):
        check_graph(converted(False), ["embedding", "block2"])
    extra = converted(False)
    extra.graph.input.add(name="constant")
    with pytest.raises(RuntimeError, match="takes"):
        check_graph(extra, ["embedding"])


def test_an_operation_that_onnx_lacks_is_a_clear_refusal(tmp_path):
    pixels = keras.Input((4, 4, 3))
    x = keras.layers.Activation("gelu")(keras.ops.mean(pixels, (1, 2)))
    model = keras.Model(
        pixels, {"embedding": keras.ops.lgamma(x) if False else keras.ops.erfinv(x)}
    )
    with pytest.raises(UserError, match="ONNX does not have.*saved_model or keras"):
        write_onnx(model, tmp_path / "model.onnx")


def test_unknown_options_are_reported_with_the_valid_ones(model, tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(UserError, match="opset '21'; options: 13, .*18"):
        write_onnx(model, path, opset=21)
    with pytest.raises(UserError, match="dtype 'int8'.*options: uint8, float32"):
        write_onnx(model, path, input_dtype="int8")
    with pytest.raises(UserError, match="layout 'chw'.*options: nhwc, nchw"):
        write_onnx(model, path, layout="chw")
    assert not path.exists()


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UserError, match="needs the package 'tf2onnx'.*pip install"):
        write_onnx(model, tmp_path / "model.onnx")


def test_it_runs_where_tensorflow_is_not_installed(exported, tmp_path, backbone):
    from rfd_tf.export.snippets import snippets

    folder, card = exported
    photo = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    (code,) = [code for title, code in snippets(card) if title.startswith("ONNX")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW],
        input=json.dumps(code), capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    pixels = np.asarray(Image.open(tmp_path / "photo.jpg"))[None]
    embedding = np.array(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(embedding, numpy_embedding(backbone, RECORD, pixels), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "arguments"),
    [
        ("six_layer", 32, {}),
        ("network_in_network", 32, {"width": 0.2}),
        ("alexnet", 224, {"width": 0.05}),
        ("resnet18", 224, {"width": 0.1}),
        ("mobilenet_v2", 224, {"alpha": 0.35}),
    ],
)
def test_backbones_small_and_large_take_batches_of_any_size(name, size, arguments, tmp_path):
    network = applications.build(name, size, **arguments)
    rng = np.random.default_rng(1)
    for weight in network.weights:
        if weight.path.endswith(("gamma", "variance")):
            weight.assign(rng.uniform(0.8, 1.2, weight.shape))
        elif weight.path.endswith(("beta", "mean")):
            weight.assign(rng.normal(0, 0.2, weight.shape))
    place = applications.endpoints(network)[-1]
    record = {**RECORD, "feature": {"endpoint": place, "pooling": "avg"}}
    path = tmp_path / "model.onnx"
    write_onnx(deployable(network, record), path, layout="nchw")
    run = session(path)
    images = np.resize(verification_images(size, 7), (64, size, size, 3))
    expected = reference_features(network, record, images[:7])["embedding"]
    scale = np.abs(expected).max()
    for batch in (1, 7, 64):
        pixels = np.ascontiguousarray(images[:batch].transpose(0, 3, 1, 2))
        (embedding,) = run.run(["embedding"], {"pixels": pixels})
        wanted = np.resize(expected, (batch, expected.shape[1]))
        np.testing.assert_allclose(embedding, wanted, atol=1e-4 * scale)
