"""A map of the test images: near in the plane where their features are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rfd_tf.errors import UserError
from rfd_tf.interpret.report import pictures
from rfd_tf.interpret.report.blocks import LeftOut, Map, Section
from rfd_tf.interpret.report.images import ReportImages, describe
from rfd_tf.interpret.report.run_record import RunRecord

_POINTS = 600
_FEWEST = 8
_MOST_CLASSES = 20
_CLUSTERS = 10
_THUMBNAIL = 48
_COLUMNS = 30


def planar(features: np.ndarray, seed: int = 0) -> dict[str, tuple[np.ndarray, str, str]]:
    """Lays features out in the plane by t-SNE and by principal components.

    Args:
        features: `[N, dim]`, N at least 5; each is scaled to length 1, so that distance is a
            matter of the cosine.
        seed: of t-SNE, which starts from the principal components.

    Returns:
        "t-SNE" and "PCA": points float64 `[N, 2]`, titles of both axes.

    Raises:
        UserError: too few rows, NaN or infinite values.

    >>> planar(np.eye(6))["PCA"][0].shape
    (6, 2)
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = unit_rows(features)
    if len(rows) < 5:
        raise UserError(f"a map needs 5 images or more; got {len(rows)}")
    pca = PCA(2, random_state=seed)
    components = pca.fit_transform(rows)
    share = [f"{100 * value:.0f} % of the variance" for value in pca.explained_variance_ratio_]
    perplexity = min(30.0, (len(rows) - 1) / 3)
    start = components / max(float(components[:, 0].std()), 1e-12) * 1e-4
    tsne = TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(rows)
    return {
        "t-SNE": (tsne.astype(np.float64), "first axis, no unit", "second axis, no unit"),
        "PCA": (components, f"first component, {share[0]}", f"second component, {share[1]}"),
    }


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float64; a row of zeros stays.

    Raises:
        UserError: NaN or infinite values.

    >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    rows = np.asarray(features, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise UserError("the features hold NaN or infinite values: the network has diverged")
    return rows / np.maximum(norms, 1e-12)


def section(run: RunRecord, images: ReportImages) -> Section:
    """The map, coloured by class, or by cluster where there are no classes or very many."""
    features, index = images.queries
    chosen = np.sort(images.some_queries(_POINTS))
    if len(chosen) < _FEWEST:
        raise LeftOut(f"a map needs {_FEWEST} images or more; there are {len(chosen)}.")
    source = images.data.test.source
    groups, names, kind = _groups(images, features, index, chosen)
    size = min(images.subject.image_size, _THUMBNAIL)
    uri, _ = pictures.sprite(images.pixels(source, index[chosen]), size, _COLUMNS)
    views = {}
    order = sorted(images.tensors, key=lambda name: name != "f")
    for name in order:
        for how, (points, x, y) in planar(features[name][chosen], images.seed).items():
            low, high = points.min(axis=0), points.max(axis=0)
            scaled = (points - low) / np.maximum(high - low, 1e-12)
            views[f"{name}, {how}"] = {"points": scaled.round(3).tolist(), "x": x, "y": y}
    return Section(
        "map",
        "Map of the features",
        [
            Map(
                views,
                groups.tolist(),
                names,
                [describe(source, int(i)) for i in index[chosen]],
                uri,
                _COLUMNS,
                size,
                f"{len(chosen)} test images, near where their features, scaled to length 1, are "
                f"alike; {kind}. t-SNE keeps neighbourhoods, not distances. Point at a dot, or "
                "use the arrow keys, to see its image.",
            )
        ],
    )


def _groups(
    images: ReportImages, features: Mapping[str, Any], index: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, list[str], str]:
    source = images.data.test.source
    if source.labels is not None:
        labels = source.labels[index[chosen]]
        present, groups = np.unique(labels, return_inverse=True)
        if len(present) <= _MOST_CLASSES:
            names = [
                str(source.class_names[label]) if source.class_names else f"class {label}"
                for label in present
            ]
            return groups, names, "colours are classes"
    from sklearn.cluster import KMeans

    count = min(_CLUSTERS, len(chosen) // 4)
    name = "f" if "f" in features else next(iter(features))
    rows = unit_rows(features[name][chosen])
    groups = KMeans(count, n_init=4, random_state=images.seed).fit_predict(rows)
    names = [f"cluster {number + 1}" for number in range(count)]
    return groups, names, f"colours are {count} k-means clusters of {name}"
