"""Clusters of images by their features, as DeepCluster makes them (Caron et al., ECCV 2018)."""

from __future__ import annotations

import numpy as np

from rfd_tf import extras
from rfd_tf.errors import unknown

LIBRARIES = ("sklearn", "faiss")

_ROWS_AT_ONCE = 4096
# Directions with less than this share of the largest variance hold float32's rounding.
_SMALLEST_VARIANCE = 1e-7
_PERTURBATION = 1 / 1024


def whiten(features: np.ndarray, dimensions: int) -> np.ndarray:
    """Projects features on their principal components, each scaled to variance 1, and to length 1.

    Args:
        features: float32 `[images, inputs]`.
        dimensions: most components to keep. Directions in which the features hardly differ are
            left out: their variance is rounding.

    Returns:
        float32 `[images, d]` with d from 1 to `dimensions`, rows of length 1; zeros `[images, 1]`
        where all features are the same.

    >>> points = whiten(np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], "float32"), 2)
    >>> np.abs(points).round(3).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    count, inputs = features.shape
    mean = features.mean(axis=0, dtype="float64")
    center = mean.astype("float32")
    covariance = np.zeros((inputs, inputs))
    for start in range(0, count, _ROWS_AT_ONCE):
        part = features[start : start + _ROWS_AT_ONCE] - center
        covariance += part.T @ part
    covariance /= max(count - 1, 1)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1][:dimensions], directions[:, ::-1][:, :dimensions]
    rounding = np.finfo("float32").eps ** 2 * np.sum(mean**2)
    kept = variances > max(_SMALLEST_VARIANCE * variances[0], rounding)
    if not kept.any():
        return np.zeros((count, 1), "float32")
    scaled = (directions[:, kept] / np.sqrt(variances[kept])).astype("float32")
    points = np.empty((count, scaled.shape[1]), "float32")
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        points[rows] = (features[rows] - center) @ scaled
        lengths = np.linalg.norm(points[rows], axis=1, keepdims=True)
        points[rows] /= np.maximum(lengths, 1e-12)
    return points


def k_means(
    points: np.ndarray,
    clusters: int,
    *,
    iterations: int = 20,
    seed: int = 0,
    library: str = "sklearn",
) -> np.ndarray:
    """Divides points into clusters by Lloyd's algorithm, begun at points drawn at random.

    A cluster that is left empty takes the centroid of another, moved a little, and a part of its
    points; see `split_into_empty`.

    Args:
        points: float32 `[n, d]`.
        clusters: how many, at most n.
        iterations: of the algorithm; fewer where nothing changes any more.
        seed: of the first centroids and of the clusters that are split, 0 to 2**31 - 1.
        library: what finds the nearest centroids: `sklearn`, or `faiss`, whose own k-means is
            used then; it does the same, faster for many clusters.

    Returns:
        int64 `[n]`, each point's cluster. The clusters that have points are numbered without
        gaps from 0; there may be fewer than asked for.

    Raises:
        UserError: an unknown library, or one that is not installed.

    >>> found = k_means(np.array([[0.0], [9.0], [0.1], [9.1]], "float32"), 2)
    >>> bool(found[0] == found[2] != found[1] == found[3])
    True
    """
    check_library(library)
    points = np.ascontiguousarray(points, "float32")
    run = _faiss if library == "faiss" else _lloyd
    return without_gaps(run(points, clusters, iterations, seed))


def check_library(library: str) -> None:
    """Raises `UserError` unless the library is one that `k_means` can use here."""
    if library not in LIBRARIES:
        raise unknown("k-means library", library, LIBRARIES)
    if library == "faiss":
        extras.load("faiss", "k-means by faiss, which sklearn does as well,")


def _lloyd(points: np.ndarray, clusters: int, iterations: int, seed: int) -> np.ndarray:
    from sklearn.metrics import pairwise_distances_argmin

    rng = np.random.default_rng(seed)
    centroids = points[rng.choice(len(points), clusters, replace=False)]
    nearest = None
    for _ in range(iterations):
        before, nearest = nearest, pairwise_distances_argmin(points, centroids)
        if before is not None and np.array_equal(before, nearest):
            break
        sizes = np.bincount(nearest, minlength=clusters)
        some = np.flatnonzero(sizes)
        starts = np.cumsum(sizes)[some] - sizes[some]
        by_cluster = points[np.argsort(nearest, kind="stable")]
        sums = np.add.reduceat(by_cluster, starts, axis=0)
        centroids[some] = sums / sizes[some, None].astype("float32")
        split_into_empty(centroids, sizes, rng)
    return pairwise_distances_argmin(points, centroids)


def split_into_empty(centroids: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> None:
    """Gives each empty cluster the centroid of another, the two moved apart, in place.

    The other is drawn with a chance in proportion to its points but one, as faiss does, and half
    of its points count as the empty one's. The copy's coordinates are multiplied by 1 + 1/1024 and
    1 - 1/1024 in turn, those of the other the other way round.

    Args:
        centroids: float32 `[clusters, d]`.
        sizes: int64 `[clusters]`, the number of points of each.
        rng: what is drawn with.
    """
    for empty in np.flatnonzero(sizes == 0):
        chances = np.maximum(sizes - 1, 0)
        if not chances.any():
            return
        other = rng.choice(len(sizes), p=chances / chances.sum())
        signs = np.where(np.arange(centroids.shape[1]) % 2, -1, 1)
        centroids[empty] = centroids[other] * (1 + signs * _PERTURBATION)
        centroids[other] *= 1 - signs * _PERTURBATION
        sizes[empty] = sizes[other] // 2
        sizes[other] -= sizes[empty]


def _faiss(points: np.ndarray, clusters: int, iterations: int, seed: int) -> np.ndarray:
    import faiss

    model = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    model.train(points)
    _, nearest = model.index.search(points, 1)
    return nearest[:, 0]


def without_gaps(clusters: np.ndarray) -> np.ndarray:
    """Renumbers clusters from 0, in their order, leaving out those without points.

    >>> without_gaps(np.array([5, 2, 5])).tolist()
    [1, 0, 1]
    """
    return np.unique(clusters, return_inverse=True)[1].reshape(-1).astype("int64")


def normalized_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Normalised mutual information of two clusterings of the same points, 0 to 1.

    Their mutual information, divided by the geometric mean of their entropies (section 4.1 of the
    paper). Two clusterings that are one cluster each have 1, one of them alone 0.

    Args:
        first, second: integers `[n]`, each point's cluster.

    >>> normalized_mutual_information(np.array([0, 0, 1, 1]), np.array([7, 7, 3, 3]))
    1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(first, second, average_method="geometric"))


def uniform_order(clusters: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws points so that each cluster is drawn about as often as any other, in random order.

    From each of k clusters int(count / k) + 1 points are drawn, each at most once where the
    cluster has as many, and `count` of all those are taken.

    Args:
        clusters: integers `[n]`, each point's cluster; points below 0 have none and are not drawn.
        count: how many to draw.
        rng: what is drawn with.

    Returns:
        int64 `[count]`, places in `clusters`.

    >>> order = uniform_order(np.array([0, 0, 0, 0, 1]), 6, np.random.default_rng(0))
    >>> np.sum(order == 4) in (2, 3, 4)
    True
    """
    by_cluster = np.argsort(clusters, kind="stable")
    by_cluster = by_cluster[np.count_nonzero(clusters < 0) :]
    ends = np.flatnonzero(np.diff(clusters[by_cluster])) + 1
    parts = np.split(by_cluster, ends)
    each = count // len(parts) + 1
    drawn = [rng.choice(members, each, replace=len(members) < each) for members in parts]
    return rng.permutation(np.concatenate(drawn))[:count]


def random_order(clusters: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws points that have a cluster, each once before any comes again; as `uniform_order`.

    >>> int(random_order(np.array([0, -1, 0]), 3, np.random.default_rng(0)).max())
    2
    """
    points = np.flatnonzero(clusters >= 0)
    rounds = -(-count // len(points))
    return np.concatenate([rng.permutation(points) for _ in range(rounds)])[:count]
