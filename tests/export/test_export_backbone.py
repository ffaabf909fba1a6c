import json

import h5py
import keras
import numpy as np
import onnxruntime
import pytest
from export_helpers import RECORD, numpy_embedding

from rfd_tf import applications
from rfd_tf.applications.weights import sha256
from rfd_tf.errors import UserError
from rfd_tf.export import ExportMismatch, export_backbone


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_folder_becomes_files_that_agree_with_keras(exported, run_folder):
    folder, card = exported
    assert names(folder) == [
        "README.md", "backbone.keras", "backbone.weights.h5", "card.json", "model.onnx",
        "saved_model",
    ]  # fmt: skip
    assert names(folder.parent) == ["small"]
    weights = (folder / "backbone.weights.h5").read_bytes()
    assert weights == (run_folder / "backbone.weights.h5").read_bytes()
    for kind, runs in card["verification"].items():
        for run, outputs in runs.items():
            assert set(outputs) == {"embedding", "block2"}, (kind, run)
            for figures in outputs.values():
                assert figures["relative_difference"] < 1e-5
                assert figures["largest_value"] > 0.1
    assert {kind: set(runs) for kind, runs in card["verification"].items()} == {
        "saved_model": {"serving_default", "image_bytes", "image_bytes_other_sizes"},
        "onnx": {"onnxruntime"},
        "keras": {"keras"},
    }


