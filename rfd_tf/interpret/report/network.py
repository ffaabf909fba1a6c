"""Sections on what the trained network sees: rotations, filters, neighbours, doubts, distances."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rfd_tf.data import pu_weights
from rfd_tf.data.views import NUM_ROTATIONS
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Settings, Subject
from rfd_tf.evaluation.invariance import OTHER, Invariance
from rfd_tf.evaluation.knn import nearest
from rfd_tf.evaluation.rotation import ALL, Rotation
from rfd_tf.interpret.report import charts, pictures
from rfd_tf.interpret.report.blocks import (
    Charts,
    LeftOut,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
)
from rfd_tf.interpret.report.images import ReportImages, class_of, describe
from rfd_tf.interpret.report.run_record import RunRecord
from rfd_tf.interpret.saliency import GradientMaps

_QUERIES, _NEIGHBOURS = 8, 7
_DOUBTS = 10
_FILTERS = 64
_FIT_IMAGES = 1000


def rotations(run: RunRecord, images: ReportImages) -> Section:
    """What rotation is taken for what."""
    subject = images.subject
    head = "trained" if "rotation_head" in subject.heads else "fitted"
    task = Rotation(head, fit_images=_FIT_IMAGES)
    task.check(subject, images.data)
    found = _files_of(task, subject, images, "rotation_pretrained.json")
    degrees = [f"{90 * turns}°" for turns in range(NUM_ROTATIONS)]
    blocks: list[Any] = [
        Text(
            f"{len(images.data.test)} test images in four rotations, not augmented, so the "
            "accuracies may lie above those of training. "
            + (
                "The classifier is the one trained with the network."
                if head == "trained"
                else f"The classifier is linear and was fitted to the frozen feature on "
                f"{min(_FIT_IMAGES, len(images.data.train))} training images, because the run has "
                "no rotation classifier."
            )
        )
    ]
    for name, by_class in found["features"].items():
        counts = np.asarray(by_class[ALL], np.float64)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        accuracy = 100 * counts.trace() / max(counts.sum(), 1)
        blocks.append(
            Table(
                ("rotated by ↓ predicted →", *degrees),
                [
                    (angle, *(f"{value:.1f}" for value in row))
                    for angle, row in zip(degrees, share, strict=True)
                ],
                f"{name}: accuracy {accuracy:.1f} % (chance 25). Percent of the images rotated by "
                "each angle, counter-clockwise.",
                shades=(share / 100).tolist(),
            )
        )
    return Section("rotations", "Confusion of rotations", blocks)


def filters(run: RunRecord, images: ReportImages) -> Section:
    """The first convolution's kernels as pictures, beside the random-init network's."""
    twin = images.subject.random_twin(images.seed)
    layer, kernels = _first_kernels(images.network)
    _, before = _first_kernels(twin.network())
    count = min(_FILTERS, kernels.shape[-1])
    rows = []
    for title, values in (("trained", kernels), ("random init", before)):
        picture = _filter_sheet(values[..., :count])
        height, width = values.shape[:2]
        alt = f"{count} filters of {height} x {width} pixels, {title}"
        rows.append((title, [Picture(pictures.data_uri(picture, 4096), alt, sharp=True)]))
    return Section(
        "filters",
        "First-layer filters",
        [
            Pictures(
                rows,
                f"{count} of the {kernels.shape[-1]} filters of layer {layer}, "
                f"{kernels.shape[0]} x {kernels.shape[1]} pixels of normalised red, green and "
                "blue; grey is zero, each filter scaled to its own largest weight.",
            )
        ],
    )


def _first_kernels(model: keras.Model) -> tuple[str, np.ndarray]:
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None and len(kernel.shape) == 4 and kernel.shape[2] == 3:
            return layer.name, np.asarray(keras.ops.convert_to_numpy(kernel), np.float32)
    raise LeftOut("the network has no convolution on the three colours.")


def _filter_sheet(kernels: np.ndarray, columns: int = 16, gap: int = 1) -> np.ndarray:
    """Kernels `[h, w, 3, n]` as one picture with transparent gaps: uint8 `[H, W, 4]`."""
    height, width, _, count = kernels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 4)
    sheet = np.zeros(shape, np.uint8)
    for number in range(count):
        kernel = kernels[..., number]
        scaled = 127.5 + 127.5 * kernel / max(float(np.abs(kernel).max()), 1e-12)
        top = number // columns * (height + gap)
        left = number % columns * (width + gap)
        sheet[top : top + height, left : left + width, :3] = scaled.round().astype(np.uint8)
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet


def neighbours(run: RunRecord, images: ReportImages) -> Section:
    """The nearest training images of the same queries by each half of the feature."""
    gallery, gallery_index = images.gallery
    queries, query_index = images.queries
    chosen = images.some_queries(_QUERIES)
    count = min(_NEIGHBOURS, len(gallery_index))
    names = list(images.tensors)
    train, test = images.data.train.source, images.data.test.source
    found = {name: nearest(gallery[name], queries[name][chosen], count) for name in names}
    query_pixels = images.pixels(test, query_index[chosen])
    pixels = {
        name: images.pixels(train, gallery_index[rows.ravel()]).reshape(
            len(chosen), count, *query_pixels.shape[1:]
        )
        for name, (rows, _) in found.items()
    }
    labelled = test.labels is not None and train.labels is not None
    blocks: list[Any] = [
        Text(
            f"Of each test image at the left, the {count} most similar of {len(gallery_index)} "
            "training images by cosine, the nearest first."
            + (
                " Solid frame: of the same class; dashed: of another (labels serve this only)."
                if labelled
                else ""
            )
        )
    ]
    for number, place in enumerate(chosen):
        index = int(query_index[place])
        rows = []
        for name, (near, similarity) in found.items():
            row = []
            for column in range(count):
                other = int(gallery_index[near[number, column]])
                mark = ""
                if labelled:
                    same = class_of(train, other) == class_of(test, index)
                    mark = "same" if same else "other"
                text = f"{describe(train, other)}, cosine {similarity[number, column]:.2f}"
                uri = pictures.data_uri(pixels[name][number, column])
                row.append(Picture(uri, text, mark=mark))
            rows.append((name, row))
        title = describe(test, index)
        query = Picture(
            pictures.data_uri(query_pixels[number]), f"query: {title}", class_of(test, index)
        )
        blocks.append(Pictures(rows, "", lead=query))
    return Section("neighbours", "Neighbours", blocks)


def ambiguity(run: RunRecord, images: ReportImages) -> Section:
    """The images with the clearest and the most ambiguous rotation, by the run's PU weights."""
    path = run.flags.get("pu_weights")
    if not path:
        raise LeftOut("the run had no --pu_weights.")
    source = images.train
    probability = pu_weights.read(path, source)
    recorded = run.flags.get("pu_gamma")
    gamma = 2.0 if recorded is None else float(recorded)
    weights = 1 - probability[:, 1:].astype(np.float64) ** gamma
    mean = weights.mean(axis=1)
    order = np.argsort(mean, kind="stable")
    count = min(_DOUBTS, len(order) // 2 or 1)
    rows = []
    for title, chosen in (("most ambiguous", order[:count]), ("least", order[::-1][:count])):
        pixels = images.pixels(source, chosen)
        row = []
        for image, index in zip(pixels, chosen, strict=True):
            parts = ", ".join(
                f"{90 * turns}° {weight:.2f}" for turns, weight in enumerate(weights[index], 1)
            )
            text = f"{describe(source, int(index))}; weights {parts}"
            row.append(Picture(pictures.data_uri(image), text, f"{mean[index]:.2f}"))
        rows.append((title, row))
    edges = np.linspace(0, 1, 41)
    counts = {
        f"{90 * turns}°": (turns - 1, "-", 100 * charts.shares(np.histogram(column, edges)[0]))
        for turns, column in enumerate(weights.T, 1)
    }
    start = run.flags.get("pu_start_epoch")
    chart = charts.stairs_chart(
        edges,
        counts,
        title="PU weights by rotation",
        x="weight of the rotated view",
        y="percent of images",
        caption="PU weights of all training images, by rotation.",
    )
    return Section(
        "ambiguity",
        "Most and least ambiguous images",
        [
            Text(
                f"A rotated view that looks upright counts less in the rotation loss: its weight "
                f"is 1 - P(looks upright)^{gamma:g}"
                + (f", from epoch {start} on" if start else "")
                + ". Below each image: the mean weight of its three rotated views."
            ),
            Pictures(rows, "Ranked by the mean weight over all training images."),
            Charts([chart]),
        ],
    )


def invariance(run: RunRecord, images: ReportImages) -> Section:
    """How far the feature moves when the image is rotated, shuffled or warped."""
    if len(images.data.test) < 2:
        raise LeftOut("distances to another image need two images.")
    task = Invariance(max_images=len(images.data.test), bins=40, seed=images.seed)
    if images.subject.image_size < 2 * task.jigsaw_grid:
        task = Invariance(["rotation", "affine"], max_images=len(images.data.test), bins=40)
    task.check(images.subject, images.data)
    twin = images.subject.random_twin(images.seed)
    networks = ((images.subject, "pretrained", "-"), (twin, "random_init", "--"))
    found = {
        style: _files_of(task, subject, images, f"invariance_{stem}.json")
        for subject, stem, style in networks
    }
    edges = found["-"]["edges"]
    # Up to the farthest that there is.
    filled = [
        np.nonzero(values)[0].max(initial=0)
        for content in found.values()
        for by_kind in content["counts"].values()
        for values in by_kind.values()
    ]
    bins = int(max(filled)) + 1
    edges = edges[: bins + 1]
    order = list(images.tensors)
    drawn: dict[str, dict[str, Any]] = {}
    rows = []
    for style, content in found.items():
        for title in sorted(content["counts"], key=lambda t: _place(order, t)):
            by_kind = content["counts"][title]
            network, _, feature = title.rpartition(", ")
            means = content["mean"][title]
            for kind, values in by_kind.items():
                line = feature if style == "-" else f"{feature}, random init"
                colour = _place(order, title)
                drawn.setdefault(kind, {})[line] = (
                    colour,
                    style,
                    100 * charts.shares(values)[:bins],
                )
            ratios = [
                f"{means[kind]:.2f} ({means[kind] / means[OTHER]:.2f})" if means[OTHER] else ""
                for kind in by_kind
                if kind != OTHER
            ]
            rows.append((feature, network, *ratios, f"{means[OTHER]:.2f}"))
    kinds = [kind for kind in drawn if kind != OTHER]
    panels = [
        charts.stairs_chart(
            edges,
            lines,
            title=kind,
            x="distance of the features",
            y="percent of distances",
            caption=_KINDS.get(kind, kind),
        )
        for kind, lines in drawn.items()
    ]
    return Section(
        "invariance",
        "Invariance",
        [
            Text(
                f"Euclidean distance, from 0 to 2, between the features, scaled to length 1, of "
                f"an image and of its changed version; {len(images.data.test)} test images. The "
                "nearer to 0, the less the feature takes notice. The distance to another image, "
                "drawn at random, gives the scale."
            ),
            Charts(panels),
            Table(
                ("feature", "network", *kinds, OTHER),
                rows,
                "Mean distance, and in brackets its ratio to that of another image",
                labels=2,
            ),
        ],
    )


_KINDS = {
    "rotation": "Turned by 90, 180 and 270 degrees.",
    "jigsaw": "Cut into tiles, shuffled like a jigsaw puzzle.",
    "affine": "Warped by a random affine map.",
    OTHER: "Another image, drawn at random.",
}


def _place(order: list[str], title: str) -> int:
    name = title.rpartition(", ")[2]
    return order.index(name) if name in order else len(order)


def saliency_sheet(run: RunRecord, images: ReportImages) -> Section:
    """Where a change of the pixels would change the feature most."""
    from rfd_tf.applications import preprocess_input

    subject = images.subject
    _, index = images.queries
    chosen = index[images.some_queries(_QUERIES)]
    source = images.data.test.source
    pixels = images.pixels(source, chosen)
    inputs = np.asarray(preprocess_input(pixels, mean=subject.mean, std=subject.std))
    kinds = _saliency_models(subject, images)
    twin = subject.random_twin(images.seed)
    rows = [
        (
            "image",
            [
                Picture(pictures.data_uri(image), describe(source, int(i)), class_of(source, i))
                for image, i in zip(pixels, chosen, strict=True)
            ],
        )
    ]
    for name, (model, neurons) in [*kinds.items(), *_random_models(twin, images).items()]:
        maps = GradientMaps(model, neurons)(inputs)[:, 0]
        row = []
        for one, i in zip(maps, chosen, strict=True):
            alt = f"saliency of {name} on {describe(source, int(i))}"
            row.append(Picture(pictures.data_uri(pictures.heat(one)), alt))
        rows.append((name, row))
    return Section(
        "saliency",
        "Saliency",
        [
            Pictures(
                rows,
                "Magnitude of the gradient with respect to the pixels, largest over colours and "
                f"over the outputs (of a feature, {_NEURONS} neurons at most); bright: large. "
                "Each map is scaled by itself. Edges stand out in random networks too: compare "
                "with the last row before reading meaning into a map.",
            )
        ],
    )


_NEURONS = 64


def _neurons(model: keras.Model) -> list[int]:
    width = int(model.output_shape[-1])
    return sorted({int(n) for n in np.linspace(0, width - 1, min(width, _NEURONS))})


def _saliency_models(subject: Subject, images: ReportImages) -> dict[str, Any]:
    network, tensors = images.network, images.tensors
    found = {}
    head = subject.heads.get("rotation_head")
    own = tensors.get("f1", tensors.get("f", next(iter(tensors.values()))))
    if head is not None and own.shape[-1] == len(head[0]):
        outputs = keras.ops.matmul(own, head[0]) + head[1]
        found["rotation outputs"] = (keras.Model(network.inputs, outputs), None)
    for name in [name for name in ("f1", "f2") if name in tensors] or list(tensors):
        model = keras.Model(network.inputs, tensors[name])
        found[name] = (model, _neurons(model))
    return found


def _random_models(twin: Subject, images: ReportImages) -> dict[str, Any]:
    from rfd_tf.evaluation.transformed import evaluated_tensors

    network = twin.network()
    tensors = evaluated_tensors(twin, network)
    name = next(iter(images.tensors))
    model = keras.Model(network.inputs, tensors[name])
    return {f"{name}, random init": (model, _neurons(model))}


def drawn_pictures(run: RunRecord) -> Section:
    """The pictures drawn while training: nearest neighbours, and what the method draws."""
    from PIL import Image

    paths = sorted((run.folder / "figures").glob("*.png"))
    if not paths:
        raise LeftOut("no pictures were drawn while training.")
    blocks: list[Any] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow raises many types on broken files
            raise UserError(f"'{path}' cannot be read: {error}") from None
        title = path.stem.replace("_", " ")
        picture = Picture(pictures.data_uri(pixels, 1600), title)
        blocks.append(Pictures([("", [picture])], f"{title}, after the last epoch drawn."))
    return Section("drawn", "Drawn while training", blocks)


def _files_of(task: Any, subject: Subject, images: ReportImages, name: str) -> dict[str, Any]:
    """Runs a task and returns the content of one of its JSON files."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            seed=images.seed, batch_size=images.data.test.batch_size, output=Path(folder)
        )
        for _ in task.run(subject, images.data, settings):
            pass
        return json.loads((Path(folder) / name).read_text(encoding="utf-8"))
