"""A Keras model as the backbone of a run, from training to its last use."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from script_driver import run_many

import rfd_tf
from rfd_tf import applications
from rfd_tf.config import PretrainConfig
from rfd_tf.errors import UserError

SIDE = 16
SETTINGS = {
    "method": "rfd",
    "batch_size": 8,
    "steps_per_epoch": 1,
    "num_negatives": 8,
    "monitor_images": 100,
    "mixed_precision": "float32",
    "tensorboard": False,
    "verbose": 0,
}


@keras.saving.register_keras_serializable(package="tests.run")
class FirstToken(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(x)[0], 1, x.shape[2]))
        return keras.ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, shape):
        return shape[0], shape[1] + 1, shape[2]


def vit():
    """Takes pixels from 0 to 255 and gives a class token and 16 others."""
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(8, 4, strides=4, name="patches")(x)
    x = FirstToken()(layers.Reshape((16, 8))(x))
    y = layers.LayerNormalization()(x)
    x = layers.Add(name="attended")([x, layers.MultiHeadAttention(2, 4)(y, y)])
    return keras.Model(image, layers.LayerNormalization()(x), name="vit")


def convolutional():
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Conv2D(6, 3, strides=4, padding="same", name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(8, 3, padding="same", name="second"),
        ],
        name="small",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a transformer, its model, and the feature it started from."""
    model = vit()
    before = model.get_weights()
    run = rfd_tf.pretrain(
        "digits",
        backbone=model,
        token_pooling="class",
        include_preprocessing=True,
        output_dir=tmp_path_factory.mktemp("runs") / "vit",
        epochs=1,
        learning_rate=1e-6,
        weight_decay=0.0,
        **SETTINGS,
    )
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)  # it is left as it was
    return run, model


def test_the_run_starts_from_the_model_and_records_it(trained):
    run, model = trained
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype="uint8")
    expected = np.asarray(model(pixels.astype("float32")))[:, 0]
    np.testing.assert_allclose(run.embed(pixels)["f"], expected, atol=1e-3)
    record = applications.read_record(run.directory)
    assert record["architecture"]["name"] == "vit"
    digest = applications.weights.sha256(run.directory / "architecture.keras")
    assert record["architecture"]["sha256"] == digest
    assert record["started_from"]["weights"] == "the Keras model given as backbone"
    assert record["mean"] == [0, 0, 0] and run.config.mean is None
    assert run.backbone().output_shape == (None, 8)


def test_the_run_is_evaluated_exported_and_reported(trained):
    run, _ = trained
    report = run.evaluate("knn", verbose=0)
    names = {row["name"] for row in report["results"]}
    assert names >= {"patches", "class_token", "f", "f1", "f2", "embedding"}
    for row in report["results"]:
        assert row["random_init"] is not None and row["starting_weights"] is not None
    card = run.export(["saved_model", "onnx", "keras"], outputs=["f1", "projection"])
    assert card["backbone"] == "vit" and "starting weights" in run_file(run, "export/README.md")
    loaded, _ = applications.load_backbone(run.directory / "export" / "backbone.weights.h5")
    assert loaded.output_shape == (None, 8)
    assert "starting weights" in run.report(images=20).read_text()
    weights = run.directory / "moved.weights.h5"
    weights.write_bytes((run.directory / "backbone.weights.h5").read_bytes())
    (run.directory / "architecture.keras").rename(run.directory / "hidden.keras")
    try:
        with pytest.raises(UserError, match="whose architecture must be next to it"):
            applications.load_backbone(weights)
    finally:
        (run.directory / "hidden.keras").rename(run.directory / "architecture.keras")


def run_file(run, name):
    return (run.directory / name).read_text()


def test_the_run_resumes_by_itself_and_by_the_same_call(trained):
    run, _ = trained
    # (A model that is built again has other layers' names and other weights.)
    call = {"token_pooling": "class", "include_preprocessing": True, "learning_rate": 1e-6}
    rfd_tf.pretrain(
        "digits", backbone=vit(), output_dir=run.directory, epochs=2, weight_decay=0.0,
        **call, **SETTINGS,
    )  # fmt: skip
    run.resume(epochs=3, verbose=0)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert len({row["knn_accuracy_starting_weights"] for row in run.history}) == 1
    with pytest.raises(UserError, match="holds a run with backbone 'keras.Model"):
        rfd_tf.pretrain(
            "digits", backbone=convolutional(), output_dir=run.directory, epochs=3,
            include_preprocessing=True, **SETTINGS,
        )  # fmt: skip


def test_a_model_that_seems_to_normalise_pixels_itself_is_reported():
    image = keras.Input((8, 8, 3))
    unit = keras.layers.Rescaling(1 / 255, name="to_unit")(image)
    model = keras.Model(image, keras.layers.Conv2D(2, 3)(unit), name="own")
    with pytest.warns(UserWarning, match="'own' gets normalised pixels, but its layer 'to_unit'"):
        PretrainConfig(dataset="digits").take(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        PretrainConfig(dataset="digits", include_preprocessing=True).take(model)
        PretrainConfig(dataset="digits", mean=(0, 0, 0), std=(1, 1, 1)).take(model)


def test_the_command_takes_the_file(tmp_path):
    model = convolutional()
    model.save(tmp_path / "small.keras")
    lines = [
        [
            "--dataset=digits", f"--backbone={tmp_path}/small.keras", "--method=rotation",
            "--freeze_until=first", "--evaluate=knn", "--batch_size=8", "--steps_per_epoch=1",
            "--learning_rate=0.5", f"--epochs={epochs}", f"--output_dir={tmp_path}/run",
            "--mixed_precision=bfloat16", "--notensorboard", "--monitor_images=100",
        ]
        for epochs in (1, 2)
    ]  # fmt: skip
    (first, second) = run_many("pretrain", lines)
    assert first[0] == 0, first[2]
    assert "than the starting weights" in first[1].splitlines()[-1]
    assert second[0] == 0 and "resuming after epoch 1" in second[1], second[2]
    run = rfd_tf.Run.open(tmp_path / "run")
    record = applications.read_record(run.directory)
    assert record["started_from"]["weights"] == str(tmp_path / "small.keras")
    trained = run.backbone()
    assert np.array_equal(trained.get_weights()[0], model.get_weights()[0])
    assert not np.array_equal(trained.get_weights()[-2], model.get_weights()[-2])
    results = json.loads((run.directory / "evaluation.json").read_text())["results"]
    assert {row["name"] for row in results} >= set(record["endpoints"])
