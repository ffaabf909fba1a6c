import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rfd_tf import applications, data
from rfd_tf.errors import UserError
from rfd_tf.evaluation.features import extract_features, feature_tensors
from rfd_tf.evaluation.linear import LinearProbes, Probe


def values_of(task, *arguments):
    """Feature -> accuracy after the last epoch."""
    found = task.evaluate(*arguments)
    return {result.feature: result.value for result in found if result.when == "last epoch"}


@pytest.fixture(scope="module")
def digits_features():
    """Features of an untrained network on the digits, of two widths."""
    import keras

    keras.utils.set_random_seed(1)
    backbone = applications.build("six_layer", 32)
    tensors = feature_tensors(backbone, pooling=("max", 4), names=["block4"])
    model = keras.Model(backbone.inputs, tensors)
    train, test = data.digits("train"), data.digits("test")
    return (
        extract_features(model, train.images),
        train.labels,
        extract_features(model, test.images),
        test.labels,
    )


def test_agrees_with_scikit_learn(digits_features):
    train, train_labels, test, test_labels = digits_features
    values = values_of(LinearProbes(), train, train_labels, test, test_labels, 10)
    assert set(values) == {"block4", "pooled"}
    for name, value in values.items():
        reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        reference.fit(train[name], train_labels)
        assert value == pytest.approx(reference.score(test[name], test_labels), abs=0.02), name


def test_is_deterministic_and_the_seed_matters(digits_features):
    train, labels, _, _ = digits_features

    def weights(seed):
        return Probe(epochs=2, seed=seed).fit(train["pooled"], labels, 10)._epochs[-1]

    np.testing.assert_array_equal(weights(0), weights(0))
    assert np.abs(weights(0) - weights(1)).max() > 0


def test_best_epoch_is_the_best_of_all(digits_features):
    train, train_labels, test, test_labels = digits_features
    task = LinearProbes(epochs=6)
    found = task.evaluate({"f": train["pooled"]}, train_labels, test, test_labels, 10)
    with pytest.raises(KeyError):  # only what was fitted can be scored
        list(found)
    found = list(task.score({"f": test["pooled"]}, test_labels))
    # The rate follows a cosine over all epochs, so shorter trainings are no prefixes: the
    # weights after each epoch are asked for while they are being trained.
    probe, accuracies = Probe(6, keep_every=1), []

    def evaluate():
        accuracies.append(np.mean(probe.predict(test["pooled"]) == test_labels))

    probe.fit(train["pooled"], train_labels, 10, after_epoch=evaluate)
    assert [(r.when, r.value) for r in found] == [
        ("last epoch", accuracies[-1]),
        ("best epoch", max(accuracies)),
    ]


def test_probes_are_independent_of_their_company(digits_features):
    train, train_labels, test, test_labels = digits_features
    task = LinearProbes(epochs=2)
    together = values_of(task, train, train_labels, test, test_labels, 10)
    alone = values_of(
        task, {"pooled": train["pooled"]}, train_labels, {"pooled": test["pooled"]}, test_labels, 10
    )
    assert alone["pooled"] == together["pooled"]


def test_half_precision_changes_little(digits_features):
    train, train_labels, test, test_labels = digits_features
    values = [
        values_of(
            LinearProbes(epochs=5),
            {"f": train["block4"].astype(dtype)},
            train_labels,
            {"f": test["block4"].astype(dtype)},
            test_labels,
            10,
        )["f"]
        for dtype in ("float32", "float16")
    ]
    assert values[0] == pytest.approx(values[1], abs=0.01)


def test_scale_shift_and_dead_features_do_not_matter():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    x = np.eye(3)[labels] + 0.3 * rng.standard_normal((300, 3))
    dead = np.hstack([1e-4 * x + 5e-4, np.full((300, 1), 7.0)]).astype("float32")
    plain = Probe().fit(x.astype("float32"), labels, 3)
    changed = Probe().fit(dead, labels, 3)
    assert np.mean(plain.predict(x) == changed.predict(dead)) > 0.99
    assert np.mean(plain.predict(x) == labels) > 0.9


def test_settings_tell_the_protocol():
    settings = LinearProbes(probe_size=3, seed=5).settings(num_train=50_000)
    assert settings["probe_size"] == 3 and settings["seed"] == 5
    assert settings["epochs"] == 10 and settings["batch_size"] == 256
    assert LinearProbes(epochs=3).settings(100)["epochs"] == 3


def test_bad_input_is_named():
    with pytest.raises(UserError, match="probe_size"):
        LinearProbes(probe_size=0)
    with pytest.raises(UserError, match="epochs"):
        LinearProbes(epochs=0)
    with pytest.raises(UserError, match="NaN"):
        Probe().fit(np.full((4, 2), np.nan, "float32"), np.zeros(4, int), 2)
