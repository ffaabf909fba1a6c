"""Distance of a transformed image's feature from that of the image itself."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rfd_tf import extras
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.features import FeatureExtractor, Features
from rfd_tf.evaluation.files import folder, save_figure, write_json, write_text
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.evaluation.splits import subset
from rfd_tf.evaluation.transformed import (
    AFFINE_RANGES,
    Transformation,
    evaluated_tensors,
    shuffled,
    transformed_features,
    turned,
    warped,
)
from rfd_tf.rules import GIVEN, Including, Rule

TRANSFORMATIONS = ("rotation", "jigsaw", "affine")
OTHER = "another image"
RATIO = f"ratio to {OTHER}"
_REFERENCE = "reference"
_GRID = 3
_FARTHEST = 2.0  # between vectors of length 1


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Euclidean distances between the rows of two arrays, each row scaled to length 1.

    Args:
        one, other: `[N, dim]`, any float dtype; computed in float64. A row of zeros stays zero.

    Returns:
        float64 `[N]`, 0 (the same direction) to 2 (opposite); at most 1.42 where no number is
        negative, as after a ReLU.

    Raises:
        UserError: NaN or infinite numbers.

    >>> distances(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[3.0, 0.0], [0.0, 1.0]])).round(3)
    array([0.   , 1.414])
    """
    units = []
    for rows in (np.asarray(one, np.float64), np.asarray(other, np.float64)):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise UserError("the features hold NaN or infinite values: the network has diverged")
        units.append(np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0))
    return np.linalg.norm(units[0] - units[1], axis=1)


