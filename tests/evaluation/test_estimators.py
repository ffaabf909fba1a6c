"""KNNClassifier and LinearProbe against scikit-learn, and as scikit-learn uses classifiers."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import rfd_tf
from rfd_tf.errors import UserError
from rfd_tf.evaluation import knn_predictions

NAMES = np.array(["cat", "dog", "owl"])


@pytest.fixture(scope="module")
def blobs():
    """Overlapping classes: train features and names, test features and names."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    centres = rng.normal(size=(3, 6))
    features = centres[labels] + rng.normal(size=(400, 6))
    return features[:300], NAMES[labels[:300]], features[300:], NAMES[labels[300:]]


@pytest.mark.parametrize(
    ("distance", "options"),
    [
        ("cosine", {"metric": "cosine", "weights": lambda d: np.exp((1 - d) / 0.2)}),
        ("euclidean", {}),
    ],
)
@pytest.mark.parametrize("k", [1, 7, 50])
def test_neighbours_vote_as_those_of_scikit_learn(blobs, distance, options, k):
    x, y, test, labels = blobs
    found = rfd_tf.KNNClassifier(k=k, temperature=0.2, distance=distance).fit(x, y)
    reference = KNeighborsClassifier(k, algorithm="brute", **options).fit(x, y)
    np.testing.assert_allclose(
        found.predict_proba(test), reference.predict_proba(test), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(found.predict(test), reference.predict(test))
    assert found.score(test, labels) == reference.score(test, labels)
    assert found.classes_.tolist() == NAMES.tolist()


def test_neighbours_are_those_of_the_task(blobs):
    x, y, test, _ = blobs
    found = rfd_tf.KNNClassifier(k=20).fit(x, y).predict(test)
    numbers = np.searchsorted(NAMES, y)
    np.testing.assert_array_equal(found, NAMES[knn_predictions(x, numbers, test, k=20)])


def test_the_probe_finds_the_softmax_regression_of_scikit_learn(blobs):
    x, y, test, labels = blobs
    decay = 0.02
    probe = rfd_tf.LinearProbe(epochs=400, batch_size=100, weight_decay=decay).fit(x, y)
    scaler = StandardScaler().fit(x)
    reference = LogisticRegression(C=1 / (decay * len(x))).fit(scaler.transform(x), y)
    expected = reference.predict_proba(scaler.transform(test))
    np.testing.assert_allclose(probe.predict_proba(test), expected, atol=0.01)
    assert probe.score(test, labels) == pytest.approx(
        reference.score(scaler.transform(test), labels), abs=0.02
    )


@pytest.mark.parametrize("make", [rfd_tf.KNNClassifier, rfd_tf.LinearProbe])
def test_scikit_learn_takes_them_for_its_own(blobs, make):
    x, y, _, _ = blobs
    option = {"k": 5} if make is rfd_tf.KNNClassifier else {"epochs": 10}
    again = clone(make(**option))
    assert again.get_params().items() >= option.items()
    scores = cross_val_score(again, x, y, cv=3)
    assert scores.shape == (3,) and scores.min() > 0.5


@pytest.mark.parametrize("make", [rfd_tf.KNNClassifier, rfd_tf.LinearProbe])
def test_wrong_arrays_are_refused(make):
    x, y = np.eye(4), ["a", "b", "a", "b"]
    for wrong, message in (
        ((x, y[:3]), r"one label a row; got shapes \(4, 4\) and \(3,\)"),
        ((x[0], y), r"\[N, dim\]; got shape \(4,\)"),
        ((x, [y, y]), "one label a row"),
        ((x * np.nan, y), "NaN or infinite"),
        ((["a", "b"], y), "holds no features"),
        ((x[:0], y[:0]), "one label a row"),
    ):
        with pytest.raises(UserError, match=message):
            make().fit(*wrong)
    with pytest.raises(UserError, match="not fitted yet"):
        make().predict(x)
    with pytest.raises(UserError, match=r"shape \(4, 3\), and fit saw rows of 4 numbers"):
        make().fit(x, y).predict(x[:, :3])


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (rfd_tf.KNNClassifier(k=0), "k is 1 or more"),
        (rfd_tf.KNNClassifier(distance="cosin"), "did you mean 'cosine'"),
        (rfd_tf.LinearProbe(epochs=0), "epochs 0 must be at least 1"),
        (rfd_tf.LinearProbe(learning_rate=0), "learning_rate is above 0"),
    ],
)
def test_wrong_options_are_refused_when_fitted(classifier, message):
    with pytest.raises(UserError, match=message):
        classifier.fit(np.eye(3), [0, 1, 2])
