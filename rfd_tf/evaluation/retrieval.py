"""Nearest neighbours of images: precision, and a sheet of pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from rfd_tf import extras
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.files import folder, save_figure, write_json
from rfd_tf.evaluation.frozen import check_fits
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.evaluation.knn import nearest
from rfd_tf.evaluation.splits import check_classes, subset
from rfd_tf.evaluation.transformed import transformed_features


def precision(labels: np.ndarray, neighbour_labels: np.ndarray, k: int) -> float:
    """Mean share, 0 to 1, of the k nearest images that have the query's class: precision@k.

    Args:
        labels: of the queries, `[Q]`.
        neighbour_labels: of their neighbours, the nearest first, `[Q, K]` with K at least k.
        k: 1 or more.

    >>> precision(np.array([3, 5]), np.array([[3, 3, 1], [2, 5, 5]]), k=2)
    0.75
    """
    return float(np.mean(neighbour_labels[:, :k] == np.asarray(labels)[:, None]))


class Retrieval(Task):
    """Nearest train images of test images by cosine similarity.

    On every feature: endpoints, f, f1, f2, and the projected embedding where the run folder has
    its head; maps are averaged over their positions. Yields precision@k for every k. In the output
    folder, retrieval_NETWORK_FEATURE.png shows some queries with their neighbours, those of the
    same class framed in green, and retrieval_NETWORK.json names them. Images without labels get
    the sheet only.

    Args:
        k: numbers of neighbours for precision at k.
        queries: rows of the sheet; the test images are chosen by a hash of their index.
        neighbours: columns of the sheet.
        sheets: features with a picture sheet; None for f, f1 and f2, or the last feature without a
            split. They must be among the evaluated ones.

    Raises:
        UserError: numbers below 1, a feature for the sheet that the network lacks.

    >>> Retrieval(k=[1, 10]).protocol(None)["similarity"]
    'cosine'
    """

    name = "retrieval"
    labels_optional = True

    def __init__(
        self,
        k: Sequence[int] = (1, 5, 10),
        queries: int = 10,
        neighbours: int = 8,
        sheets: Sequence[str] | None = None,
    ):
        if not k or min(k) < 1:
            raise UserError(f"precision@k needs k of 1 or more; got {list(k)}")
        if queries < 1 or neighbours < 1:
            raise UserError(
                f"a sheet has 1 query and 1 neighbour or more; got {queries} and {neighbours}"
            )
        self.k = tuple(sorted(set(k)))
        self.queries, self.neighbours = queries, neighbours
        self.sheets = None if sheets is None else tuple(sheets)

    def protocol(self, data: Data | None) -> dict:
        return {
            "k": list(self.k),
            "similarity": "cosine",
            "queries": "test images",
            "gallery": "train images",
            "features": "maps averaged over their positions, vectors as they are",
            "sheet": {
                "queries": self.queries,
                "neighbours": self.neighbours,
                "features": None if self.sheets is None else list(self.sheets),
            },
        }

    def check(self, subject: Subject, data: Data) -> None:
        if _known(data):
            check_classes(data.train.source, None if data.held_out else data.test.source)
        tensors = self._tensors(subject, subject.network(), None)
        for name in self.sheets or ():
            if name not in tensors:
                raise UserError(
                    f"no feature '{name}' for a sheet; this network has {', '.join(tensors)}"
                )
        if self.k[-1] > len(data.train):
            raise UserError(
                f"precision@{self.k[-1]} needs as many train images; '{data.train.source.name}' "
                f"gives {len(data.train)}"
            )

    def _tensors(
        self, subject: Subject, model: keras.Model, endpoints: Sequence[str] | None
    ) -> dict[str, Any]:
        return subject.feature_tensors(model, ("average", 1), endpoints, embedding=True)

    def _sheets(self, tensors: Mapping[str, Any]) -> tuple[str, ...]:
        if self.sheets is not None:
            return tuple(name for name in self.sheets if name in tensors)
        split = tuple(name for name in ("f", "f1", "f2") if name in tensors)
        return split or (list(tensors)[-1],)

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        model = subject.network()
        tensors = self._tensors(subject, model, settings.endpoints)
        images = len(data.train) + len(data.test)
        width = sum(int(tensor.shape[-1]) for tensor in tensors.values())
        check_fits(4 * width * images, images, "fewer --endpoints or --max_train_images")
        extract = FeatureExtractor(keras.Model(model.inputs, tensors), subject.mean, subject.std)

        def features(images: ImageSet, title: str):
            progress = f"{subject.title}, {title}" if settings.progress else None
            return transformed_features(extract, images, progress=progress)

        gallery, gallery_places = features(data.train, "train")
        queries, query_places = features(data.test, "test")
        deepest = min(len(gallery_places), max(self.k[-1], self.neighbours))
        shown: dict[str, Any] = {}
        for name in tensors:
            places, similarity = nearest(gallery[name], queries[name], deepest)
            if _known(data):
                classes = data.test.labels[query_places]
                found = data.train.labels[gallery_places][places]
                for k in self.k:
                    yield Result(
                        name, precision(classes, found, k), metric=f"precision@{k}", when=""
                    )
            if settings.output is not None and name in self._sheets(tensors):
                chosen = subset(np.arange(len(query_places)), self.queries)
                near = places[chosen, : self.neighbours]
                shown[name] = query_places[chosen], gallery_places[near], similarity[chosen]
        if shown:
            self._write(settings, subject, data, shown)

    def _write(
        self, settings: Settings, subject: Subject, data: Data, shown: Mapping[str, Any]
    ) -> None:
        output = folder(settings.output)
        stem = f"{self.name}_{subject.title.replace(' ', '_')}"
        listed = {}
        for name, (queries, near, similarity) in shown.items():
            draw = functools.partial(
                sheet,
                *_pictures(data.test, queries),
                *_pictures(data.train, near),
                f"{subject.title}, {name}",
                data.class_names,
            )
            save_figure(draw, output / f"{stem}_{name.replace('/', '_')}.png")
            listed[name] = [
                {
                    "query": _title(data.test, query),
                    "neighbours": [_title(data.train, place) for place in row],
                    "similarity": [round(float(value), 4) for value in values[: len(row)]],
                }
                for query, row, values in zip(queries, near, similarity, strict=True)
            ]
        write_json(output / f"{stem}.json", listed)


def _known(data: Data) -> bool:
    """Whether the images have at least two classes."""
    labels = data.train.source.labels
    if labels is None or data.test.source.labels is None:
        return False
    return len(np.unique(labels)) > 1


def _pictures(images: ImageSet, places: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels `[..., S, S, 3]` and labels `[...]` of the images at places of any shape."""
    wanted, back = np.unique(places, return_inverse=True)
    pixels = images.some(wanted).images()[back.reshape(places.shape)]
    labels = images.source.labels
    return pixels, None if labels is None else labels[images.rows[places]]


