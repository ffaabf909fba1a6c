import keras
import numpy as np
import pytest
from keras import ops
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rfd_tf import applications, data
from rfd_tf.errors import UserError
from rfd_tf.evaluation import supervised, training_state
from rfd_tf.evaluation.base import Data, Settings, Subject
from rfd_tf.evaluation.features import extract_features
from rfd_tf.evaluation.protocols import Training

FILTERS = [8, 8, 8, 8, 8, 16]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    keras.utils.set_random_seed(3)
    network = applications.build("six_layer", 16, filters=FILTERS)
    # Statistics of trained networks are not 0 and 1.
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(layer.moving_variance * 0.5)
    record = {
        "format": 1, "backbone": "six_layer", "arguments": {"filters": FILTERS}, "image_size": 16,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "six.weights.h5"
    return Subject.pretrained(applications.save_backbone(network, path, record))


@pytest.fixture(scope="module")
def images():
    return Data(data.digits(), data.digits("test"), 16, max_train_images=300)


def heads_on(subject, endpoints, classes=10):
    backbone = subject.network()
    tensors = subject.feature_tensors(backbone, ("max", 4), endpoints)
    tensors = {name: tensors[name] for name in endpoints}
    x, features = supervised.frozen_features(backbone, tensors)
    logits = []
    for name in endpoints:
        initializer = keras.initializers.RandomNormal(stddev=0.1, seed=int(name[-1]))
        dense = keras.layers.Dense(classes, kernel_initializer=initializer)
        logits.append(dense(supervised.batch_norm(features[name], affine=False)))
    return keras.Model(x, ops.stack(logits, axis=1)), backbone


def figures(model, names, training, subject, sets, settings=None, **options):
    settings = settings or Settings(seed=1)
    found = supervised.train(model, names, training, subject, sets, settings, "probes", **options)
    return {(r.feature, r.images, r.when): r.value for r in found}


def test_probes_trained_together_are_those_trained_alone(subject, images):
    training = Training(2, 0.1, 30)
    names = ["block2", "block4"]
    together, _ = heads_on(subject, names)
    found = figures(together, names, training, subject, images)
    for name in names:
        alone, _ = heads_on(subject, [name])
        for key, value in figures(alone, [name], training, subject, images).items():
            assert found[key] == pytest.approx(value, abs=0.01), key


def test_a_frozen_backbone_does_not_change(subject, images):
    model, backbone = heads_on(subject, ["block4"])
    before = [np.array(weight) for weight in backbone.weights]
    assert [w.name for w in model.trainable_weights] == ["kernel", "bias"]
    figures(model, ["block4"], Training(1, 0.1, 30), subject, images)
    for weight, old in zip(backbone.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), old)


def test_unaugmented_probes_agree_with_scikit_learn(subject, images):
    model, backbone = heads_on(subject, ["block3"])
    training = Training(25, 0.05, 30, crop="none", horizontal_flip=False)
    found = figures(model, ["block3"], training, subject, images)
    tensors = subject.feature_tensors(backbone, ("max", 4), ["block3"])
    extractor = keras.Model(backbone.inputs, tensors["block3"])
    train, test = (
        extract_features(extractor, part.images())["features"]
        for part in (images.train, images.test)
    )
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    expected = reference.fit(train, images.train.labels).score(test, images.test.labels)
    assert found["block3", "upright", "last epoch"] == pytest.approx(expected, abs=0.04)


def test_layers_before_a_name_are_frozen(subject):
    network = subject.network()
    supervised.freeze_before(network, "block6")
    names = {layer.name.split("_")[0] for layer in network.layers if layer.trainable_weights}
    assert names == {"block6"}


