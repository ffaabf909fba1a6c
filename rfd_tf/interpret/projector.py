"""Embeddings with thumbnails, and grids of neighbours, for TensorBoard."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from rfd_tf.errors import UserError
from rfd_tf.evaluation.files import folder as make_folder
from rfd_tf.evaluation.files import write_text
from rfd_tf.evaluation.knn import nearest
from rfd_tf.interpret.report.images import ReportImages, class_of
from rfd_tf.interpret.report.pictures import sprite

_LARGEST_SPRITE = 8192  # pixels a side, what TensorBoard shows
_THUMBNAIL = 64
_ROWS, _NEIGHBOURS = 8, 7


def write(directory: str | os.PathLike, images: ReportImages) -> list[str]:
    """Writes a folder that TensorBoard shows in its projector and among its images.

    It holds, for the features f1, f2 and f, or the one there is, the test images' features
    (`FEATURE.tsv`), one `metadata.tsv` with index, class and name, one `sprite.png` of thumbnails,
    `projector_config.pbtxt`, and an event file with a grid a feature: in each row a test image
    and its nearest training images by cosine.

    Args:
        directory: a folder of its own, best below the run's `tensorboard`; what an earlier call
            wrote is replaced.
        images: the network and its images.

    Returns:
        The names of the features.

    Raises:
        UserError: the folder cannot be written.
    """
    import tensorflow as tf
    from tensorboard.plugins import projector

    directory = make_folder(directory)
    features, index = images.queries
    source = images.data.test.source
    columns = int(np.ceil(np.sqrt(len(index))))
    size = min(images.subject.image_size, _THUMBNAIL, _LARGEST_SPRITE // columns)
    pixels = images.pixels(source, index)
    _save_png(sprite(pixels, size, columns)[1], directory / "sprite.png")
    with write_text(directory / "metadata.tsv") as file:
        file.write("index\tclass\tname\n")
        for i in index:
            name = str(source.names[i]) if source.names else f"image {i}"
            file.write(f"{i}\t{_cell(class_of(source, i))}\t{_cell(name)}\n")
    config = projector.ProjectorConfig()
    for name in images.tensors:
        with write_text(directory / f"{name}.tsv") as file:
            np.savetxt(file, features[name], fmt="%.6g", delimiter="\t")
        embedding = config.embeddings.add()
        embedding.tensor_name = name
        embedding.tensor_path = f"{name}.tsv"
        embedding.metadata_path = "metadata.tsv"
        embedding.sprite.image_path = "sprite.png"
        embedding.sprite.single_image_dim.extend([size, size])
    with write_text(directory / "projector_config.pbtxt") as file:
        file.write(str(config))

    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    writer = tf.summary.create_file_writer(str(directory))
    with writer.as_default():
        for name, picture in _grids(images).items():
            tf.summary.image(f"neighbours by {name}", picture[None], step=0)
    writer.close()
    return list(images.tensors)


def _grids(images: ReportImages) -> dict[str, np.ndarray]:
    """Feature -> queries with their neighbours in rows, uint8 `[H, W, 3]`."""
    from rfd_tf.training.callbacks import grid

    gallery, gallery_index = images.gallery
    queries, query_index = images.queries
    chosen = images.some_queries(_ROWS)
    count = min(_NEIGHBOURS, len(gallery_index))
    first = images.pixels(images.data.test.source, query_index[chosen])
    found = {}
    for name in images.tensors:
        rows, _ = nearest(gallery[name], queries[name][chosen], count)
        near = images.pixels(images.data.train.source, gallery_index[rows.ravel()])
        near = near.reshape(len(chosen), count, *first.shape[1:])
        together = np.concatenate([first[:, None], near], axis=1)
        found[name] = grid(together.reshape(-1, *first.shape[1:]), count + 1)
    return found


def _cell(text: str) -> str:
    return " ".join(text.split())


def _save_png(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    try:
        Image.fromarray(pixels).save(path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}") from None
