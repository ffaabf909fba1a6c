"""What every source of images is: a dense, stable index, and what is known per image."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rfd_tf.data import class_folders
from rfd_tf.data.image_files import USUAL
from rfd_tf.errors import UserError
from rfd_tf.text import file_name_from_text, file_name_to_text

if TYPE_CHECKING:
    import tensorflow as tf

    from rfd_tf.data.recipe import Recipe


def fingerprint(parts: Iterable[bytes | memoryview | str | int]) -> str:
    """Returns the sha256 hex digest of the parts, in order, so that no two lists run together.

    >>> fingerprint(["ab", "c"]) == fingerprint(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    pending: list[bytes] = []  # a folder's millions of short parts are hashed some at a time
    for part in parts:
        if isinstance(part, bytes | memoryview):
            data = memoryview(part)
            digest.update(b"".join(pending) + data.nbytes.to_bytes(8, "little"))
            digest.update(data)
            pending = []
            continue
        text = str(part).encode("utf-8", "surrogateescape")
        pending += (len(text).to_bytes(8, "little"), text)
        if len(pending) > 4096:
            digest.update(b"".join(pending))
            pending = []
    digest.update(b"".join(pending))
    return digest.hexdigest()


def image_ids(key: str, first: int, count: int) -> np.ndarray:
    """Returns an id for each of `count` images that are numbered from `first` within `key`.

    >>> bool(image_ids("digits", 3, 2)[0] == image_ids("digits", 0, 5)[3])
    True
    """
    key_hash = np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8])
    numbers = np.arange(first, first + count, dtype=np.uint64)
    return numbers * np.uint64(0x9E3779B97F4A7C15) ^ key_hash.view(np.uint64)[0]


