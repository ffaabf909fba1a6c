"""Labelled images: the train and the test split of an evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rfd_tf.data.sources import Source
from rfd_tf.evaluation.features import FeatureExtractor, Features
from rfd_tf.evaluation.splits import check_classes, split

# Sets whose pixels take no more than this are read once and kept.
_KEEP_BYTES = 1 << 30
#: Entries of `Data.describe` that are names: the fingerprints beside them decide.
NAMES = ("train", "test")


class ImageSet:
    """Some images of a source, at one size, in the order of their index.

    Args:
        source: where the images come from.
        rows: increasing indices of the images used; all by default.
        image_size: height and width in pixels.
        batch_size: images per step.
        seed: of `turns`.

    Attributes:
        turns: int64 `[source.num_images]`, 0 to 3: by how many quarter turns, counter-clockwise,
            each image is rotated where a task evaluates rotated images.

    >>> from rfd_tf import data
    >>> digits = ImageSet(data.digits("test"), np.arange(5), image_size=16)
    >>> len(digits), digits.labels.tolist(), digits.images().shape
    (5, [1, 7, 4, 6, 3], (5, 16, 16, 3))
    """

    def __init__(
        self,
        source: Source,
        rows: np.ndarray | None = None,
        image_size: int = 32,
        batch_size: int = 256,
        seed: int = 0,
    ):
        self.source = source
        self.rows = np.arange(source.num_images) if rows is None else np.asarray(rows, np.int64)
        self.image_size, self.batch_size, self.seed = image_size, batch_size, seed
        self.turns = np.random.default_rng(seed).integers(0, 4, source.num_images)
        self._kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray | None:
        """Classes of the images, int64 `[N]`, or None where there are none."""
        return self._labels_of(self.rows)

    def _labels_of(self, index: np.ndarray) -> np.ndarray | None:
        return None if self.source.labels is None else self.source.labels[index]

    @functools.cached_property
    def part(self) -> Source:
        """The images as a source of their own, index 0 to N - 1, for a training pipeline."""
        whole = len(self.rows) == self.source.num_images
        return self.source if whole else self.source.subset(self.rows)

    def some(self, places: Sequence[int]) -> ImageSet:
        """Returns the images at the given increasing places of this set."""
        rows = self.rows[np.asarray(places, np.int64)]
        return ImageSet(self.source, rows, self.image_size, self.batch_size, self.seed)

    def images(self) -> np.ndarray:
        """Returns all pixels, uint8 `[N, S, S, 3]`; raises `UserError` where a file is unreadable.

        They are read once and kept where they take less than 1 GiB. Do not write to the array.
        """
        from rfd_tf.data.pipeline import load_images

        if self._kept is not None:
            return self._kept
        images = load_images(self.source, self.image_size, self.rows)
        if images.nbytes <= _KEEP_BYTES:
            self._kept = images
        return images

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields all images once: {"image": uint8 `[B, S, S, 3]`, "index": int64 `[B]`, "label"}.

        The index is the source's. A file that can no longer be read is missing from the pass.
        Sets of more than 1 GiB are read during the pass.
        """
        from rfd_tf.data.pipeline import evaluation_dataset

        if len(self.rows) * self.image_size**2 * 3 <= _KEEP_BYTES:
            images = self.images()
            for start in range(0, len(self.rows), self.batch_size):
                stop = start + self.batch_size
                yield self._batch(images[start:stop], self.rows[start:stop])
            return
        for batch in evaluation_dataset(
            self.source,
            image_size=self.image_size,
            batch_size=self.batch_size,
            indices=self.rows,
        ).as_numpy_iterator():
            yield self._batch(batch["image"], batch["index"])

    def _batch(self, images: np.ndarray, index: np.ndarray) -> dict[str, np.ndarray]:
        batch = {"image": images, "index": index}
        labels = self._labels_of(index)
        return batch if labels is None else {**batch, "label": labels}

    def features(
        self,
        extract: FeatureExtractor,
        rotated: bool = False,
        progress: str | None = None,
        rows: Callable[[str], Any] | None = None,
    ) -> tuple[Features, np.ndarray | None]:
        """Returns the features of every image, and their labels, if any.

        Args:
            extract: the network.
            rotated: whether each image is first rotated by its `turns`.
            progress: title of a progress bar; None shows none.
            rows: where the features go, see `FeatureExtractor`.
        """
        seen: list[np.ndarray] = []

        def remembered() -> Iterator[dict[str, np.ndarray]]:
            for batch in self.batches():
                seen.append(batch["index"])
                yield batch

        features = extract(
            remembered(),
            rotations=self.turns if rotated else None,
            progress=progress,
            num_images=len(self.rows),
            rows=rows,
        )
        # A file that can no longer be read is missing from the pass, and so is its label.
        return features, self._labels_of(np.concatenate(seen))


class Data:
    """The train and test split of an evaluation: labelled images with the same classes.

    Args:
        train: train images.
        test: test images; None holds out a fixed fifth of every class of `train`.
        image_size: height and width in pixels.
        batch_size: images per step.
        max_train_images: largest number of train images, chosen by a hash of their index.
        seed: of the rotations of rotated images.
        labels_optional: whether images without labels, of one class or of different classes are
            accepted.

    Attributes:
        train, test: an `ImageSet` each.
        num_classes: number of classes; 0 without labels.
        class_names: their names by label, or None.

    Raises:
        UserError: no labels, one class only, or classes that differ; no test images.

    >>> from rfd_tf import data
    >>> digits = Data(data.digits(), None, image_size=32)
    >>> len(digits.train), len(digits.test), digits.num_classes
    (1204, 296, 10)
    """

    def __init__(
        self,
        train: Source,
        test: Source | None,
        image_size: int,
        batch_size: int = 256,
        max_train_images: int | None = None,
        seed: int = 0,
        labels_optional: bool = False,
    ):
        if not labels_optional:
            self.num_classes = check_classes(train, test)
        else:
            sets = [part.labels for part in (train, test) if part is not None]
            known = all(labels is not None for labels in sets)
            self.num_classes = 1 + max(int(labels.max()) for labels in sets) if known else 0
        self.class_names = train.class_names
        self.held_out = test is None
        train_rows, test_source, test_rows = split(train, test, max_train_images)
        self.train = ImageSet(train, train_rows, image_size, batch_size, seed)
        self.test = ImageSet(test_source, test_rows, image_size, batch_size, seed)

    def identity(self) -> dict:
        """Returns `describe` without the names, which change when a folder is renamed."""
        return {key: value for key, value in self.describe().items() if key not in NAMES}

    def describe(self) -> dict:
        """Returns what identifies these images, ready for JSON."""
        train, test = self.train.source, self.test.source
        return {
            "train": train.name,
            "train_fingerprint": train.fingerprint,
            "test": f"{train.name}, held out: the fifth of every class with the lowest index hash"
            if self.held_out
            else test.name,
            "test_fingerprint": test.fingerprint,
            "num_train": len(self.train),
            "num_test": len(self.test),
            "num_classes": self.num_classes,
            "rotated": "each test image rotated by a random multiple of 90 degrees, seed "
            f"{self.test.seed}; train images upright unless the task says otherwise",
        }
