import tracemalloc

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from rfd_tf import applications, data
from rfd_tf.data.pipeline import load_images
from rfd_tf.errors import UserError
from rfd_tf.evaluation import evaluate
from rfd_tf.evaluation.knn import KNearestNeighbours, default_k, knn_accuracy, knn_predictions


def clusters(num, dim=16, num_classes=7, seed=0, spread=1.2):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((num_classes, dim))
    labels = rng.integers(0, num_classes, num)
    features = centres[labels] + spread * rng.standard_normal((num, dim))
    return features.astype("float32"), labels


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (25, 0.07), (200, 0.5), (3000, 0.1)])
def test_equals_scikit_learn(k, temperature):
    # With 3,000 rows and k 25 the shortcut over groups of columns is used, with 3,000 it is not.
    train, train_labels = clusters(3000)
    test, test_labels = clusters(300, seed=1)
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    ).fit(train, train_labels)
    predictions = knn_predictions(train, train_labels, test, k, temperature)
    assert np.mean(predictions == reference.predict(test)) > 0.995
    accuracy = knn_accuracy(train, train_labels, test, test_labels, k, temperature)
    assert accuracy == np.mean(predictions == test_labels)
    assert 0.5 < accuracy < 1


@pytest.mark.parametrize("k", [1, 5, 200])
def test_euclidean_neighbours_equal_scikit_learn(k):
    # Far from the origin, where |a|^2 - 2ab + |b|^2 in float32 would have no digits left.
    train, train_labels = clusters(2000)
    test, test_labels = clusters(300, seed=1)
    scale = np.random.default_rng(2).uniform(0.2, 5, (2000, 1)).astype("float32")
    train, test = train * scale + 3000, test + 3000
    rows, queries = train.astype("float64"), test.astype("float64")
    reference = KNeighborsClassifier(k, algorithm="brute").fit(rows, train_labels)
    options = {"k": k, "distance": "euclidean"}
    predictions = knn_predictions(train, train_labels, test, **options)
    assert np.mean(predictions == reference.predict(queries)) > 0.99
    for memory in (1 << 13, 1 << 16):
        np.testing.assert_array_equal(
            knn_predictions(train, train_labels, test, memory=memory, **options), predictions
        )
    accuracy = knn_accuracy(train, train_labels, test, test_labels, **options)
    assert accuracy == np.mean(predictions == test_labels) > 0.5


def test_euclidean_ties_go_to_the_first_rows_and_the_lowest_class():
    train, labels = np.ones((64, 3)), np.array([3] * 2 + [1] * 62)
    for k, expected in ((1, 3), (2, 3), (4, 1)):
        assert knn_predictions(train, labels, np.zeros((1, 3)), k, distance="euclidean") == expected


def test_neighbours_are_the_k_most_similar_ones():
    from rfd_tf.evaluation.knn import _largest

    values = np.random.default_rng(0).standard_normal((20, 2000)).astype("float32")
    columns, found = _largest(values, 30)
    expected = np.sort(np.argsort(-values, axis=1)[:, :30], axis=1)
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(values, expected, axis=1))


def test_memory_does_not_matter():
    train, train_labels = clusters(1000)
    test, _ = clusters(101, seed=1)
    whole = knn_predictions(train, train_labels, test, k=20)
    for memory in (1 << 13, 1 << 16, 1 << 20):
        np.testing.assert_array_equal(
            knn_predictions(train, train_labels, test, k=20, memory=memory), whole
        )
    # All neighbours vote, found in many blocks.
    few = knn_predictions(train, train_labels, test, k=1000)
    np.testing.assert_array_equal(
        knn_predictions(train, train_labels, test, k=1000, memory=1 << 16), few
    )


