"""The Python code of the documentation on training, fine-tuning and deploying runs as it stands."""

import os
import re
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import warm_python
from export_helpers import RECORD, numpy_embedding
from PIL import Image

from rfd_tf import applications
from rfd_tf.data import digits
from rfd_tf.evaluation.heads import save_heads
from rfd_tf.export import export_backbone

ROOT = Path(__file__).resolve().parents[2]
ALONE = """
import sys
sys.modules["rfd_tf"] = None
exec(sys.stdin.read())
"""


def snippet(mark):
    """The block of Python in README.md or docs/ that contains `mark`."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    blocks = [
        code
        for page in pages
        for code in re.findall(r"(?s)```python\n(.*?)```", page.read_text(encoding="utf-8"))
    ]
    (code,) = [code for code in blocks if mark in code]
    return code


def run_alone(code, folder):
    """Runs code in a process where rfd_tf cannot be imported; returns what it prints."""
    done = subprocess.run(
        [*warm_python.command(), "-c", ALONE],
        input=code, capture_output=True, text=True, cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fine_tuning_a_shipped_backbone_with_plain_keras(tmp_path):
    source = digits()
    for index in np.flatnonzero(source.labels < 3)[:300]:
        path = tmp_path / "PATH/TO/IMAGES" / str(source.labels[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.images[index]).save(path)
    (tmp_path / "exported").symlink_to(ROOT / "exported")
    code = snippet("fine_tuned.keras")
    statements = [line for line in code.splitlines()[2:] if line]
    assert len(statements) == 18
    output = run_alone(code, tmp_path)
    accuracies = re.findall(r"val_accuracy: ([0-9.]+)", output)
    assert len(accuracies) == 30 and float(accuracies[-1]) > 0.9
    # What was saved is plain Keras as well, and normalises as the weights' record says.
    model = keras.models.load_model(tmp_path / "fine_tuned.keras")
    record = applications.read_record("rfd_cifar10")
    pixels = source.images[:2].astype("float32")
    (scaling,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Rescaling)]
    normalised = applications.preprocess_input(pixels, mean=record["mean"], std=record["std"])
    np.testing.assert_allclose(scaling(pixels), normalised, atol=2e-3)


def test_the_orientation_detector(backbone, run_folder, tmp_path):
    head = keras.layers.Dense(4)
    head.build((None, 24))
    # Of an untrained feature the four outputs differ more than the images do: take the mean off.
    images = digits("test").images[:8]
    photos = np.stack([np.rot90(image, turn) for turn, image in enumerate(images)])
    f1 = numpy_embedding(backbone, RECORD, photos)[:, :24]
    kernel = np.random.default_rng(7).normal(size=(24, 4))
    head.set_weights([kernel, -f1.mean(axis=0) @ kernel])
    answers = (f1 @ kernel - f1.mean(axis=0) @ kernel).argmax(axis=1)
    assert len(set(answers)) > 1
    run = tmp_path / "run"
    run.mkdir()
    (run / "backbone.weights.h5").write_bytes((run_folder / "backbone.weights.h5").read_bytes())
    save_heads(run, {"rotation_head": head}, RECORD["epoch"])
    export_backbone(run, tmp_path / "exported/orientation", ["onnx"], outputs=["rotation_logits"])
    for photo, quarters in zip(photos, answers, strict=True):
        Image.fromarray(photo).save(tmp_path / "photo.png")
        code = snippet("rotation_logits").replace(".jpg", ".png") + "\nprint(degrees)"
        names = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            exec(code, names)
        assert names["degrees"] == 90 * quarters
        upright = np.asarray(Image.open(tmp_path / "upright.png"))
        np.testing.assert_array_equal(upright, np.rot90(photo, -quarters))


def run_here(code, folder):
    """Runs code in a process of its own; returns what it prints."""
    done = subprocess.run(
        [*warm_python.command(), "-c", code], capture_output=True, text=True, cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pretraining_by_one_call(tmp_path):
    short = "steps_per_epoch=2, image_size=16, tensorboard=False, epochs=2"
    short += ", fill_bank=False, monitor_images=200"  # (Each goes over all 3,409 images.)
    code = snippet('rfd_tf.pretrain("clothing"').replace("epochs=2", short)
    code = code.replace('evaluate("knn")', 'evaluate("knn", max_train_images=300)')
    check = """
history = rfd_tf.Run.open("runs/python").history
assert len(history) == 3 and history[-1]["knn_accuracy"] > 0
assert backbone.output_shape[-1] == 128
"""
    output = run_here(code + check, tmp_path)
    assert "3409 images of clothing/train" in output and "resuming after epoch 2" in output
    assert (tmp_path / "runs/python/export/model.onnx").is_file()


def test_pretraining_by_keras_fit(tmp_path):
    code = snippet("method.fit(")
    check = """
assert features.shape == (1500, 128)
"""
    run_here(code + check, tmp_path)
    again = "import keras, rfd_tf.methods; print(keras.models.load_model('method.keras').name)"
    assert "rotation_feature_decoupling" in run_here(again, tmp_path)


def test_a_model_with_layers_of_this_package_says_what_to_import(tmp_path):
    model = applications.SixLayer(include_top=False, pooling="avg", input_shape=(32, 32, 3))
    model.save(tmp_path / "own.keras")
    code = """
import keras
try:
    keras.models.load_model("own.keras")
except TypeError as error:
    assert "make sure they are all imported" in str(error) and "rfd_tf.layers" in str(error)
    import rfd_tf.layers
    print(keras.models.load_model("own.keras").name)
"""
    done = subprocess.run(
        [*warm_python.command(), "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.split() == ["six_layer"], done.stderr