def _title(images: ImageSet, place: int) -> str | int:
    row = int(images.rows[place])
    names = images.source.names
    return row if names is None else names[row]


def sheet(
    queries: np.ndarray,
    query_labels: np.ndarray | None,
    neighbours: np.ndarray,
    neighbour_labels: np.ndarray | None,
    title: str,
    class_names: Sequence[str] | None = None,
):
    """Draws queries, each with its neighbours beside it, the nearest first.

    Args:
        queries: uint8 `[Q, S, S, 3]`.
        query_labels: `[Q]`, or None.
        neighbours: uint8 `[Q, K, S, S, 3]`.
        neighbour_labels: `[Q, K]`, or None.
        title: of the sheet.
        class_names: of the labels.

    Returns:
        A `matplotlib.figure.Figure`; where labels are known, neighbours of the query's class have
        a green frame and the others a red one.

    >>> pixels = np.zeros((2, 3, 8, 8, 3), np.uint8)
    >>> figure = sheet(pixels[:, 0], None, pixels, None, "f")
    >>> len(figure.axes)
    1
    """
    Figure = extras.load("matplotlib.figure", "the sheet of retrieval").Figure
    Rectangle = extras.load("matplotlib.patches", "the sheet of retrieval").Rectangle

    rows, columns, size = neighbours.shape[:3]
    gap = max(2, size // 8)
    step = size + gap
    left = step + 2 * gap  # a wider gap after the queries
    canvas = np.full((rows * step + gap, left + columns * step, 3), 255, np.uint8)
    figure = Figure(
        figsize=(0.75 * (columns + 1.3) + (1.1 if class_names else 0.2), 0.75 * rows + 0.9), dpi=150
    )
    axes = figure.add_axes((0.02 + (0.12 if class_names else 0), 0.06, 0.86, 0.86))
    for row in range(rows):
        top = gap + row * step
        canvas[top : top + size, gap : gap + size] = queries[row]
        for column in range(columns):
            start = left + column * step
            canvas[top : top + size, start : start + size] = neighbours[row, column]
            if query_labels is not None:
                same = neighbour_labels[row, column] == query_labels[row]
                corner = (start - 1.5, top - 1.5)
                colour = "tab:green" if same else "tab:red"
                frame = Rectangle(
                    corner, size + 2, size + 2, fill=False, edgecolor=colour, linewidth=1.5
                )
                axes.add_patch(frame)
        if query_labels is not None and class_names:
            name = class_names[query_labels[row]]
            axes.text(-gap, top + size / 2, name, ha="right", va="center", fontsize="small")
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"{title}: query, and nearest images", fontsize="medium")
    if query_labels is not None:
        caption = "green frame: the query's class; red: another"
        figure.text(0.5, 0.015, caption, ha="center", fontsize="small")
    return figure