def test_large_sets_stay_within_the_stated_memory(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "train.npy"
    train = np.lib.format.open_memmap(path, "w+", np.float16, (400_000, 32))
    for start in range(0, len(train), 50_000):
        train[start : start + 50_000] = rng.standard_normal((50_000, 32))
    test = np.array(train[[7, 399_999, 250_000]])  # each is its own nearest neighbour
    labels = np.arange(len(train)) % 1000
    memory = 32 << 20
    tracemalloc.start()
    found = knn_predictions(train, labels, np.tile(test, (100, 1)), k=1, memory=memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, np.tile([7, 999, 0], 100))
    # Well below the 51 MB of the rows in float32, or the 480 MB of all similarities.
    assert peak < memory


def test_ties_go_to_the_first_rows_and_the_lowest_class():
    train = np.ones((64, 3))
    labels = np.array([3] * 2 + [1] * 62)
    test = np.ones((1, 3))
    assert knn_predictions(train, labels, test, k=2) == [3]  # the first two rows
    assert knn_predictions(train, labels, test, k=4) == [1]  # two votes each
    assert knn_predictions(train, labels, test, k=64) == [1]
    assert knn_predictions(train[:3], labels[:3], np.zeros((1, 3)), k=1) == [3]  # a dead feature


def test_only_directions_count():
    train, labels = clusters(200)
    test, _ = clusters(50, seed=1)
    scales = np.random.default_rng(2).uniform(0.1, 10, (200, 1))
    np.testing.assert_array_equal(
        knn_predictions(train, labels, test, k=5),
        knn_predictions(train * scales, labels, 3 * test, k=5),
    )


def test_a_low_temperature_does_not_overflow():
    train, labels = clusters(200)
    assert knn_accuracy(train, labels, train, labels, k=50, temperature=1e-4) == 1


def test_half_precision_features_are_taken():
    train, labels = clusters(300)
    assert knn_accuracy(train.astype("float16"), labels, train, labels, k=1) == 1


def test_k_fits_small_sets():
    assert [default_k(n) for n in (1, 9, 100, 2000, 10**6)] == [1, 1, 10, 200, 200]
    features, labels = clusters(10)
    assert 0 <= knn_accuracy(features, labels, features, labels, k=200) <= 1


def test_evaluator_yields_names_and_values():
    train, train_labels = clusters(500)
    test, test_labels = clusters(100, seed=1)
    task = KNearestNeighbours()
    sets = [{"f": x, "f1": x[:, :3]} for x in (train, test)]
    found = task.evaluate(sets[0], train_labels, sets[1], test_labels, num_classes=7)
    values = {result.feature: result.value for result in found}
    assert list(values) == ["f", "f1"]
    assert values["f"] == knn_accuracy(train, train_labels, test, test_labels, k=50)
    assert values["f1"] < values["f"]
    assert task.settings(500)["k"] == 50
    assert KNearestNeighbours(k=900).settings(500)["k"] == 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 1 or more"),
        ({"k": "5"}, "k is 1 or more, a whole number, .* got '5'"),
        ({"temperature": 0}, "temperature above 0"),
        ({"distance": "l1"}, "unknown distance of nearest neighbours 'l1'; options: cosine, eucl"),
        ({"distance": "euclidean", "test_features": np.full((2, 2), np.inf)}, "NaN"),
        ({"train_features": np.full((4, 2), np.nan)}, "NaN"),
        ({"test_features": np.zeros((2, 3))}, "one dim"),
        ({"train_labels": np.zeros(3)}, "3 train labels"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "train_features": np.ones((4, 2)),
        "train_labels": np.zeros(4),
        "test_features": np.ones((2, 2)),
        "test_labels": np.zeros(2),
        **change,
    }
    with pytest.raises(UserError, match=message):
        knn_accuracy(**arguments)


def test_raw_pixels_stand_beside_the_features(tmp_path):
    record = {"format": 1, "backbone": "six_layer", "arguments": {"filters": [4] * 6}}
    record.update(image_size=8, mean=[0.2, 0.3, 0.4], std=[0.5, 0.6, 0.7])
    network = applications.build("six_layer", 8, **record["arguments"])
    path = applications.save_backbone(network, tmp_path / "backbone.weights.h5", record)
    train, test = data.digits("train"), data.digits("test")
    report = evaluate(path, [KNearestNeighbours(k=1, raw_pixels=True)], train, test)
    found = {row["name"]: row for row in report["results"] if row["images"] == "upright"}
    assert set(found) >= {"pixels", "block6"} and "pixels" in report["protocol"]["knn"]
    sets = [load_images(source, 8).reshape(-1, 8 * 8 * 3) / 255.0 for source in (train, test)]
    reference = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    expected = reference.fit(sets[0], train.labels).score(sets[1], test.labels)
    assert found["pixels"]["value"] == pytest.approx(expected, abs=0.005)
    assert found["pixels"]["value"] == found["pixels"]["random_init"]
    assert found["block6"]["value"] != found["pixels"]["value"]
    assert "pixels" not in KNearestNeighbours().settings(10)


def test_both_distances_share_one_pass_and_raw_pixels_stand_beside(tmp_path):
    record = {"format": 1, "backbone": "six_layer", "arguments": {"filters": [4] * 6}}
    record["image_size"] = 8
    network = applications.build("six_layer", 8, **record["arguments"])
    path = applications.save_backbone(network, tmp_path / "backbone.weights.h5", record)
    train, test = data.digits("train"), data.digits("test")
    task = KNearestNeighbours(distances=["cosine", "euclidean"])
    report = evaluate(path, [task], train, test, endpoints=["block6"])
    found = {
        (row["name"], row["metric"]): row for row in report["results"] if row["images"] == "upright"
    }
    assert set(found) == {
        (name, metric)
        for name in ("pixels", "block6")
        for metric in ("accuracy", "accuracy (Euclidean)")
    }
    assert report["protocol"]["knn"]["euclidean"] == {"k": 1, "vote": "one of each neighbour"}
    assert report["protocol"]["knn"]["k"] == 150
    sets = [load_images(source, 8).reshape(-1, 8 * 8 * 3) / 255.0 for source in (train, test)]
    reference = KNeighborsClassifier(1).fit(sets[0], train.labels).score(sets[1], test.labels)
    row = found["pixels", "accuracy (Euclidean)"]
    assert row["value"] == row["random_init"] == pytest.approx(reference, abs=0.004)
    only = KNearestNeighbours(distances=["euclidean"], k=3).settings(1500)
    assert only["euclidean"]["k"] == 3 and "similarity" not in only
    with pytest.raises(UserError, match="unknown distance of nearest neighbours 'l2'"):
        KNearestNeighbours(distances=["l2"])