def test_cross_entropies_are_summed_over_heads():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 3, 4)).astype("float32"), rng.integers(0, 4, 5)
    found = supervised._joint_cross_entropy(labels, logits)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log(softmax[np.arange(5), :, labels]).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_interrupted_training_goes_on_to_the_same_scores(subject, images, tmp_path, monkeypatch):
    training = Training(4, ((2, 0.1), (4, 0.01)), 30)
    model, _ = heads_on(subject, ["block4"])
    expected = figures(model, ["block4"], training, subject, images)

    monkeypatch.setattr(training_state, "SAVE_AFTER", 0)
    evaluate, evaluated = supervised._Score.__call__, []

    def interrupted(self):
        evaluated.append(evaluate(self))
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        return evaluated[-1]

    settings = Settings(seed=1, output=tmp_path)
    monkeypatch.setattr(supervised._Score, "__call__", interrupted)
    model, _ = heads_on(subject, ["block4"])
    with pytest.raises(KeyboardInterrupt):
        figures(model, ["block4"], training, subject, images, settings)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(
        supervised._Score, "__call__", lambda self: evaluated.append(1) or evaluate(self)
    )
    model, _ = heads_on(subject, ["block4"])
    found = figures(model, ["block4"], training, subject, images, settings)
    assert len(evaluated) == 3 + 2  # the first two epochs were not trained again
    assert found == expected
    assert not list(tmp_path.iterdir())


def test_another_training_s_state_is_not_taken_up(subject, images, tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "SAVE_AFTER", 0)
    monkeypatch.setattr(supervised.TrainingState, "remove", lambda self: None)
    settings = Settings(seed=1, output=tmp_path)
    for rate in (0.1, 0.001):
        model, _ = heads_on(subject, ["block2"])
        found = figures(model, ["block2"], Training(1, rate, 30), subject, images, settings)
        model, _ = heads_on(subject, ["block2"])
        assert found == figures(model, ["block2"], Training(1, rate, 30), subject, images)


def test_best_epoch_is_the_best_of_the_history(subject, images, monkeypatch):
    history = iter([0.2, 0.7, 0.5])
    monkeypatch.setattr(
        supervised._Score, "__call__", lambda self: {"upright": [value := next(history)]} | {
            "rotated": [value / 2]
        }
    )  # fmt: skip
    model, _ = heads_on(subject, ["block2"])
    found = figures(model, ["block2"], Training(3, 0.1, 30), subject, images)
    assert found["block2", "upright", "last epoch"] == 0.5
    assert found["block2", "upright", "best epoch"] == 0.7
    assert found["block2", "rotated", "best epoch"] == 0.35


def test_ten_crops_are_averaged_after_the_softmax(subject, images):
    from rfd_tf.data import evaluation_dataset

    model, _ = heads_on(subject, ["block4", "block2"])
    names = ["block4", "block2"]
    options = {"images": ("upright",), "ten_crops": True}
    found = figures(model, names, Training(2, 0.1, 30), subject, images, **options)
    source = images.test.source
    batches = evaluation_dataset(source, image_size=16, batch_size=297, ten_crops=True)
    crops = next(iter(batches))["image"].numpy()
    total = 0
    for crop in range(10):
        x = applications.preprocess_input(crops[:, crop])
        total = total + np.array(ops.softmax(model(x, training=False)))
    for column, name in enumerate(names):
        expected = np.mean(total[:, column].argmax(axis=-1) == source.labels)
        assert found[name, "10 crops", "last epoch"] == pytest.approx(expected, abs=0.004)


def test_training_images_get_a_new_random_rotation_each_epoch(subject, images):
    stream = supervised._stream(images.train, Training(1, 0.1, 30, "none", False), 30, 5, 0, True)
    upright = supervised._stream(images.train, Training(1, 0.1, 30, "none", False), 30, 5, 0, False)
    for (turned, labels), (plain, same) in zip(stream.take(2), upright.take(2), strict=True):
        np.testing.assert_array_equal(labels, same)
        turns = [
            [np.array_equal(image, np.rot90(original, k)) for k in range(4)].index(True)
            for image, original in zip(turned.numpy(), plain.numpy(), strict=True)
        ]
        assert len(set(turns)) == 4
    later = supervised._stream(images.train, Training(1, 0.1, 30, "none", False), 30, 5, 1, True)
    np.testing.assert_array_equal(next(iter(later))[0], turned)


def test_nan_loss_stops_training_and_is_named(subject, images):
    model, _ = heads_on(subject, ["block4"])
    with pytest.raises(UserError, match="has diverged"):
        figures(model, ["block4"], Training(8, 1e30, 30), subject, images)
