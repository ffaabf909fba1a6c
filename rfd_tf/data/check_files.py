"""Decoding every file of a set once, with the operations that training will use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from rfd_tf.data.decode import decode, decoded_height

_BATCH = 64


def decode_all(
    paths: Sequence[bytes],
    kinds: Sequence[int],
    shape: tuple[int, int] | None,
    progress: Callable[[int], object],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes image files in parallel, to learn which can be decoded.

    Args:
        paths: of the files.
        kinds: of the images, see `image_files`.
        shape: height and width, where all images have the same and the pixels are wanted.
        progress: called with a number of images as they are done.

    Returns:
        bool `[N]`, which files could be decoded; and uint8 `[N, H, W, 3]` if `shape` was given
        (black where not decodable), else None.
    """
    possible = tuple(sorted({int(kind) for kind in kinds}))
    decodable = np.zeros(len(paths), bool)
    pixels = np.zeros((len(paths), *shape, 3), np.uint8) if shape else None

    def attempt(index: tf.Tensor, path: tf.Tensor, kind: tf.Tensor):
        contents = tf.io.read_file(path)
        if shape:
            return index, tf.ensure_shape(decode(contents, kind, possible), [*shape, 3])
        return index, decoded_height(contents, kind, possible)

    with tf.device("/CPU:0"):
        files = tf.data.Dataset.from_tensor_slices(
            (np.arange(len(paths)), list(paths), np.asarray(kinds, np.int32))
        )
        # An image that raises is left out of what comes back: its index is missing then.
        done = files.map(attempt, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
        done = done.ignore_errors().batch(_BATCH).prefetch(2)
        for indices, images in done.as_numpy_iterator():
            decodable[indices] = True
            if pixels is not None:
                pixels[indices] = images
            progress(len(indices))
    return decodable, pixels
