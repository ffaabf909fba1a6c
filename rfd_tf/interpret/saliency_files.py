"""Tables and figures of `rfd_tf.interpret.objects.measure`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfd_tf import extras
from rfd_tf.evaluation.files import folder, save_figure, write_json, write_text
from rfd_tf.interpret.objects import Pictures, Settings

_FIXED = (
    "At a fixed threshold, a network whose gradients are smaller everywhere has a Q of 0 by "
    "construction; the random network's maps carry no information. Compare at an equal share "
    "of pixels."
)
_MAPS = {
    "gradient": "|gradient| with respect to the input",
    "smooth": "smoothed gradient",
    "grad_cam": "Grad-CAM",
    "attention": "attention",
}


def table(rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> str:
    """Returns rows of `measure` as a Markdown table, everything in percent.

    Args:
        rows: of `measure`.
        first: further keys of a row, which make the first columns.

    >>> row = {"layer": "rotation", "salient": "strongest 20 %", "network": "pretrained"}
    >>> row |= {"q": 0.3, "random_pixels": 0.1, "central_pixels": 0.25, "share": 0.2}
    >>> print(table([row]).splitlines()[2])
    | rotation | strongest 20 % | pretrained | 30.0 | 10.0 | 25.0 | 20.0 |
    """
    titles = [*first, "layer", "salient", "network"]
    numbers = ["Q", "Q of random pixels", "Q of central pixels", "salient pixels"]
    lines = [
        "| " + " | ".join([*titles, *numbers]) + " |",
        "|" + "---|" * len(titles) + "---:|" * len(numbers),
    ]
    for row in rows:
        values = [row[name] for name in ("q", "random_pixels", "central_pixels", "share")]
        cells = [str(row[name]) for name in titles] + [f"{100 * value:.1f}" for value in values]
        lines.append("| " + " | ".join(cells) + " |")
    if any(row["salient"].startswith("at least") for row in rows):
        lines += ["", _FIXED]
    return "\n".join(lines)


def summary(pictures: Pictures, found: Mapping[str, Any], settings: Settings) -> str:
    """Returns what `saliency.md` holds: what was measured, the rotation accuracy, the table."""
    lines = [
        f"{len(pictures.names)} pictures of {pictures.name}, stretched to "
        f"{pictures.images.shape[1]} x {pictures.images.shape[1]} pixels. {_MAPS[settings.map]}; "
        f"several neurons: {settings.group}. Percent.",
        "",
    ]
    if found["rotation_accuracy"]:
        accuracies = ", ".join(
            f"{name} {100 * value:.1f}" for name, value in found["rotation_accuracy"].items()
        )
        lines += [f"Rotation accuracy on all four rotations: {accuracies} (chance 25).", ""]
    if found["rows"]:
        lines += [
            "Q = |S and B| / |S or B|, S the salient pixels, B those of the objects; mean over the "
            "pictures. Random pixels, central pixels: as many as are salient.",
            "",
            table(found["rows"]),
        ]
    else:
        lines += ["Where the objects are is not known: no Q."]
    return "\n".join(lines)


def write(
    output: Path, pictures: Pictures, found: Mapping[str, Any], settings: Settings, count: int = 6
) -> None:
    """Writes `saliency.md`, `.csv` (Q of each image), `.json` and `.png` to a folder.

    Args:
        output: the folder; made if need be.
        pictures, found, settings: of `measure`.
        count: pictures on the figure.

    Raises:
        UserError: it cannot be written.
    """
    output, rows = folder(output), found["rows"]
    with write_text(output / "saliency.md") as file:
        file.write(summary(pictures, found, settings) + "\n")
    if rows:
        with write_text(output / "saliency.csv") as file:
            writer = csv.writer(file)
            titles = [f"{row['layer']}, {row['salient']}, {row['network']}" for row in rows]
            writer.writerow(["image", *titles])
            for place, name in enumerate(pictures.names):
                writer.writerow([name, *(f"{row['per_image'][place]:.5f}" for row in rows)])
    write_json(
        output / "saliency.json",
        {
            "settings": settings.in_use(),
            "pictures": pictures.name,
            "num_images": len(pictures.names),
            "image_size": int(pictures.images.shape[1]),
            "rotation_accuracy": found["rotation_accuracy"],
            "rows": [{k: v for k, v in row.items() if k != "per_image"} for row in rows],
        },
    )
    save_figure(lambda: sheet(pictures, found["shown"], settings, count), output / "saliency.png")


def sheet(
    pictures: Pictures, shown: Mapping[str, Mapping[str, Any]], settings: Settings, count: int = 6
):
    """Draws pictures with their objects beside the maps of both networks, a row a picture.

    Args:
        pictures: of `measure`.
        shown: of `measure`.
        settings: of `measure`.
        count: rows, at most.

    Returns:
        A `matplotlib.figure.Figure`: the picture, its objects outlined; then for each layer and
        network the map, and beside it the salient pixels with the picture's Q in percent.
    """
    Figure = extras.load("matplotlib.figure", "the figure of saliency").Figure

    columns = [(layer, name) for layer, maps in shown.items() for name in maps]
    count = min(count, *(len(shown[layer][name][0]) for layer, name in columns))
    size = pictures.images.shape[1]
    figure = Figure(
        figsize=(1.3 * (2 * len(columns) + 1) + 0.4, 1.45 * count + 1.2),
        dpi=130,
        layout="constrained",
    )
    axes = figure.subplots(count, 2 * len(columns) + 1, squeeze=False)
    for row in range(count):
        objects = None if pictures.objects is None else pictures.objects[row]
        axes[row, 0].imshow(pictures.images[row])
        _outline(axes[row, 0], objects, 1.2)
        for place, (layer, name) in enumerate(columns):
            salient, values, quality = shown[layer][name]
            left, right = axes[row, 2 * place + 1], axes[row, 2 * place + 2]
            left.imshow(values[row], cmap="magma", vmin=0)
            right.imshow(salient[row], cmap="gray", vmin=0, vmax=1)
            _outline(right, objects, 0.8)
            if quality is not None:
                right.set_xlabel(f"Q {100 * quality[row]:.0f} %", fontsize=7, labelpad=2)
    titles = ["picture"]
    for layer, name in columns:
        titles += [f"{layer}\n{name}", "salient"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    # One picture shows the scale.
    axes[-1, 0].set_xticks([0, size - 1], ["0", f"{size - 1} pixels"], fontsize=7)
    share = f"{100 * (1 - settings.quantile):g} %"
    caption = (
        f"{_MAPS[settings.map]}, each map scaled by itself (black 0, bright its largest value). "
        f"Salient: the {share} of pixels with the largest values."
        + ("\nRed: the objects; Q = |S and B| / |S or B|." if objects is not None else "")
    )
    figure.supxlabel(caption, fontsize=8)
    return figure


def _outline(axis: Any, mask: np.ndarray | None, width: float) -> None:
    if mask is not None and mask.any() and not mask.all():
        axis.contour(mask.astype(float), levels=[0.5], colors="red", linewidths=width)
