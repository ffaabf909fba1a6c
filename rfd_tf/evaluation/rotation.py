"""Accuracy of predicting by how much an image was rotated."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from rfd_tf import extras
from rfd_tf.data.views import NUM_ROTATIONS
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.features import FeatureExtractor, Features
from rfd_tf.evaluation.files import folder, save_figure, write_json, write_text
from rfd_tf.evaluation.heads import FILE
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.evaluation.splits import subset
from rfd_tf.evaluation.transformed import evaluated_tensors, transformed_features, turned

HEADS = ("trained", "fitted")
ALL = "all rotations"
DEGREES = tuple(f"{90 * turns} degrees" for turns in range(NUM_ROTATIONS))
# Sets of more classes have theirs in the files only.
_MOST_CLASSES = 20
_HEAD = "rotation_head"


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts how often each rotation was taken for each: int64 `[4, 4]`, rows the true ones.

    Args:
        truth, predicted: quarter turns counter-clockwise, 0 to 3, `[N]`.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 3]))[1]
    array([0, 1, 0, 1])
    """
    from sklearn import metrics

    return metrics.confusion_matrix(truth, predicted, labels=range(NUM_ROTATIONS))


class Rotation(Task):
    """Accuracy of the four-way rotation classifier, and what it takes for what.

    Every test image is evaluated in its four rotations, without augmentation. `trained` takes the
    classifier that was trained with the backbone, `heads.npz` in the run folder; it is applied to
    f2 as well where that is as long as f1, which shows whether rotation leaked into f2 (Feng et
    al.'s program logs the same). `fitted` fits a linear classifier to f1, f2 and f each, frozen.
    The random-init network, which has no classifier, always gets a fitted one.

    Results: accuracy over all rotations and for each, of f1 also by class of the images for up to
    20 classes; and which share of each rotation's views was taken for which rotation. Counts of
    all classes go to rotation_NETWORK.json, .csv and .png in the output folder.

    Args:
        head: "trained", the head of the run, or "fitted", a new one.
        fit_images: largest number of train images that a classifier is fitted to, in four
            rotations, chosen by a hash of their index.

    Raises:
        UserError: an unknown head, fewer than 2 images to fit.

    >>> Rotation().protocol(None)["head"]
    'trained'
    """

    name = "rotation"
    labels_optional = True
    needs_head = _HEAD

    def __init__(self, head: Literal["trained", "fitted"] = "trained", fit_images: int = 5000):
        if head not in HEADS:
            raise unknown("rotation head", head, HEADS)
        if fit_images < 2:
            raise UserError(f"a rotation head is fitted to 2 images or more; got {fit_images}")
        self.head, self.fit_images = head, fit_images

    def protocol(self, data: Data | None) -> dict:
        described: dict[str, Any] = {
            "head": self.head,
            "rotations": "each image rotated by 0, 90, 180 and 270 degrees counter-clockwise",
            "fitted_head": "multinomial logistic regression, L2 with C = 1, on standardised "
            "features; always for the random-init network",
            "augmentation": "none",
        }
        if data is not None:
            described["fit_images"] = min(self.fit_images, len(data.train))
            if data.held_out:
                described["note"] = "images held out from a set that pretraining may have seen"
        return described

    def check(self, subject: Subject, data: Data) -> None:
        features = _features(subject, subject.network())
        if self.head == "trained":
            _trained(subject, features)

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        model = subject.network()
        features = _features(subject, model)
        extract = FeatureExtractor(keras.Model(model.inputs, features), subject.mean, subject.std)
        if self.head == "trained" and subject.is_pretrained:
            heads = {name: _Linear(*_trained(subject, features)) for name in _evaluated(features)}
        else:
            names = list(features) if self.head == "fitted" else _evaluated(features)
            heads = self._fit(extract, names, subject, data, settings)
        predicted, images, places = self._predict(extract, heads, subject, data.test, settings)
        labels = data.test.source.labels
        classes = None if labels is None else labels[data.test.rows][places]
        names = data.class_names
        counts = {name: _counts(turns, images, classes, names) for name, turns in predicted.items()}
        if settings.output is not None:
            self._write(settings.output, subject, counts)
        for name, by_class in counts.items():
            # By class for the classifier's own feature only.
            own = len(by_class) - 1 <= _MOST_CLASSES and name == next(iter(counts))
            yield from _results(name, by_class if own else {ALL: by_class[ALL]})

    def _fit(
        self,
        extract: FeatureExtractor,
        names: Sequence[str],
        subject: Subject,
        data: Data,
        settings: Settings,
    ) -> dict[str, Any]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rows = subset(data.train.rows, self.fit_images)
        images = ImageSet(data.train.source, rows, subject.image_size, settings.batch_size)
        views, truth = [], []
        for turns, features, _ in _views(extract, images, f"{subject.title}, train", settings):
            views.append(features)
            truth.append(np.full(len(next(iter(features.values()))), turns))
        heads: dict[str, Any] = {}
        for name in names:
            if name == "f2" and self.head == "trained":
                heads[name] = heads["f1"]
                continue
            rows = np.concatenate([features[name] for features in views])
            if not np.isfinite(rows).all():
                raise UserError("the features hold NaN or infinite values: the network diverged")
            pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            heads[name] = pipeline.fit(rows, np.concatenate(truth))
        return heads

    def _predict(
        self,
        extract: FeatureExtractor,
        heads: Mapping[str, Any],
        subject: Subject,
        images: ImageSet,
        settings: Settings,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Feature -> predicted turns `[4 N]`; the true ones `[4 N]`; places in the set `[4 N]`."""
        found: dict[str, list] = {name: [] for name in heads}
        truth, seen = [], []
        for turns, features, places in _views(extract, images, subject.title, settings):
            for name, head in heads.items():
                found[name].append(head.predict(features[name]))
            truth.append(np.full(len(places), turns))
            seen.append(places)
        predicted = {name: np.concatenate(parts) for name, parts in found.items()}
        return predicted, np.concatenate(truth), np.concatenate(seen)

    def _write(self, output: Path, subject: Subject, counts: Mapping[str, Any]) -> None:
        output = folder(output)
        stem = f"{self.name}_{subject.title.replace(' ', '_')}"
        write_json(
            output / f"{stem}.json",
            {
                "rotations": list(DEGREES),
                "rows": "true rotation",
                "columns": "predicted rotation",
                "features": {
                    name: {title: matrix.tolist() for title, matrix in by_class.items()}
                    for name, by_class in counts.items()
                },
            },
        )
        with write_text(output / f"{stem}.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["feature", "class", "true rotation", *DEGREES])
            for name, by_class in counts.items():
                for title, matrix in by_class.items():
                    for degrees, row in zip(DEGREES, matrix, strict=True):
                        writer.writerow([name, title, degrees, *row.tolist()])
        every = {name: by_class[ALL] for name, by_class in counts.items()}
        save_figure(lambda: confusion_figure(every), output / f"{stem}.png")


class _Linear:
    """A classifier from a kernel `[d, 4]` and a bias `[4]`."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray):
        self._kernel, self._bias = kernel, bias

    def predict(self, features: np.ndarray) -> np.ndarray:
        return (features @ self._kernel + self._bias).argmax(axis=1)


def _features(subject: Subject, model: keras.Model) -> Features:
    tensors = evaluated_tensors(subject, model)
    return {name: tensors[name] for name in ("f1", "f2", "f", "pooled") if name in tensors}


def _evaluated(features: Mapping[str, Any]) -> list[str]:
    """The features that the trained classifier is applied to, its own first."""
    own = next(iter(features))
    if own == "f1" and features["f1"].shape[-1] == features["f2"].shape[-1]:
        return ["f1", "f2"]
    return [own]


def _trained(subject: Subject, features: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of the classifier that was trained with the backbone.

    Raises:
        UserError: there is none, or it does not fit.
    """
    where = f"'{subject.folder}'" if subject.folder else "a weights file outside a run folder"
    fitted = "--rotation_head=fitted fits a linear one to the frozen features"
    head = subject.heads.get(_HEAD)
    if head is None:
        if subject.folder and (subject.folder / FILE).exists():
            raise UserError(
                f"{where} was trained without a rotation head (method "
                f"{subject.record.get('method')}); {fitted}"
            )
        raise UserError(
            f"{where} has no rotation head ({FILE}); resume the run (its command again, or "
            f"Run.resume), which writes it; {fitted}"
        )
    name, width = next((name, tensor.shape[-1]) for name, tensor in features.items())
    if head[0].shape != (width, NUM_ROTATIONS):
        raise UserError(
            f"the rotation head of {where} has shape {head[0].shape}; feature {name} needs "
            f"({width}, {NUM_ROTATIONS})"
        )
    return head


def _views(
    extract: FeatureExtractor, images: ImageSet, title: str, settings: Settings
) -> Iterator[tuple[int, Features, np.ndarray]]:
    """Yields (quarter turns, features, places) for the four rotations of all images."""
    for turns in range(NUM_ROTATIONS):
        progress = f"{title}, {DEGREES[turns]}" if settings.progress else None
        yield turns, *transformed_features(extract, images, turned(turns), progress)


def _counts(
    predicted: np.ndarray,
    truth: np.ndarray,
    classes: np.ndarray | None,
    names: Sequence[str] | None,
) -> dict[str, np.ndarray]:
    """Confusion matrices over all images under `ALL`, and by class."""
    counts = {ALL: confusion_matrix(truth, predicted)}
    for label in [] if classes is None else np.unique(classes):
        own = classes == label
        title = names[label] if names else f"class {label}"
        counts[title] = confusion_matrix(truth[own], predicted[own])
    return counts


def _results(name: str, by_class: Mapping[str, np.ndarray]) -> Iterator[Result]:
    for title, matrix in by_class.items():
        evaluated = name if title == ALL else f"{name} of {title}"
        yield Result(evaluated, matrix.trace() / matrix.sum(), ALL, when="")
        for turns, degrees in enumerate(DEGREES):
            share = matrix[turns, turns] / matrix[turns].sum()
            yield Result(evaluated, share, degrees, when="")
    matrix = by_class[ALL]
    for taken, answer in enumerate(DEGREES):
        for turns, degrees in enumerate(DEGREES):
            share = matrix[turns, taken] / matrix[turns].sum()
            yield Result(name, share, degrees, f"taken for {answer}", when="")


def confusion_figure(counts: Mapping[str, np.ndarray]):
    """Draws confusion matrices in percent of each true rotation, a panel a feature.

    Args:
        counts: feature -> `[4, 4]`, rows the true rotations.

    Returns:
        A `matplotlib.figure.Figure`.

    >>> figure = confusion_figure({"f1": np.eye(4)})
    >>> figure.axes[0].get_xlabel(), figure.axes[0].texts[0].get_text()
    ('taken for', '100')
    """
    Figure = extras.load("matplotlib.figure", "the figure of rotation").Figure

    figure = Figure(figsize=(3.1 * len(counts) + 0.4, 3.6), dpi=150, layout="constrained")
    degrees = [f"{90 * turns}°" for turns in range(NUM_ROTATIONS)]
    panels = figure.subplots(1, len(counts), squeeze=False)[0]
    for panel, (name, matrix) in zip(panels, counts.items(), strict=True):
        matrix = np.asarray(matrix, np.float64)
        share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        panel.imshow(share, vmin=0, vmax=100, cmap="Blues")
        for (row, column), value in np.ndenumerate(share):
            shade = "white" if value > 50 else "black"
            panel.text(column, row, f"{value:.0f}", ha="center", va="center", color=shade)
        panel.set_xticks(range(NUM_ROTATIONS), degrees)
        panel.set_yticks(range(NUM_ROTATIONS), degrees)
        accuracy = matrix.trace() / matrix.sum()
        panel.set_title(f"{name}: accuracy {100 * accuracy:.1f} %", fontsize="medium")
        panel.set_xlabel("taken for")
        panel.set_ylabel("rotated by")
    figure.supxlabel(
        "percent of the test images rotated by that angle, counter-clockwise", fontsize="small"
    )
    return figure