def test_options_reach_the_files(run_folder, tmp_path, backbone):
    out = tmp_path / "deep" / "out"
    card = export_backbone(
        run_folder / "backbone.weights.h5", out, "onnx", feature="f2", image_size=24,
        onnx_input="float32", onnx_layout="nchw", opset=15, name="digits model", licence="MIT",
    )  # fmt: skip
    assert "saved_model" not in names(out) and "backbone.keras" not in names(out)
    assert card["name"] == "digits model" and card["licence"] == "MIT"
    assert card["onnx"] == {"opset": 15, "layout": "nchw"}
    assert card["preprocessing"]["image_size"] == 24
    assert any("Trained on 32 x 32" in limit for limit in card["limits"])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3)).astype("float32")
    session = onnxruntime.InferenceSession(
        str(out / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (embedding,) = session.run(["embedding"], {"pixels": pixels.transpose(0, 3, 1, 2)})
    smaller = applications.build("six_layer", 24, **RECORD["arguments"])
    smaller.set_weights(backbone.get_weights())
    expected = numpy_embedding(smaller, RECORD, pixels)[:, 24:]
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_a_process_that_trains_in_bfloat16_exports_float32(run_folder, tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        card = export_backbone(run_folder, tmp_path / "out", ["keras"])
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(policy)
    assert card["verification"]["keras"]["keras"]["embedding"]["relative_difference"] < 1e-5


def test_a_mismatch_leaves_nothing_behind_and_the_old_export_as_it_was(
    run_folder, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    export_backbone(run_folder, out, ["keras"])
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def damaged(model):
        copy = real(model)
        kernel = copy.get_layer("block5_conv").kernel
        values = np.array(kernel)
        values[1, 1, 0, 0] += 0.3
        kernel.assign(values)
        return copy

    real = applications.portable
    monkeypatch.setattr("rfd_tf.export.features.portable", damaged)
    with pytest.raises(ExportMismatch, match="^ONNX: 'embedding' differs from Keras"):
        export_backbone(run_folder, tmp_path / "new", ["onnx"])
    with pytest.raises(ExportMismatch, match="^SavedModel, serving_default: 'embedding' differs"):
        export_backbone(run_folder, out, ["saved_model"], overwrite=True)
    assert names(tmp_path) == ["out"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_earlier_export_is_replaced_only_when_asked(run_folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export_backbone(run_folder, out, ["onnx"])
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty.*overwrite"):
        export_backbone(run_folder, out, ["keras"])
    # From the export's own weights into itself: it holds all that is needed.
    card = export_backbone(out, out, ["keras"], overwrite=True)
    assert names(out) == [
        "README.md", "backbone.keras", "backbone.weights.h5", "card.json", "notes.txt"
    ]  # fmt: skip
    assert json.loads((out / "card.json").read_text()) == card
    assert card["weights_sha256"] == sha256(run_folder / "backbone.weights.h5")


def test_overwrite_spares_what_is_no_export(run_folder, tmp_path):
    (tmp_path / "README.md").write_text("a project")
    with pytest.raises(UserError, match="README.md but is no earlier export"):
        export_backbone(run_folder, tmp_path, ["keras"], overwrite=True)
    with pytest.raises(UserError, match="backbone.weights.h5 but is no earlier export"):
        export_backbone(run_folder, run_folder, ["keras"], overwrite=True)
    assert names(tmp_path) == ["README.md"]


def test_weights_without_a_record_need_a_backbone_and_get_one(tmp_path):
    model = applications.build("six_layer", 32)
    path = tmp_path / "plain.weights.h5"
    model.save_weights(path)
    with pytest.raises(UserError, match="no record.*backbone and image_size.*six_layer"):
        export_backbone(path, tmp_path / "out", ["keras"])
    with pytest.raises(UserError, match="does not fit backbone resnet18"):
        export_backbone(path, tmp_path / "out", ["keras"], backbone="resnet18", image_size=32)
    card = export_backbone(path, tmp_path / "out", ["keras"], backbone="six_layer", image_size=32)
    assert card["method"] is None and card["feature"]["endpoint"] == "block6"
    assert any("normalised; ImageNet's" in limit for limit in card["limits"])
    # The exported weights say from now on what they are.
    record = applications.read_record(tmp_path / "out")
    assert record["backbone"] == "six_layer" and record["image_size"] == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "no/such.weights.h5"}, "no such weights file: 'no/such.weights.h5'"),
        ({"formats": ["onxx"]}, "unknown .*'onxx' .*options: saved_model, onnx, litert, keras"),
        ({"formats": []}, "no export format"),
        ({"opset": 21}, "unknown opset '21'; options: 13"),
        ({"onnx_input": "int8"}, "unknown ONNX input dtype 'int8'"),
        ({"onnx_layout": "hwc"}, "unknown ONNX layout 'hwc'"),
        ({"formats": ["keras"], "opset": 15}, "opset=15 has no effect without the format onnx"),
        ({"formats": ["keras"], "outputs": ["f2"]}, "outputs=.'f2',. has no effect without the fo"),
        ({"calibration_images": 9}, "calibration_images=9 has no effect with quantize="),
        ({"quantize": ["int8"]}, "int8 needs images .*give a folder of them as data"),
        ({"saved_model_version": 2}, "saved_model_version=2 has no effect without .*saved_model"),
        ({"endpoints": ["blok2"]}, "unknown endpoint 'blok2' .*options: block1, block2"),
        ({"feature": "f3"}, "unknown feature 'f3'"),
        ({"backbone": "alexnet"}, "holds backbone six_layer, not alexnet"),
        ({"image_size": -1}, "image_size must be a positive"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"output_dir": "file"}, "'.*file' is a file"),
        ({"output_dir": "file/below"}, "cannot write to output folder '.*below'"),
    ],
)
def test_a_user_error_is_reported_and_nothing_is_written(options, message, run_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    arguments = {"weights": run_folder, "formats": ["onnx"], "output_dir": "out", **options}
    arguments["output_dir"] = tmp_path / arguments["output_dir"]
    with pytest.raises(UserError, match=message) as error:
        export_backbone(**arguments)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["file"]


def test_a_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "x.weights.h5"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a weights file"):
        export_backbone(path, tmp_path / "out", ["keras"])
    path.unlink()
    with h5py.File(path, "w") as file:
        file.attrs["rfd_tf"] = json.dumps({**RECORD, "backbone": "vgg99"})
    with pytest.raises(UserError, match="unknown backbone 'vgg99'"):
        export_backbone(path, tmp_path / "out", ["keras"])
    assert names(tmp_path) == ["x.weights.h5"]