class Source:
    """A set of images, each with an index.

    The index is dense, 0 to `num_images - 1`, and belongs to the image: shuffling, sharding and
    interleaving do not change it. It addresses the memory bank and per-image weights.

    A kind of source is a subclass that defines how its images are read, `training_steps` and
    `evaluation_pass`, and what a part of it is, `_part`.

    Attributes:
        name: what to call the set in messages and records.
        num_images: how many images there are, at least 1.
        labels: int64 `[num_images]`, -1 for an image without a class; or None where no image
            has one. For evaluation only: no training pipeline reads them.
        class_names: the names of the classes by label, or None.
        fingerprint: sha256 hex digest of what identifies the set and its order. A memory bank or
            a file of per-image weights belongs to one fingerprint.
        skipped: `(name, reason)` of each image that was left out, because it cannot be decoded.
        names: a display name per index, or None; of files see `rfd_tf.text.file_name_to_text`.
        lengths: bytes of the file of each index, or None where images are not files.
        files: the folder, and the name in it per index as the file system has it; or None.
        reading: how image files of the set are read, see `rfd_tf.data.image_files.Reading`.

    >>> from rfd_tf.data import digits
    >>> source = digits()
    >>> source, source.class_names[:3], source.labels[:3].tolist()
    (<ArraySource 'digits/train': 1500 images>, ('0', '1', '2'), [0, 1, 2])
    """

    lengths: Sequence[int] | None = None
    #: Returns the ids of the images, see `image_ids`; None where they are not known.
    origins: Callable[[], np.ndarray] | None = None
    files: tuple[str, Sequence[str]] | None = None
    reading = USUAL

    def __init__(
        self,
        name: str,
        num_images: int,
        *,
        fingerprint: str,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        skipped: Iterable[tuple[str, str]] = (),
        names: Sequence[str] | None = None,
    ):
        if num_images < 1:
            raise UserError(f"'{name}' holds no images")
        if labels is not None:
            labels = np.asarray(labels, dtype=np.int64)
            if labels.shape != (num_images,):
                raise UserError(
                    f"'{name}' has {num_images} images, but labels of shape {labels.shape}; "
                    f"give one label per image"
                )
        self.name = name
        self.num_images = int(num_images)
        self.fingerprint = fingerprint
        self.class_names = tuple(class_names) if class_names is not None else None
        self.skipped = list(skipped)
        self.names = names
        self._labels = labels
        self._failures: list[Callable[[], Iterable[int]]] = []

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each image, int64 `[num_images]`, or None."""
        return self._labels

    def image_ids(self) -> np.ndarray | None:
        """Returns what an image is recognised by in other sets: uint64 `[num_images]`, or None.

        A file has its path, an image of a dataset its place there, whatever the split.
        """
        return None if self.origins is None else self.origins()

    def summary(self) -> str:
        """Returns one line: the number of images and, where they are known, of each class.

        >>> from rfd_tf.data import digits
        >>> digits("test").summary()[:52]
        '297 images of digits/test; 10 classes: 0 27, 1 31, 2'
        """
        # (Labels that must be read from records first stay unread.)
        return class_folders.summary(self.num_images, self.name, self._labels, self.class_names)

    def record_failures(self, read: Callable[[], Iterable[int]]) -> None:
        """Adds a record that a pipeline keeps: a function that gives the indices that failed."""
        self._failures.append(read)

    def failed_while_reading(self) -> list[tuple[str, str]]:
        """Returns `(name, reason)` of the images that a pipeline could not read so far.

        A file can go bad, or away, after it was checked; and of large sets only the headers are
        checked. Training continues without such an image, and it is recorded here.
        """
        failed = sorted({int(index) for read in self._failures for index in read()})
        return [(self._line(i), self._why(i)) for i in failed]

    def _line(self, index: int) -> str:
        """The name of an image in one line."""
        if not self.names:
            return str(index)
        return file_name_to_text(file_name_from_text(self.names[index]), one_line=True)

    def _why(self, index: int) -> str:
        return "cannot be decoded"

    def train_dataset(
        self, image_size: int, batch_size: int, *, seed: int = 0, **augmentation: Any
    ) -> Any:
        """Returns the endless stream of augmented training batches.

        `fit` of a method of this package knows how many steps make an epoch of it; give
        `steps_per_epoch=len(source) // batch_size` to the `fit` of another model.

        Args:
            image_size: side S of the images, pixels.
            batch_size: images in a batch.
            seed: of the order and the augmentation.
            **augmentation: `crop`, `crop_area`, `horizontal_flip`, `color_jitter`, `hue`,
                `grayscale`, `crops` and the other arguments of `rfd_tf.data.training_dataset`.

        Returns:
            A `tf.data.Dataset` of `{"image": uint8 [batch_size, S, S, 3], "index": int64
            [batch_size]}`; with several crops the image is `[batch_size, crops, S, S, 3]`.

        Raises:
            UserError: an argument is out of its range, or the batch is larger than the source.

        >>> from rfd_tf.data import digits
        >>> batches = digits().train_dataset(image_size=32, batch_size=64, crop="resized")
        >>> next(iter(batches))["image"].shape
        TensorShape([64, 32, 32, 3])
        """
        from rfd_tf.data import training_stream

        return training_stream.train_dataset(
            self, image_size=image_size, batch_size=batch_size, seed=seed, **augmentation
        )

    def eval_dataset(self, image_size: int, batch_size: int, **options: Any) -> Any:
        """Returns one pass over the images in the order of their index, without augmentation.

        Args:
            image_size: side S of the images, pixels.
            batch_size: images in a batch; the last one holds what is left.
            **options: `indices`, `ten_crops`, `stretch`: see `rfd_tf.data.evaluation_dataset`.

        Returns:
            A `tf.data.Dataset` of `{"image": uint8 [B, S, S, 3], "index": int64 [B]}`.

        Raises:
            UserError: `image_size` or `batch_size` is less than 1.

        >>> from rfd_tf.data import digits
        >>> [len(b["index"]) for b in digits("test").eval_dataset(image_size=16, batch_size=200)]
        [200, 97]
        """
        from rfd_tf.data import pipeline

        return pipeline.evaluation_dataset(
            self, image_size=image_size, batch_size=batch_size, **options
        )

    def training_steps(self, recipe: Recipe) -> tf.data.Dataset:
        """Returns the training batches from a step on; `training_dataset` calls it.

        Args:
            recipe: the checked arguments of `training_dataset`: it has the steps, which images
                each holds and how they are augmented, and makes the batch of them.
        """
        raise self._undefined("training_steps")

    def evaluation_pass(
        self,
        image_size: int,
        batch_size: int,
        indices: np.ndarray | None,
        transform: Callable[..., tf.Tensor],
    ) -> tf.data.Dataset:
        """Returns one pass over the images; `evaluation_dataset` calls it.

        Args:
            image_size, batch_size, indices: as of `evaluation_dataset`.
            transform: gives images their final size: called with the images, `image_size` and,
                where images have one, the EXIF orientation.
        """
        raise self._undefined("evaluation_pass")

    def images_of_size(self, image_size: int) -> np.ndarray | None:
        """Returns all pixels where they are in memory at this size; else None. Do not write to it.

        Args:
            image_size: side S of the images, pixels.

        Returns:
            uint8 `[num_images, S, S, 3]`, or None.
        """
        del image_size
        return None

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> Source:
        """Returns some of the images as a source of its own.

        Image j of the part is image `indices[j]` of the whole: the part's index is dense again.
        Files that cannot be read while training are remembered by both.

        Args:
            indices: increasing integers, 0 to `num_images - 1`, at least one.
            name: what to call the part.

        Returns:
            A source that is read as this one is. Pixels in memory are copied.

        Raises:
            UserError: no index, or indices that do not increase or lie outside.

        >>> from rfd_tf.data import digits
        >>> part = digits("train").subset([3, 5, 1499])
        >>> part.num_images, part.labels.tolist()
        (3, [3, 5, 2])
        """
        indices = np.asarray(indices, np.int64)
        if indices.ndim != 1 or not len(indices):
            raise UserError(f"a part of '{self.name}' needs at least one image")
        if indices[0] < 0 or indices[-1] >= self.num_images or (np.diff(indices) < 1).any():
            raise UserError(
                f"indices of a part of '{self.name}' must increase and lie in 0 to "
                f"{self.num_images - 1}"
            )
        part = self._part(
            indices,
            name=name or f"{len(indices)} images of {self.name}",
            class_names=self.class_names,
            fingerprint=fingerprint(["subset", self.fingerprint, indices.tobytes()]),
            names=[self.names[i] for i in indices] if self.names is not None else None,
        )
        if self.origins is not None:
            part.origins = lambda: self.image_ids()[indices]
        return part

    def _part(self, indices: np.ndarray, **described: Any) -> Source:
        """Returns the images at checked indices; `described` as `Source` takes it, but labels."""
        raise self._undefined("_part")

    def _labels_at(self, indices: np.ndarray) -> np.ndarray | None:
        return None if self.labels is None else self.labels[indices]

    def _undefined(self, method: str) -> UserError:
        return UserError(
            f"cannot read images from {type(self).__name__}: a source defines `{method}`; "
            "ArraySource takes images in memory, image_folder reads files"
        )

    def __len__(self) -> int:
        return self.num_images

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.name}': {self.num_images} images>"


class PartMixin:
    """What parts that are read from disk share: the whole hears of files that go bad.

    Attributes:
        whole: the source that this is a part of.
        indices: int64 `[num_images]`, the index in the whole of each image.
    """

    whole: Source
    indices: np.ndarray

    def record_failures(self, read: Callable[[], Iterable[int]]) -> None:
        """Adds a record that a pipeline keeps, to the part and to the whole."""
        super().record_failures(read)
        self.whole.record_failures(lambda: self.indices[np.asarray(list(read()), np.int64)])


class ArraySource(Source):
    """Images held in memory.

    Args:
        images: uint8 `[N, H, W, 3]`, pixels 0 to 255.
        labels: integers `[N]` or None.
        class_names: the classes' names by label, or None.
        name: what to call the set.
        fingerprint: of the set; made from the pixels where not given.
        skipped: what was left out of the set.
        names: a display name per image, or None.

    Raises:
        UserError: the images are not a non-empty uint8 `[N, H, W, 3]` array, or the labels do not
            go with them.

    >>> source = ArraySource(np.zeros((10, 32, 32, 3), np.uint8), name="black")
    >>> source.num_images, source.labels
    (10, None)
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "array",
        *,
        fingerprint: str | None = None,
        skipped: Iterable[tuple[str, str]] = (),
        names: Sequence[str] | None = None,
    ):
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise UserError(
                f"images of '{name}' must be uint8 [N, height, width, 3] with pixels 0-255, got "
                f"{images.dtype} {list(images.shape)}"
            )
        images = np.ascontiguousarray(images)
        super().__init__(
            name,
            len(images),
            fingerprint=fingerprint or fingerprint_of_array(images),
            labels=labels,
            class_names=class_names,
            skipped=skipped,
            names=names,
        )
        self.images = images

    @functools.cached_property
    def tensor(self) -> tf.Tensor:
        """The pixels as a tensor on the host: one, however many datasets read from it."""
        import tensorflow as tf

        with tf.device("/CPU:0"):
            # Identity leaves behind the second copy that a tensor made from an array holds on to.
            return tf.identity(tf.convert_to_tensor(self.images))

    def training_steps(self, recipe: Recipe) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.train_on_array(self, recipe)

    def evaluation_pass(
        self,
        image_size: int,
        batch_size: int,
        indices: np.ndarray | None,
        transform: Callable[..., tf.Tensor],
    ) -> tf.data.Dataset:
        from rfd_tf.data import streams

        return streams.evaluate_array(self, image_size, batch_size, indices, transform)

    def images_of_size(self, image_size: int) -> np.ndarray | None:
        return self.images if self.images.shape[1:3] == (image_size, image_size) else None

    def _part(self, indices: np.ndarray, **described: Any) -> ArraySource:
        return ArraySource(self.images[indices], labels=self._labels_at(indices), **described)


def fingerprint_of_array(images: np.ndarray) -> str:
    """Returns the fingerprint of a contiguous array: its shape, its dtype and its bytes."""
    return fingerprint(["array", str(images.shape), str(images.dtype), images.data])
