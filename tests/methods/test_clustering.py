"""Whitening, k-means with empty clusters, agreement of clusterings, drawing from clusters."""

import math

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from rfd_tf.errors import UserError
from rfd_tf.methods import clustering


def _features(count=500, inputs=12, rank=None):
    rng = np.random.default_rng(0)
    rank = rank or inputs
    mixed = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, inputs))
    return (5 + mixed * np.linspace(1, 3, inputs)).astype("float32")


def _blobs(sizes, dimensions=3, seed=0):
    rng = np.random.default_rng(seed)
    centers = 20 * rng.normal(size=(len(sizes), dimensions))
    points = np.repeat(centers, sizes, axis=0) + rng.normal(size=(sum(sizes), dimensions))
    return points.astype("float32"), np.repeat(np.arange(len(sizes)), sizes)


def _same_partition(one, other):
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize("dimensions", [4, 12, 50])
def test_whitening_is_that_of_scikit_learn_brought_to_length_1(dimensions):
    features = _features()
    points = clustering.whiten(features, dimensions)
    expected = PCA(min(dimensions, 12), whiten=True).fit_transform(features.astype("float64"))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert points.dtype == np.float32 and points.shape == expected.shape
    # The components' signs are anyone's choice; the angles between points are not.
    np.testing.assert_allclose(points @ points.T, expected @ expected.T, atol=1e-4)


def test_whitening_in_several_parts(monkeypatch):
    whole = clustering.whiten(_features(), 5)
    monkeypatch.setattr(clustering, "_ROWS_AT_ONCE", 64)
    parts = clustering.whiten(_features(), 5)
    np.testing.assert_allclose(parts @ parts.T, whole @ whole.T, atol=1e-4)


def test_whitening_leaves_out_directions_without_variance():
    assert clustering.whiten(_features(rank=3), 10).shape == (500, 3)
    same = np.full((7, 4), 0.1, "float32")
    np.testing.assert_array_equal(clustering.whiten(same, 4), np.zeros((7, 1)))
    np.testing.assert_array_equal(clustering.whiten(0 * same, 4), np.zeros((7, 1)))


def test_k_means_ends_where_scikit_learn_does_from_the_same_start():
    points = clustering.whiten(_features(), 6)
    found = clustering.k_means(points, 9, iterations=100, seed=3)
    first = points[np.random.default_rng(3).choice(len(points), 9, replace=False)]
    expected = KMeans(9, init=first, n_init=1, max_iter=100, tol=0).fit(points)
    assert _same_partition(found, expected.labels_)


def test_k_means_follows_from_its_seed():
    points = clustering.whiten(_features(), 6)
    one, again, other = (clustering.k_means(points, 9, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("library", clustering.LIBRARIES)
def test_k_means_finds_blobs_and_leaves_no_gaps(library):
    if library == "faiss":
        pytest.importorskip("faiss")
    points, blobs = _blobs([40, 60, 50])
    best = max(
        clustering.normalized_mutual_information(
            clustering.k_means(points, 3, seed=seed, library=library), blobs
        )
        for seed in range(5)
    )
    assert best == 1
    # Fewer different points than clusters.
    found = clustering.k_means(np.repeat(points[:2], 5, axis=0), 4, library=library)
    assert sorted(set(found)) == [0, 1]


def test_an_empty_cluster_takes_half_of_another():
    centroids = np.array([[1.0, 2.0, -4.0], [9.0, 9.0, 9.0], [7.0, 7.0, 7.0]], "float32")
    sizes = np.array([11, 0, 1])
    clustering.split_into_empty(centroids, sizes, np.random.default_rng(0))
    # That of one point cannot be divided, so it was the first.
    assert sizes.tolist() == [6, 5, 1]
    step = 1 / 1024
    expected = np.array([1.0, 2.0, -4.0]) * [1 - step, 1 + step, 1 - step]
    np.testing.assert_allclose(centroids[0], expected, rtol=1e-6)
    expected = np.array([1.0, 2.0, -4.0]) * [1 + step, 1 - step, 1 + step]
    np.testing.assert_allclose(centroids[1], expected, rtol=1e-6)
    np.testing.assert_array_equal(centroids[2], 7)
    # Where there is nothing to divide, nothing changes.
    clustering.split_into_empty(centroids, np.array([1, 0, 1]), np.random.default_rng(0))
    np.testing.assert_allclose(centroids[1], expected, rtol=1e-6)


def test_large_clusters_are_split_more_often():
    counts = np.zeros(3)
    for seed in range(300):
        sizes = np.array([31, 11, 0])
        clustering.split_into_empty(np.ones((3, 2), "float32"), sizes, np.random.default_rng(seed))
        counts[np.flatnonzero(sizes != [31, 11, 0])[0]] += 1
    assert counts[2] == 0 and 0.65 < counts[0] / 300 < 0.85  # 30 of 40


def test_clusters_that_are_left_empty_come_back():
    # Begun in one place, all centroids but one are empty.
    points, _ = _blobs([200, 200])
    points = np.concatenate([np.zeros((400, 3), "float32"), points])
    seed = next(
        seed
        for seed in range(100)
        if (np.random.default_rng(seed).choice(800, 6, replace=False) < 400).sum() >= 4
    )
    found = clustering.k_means(points, 6, seed=seed)
    assert len(set(found)) >= 4


def test_agreement_is_mutual_information_over_the_mean_entropy():
    first, second = np.array([0, 0, 0, 1, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1, 0, 0])
    joint = np.zeros((3, 2))
    np.add.at(joint, (first, second), 1 / 8)
    rows, columns = joint.sum(1), joint.sum(0)
    information = sum(
        p * math.log(p / (rows[i] * columns[j])) for (i, j), p in np.ndenumerate(joint) if p
    )
    entropies = [-sum(p * math.log(p) for p in each) for each in (rows, columns)]
    expected = information / math.sqrt(math.prod(entropies))
    assert clustering.normalized_mutual_information(first, second) == pytest.approx(expected)
    assert clustering.normalized_mutual_information(first, np.zeros(8, int)) == 0


def test_drawing_is_even_over_clusters():
    clusters = np.array([0] * 90 + [1] * 9 + [2] + [-1] * 20)
    order = clustering.uniform_order(clusters, 120, np.random.default_rng(0))
    assert len(order) == 120
    counts = np.bincount(clusters[order], minlength=3)
    assert counts.sum() == 120 and counts.min() >= 37 and counts.max() <= 41
    # Of a cluster that has enough, no image comes twice.
    large = order[clusters[order] == 0]
    assert len(set(large)) == len(large)
    assert np.abs(np.diff(clusters[order])).sum() > 40, "the clusters come mixed"
    again = clustering.uniform_order(clusters, 120, np.random.default_rng(0))
    np.testing.assert_array_equal(order, again)


def test_drawing_at_random_takes_each_image_before_any_comes_again():
    clusters = np.array([0, 5, -1, 0, 1])
    order = clustering.random_order(clusters, 10, np.random.default_rng(0))
    for part in (order[:4], order[4:8]):
        assert sorted(part) == [0, 1, 3, 4]
    assert 2 not in order and len(order) == 10


def test_a_library_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="unknown k-means library 'torch'; options: sklearn, faiss"):
        clustering.k_means(np.zeros((4, 2), "float32"), 2, library="torch")