class Invariance(Task):
    """Distances between normalised features of an image and of its transformed version.

    Test images are rotated by 90, 180 and 270 degrees, shuffled like a jigsaw puzzle, and warped.
    For scale there is the distance to another image, drawn at random: where that is small too,
    the feature has collapsed. Evaluated are f, f1 and f2, or, without a split, the one feature; and
    the endpoints that are asked for. Results are mean distances, from 0 to 2, and their ratio to
    that of another image: below 1 the transformation changes the feature less than exchanging the
    image does. The histograms go to invariance_NETWORK.json, .csv and .png in the output folder.

    PIRL's figure 7 (Misra and van der Maaten, CVPR 2020) shows such histograms of PIRL beside those
    of a network trained on the pretext task. There the tiles of a puzzle pass through the network
    one by one; here the shuffled image passes as a whole, as for a backbone in use.

    Args:
        transformations: some of `TRANSFORMATIONS`.
        reference_weights: weights of another network to compare, such as one trained on rotation
            prediction only: run folder, `.weights.h5` file or shipped name.
        reference_title: its name in tables and figures.
        max_images: largest number of test images, chosen by a hash of their index.
        bins: number of bins of the histograms, from 0 to 2.
        jigsaw_grid: tiles per side of the puzzle.
        seed: of orders of tiles, warps and other images.

    Raises:
        UserError: unknown transformations, numbers out of range.

    >>> Invariance(transformations=["rotation"], max_images=500).protocol(None)["distance"]
    'Euclidean, features scaled to length 1'
    """

    name = "invariance"
    rules = (
        Rule(("reference_title",), {"reference_weights": GIVEN}),
        Rule(("jigsaw_grid",), {"transformations": Including(("jigsaw",))}),
    )
    labels_optional = True

    def __init__(
        self,
        transformations: Sequence[str] = TRANSFORMATIONS,
        reference_weights: str | os.PathLike | None = None,
        reference_title: str = _REFERENCE,
        max_images: int = 2000,
        bins: int = 50,
        jigsaw_grid: int = _GRID,
        seed: int = 0,
    ):
        for transformation in transformations:
            if transformation not in TRANSFORMATIONS:
                raise unknown("transformation", transformation, TRANSFORMATIONS)
        if not transformations:
            raise UserError(f"give a transformation or more of {', '.join(TRANSFORMATIONS)}")
        if max_images < 2:
            raise UserError(f"invariance needs 2 images or more; got max_images {max_images}")
        if bins < 1:
            raise UserError(f"a histogram has 1 bin or more; got {bins}")
        if jigsaw_grid < 2:
            raise UserError(f"a puzzle has 2 tiles a side or more; got {jigsaw_grid}")
        self.transformations = tuple(dict.fromkeys(transformations))
        self.reference_weights, self.reference_title = reference_weights, reference_title
        self.max_images, self.bins = max_images, bins
        self.jigsaw_grid, self.seed = jigsaw_grid, seed

    def protocol(self, data: Data | None) -> dict:
        described: dict[str, Any] = {
            "distance": "Euclidean, features scaled to length 1",
            "features": "maps averaged over their positions, vectors as they are",
            "transformations": list(self.transformations),
            "rotation": "by 90, 180 and 270 degrees, three distances an image",
            "jigsaw": f"{self.jigsaw_grid} x {self.jigsaw_grid} tiles in a random order, "
            "the image passed as a whole",
            "affine": {name: list(ends) for name, ends in AFFINE_RANGES.items()},
            OTHER: "drawn at random from the same images",
            "bins": self.bins,
            "seed": self.seed,
        }
        for transformation in TRANSFORMATIONS:
            if transformation not in self.transformations:
                del described[transformation]
        if data is not None:
            described["num_images"] = min(self.max_images, len(data.test))
        if self.reference_weights is not None:
            described["reference"] = {
                "title": self.reference_title,
                "weights": str(self.reference_weights),
                "sha256": Subject.pretrained(self.reference_weights).sha256,
            }
        return described

    def check(self, subject: Subject, data: Data) -> None:
        evaluated = [subject]
        if self.reference_weights is not None:
            evaluated.append(Subject.pretrained(self.reference_weights))
        smallest = min(one.image_size for one in evaluated)
        if "jigsaw" in self.transformations and smallest < 2 * self.jigsaw_grid:
            raise UserError(
                f"images of {smallest} pixels are too small for a puzzle of {self.jigsaw_grid} x "
                f"{self.jigsaw_grid} tiles; give fewer tiles"
            )
        if len(data.test) < 2:
            raise UserError(f"'{data.test.source.name}' has one image; invariance needs two")

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        found = self._distances(subject, subject.title, data, settings, settings.endpoints)
        histograms = {f"{subject.title}, {name}": rows for name, rows in found.items()}
        if subject.is_pretrained and self.reference_weights is not None:
            other = Subject.pretrained(self.reference_weights)
            beside = self._distances(other, self.reference_title, data, settings, None)
            for name, rows in beside.items():
                found[f"{name} of {self.reference_title}"] = rows
                histograms[f"{self.reference_title}, {name}"] = rows
        if settings.output is not None:
            self._write(settings.output, subject, histograms)
        for name, rows in found.items():
            for transformation, values in rows.items():
                yield Result(name, float(values.mean()), transformation, "distance", when="")
            scale = rows[OTHER].mean()
            for transformation in self.transformations if scale > 0 else ():
                ratio = float(rows[transformation].mean() / scale)
                yield Result(name, ratio, transformation, RATIO, when="")

    def _distances(
        self,
        subject: Subject,
        network: str,
        data: Data,
        settings: Settings,
        endpoints: Sequence[str] | None,
    ) -> dict[str, Features]:
        """Feature -> transformation -> distances float64 `[N]`."""
        model = subject.network()
        tensors = evaluated_tensors(subject, model, endpoints)
        extract = FeatureExtractor(keras.Model(model.inputs, tensors), subject.mean, subject.std)
        # (The reference's images may have another size.)
        rows = subset(data.test.rows, self.max_images)
        images = ImageSet(data.test.source, rows, subject.image_size, settings.batch_size)

        def features(transformation: Transformation | None, title: str):
            shown = f"{network}, {title}" if settings.progress else None
            return transformed_features(extract, images, transformation, shown)

        upright, places = features(None, "upright")
        found: dict[str, dict[str, list]] = {name: {} for name in upright}
        for title, transformation in self._transformations(len(images)):
            changed, again = features(transformation, title)
            # Of a file that could be read only once there is no distance.
            _, here, there = np.intersect1d(places, again, return_indices=True)
            for name in found:
                rows = distances(upright[name][here], changed[name][there])
                found[name].setdefault(title, []).append(rows)
        order = np.random.default_rng(self.seed).permutation(len(places))
        for name, rows in upright.items():
            found[name][OTHER] = [distances(rows[order], rows[np.roll(order, 1)])]
        return {
            name: {title: np.concatenate(parts) for title, parts in rows.items()}
            for name, rows in found.items()
        }

    def _transformations(self, num_images: int) -> Iterator[tuple[str, Transformation]]:
        for title in self.transformations:
            if title == "rotation":
                yield from ((title, turned(quarter_turns)) for quarter_turns in (1, 2, 3))
            elif title == "jigsaw":
                yield title, shuffled(num_images, self.jigsaw_grid, self.seed)
            else:
                yield title, warped(num_images, self.seed)

    def _write(self, output: Path, subject: Subject, found: dict[str, Features]) -> None:
        edges = np.linspace(0, _FARTHEST, self.bins + 1)
        counts = {
            title: {name: np.histogram(values, edges)[0] for name, values in rows.items()}
            for title, rows in found.items()
        }
        stem = f"{self.name}_{subject.title.replace(' ', '_')}"
        output = folder(output)
        write_json(
            output / f"{stem}.json",
            {
                "edges": edges.tolist(),
                "counts": {
                    title: {name: values.tolist() for name, values in rows.items()}
                    for title, rows in counts.items()
                },
                "mean": {
                    title: {name: float(values.mean()) for name, values in rows.items()}
                    for title, rows in found.items()
                },
            },
        )
        with write_text(output / f"{stem}.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["feature", "transformation", "from", "to", "images"])
            for title, rows in counts.items():
                for name, values in rows.items():
                    for low, high, value in zip(edges, edges[1:], values, strict=False):
                        writer.writerow([title, name, f"{low:.6g}", f"{high:.6g}", int(value)])
        caption = self._caption(found)
        save_figure(lambda: histogram_figure(edges, counts, caption), output / f"{stem}.png")

    def _caption(self, found: dict[str, Features]) -> str:
        num = len(next(iter(found.values()))[OTHER])
        return (
            f"Distance between the features, scaled to length 1, of an image and of its "
            f"transformed version, {num} test images. The nearer to 0, the more invariant the "
            f"feature; '{OTHER}', drawn at random, gives the scale."
        )


def histogram_figure(edges: np.ndarray, counts: dict[str, dict[str, np.ndarray]], caption: str):
    """Draws histograms, a panel a transformation and a line a feature.

    Args:
        edges: of the bins, `[bins + 1]`.
        counts: "network, feature" -> transformation -> numbers `[bins]`.
        caption: one paragraph, put below.

    Returns:
        A `matplotlib.figure.Figure`.

    >>> figure = histogram_figure(np.array([0.0, 1.0, 2.0]), {"f": {"rotation": [3, 1]}}, "...")
    >>> [axes.get_title() for axes in figure.axes], figure.axes[0].get_xlabel()
    (['rotation'], 'distance')
    """
    import textwrap

    Figure = extras.load("matplotlib.figure", "the figure of invariance").Figure

    panels = list(dict.fromkeys(name for rows in counts.values() for name in rows))
    # A colour a feature, a kind of line a network.
    features = list(dict.fromkeys(title.rpartition(", ")[2] for title in counts))
    colours = {t: f"C{features.index(t.rpartition(', ')[2]) % 10}" for t in counts}
    networks = dict.fromkeys(title.partition(", ")[0] for title in counts)
    styles = dict(zip(networks, itertools.cycle(["-", "--", ":"]), strict=False))
    width = 3.2 * len(panels) + 0.8
    figure = Figure(figsize=(width, 3.9), dpi=150)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, name in zip(axes, panels, strict=True):
        for title, rows in counts.items():
            if name in rows:
                values = np.asarray(rows[name], np.float64)
                style = {"color": colours[title], "linestyle": styles[title.partition(", ")[0]]}
                panel.stairs(values / max(values.sum(), 1), edges, label=title, **style)
        panel.set_title(name)
        panel.set_xlabel("distance")
        panel.set_xlim(edges[0], edges[-1])
    axes[0].set_ylabel("share of distances")
    axes[-1].legend(fontsize="x-small")
    figure.subplots_adjust(left=0.75 / width, right=1 - 0.15 / width, bottom=0.29, top=0.9)
    wrapped = textwrap.fill(caption, int(width * 14))
    figure.text(0.15 / width, 0.02, wrapped, fontsize="small", va="bottom")
    return figure
