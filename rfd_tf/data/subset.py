"""Parts of a source that are sources themselves, and folds for cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rfd_tf.data.base import ArraySource, Source, fingerprint
from rfd_tf.data.folder import FolderSource
from rfd_tf.data.tfds_source import TfdsSource
from rfd_tf.errors import UserError


def index_hash(index: np.ndarray) -> np.ndarray:
    """Scrambles indices, the same way everywhere: uint64, SplitMix64's finaliser.

    >>> index_hash(np.arange(2)) % 100
    array([35, 65], dtype=uint64)
    """
    z = np.asarray(index).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def folds(num_images: int, num_folds: int) -> np.ndarray:
    """Deals images out to folds by the hash of their index: no seed or machine changes it.

    Args:
        num_images: images in the set.
        num_folds: folds, at least 2.

    Returns:
        int64 `[num_images]`, 0 to `num_folds - 1`; the folds' sizes differ by one at most.

    Raises:
        UserError: fewer than 2 folds, or more folds than images.

    >>> folds(6, 3).tolist()
    [2, 0, 1, 0, 2, 1]
    """
    if num_folds < 2:
        raise UserError(
            f"{num_folds} folds are too few: each is judged by a network trained on the others; "
            "give --folds=2 or more"
        )
    if num_folds > num_images:
        raise UserError(
            f"{num_folds} folds are more than the {num_images} images; give --folds={num_images} "
            "or fewer"
        )
    fold = np.empty(num_images, np.int64)
    order = np.argsort(index_hash(np.arange(num_images)), kind="stable")
    fold[order] = np.arange(num_images) % num_folds
    return fold


def subset(source: Source, indices: np.ndarray, name: str | None = None) -> Source:
    """Returns some of a source's images as a source of its own.

    Image j of the part is image `indices[j]` of the whole: the part's index is dense again. Files
    that cannot be read while training are remembered by both.

    Args:
        source: an `ArraySource`, `FolderSource`, `TfdsSource` or `PhotoSource`.
        indices: increasing integers, 0 to `source.num_images - 1`, at least one.
        name: what to call the part.

    Returns:
        A source of the same kind. Pixels in memory are copied.

    Raises:
        UserError: no index, indices that do not increase or lie outside, another kind of source.

    >>> from rfd_tf.data import digits
    >>> part = subset(digits("train"), [3, 5, 1499])
    >>> part.num_images, part.labels.tolist()
    (3, [3, 5, 2])
    """
    indices = np.asarray(indices, np.int64)
    if indices.ndim != 1 or not len(indices):
        raise UserError(f"a part of '{source.name}' needs at least one image")
    if indices[0] < 0 or indices[-1] >= source.num_images or (np.diff(indices) < 1).any():
        raise UserError(
            f"indices of a part of '{source.name}' must increase and lie in 0 to "
            f"{source.num_images - 1}"
        )
    part = _part(source, indices, name)
    if source.origins is not None:
        part.origins = lambda: source.image_ids()[indices]
    return part


def _part(source: Source, indices: np.ndarray, name: str | None) -> Source:
    described: dict[str, Any] = {
        "name": name or f"{len(indices)} images of {source.name}",
        "class_names": source.class_names,
        "fingerprint": fingerprint(["subset", source.fingerprint, indices.tobytes()]),
        "names": [source.names[i] for i in indices] if source.names is not None else None,
    }
    if isinstance(source, TfdsSource):
        return _TfdsPart(source, indices, described)
    described["labels"] = None if source.labels is None else source.labels[indices]
    if isinstance(source, ArraySource):
        return ArraySource(source.images[indices], **described)
    if isinstance(source, FolderSource):
        return _FolderPart(source, indices, described)
    from rfd_tf.data.photos import PhotoSource  # which takes its hash from here

    if isinstance(source, PhotoSource):
        return source.part(indices, **described)
    raise UserError(f"a part of {type(source).__name__} cannot be made")


class _Part(Source):
    """What parts that are read from disk share: the whole hears of files that go bad."""

    whole: Source
    indices: np.ndarray

    def record_failures(self, read: Callable[[], Iterable[int]]) -> None:
        super().record_failures(read)
        self.whole.record_failures(lambda: self.indices[np.asarray(list(read()), np.int64)])


class _FolderPart(_Part, FolderSource):
    def __init__(self, whole: FolderSource, indices: np.ndarray, described: dict[str, Any]):
        self.whole, self.indices = whole, indices
        turned = whole.orientations
        headers = np.column_stack(
            [
                whole.kinds[indices],
                whole.sizes[indices],
                np.ones(len(indices), np.int32) if turned is None else turned[indices],
            ]
        )
        super().__init__(whole.directory, [whole.paths[i] for i in indices], headers, **described)


class _TfdsPart(_Part, TfdsSource):
    """Reads all records of the whole, and drops those that do not belong."""

    def __init__(self, whole: TfdsSource, indices: np.ndarray, described: dict[str, Any]):
        self.whole, self.indices = whole, indices
        self.record_files = whole.record_files
        self.transparent = whole.transparent
        self.shuffle_buffer = whole.shuffle_buffer
        Source.__init__(self, num_images=len(indices), **described)

    @property
    def labels(self) -> np.ndarray | None:
        labels = self.whole.labels
        return None if labels is None else labels[self.indices]

    def records(self, seed: Any = None, times: Any = None, views: int = 1) -> Any:
        import tensorflow as tf

        place = np.full(self.whole.num_images, -1, np.int64)
        place[self.indices] = np.arange(self.num_images)
        with tf.device("/CPU:0"):
            place = tf.constant(place)
            if times is not None:
                whole = tf.zeros([self.whole.num_images], times.dtype)
                times = tf.tensor_scatter_nd_update(whole, self.indices[:, None], times)

        def renumber(number: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            index = tf.gather(place, number // views)
            return tf.where(index < 0, index, index * views + number % views), contents

        records = self.whole.records(seed, times, views).map(renumber)
        return records.filter(lambda index, _: index >= 0)
