"""A picture of the rotated views that look upright, and of those that do not."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np

from rfd_tf import extras
from rfd_tf.data.base import Source
from rfd_tf.data.views import NUM_ROTATIONS
from rfd_tf.errors import UserError


def extremes(
    upright_probability: np.ndarray, count: int, without: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the most and the least ambiguous rotated views.

    Args:
        upright_probability: `[num_images, 4]`.
        count: how many of each, at most half of all.
        without: images to leave out, or None.

    Returns:
        Two int64 arrays `[count, 2]` of (image, rotation): those most likely to look upright,
        highest probability first, and those least likely, lowest first. Rotation 0 is left out.

    >>> extremes(np.array([[1.0, 0.2, 0.9, 0.1]]), 1)[0].tolist()
    [[0, 2]]
    """
    images = np.setdiff1d(np.arange(len(upright_probability)), [] if without is None else without)
    values = upright_probability[images, 1:].ravel()
    order = np.argsort(-values, kind="stable")
    pairs = np.stack(
        [np.repeat(images, NUM_ROTATIONS - 1), np.tile(np.arange(1, NUM_ROTATIONS), len(images))],
        axis=1,
    )[order]
    count = min(count, len(pairs) // 2)
    return pairs[:count], pairs[len(pairs) - count :][::-1]


def check_packages() -> None:
    """Raises `UserError` where the package that draws is not installed."""
    extras.load("matplotlib", "the picture of rotated views")


def draw(
    path: str | os.PathLike,
    source: Source,
    upright_probability: np.ndarray,
    *,
    image_size: int,
    columns: int = 10,
    rows: int = 3,
    without: np.ndarray | None = None,
) -> None:
    """Draws the most and the least ambiguous rotated views, each with its probability.

    Args:
        path: PNG file to write; replaced where it exists.
        source: the images.
        upright_probability: `[num_images, 4]`, 0 to 1.
        image_size: side of the images shown, in pixels.
        columns, rows: views in a row, and rows of each of the two groups.
        without: images to leave out, such as those that cannot be read.

    Raises:
        UserError: too few images, an image that cannot be read, a file that cannot be written.
    """
    check_packages()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from rfd_tf.data import pipeline
    from rfd_tf.data.pu_weights import replace_file

    groups = extremes(upright_probability, columns * rows, without)
    if not len(groups[0]):
        raise UserError(f"no rotated views of '{source.name}' to draw")
    wanted = np.unique(np.concatenate(groups)[:, 0])
    images = pipeline.load_images(source, image_size, indices=wanted)

    figure = Figure(figsize=(columns * 1.1, 2 * rows * 1.4 + 1.0), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    titles = ("Look most upright after rotation", "Look least upright after rotation")
    for part, pairs, title in zip(figure.subfigures(2, 1), groups, titles, strict=True):
        part.suptitle(f"{title}: P(looks upright)", fontsize=11)
        for axes in part.subplots(rows, columns, squeeze=False).ravel():
            axes.axis("off")
        for axes, (image, rotation) in zip(part.axes, pairs, strict=False):
            axes.imshow(np.rot90(images[np.searchsorted(wanted, image)], rotation))
            probability = upright_probability[image, rotation]
            axes.set_title(f"#{image} {90 * rotation}°\n{probability:.3g}", fontsize=7)

    def save(file: BinaryIO) -> None:
        canvas.print_png(file)

    replace_file(path, save, flag="--grid")
