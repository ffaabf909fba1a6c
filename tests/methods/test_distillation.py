"""Distillation against NumPy, its teachers, and what may never happen to them."""

import functools
import json

import keras
import numpy as np
import pytest
import training_runs
from keras import ops

import rfd_tf
from rfd_tf import applications, losses
from rfd_tf.applications import preprocess_input
from rfd_tf.applications.keras_applications import preprocessing
from rfd_tf.errors import UserError
from rfd_tf.methods import Distillation, RotationFeatureDecoupling, RotationPrediction
from rfd_tf.methods import distillation as module
from rfd_tf.methods.teacher import Teacher
from rfd_tf.training import checkpoint, optimizers

SHIPPED, SIZE = "six_layer.rfd_cifar10", training_runs.SIZE
EVERY = {
    "lambda_rotation": 1.0,
    "lambda_distance": 1.0,
    "lambda_instance": 1.0,
    "lambda_contrast": 1.0,
    "num_images": training_runs.NUM_IMAGES,
    "num_negatives": 6,
}


def tiny(size=SIZE):
    """A teacher with batch normalisation and positive features, its weights drawn."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(6, 3, strides=2),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    )


def make(**options):
    return Distillation(training_runs.backbone(), **{"teacher": tiny(), **options})


def batch(step=0):
    return {name: value[step] for name, value in training_runs.batches().items()}


def directions(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_cosine_distance_follows_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 5)).astype("float32")
    expected = np.mean(1 - (directions(a) * directions(b)).sum(1))
    assert float(losses.cosine_distance(a, 3 * b)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.cosine_distance(a, -a)) == pytest.approx(2)
    many = rng.normal(size=(2, 20000, 5)).astype("float32")
    assert float(losses.cosine_distance(*many)) == pytest.approx(1, abs=0.01)
    # A target without direction teaches nothing and harms nothing.
    import tensorflow as tf

    a = tf.constant(a)
    with tf.GradientTape() as tape:
        tape.watch(a)
        loss = losses.cosine_distance(a, np.zeros((7, 5), "float32"))
    assert float(loss) == 1 and np.abs(tape.gradient(loss, a)).max() == 0


def test_the_loss_compares_with_the_centred_embeddings_of_the_same_pixels():
    method, teacher = make(), tiny()
    kernel, bias = (np.asarray(w) for w in method.distillation_projection.get_weights())
    seen = []
    for step in range(2):
        pixels = batch(step)["image"]
        embeddings = np.asarray(teacher(preprocess_input(pixels))).mean((1, 2))
        seen.append(embeddings.mean(0))
        features = np.asarray(method.feature_model(preprocess_input(pixels), training=True))
        student = directions(features @ kernel + bias)
        target = directions(embeddings - np.mean(seen, axis=0))
        found = method(batch(step), training=True)
        expected = np.mean(1 - (student * target).sum(1))
        assert float(found["distillation_loss"]) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(method.teacher_centre, np.mean(seen, axis=0), rtol=1e-5)
    # Outside training the centre stays where it is.
    before = np.asarray(method.teacher_centre)
    method(batch())
    np.testing.assert_array_equal(method.teacher_centre, before)


def test_a_constant_student_is_at_chance_though_features_are_positive():
    method = make()
    pixels = np.random.default_rng(4).integers(0, 256, (64, SIZE, SIZE, 3)).astype("uint8")
    constant = np.ones((64, 6), "float32")
    raw = losses.cosine_distance(constant, method.teacher_model(pixels))
    centred = losses.cosine_distance(constant, method.teach(pixels, training=True))
    assert float(raw) < 0.3
    assert float(centred) == pytest.approx(method.chance_levels()["distillation_loss"], abs=0.2)


def test_losses_of_rfd_beside_are_those_of_rfd():
    options = {name: value for name, value in EVERY.items() if name != "num_negatives"}
    options["instance_loss"] = "softmax"
    method = make(**options)
    plain = RotationFeatureDecoupling(training_runs.backbone(), **options)
    plain.backbone.set_weights(method.backbone.get_weights())
    found, expected = method(batch()), plain(batch())
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-5), name
    assert set(found) - set(expected) == {"distillation_loss"}
    # The upright view is distilled.
    features = method.features(method.preprocess(batch()["image"]))
    student = method.distillation_projection(features)
    target = method.teach(batch()["image"])
    assert float(found["distillation_loss"]) == pytest.approx(
        float(losses.cosine_distance(student, target)), rel=1e-4
    )
    four = {**batch(), "image": np.stack([batch()["image"]] * 4, axis=1)}
    assert float(method(four)["distillation_loss"]) == pytest.approx(
        float(found["distillation_loss"]), rel=1e-5
    )


def test_a_teacher_is_not_trained_and_belongs_to_no_checkpoint():
    method = make()
    method.compile(optimizer=optimizers.SGD(0.1))
    before = method.teacher_model.get_weights()
    images = training_runs.batches()["image"].reshape(-1, SIZE, SIZE, 3)
    history = method.fit(images, batch_size=4, epochs=8, verbose=0).history
    assert history["distillation_loss"][-1] < 0.8 * history["distillation_loss"][0]
    for old, new in zip(before, method.teacher_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    held = {id(variable) for variable in [*method.variables, *method.optimizer.variables]}
    assert not held & {id(weight) for weight in method.teacher_model.weights}
    kept = checkpoint.state_variables(method, method.optimizer)
    assert not {id(variable) for _, variable in kept} & {
        id(weight) for weight in method.teacher_model.weights
    }
    assert not any(layer.name == "teacher" for layer in method.pixel_model.layers)
    # Distillation alone needs no index, and images have one view.
    assert method.num_images is None and (method.views, method.crops) == (1, (1,))


def test_two_replicas_train_as_one():
    training_runs.assert_replicas_agree(functools.partial(Distillation, teacher=tiny(), **EVERY))


def test_a_run_teaches_by_its_own_record(tmp_path):
    network = applications.build("six_layer", 24, filters=(4, 4, 4, 4, 4, 8))
    record = {
        "format": 1,
        "backbone": "six_layer",
        "arguments": {"filters": [4, 4, 4, 4, 4, 8]},
        "image_size": 24,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "feature": {"endpoint": "block5", "pooling": "avg"},
    }
    path = applications.save_backbone(network, tmp_path / "backbone.weights.h5", record)
    pixels = batch()["image"]
    large = ops.image.resize(pixels.astype("float32"), (24, 24), antialias=True)
    feature = applications.pooled_feature_model(network, "block5")
    expected = feature(preprocess_input(large, mean=record["mean"], std=record["std"]))
    for source in (tmp_path, path):
        teacher = Teacher(source, SIZE)
        np.testing.assert_allclose(teacher.network(pixels), expected, rtol=1e-4, atol=1e-6)
        assert teacher.mean == tuple(record["mean"]) and teacher.name.startswith("/")
    network.save(tmp_path / "network.keras")
    teacher = Teacher(
        tmp_path / "network.keras",
        SIZE,
        endpoint="block5",
        mean=record["mean"],
        std=record["std"],
    )
    np.testing.assert_allclose(teacher.network(pixels), expected, rtol=1e-4, atol=1e-6)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Conv2D(5, 3)

    def call(self, x):
        return self.layer(x)


def test_maps_tokens_vectors_and_methods_teach():
    pixels = batch()["image"]
    subclassed = Subclassed()
    image = keras.Input((SIZE, SIZE, 3))
    tokens = keras.Model(image, keras.layers.Reshape((-1, 5))(subclassed(image)))
    expected = np.asarray(subclassed(preprocess_input(pixels))).mean((1, 2))
    for model in (subclassed, tokens):
        teacher = Teacher(model, SIZE)
        np.testing.assert_allclose(teacher.network(pixels), expected, rtol=1e-4, atol=1e-5)
    method = RotationPrediction(training_runs.backbone(), mean=(0.1, 0.2, 0.3))
    np.testing.assert_allclose(
        Teacher(method, SIZE).network(pixels), method.predict(pixels, verbose=0), rtol=1e-4
    )
    # Pixels 0-255 as they are.
    whole = Teacher(subclassed, SIZE, mean=(0, 0, 0), std=(1 / 255,) * 3)
    expected = np.asarray(subclassed(pixels.astype("float32"))).mean((1, 2))
    np.testing.assert_allclose(whole.network(pixels), expected, rtol=1e-4)


def test_networks_of_keras_take_pixels_as_keras_prepares_them():
    pixels = np.array([0.0, 127.5, 255.0], "float32").reshape(1, 1, 1, 3)
    prepared = preprocessing("mobilenet_v2")(pixels)
    np.testing.assert_allclose(np.ravel(prepared), [-1, 0, 1])
    np.testing.assert_allclose(preprocessing("efficientnet_b0")(pixels), pixels)


def test_a_saved_method_keeps_the_teacher_it_had(tmp_path):
    given, named = make(), make(teacher=SHIPPED)
    found = {}
    for name, method in (("given", given), ("named", named)):
        method.teach(batch()["image"], training=True)
        method.save(tmp_path / f"{name}.keras")
        found[name] = float(method(batch())["distillation_loss"])
    clone = keras.models.clone_model(given)
    # As in another process, where no teacher is in use.
    module._ALIVE.clear()
    for name, loss in found.items():
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        assert float(loaded(batch())["distillation_loss"]) == pytest.approx(loss, rel=1e-5)
        assert loaded.teacher_sha256 == {"given": given, "named": named}[name].teacher_sha256
    for one, other in zip(
        clone.teacher_model.get_weights(), given.teacher_model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    config = {**named.get_config(), "teacher": "network_in_network.rfd_cifar10"}
    with pytest.raises(UserError, match="'network_in_network.rfd_cifar10' have changed"):
        Distillation.from_config(config)


def of_two_images():
    """A network that takes two images by name."""
    images = {name: keras.Input((9, 9, 3), name=name) for name in ("left", "right")}
    return keras.Model(images, keras.layers.Add()(list(images.values())))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": of_two_images()}, "gives no vector"),
        ({"teacher": None}, "teacher, which is not given, must be a Keras model, shipped weights"),
        ({"teacher": keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Flatten()])}, "1 chan"),
        ({"teacher": keras.Sequential([keras.Input((9, 8, 3)), keras.layers.Flatten()])}, "vector"),
        ({"teacher": 3}, "teacher 3 must be a Keras model, shipped weights such as"),
        ({"teacher": "rfd_cifar100"}, "did you mean 'rfd_cifar10'"),
        ({"teacher": "imagenet:mobilenetv2"}, "did you mean 'mobilenet_v2'"),
        ({"teacher": "none.keras"}, "no such file: 'none.keras'"),
        ({"teacher": SHIPPED, "teacher_endpoint": "block9"}, "unknown endpoint 'block9'"),
        ({"teacher": "imagenet"}, "give imagenet:NAME, such as imagenet:mobilenet_v2"),
        ({"teacher": keras.Sequential([keras.layers.Flatten()])}, "has no weights yet; begin it"),
        ({"teacher_std": [0, 1, 1]}, "teacher_std needs three numbers above 0"),
        ({"teacher_mean": "0,0,0"}, "teacher_mean needs three numbers such as 0.5,0.5,0.5; got 0"),
        ({"lambda_distillation": 0}, "lambda_distillation 0.0 must be above 0"),
        ({"distillation_hidden": -1}, "distillation_hidden -1 must be at least 0"),
        ({"lambda_instance": 1.0}, "need num_images"),
        ({"teacher": keras.Sequential([keras.Input((9, 9, 4)), keras.layers.Flatten()])}, "4 chan"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_a_backbone_does_not_teach_itself():
    backbone = training_runs.backbone()
    with pytest.raises(UserError, match="has weights of the backbone"):
        Distillation(backbone, teacher=keras.Model(backbone.inputs, backbone.output))


def test_a_run_records_its_teacher_and_resumes_with_no_other(tmp_path):
    settings = {
        "backbone": "six_layer",
        "backbone_option": {"filters": [4, 4, 4, 4, 4, 8]},
        "image_size": SIZE,
        "batch_size": 8,
        "steps_per_epoch": 2,
        "monitor_every": 0,
        "tensorboard": False,
        "verbose": 0,
    }
    teacher = tiny()
    start = functools.partial(
        rfd_tf.pretrain, "digits", method="distillation", output_dir=tmp_path / "run", **settings
    )
    run = start(teacher=teacher, epochs=1)
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    digest = Distillation(training_runs.backbone(), teacher=teacher).teacher_sha256
    assert content["identity"]["teacher_sha256"] == digest
    assert content["flags"]["teacher"].startswith("keras.Model")
    assert content["chance_levels"]["distillation_loss"] == 1.0
    assert "distillation_loss" in run.history[-1]
    assert run.report(images=0).is_file()
    with pytest.raises(UserError, match="teacher 'keras.Model .*' was a model in Python"):
        run.resume(epochs=2, verbose=0)
    assert len(run.resume(epochs=2, teacher=teacher, verbose=0).history) == 2
    weights = teacher.get_weights()
    teacher.set_weights([weight + 1 for weight in weights])
    with pytest.raises(UserError, match=f"had other weights .sha256 {digest[:12]}"):
        start(teacher=teacher, epochs=3)
    with pytest.raises(UserError, match="teacher has no meaning for method rotation"):
        rfd_tf.pretrain(
            "digits", method="rotation", output_dir=tmp_path, teacher=SHIPPED, verbose=0
        )
