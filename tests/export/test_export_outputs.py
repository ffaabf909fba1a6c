"""Exports that give features beside one another, and what the trained heads say."""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from export_helpers import RECORD, numpy_embedding

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation.heads import save_heads
from rfd_tf.export import deployable, export_backbone

EVERYTHING = ("f", "f1", "f2", "rotation_logits", "projection")


@pytest.fixture(scope="module")
def heads():
    rng = np.random.default_rng(4)
    shapes = {"rotation_head": (24, 4), "projection": (40, 6)}
    return {
        name: (rng.normal(size=shape).astype("float32"), np.arange(shape[1], dtype="float32"))
        for name, shape in shapes.items()
    }


@pytest.fixture
def run_with_heads(backbone, heads, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    applications.save_backbone(backbone, folder / "backbone.weights.h5", RECORD)
    layers = {}
    for name, (kernel, bias) in heads.items():
        layers[name] = keras.layers.Dense(len(bias))
        layers[name].build((None, len(kernel)))
        layers[name].set_weights([kernel, bias])
    save_heads(folder, layers, RECORD["epoch"])
    return folder


def expected(backbone, heads, pixels):
    f = numpy_embedding(backbone, RECORD, pixels)
    return {
        "f": f,
        "f1": f[:, :24],
        "f2": f[:, 24:],
        "rotation_logits": f[:, :24] @ heads["rotation_head"][0] + heads["rotation_head"][1],
        "projection": f[:, 24:] @ heads["projection"][0] + heads["projection"][1],
    }


def check(found, backbone, heads, pixels):
    for name, values in expected(backbone, heads, pixels).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_files_give_features_and_what_the_heads_say(
    run_with_heads, backbone, heads, pixels, tmp_path
):
    out = tmp_path / "out"
    card = export_backbone(
        run_with_heads, out, ("onnx", "saved_model", "keras"), outputs=[*EVERYTHING, "f1"]
    )
    assert list(card["outputs"]) == ["embedding", *EVERYTHING]
    assert card["outputs"]["rotation_logits"]["shape"] == ["batch", 4]
    assert "counter-clockwise" in card["outputs"]["rotation_logits"]["meaning"]
    assert card["outputs"]["f2"]["meaning"].startswith("rotation-unrelated half")
    session = onnxruntime.InferenceSession(
        str(out / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    values = session.run(list(EVERYTHING), {"pixels": pixels})
    check(dict(zip(EVERYTHING, values, strict=True)), backbone, heads, pixels)
    serve = tf.saved_model.load(str(out / "saved_model" / "1")).signatures["serving_default"]
    check(serve(pixels=tf.constant(pixels)), backbone, heads, pixels)


def test_heads_are_on_the_whole_of_a_feature_that_is_not_split(backbone, pixels):
    record = {**RECORD, "feature": {"endpoint": "block6", "pooling": "avg"}}
    head = {"rotation_head": (np.eye(64, 4, dtype="float32"), np.zeros(4, "float32"))}
    model = deployable(backbone, record, outputs=["rotation_logits"], heads=head)
    found = np.asarray(model(pixels.astype("float32"))["rotation_logits"])
    np.testing.assert_allclose(found, numpy_embedding(backbone, record, pixels)[:, :4], atol=1e-5)


def test_a_projection_with_a_hidden_layer_goes_through_it(backbone, pixels):
    rng = np.random.default_rng(6)
    # As many hidden numbers as f2 has: leaving the layer out would fit as well.
    shapes = {"projection_hidden": (40, 40), "projection": (40, 6)}
    heads = {
        name: (rng.normal(size=shape).astype("float32"), np.ones(shape[1], "float32"))
        for name, shape in shapes.items()
    }
    model = deployable(backbone, RECORD, outputs=["projection"], heads=heads)
    found = np.asarray(model(pixels.astype("float32"))["projection"])
    f2 = numpy_embedding(backbone, RECORD, pixels)[:, 24:]
    hidden = np.maximum(f2 @ heads["projection_hidden"][0] + 1, 0)
    np.testing.assert_allclose(found, hidden @ heads["projection"][0] + 1, rtol=1e-4, atol=1e-4)


def test_unavailable_outputs_are_reported(backbone, heads, run_folder, run_with_heads, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="unknown output 'f3'.*options: f, f1, f2, rotation_logits"):
        export_backbone(run_folder, out, "onnx", outputs=["f3"])
    with pytest.raises(UserError, match=r"needs the head 'rotation_head'.*\(none\); .*heads.npz"):
        export_backbone(run_folder, out, "onnx", outputs=["rotation_logits"])
    # Other weights in the folder were not trained with its heads.
    other = run_with_heads / "other.weights.h5"
    other.write_bytes((run_with_heads / "backbone.weights.h5").read_bytes())
    with pytest.raises(UserError, match="needs the head"):
        export_backbone(other, out, "onnx", outputs=["projection"])
    assert not out.exists()
    whole = {**RECORD, "feature": {"endpoint": "block6", "pooling": "avg"}}
    with pytest.raises(UserError, match="'f1' does not exist"):
        deployable(backbone, whole, outputs=["f1"])
    with pytest.raises(UserError, match="'rotation_head' takes 24 numbers, the feature has 64"):
        deployable(backbone, whole, outputs=["rotation_logits"], heads=heads)
