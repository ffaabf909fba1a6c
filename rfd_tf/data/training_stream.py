"""A source's training batches as one object: entered at any step, in any order, or plain."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from rfd_tf.data import pipeline

if TYPE_CHECKING:  # sources import this module for their datasets
    from rfd_tf.data.base import Source

# Which stream a dataset comes from: TensorFlow's datasets have no room for it.
_streams: weakref.WeakKeyDictionary[tf.data.Dataset, TrainingStream] = weakref.WeakKeyDictionary()

_PLAIN = {"horizontal_flip": False, "color_jitter": 0.0, "hue": 0.0, "grayscale": 0.0, "crops": 1}


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingStream:
    """The batches that a method trains on, and the same images without augmentation.

    Args:
        source: the images.
        image_size: side of the training images, pixels.
        batch_size: images in a global batch.
        seed: of the order and the augmentation.
        augmentation: further arguments of `rfd_tf.data.training_dataset`, by name.

    Raises:
        UserError: see `rfd_tf.data.training_dataset`; the arguments are checked here.

    >>> from rfd_tf.data import digits
    >>> stream = TrainingStream(digits(), image_size=32, batch_size=64)
    >>> stream.steps_per_epoch(), next(iter(stream.batches()))["image"].shape
    (23, TensorShape([64, 32, 32, 3]))
    """

    source: Source
    image_size: int
    batch_size: int
    seed: int = 0
    augmentation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.steps_per_epoch()  # refuses a batch that is too large

    def steps_per_epoch(self, views: int = 1) -> int:
        """Returns the full batches in one pass over the images, or over their separate views."""
        return pipeline.steps_per_epoch(self.source, self.batch_size, views)

    @property
    def stretched(self) -> bool:
        """Whether images that are not augmented are stretched to squares, not centre crops."""
        return self.augmentation.get("crop") == "stretch"

    def batches(
        self,
        start_step: int = 0,
        *,
        augmented: bool = True,
        order: np.ndarray | None = None,
        order_step: int | None = None,
        shard: tuple[int, int] = (0, 1),
        views: int = 1,
    ) -> tf.data.Dataset:
        """Returns the endless stream of batches, the first being that of step `start_step`.

        Args:
            start_step: the step to begin at.
            augmented: whether images are cropped and changed, and views that are examples of
                their own are chosen; without, an epoch visits each image once.
            order, order_step, shard, views: see `rfd_tf.data.training_dataset`.
        """
        options = dict(self.augmentation)
        if not augmented:
            options.update(_PLAIN, crop="stretch" if self.stretched else "none")
        return pipeline.training_dataset(
            self.source,
            image_size=self.image_size,
            batch_size=self.batch_size,
            seed=self.seed,
            start_step=start_step,
            order=order,
            order_step=order_step,
            shard=shard,
            views=views if augmented else 1,
            **options,
        )

    def images(self, indices: np.ndarray | None = None) -> tf.data.Dataset:
        """Returns one pass over the images in the order of their index, without augmentation.

        Args:
            indices: increasing integers, the images to give; all if None.
        """
        return pipeline.evaluation_dataset(
            self.source,
            image_size=self.image_size,
            batch_size=2 * self.batch_size,
            indices=indices,
            stretch=self.stretched,
        )


def train_dataset(
    source: Source, *, image_size: int, batch_size: int, seed: int = 0, **augmentation: Any
) -> tf.data.Dataset:
    """Returns the endless stream of augmented training batches; see `Source.train_dataset`.

    >>> from rfd_tf.data import digits
    >>> next(iter(train_dataset(digits(), image_size=32, batch_size=8)))["index"].shape
    TensorShape([8])
    """
    stream = TrainingStream(source, image_size, batch_size, seed, augmentation)
    dataset = stream.batches()
    _streams[dataset] = stream
    return dataset


def stream_of(dataset: Any) -> TrainingStream | None:
    """Returns the stream that `train_dataset` created a dataset from, or None for another one.

    A dataset derived from it, as by `map`, is another one.

    >>> from rfd_tf.data import digits
    >>> dataset = train_dataset(digits(), image_size=32, batch_size=8)
    >>> stream_of(dataset).batch_size, stream_of(dataset.take(1))
    (8, None)
    """
    try:
        return _streams.get(dataset)
    except TypeError:  # neither hashable nor a dataset
        return None
