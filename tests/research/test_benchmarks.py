"""Every benchmark at a small size: what it yields, and that it measures what it says."""

import importlib.util
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from research.benchmarks import BENCHMARKS, steps, tiny
from research.benchmarks.convolutions import Convolutions
from research.benchmarks.measuring import peak_growth, peak_growth_and_result
from research.benchmarks.memory import activation_bytes
from research.benchmarks.peers import Training
from research.benchmarks.photographs import write_photographs
from research.benchmarks.pipeline import bare_loop
from research.benchmarks.profiling import is_convolution, operation_times
from rfd_tf import data
from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization

NAMES = {
    "overhead": ["overhead/six_layer"],
    "family": ["family/rfd", "family/jigsaw"],
    "precision": ["precision/default", "precision/float32"],
    "bank": ["bank/step_bfloat16", "bank/memory_bfloat16"],
    "pipeline": [
        "pipeline/rate",
        "pipeline/rate_antialiased",
        "pipeline/four_crops",
        "pipeline/waiting",
    ],
    "convolutions": ["convolutions/six_layer"],
    "inference": [
        f"inference/{form}_batch_{size}"
        for size in (1, 2)
        for form in ("onnx_float32", "onnx_int8", "saved_model")
    ],
    "folder": ["folder/start", "folder/memory"],
    "memory": ["memory/six_layer"],
    "peers": [],  # another interpreter has them
    "time_to_score": [],  # on a folder of the user's
    "reference": ["reference/float32", "reference/bfloat16"],
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_yields_its_results(name):
    entries = list(BENCHMARKS[name](rounds=1, **tiny(name)))
    assert [entry.name for entry in entries] == NAMES[name]
    assert all(np.isfinite(entry.value) and entry.value >= 0 for entry in entries)
    assert len(json.loads(json.dumps([entry.as_json() for entry in entries]))) == len(entries)


def test_minutes_are_those_of_the_first_training_that_reaches_the_score(monkeypatch):
    module = importlib.import_module("research.benchmarks.time_to_score")
    accuracies = {4: 0.5, 6: 0.54, 8: 0.56, 10: 0.9}
    monkeypatch.setattr(
        module, "_train", lambda folder, name, size, epochs, seed: (epochs / 2, accuracies[epochs])
    )
    monkeypatch.setattr(module.Path, "is_dir", lambda self: True)
    (entry,) = module.time_to_score(classes_dir="photos", epochs=(4, 6, 8, 10))
    assert entry.value == 4.0
    assert entry.details["ours"] == [[4, 2.0, 0.5], [6, 3.0, 0.54], [8, 4.0, 0.56]]


def test_a_training_is_timed_and_evaluated_as_a_user_runs_it(tmp_path):
    draw = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 3)):
        for name, colour in (("dark", 60), ("light", 200)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(draw.normal(colour, 25, (24, 24, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    options = {"classes_dir": str(tmp_path), "epochs": (1,), "score": 0.0, "image_size": 16}
    (entry,) = BENCHMARKS["time_to_score"](**options)
    ((_, minutes, accuracy),) = entry.details["ours"]
    assert entry.value == pytest.approx(minutes, abs=0.01) and 0 < minutes < 5
    assert round(6 * accuracy, 2) in range(7)  # six test images


def test_a_folder_without_its_parts_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no folder 'train'"):
        list(BENCHMARKS["time_to_score"](classes_dir=str(tmp_path)))


@pytest.mark.parametrize("python", ["/no/such/python", sys.executable])
def test_peers_without_their_packages_are_left_out_with_the_reason(python, capsys):
    if python == sys.executable and importlib.util.find_spec("torch"):
        pytest.skip("this interpreter has torch")
    assert list(BENCHMARKS["peers"](rounds=1, peer_python=python, **tiny("peers"))) == []
    reason = "cannot run '/no/such/python'" if python[1] == "n" else "No module named 'torch'"
    assert f"left out: {reason}" in capsys.readouterr().err.replace("ModuleNotFoundError: ", "")


def test_our_side_of_a_whole_training_reads_files_and_trains(tmp_path):
    write_photographs(tmp_path, count=6)
    training = Training(str(tmp_path), "six_layer", 16, views=16)
    assert training.step.batch["image"].shape == (4, 4, 16, 16, 3)
    before = [w.numpy() for w in training.step.method.trainable_variables]
    assert np.isfinite(training())
    after = training.step.method.trainable_variables
    assert any(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))


def test_reference_refuses_nonsense():
    with pytest.raises(UserError, match="reference_step_ms"):
        list(BENCHMARKS["reference"]())
    with pytest.raises(UserError, match="above 0"):
        list(BENCHMARKS["reference"](reference_ms={"float32": 0.0}))
    with pytest.raises(UserError, match="float33"):
        list(BENCHMARKS["reference"](reference_ms={"float33": 5.0}))


def test_the_bare_step_trains_the_same_network_on_the_same_views():
    step = steps.MethodStep("six_layer", 16, 2, 10, policy="float32", num_negatives=4)
    bare = steps.BareStep.beside(step)
    assert [w.shape for w in bare.model.weights] == [
        w.shape for w in step.method.feature_model.weights
    ]
    pixels = step.batch["image"].numpy()[1].astype("float32")
    turned = step.method.preprocess(np.rot90(pixels, 3)[None])
    np.testing.assert_allclose(bare.views[7], turned[0], rtol=1e-6)
    before = [w.numpy() for w in bare.model.trainable_variables]
    bare()
    after = [w.numpy() for w in bare.model.trainable_variables]
    assert any(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))


def test_the_stock_step_has_stock_layers_in_float32():
    step = steps.MethodStep("six_layer", 16, 2, 10, policy="float32", stock=True, num_negatives=4)
    layers = [layer for layer in step.method.feature_model.layers if "_bn" in layer.name]
    assert len(layers) == 6
    assert all(type(layer) is keras.layers.BatchNormalization for layer in layers)
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    ours = steps.MethodStep("six_layer", 16, 2, 10, policy="mixed_bfloat16", num_negatives=4)
    layer = ours.method.feature_model.get_layer("block1_conv_bn")
    assert type(layer) is BatchNormalization and layer.compute_dtype == "bfloat16"


def test_convolutions_count_the_operations_of_the_network():
    image = keras.Input((9, 9, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(image)
    model = keras.Model(image, keras.layers.Conv2D(8, 1)(keras.layers.ReLU()(x)))
    alone = Convolutions(model, batch=2)
    first, second = 2 * 5 * 5 * 4 * (3 * 3 * 3), 2 * 5 * 5 * 8 * 4
    # Forward and the kernel's gradient; the second has an input that needs a gradient, too.
    assert alone.operations == 2 * (2 * first + 3 * second)
    times = operation_times(alone)
    assert times is None or sum(is_convolution(name) for name in times) == 3


def test_peak_memory_is_that_of_the_child_alone():
    held = np.ones(100_000_000)  # 800 MB in this process
    growth, result = peak_growth_and_result("builtins:dict", {"a": 1})
    assert result == {"a": 1}
    assert 0 <= growth < 100e6 < held.nbytes


def test_nothing_copies_the_bank():
    rows = 1_000_000
    arguments = {"rows": rows, "dimensions": 128, "storage_dtype": "float32"}
    growth = peak_growth("research.benchmarks.bank:exercise", arguments)
    assert 1.0 < growth / (rows * 128 * 4) < 1.9


def test_work_that_fails_says_why():
    with pytest.raises(RuntimeError, match="unexpected keyword"):
        peak_growth_and_result("json:loads", {"s": "1", "no_such": 1})


def test_activations_are_the_outputs_of_the_layers():
    image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(5, 3, dtype="mixed_bfloat16")(image)
    model = keras.Model(image, keras.layers.Dense(7)(keras.layers.Flatten()(x)))
    assert activation_bytes(model, batch=3) == 3 * (2 * 2 * 5 * 2 + 7 * 4)


def test_photographs_are_read_by_both_loops(tmp_path):
    write_photographs(tmp_path, count=2)
    source = data.load(data_dir=str(tmp_path))
    assert source.num_images == 4
    batch = next(iter(bare_loop(source.paths, 32, 4)))
    assert batch.shape == (4, 32, 32, 3)
    first = tf.io.decode_jpeg(tf.io.read_file(source.paths[0]))
    assert first.shape == (375, 500, 3)
    np.testing.assert_allclose(batch[0], tf.image.resize(first, [32, 32]), atol=1e-3)
    # As full of detail as a photograph: 500 x 375 of them take some 50 to 150 kB.
    assert 20e3 < (tmp_path / "photo_0000.jpg").stat().st_size < 200e3
