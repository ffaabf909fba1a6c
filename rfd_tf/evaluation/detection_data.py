"""Pictures and boxes for a detector: read, checked, squared, mirrored, batched."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from rfd_tf.data import image_files
from rfd_tf.data.voc import VocImage, upright
from rfd_tf.errors import UserError

# What keras-cv takes for "no box", and the class whose anchors it leaves out of the loss.
_NONE, _IGNORED = -1.0, -2.0


def check_pictures(images: Sequence[VocImage]) -> np.ndarray:
    """Decodes every picture once and returns how to decode it, for `training_batches`.

    Returns:
        int32 `[N, 2]`: kind, see `rfd_tf.data.image_files`, and EXIF orientation of what is
        decoded.

    Raises:
        UserError: a picture that cannot be decoded, or whose size is not the annotated one.
    """
    from rfd_tf.data.check_files import Files, settle

    for image in images:
        upright(image)  # for the check of its size
    headers = [image_files.read_header(str(image.image)) for image in images]
    headers, _ = settle(Files([os.fsencode(image.image) for image in images]), headers)
    for image, header in zip(images, headers, strict=True):
        if not isinstance(header, image_files.Header):
            raise UserError(f"'{image.image}' cannot be decoded: {header or 'no image'}")
    return np.array([(header.kind, header.orientation) for header in headers], np.int32)


def trainable(images: Sequence[VocImage]) -> list[VocImage]:
    """Returns the pictures that show an object which is not difficult.

    Raises:
        UserError: there is none.
    """
    kept = [image for image in images if not image.difficult.all()]
    if not kept:
        raise UserError("no picture to learn from shows an object that is not difficult")
    return kept


def padded_boxes(
    images: Sequence[VocImage], image_size: int, max_boxes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the objects of each picture: the largest that are not difficult, then difficult ones.

    keras-cv's label encoder passes a class on to the anchors that match its box, and leaves
    anchors of class -2 out of the loss; so do the difficult objects become neither object nor
    background.

    Args:
        images: N pictures.
        image_size: side in pixels of the square that each picture is resized to.
        max_boxes: M, of objects that are not difficult.

    Returns:
        float32 `[N, M', 4]`, left, top, right, bottom in pixels of the square; float32 `[N, M']`,
        classes, -2 of a difficult object. -1 where there is no object. M' is M and the largest
        number of difficult objects in a picture.
    """
    most = max_boxes + max((int(image.difficult.sum()) for image in images), default=0)
    boxes = np.full((len(images), most, 4), _NONE, np.float32)
    labels = np.full((len(images), most), _NONE, np.float32)
    for row, image in enumerate(images):
        found = image.boxes * scale_to(image, image_size)
        areas = np.prod(found[:, 2:] - found[:, :2], axis=1)
        kept = np.argsort(-areas, kind="stable")
        clear, hard = kept[~image.difficult[kept]][:max_boxes], kept[image.difficult[kept]]
        kept = np.concatenate([clear, hard])
        boxes[row, : len(kept)] = found[kept]
        labels[row, : len(clear)] = image.labels[clear]
        labels[row, len(clear) : len(kept)] = _IGNORED
    return boxes, labels


def scale_to(image: VocImage, image_size: int) -> np.ndarray:
    """Returns by what a box of the picture is multiplied for the square, float32 `[4]`."""
    across, down = image_size / image.width, image_size / image.height
    return np.array([across, down, across, down], np.float32)


def training_batches(
    images: Sequence[VocImage],
    kinds: np.ndarray,
    image_size: int,
    batch_size: int,
    max_boxes: int,
    epochs: range,
    seed: int,
):
    """Returns a `tf.data.Dataset` of shuffled training batches over some epochs.

    Half of the pictures are mirrored, with their boxes. What does not fill a batch is left out of
    an epoch. Order and mirroring depend on seed and epoch only.

    Args:
        images: see `trainable`; upright, see `rfd_tf.data.voc.upright`.
        kinds: int32 `[N, 2]` of `check_pictures`.
        image_size: side S of the squares.
        batch_size: B.
        max_boxes: M of `padded_boxes`.
        epochs: numbers of the epochs.
        seed: of order and mirroring.

    Returns:
        Batches of float32 pixels `[B, S, S, 3]`, 0 to 255, and
        `{"boxes": [B, M, 4], "classes": [B, M]}` as of `padded_boxes`.
    """
    import tensorflow as tf

    rows, mirrored = [], []
    used = len(images) // batch_size * batch_size
    for epoch in epochs:
        draw = np.random.default_rng([seed, epoch])
        rows.append(draw.permutation(len(images))[:used])
        mirrored.append(draw.random(used) < 0.5)
    with tf.device("/CPU:0"):
        boxes, labels = map(tf.constant, padded_boxes(images, image_size, max_boxes))
        load = _loader(images, kinds, image_size)

        def example(row, mirror):
            pixels, found = load(row), tf.gather(boxes, row)
            if mirror:
                pixels = pixels[:, ::-1]
                left, top, right, bottom = tf.unstack(found, axis=-1)
                turned = tf.stack([image_size - right, top, image_size - left, bottom], axis=-1)
                found = tf.where(tf.gather(labels, row)[:, None] == _NONE, found, turned)
            return pixels, {"boxes": found, "classes": tf.gather(labels, row)}

        dataset = tf.data.Dataset.from_tensor_slices(
            (np.concatenate(rows), np.concatenate(mirrored))
        )
        dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)
        return dataset.batch(batch_size, drop_remainder=True).prefetch(2)


def evaluation_batches(
    images: Sequence[VocImage], kinds: np.ndarray, image_size: int, batch_size: int
):
    """Returns a `tf.data.Dataset` of the pictures in order, float32 `[<= B, S, S, 3]`."""
    import tensorflow as tf

    with tf.device("/CPU:0"):
        load = _loader(images, kinds, image_size)
        dataset = tf.data.Dataset.range(len(images))
        dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
        return dataset.batch(batch_size).prefetch(2)


def _loader(images: Sequence[VocImage], kinds: np.ndarray, image_size: int):
    """Returns the function from a row to float32 pixels `[S, S, 3]`."""
    import tensorflow as tf

    from rfd_tf.data.decode import decode, stretch_transform

    paths = tf.constant([os.fsencode(image.image) for image in images])
    table, possible = tf.constant(kinds), tuple(sorted({int(kind) for kind in kinds[:, 0]}))

    def load(row):
        contents = tf.io.read_file(tf.gather(paths, row))
        kind, orientation = tf.unstack(tf.gather(table, row))
        pixels = stretch_transform(decode(contents, kind, possible), image_size, orientation)
        return tf.cast(tf.ensure_shape(pixels, [image_size, image_size, 3]), tf.float32)

    return load
