"""What a step of a training stream holds and how it is augmented, from its number alone.

Random numbers are drawn for the whole global batch before a shard's part is taken, so that shards
together are exactly the batch of one worker.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from rfd_tf.data import augment
from rfd_tf.data.decode import evaluation_resize, evaluation_transform, stretch_transform

# TensorFlow's default of 4 rounds leaves the orders of successive epochs strongly correlated
# (0.74 for 50,000 images); from 8 on they are no different from random ones.
_SHUFFLE_ROUNDS = 16
_SHUFFLE_KEY = 0x5EED

Batch = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a training stream is made; the arguments of `training_dataset`, checked."""

    image_size: int
    batch_size: int
    seed: int
    start_step: int
    steps_per_epoch: int
    crop: str
    crop_area: tuple[float, float]
    crop_ratio: tuple[float, float]
    padding: int
    horizontal_flip: bool
    color_jitter: float
    hue: float
    grayscale: float
    crops: int
    shard: tuple[int, int]
    deterministic: bool
    order: tf.Tensor | None = None
    order_step: int = 0
    views: int = 1

    @property
    def ordered_steps(self) -> int:
        """How many steps of the order there are from `start_step` on."""
        return self.order.shape[0] // self.batch_size - (self.start_step - self.order_step)

    @property
    def local_size(self) -> int:
        return self.batch_size // self.shard[1]

    def local(self, whole: tf.Tensor, each: int = 1) -> tf.Tensor:
        """Takes this shard's rows of what goes with a global batch, `each` rows an image."""
        start, count = self.shard[0] * self.local_size, self.local_size
        return whole[start * each : (start + count) * each]

    def examples(self, step: tf.Tensor, num_images: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns which images this shard sees in a step, and which view of each: `split`."""
        return self.split(self.indices(step, num_images * self.views))

    def split(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images and the views that have these numbers, both int64 `[local_size]`."""
        return numbers // self.views, numbers % self.views

    def indices(self, step: tf.Tensor, count: int) -> tf.Tensor:
        """Returns the numbers, out of `count`, that this shard sees in a step."""
        if self.order is not None:
            first = (step - self.order_step) * self.batch_size
            return self.local(tf.slice(self.order, [first], [self.batch_size]))
        epoch, positions = self.positions(step)
        return tf.raw_ops.RandomIndexShuffle(
            index=positions,
            seed=tf.stack([tf.constant(_SHUFFLE_KEY, tf.int64), self.seed, epoch]),
            max_index=tf.constant(count - 1, tf.int64),
            rounds=_SHUFFLE_ROUNDS,
        )

    def positions(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the epoch of a step, and this shard's places in it: int64 `[local_size]`."""
        epoch, place = step // self.steps_per_epoch, step % self.steps_per_epoch
        positions = place * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)
        return epoch, self.local(positions)

    def draws(self, step: tf.Tensor) -> Batch:
        """Returns the random numbers of a step, by their use, for this shard's rows.

        Each has `local_size * crops` rows, those of an image one after the other.
        """
        size = self.batch_size * self.crops
        seed = tf.stack([tf.constant(self.seed, tf.int64), step])

        def seed_of(purpose: int) -> tf.Tensor:
            return augment.seed_for(seed, purpose)

        draws = {}
        if self.crop in ("resized", "window"):
            draws["window"] = augment.window_draws(size, seed_of(0))
        if self.crop == "pad" and self.padding:
            draws["offset"] = augment.pad_and_crop_offsets(size, seed_of(1), self.padding)
        if self.horizontal_flip:
            draws["flip"] = augment.flip_draws(size, seed_of(2))
        if self.color_jitter:
            draws["jitter"] = augment.color_jitter_factors(size, seed_of(3), self.color_jitter)
        if self.hue:
            draws["hue"] = augment.hue_draws(size, seed_of(5), self.hue)
        if self.grayscale:
            draws["grey"] = augment.grayscale_draws(size, seed_of(4), self.grayscale)
        return {use: self.local(values, self.crops) for use, values in draws.items()}

    def whole(
        self, images: tf.Tensor, image_size: int, orientation: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Gives images of which no window is cut their final size."""
        transform = stretch_transform if self.crop == "stretch" else evaluation_transform
        return transform(images, image_size, orientation)

    def each_crop(self, rows: tf.Tensor) -> tf.Tensor:
        """Turns what belongs to images, `[n, ...]`, into what belongs to crops."""
        return tf.repeat(rows, self.crops, axis=0) if self.crops > 1 else rows

    def windows(self, draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        if self.crop == "window":
            share = self.image_size / evaluation_resize(self.image_size)
            return augment.square_windows(draws, height, width, share)
        return augment.resized_crop_windows(draws, height, width, self.crop_area, self.crop_ratio)

    def finish(self, images: tf.Tensor, draws: Batch, mirrored: bool = False) -> tf.Tensor:
        """Augments images `[local_size * crops, S, S, 3]` that have their final size already.

        Args:
            images: the images.
            draws: of the step.
            mirrored: whether `draws["flip"]` was applied as the images were loaded.
        """
        flip = None if mirrored else draws.get("flip")
        if "offset" in draws:
            images = augment.pad_and_crop(images, draws["offset"], self.padding, flip)
        elif flip is not None:
            images = augment.flip(images, flip)
        if "jitter" in draws:
            images = augment.color_jitter(images, draws["jitter"])
        if "hue" in draws:
            images = augment.turn_hue(images, draws["hue"])
        if "grey" in draws:
            images = augment.grayscale(images, draws["grey"])
        return images

    def batch(self, images: tf.Tensor, index: tf.Tensor, view: tf.Tensor) -> Batch:
        """Makes the batch of augmented images `[local_size * crops, S, S, 3]`."""
        shape = [self.image_size, self.image_size, 3]
        if self.crops > 1:
            shape = [self.crops, *shape]
        batch = {
            "image": tf.reshape(images, [self.local_size, *shape]),
            "index": tf.ensure_shape(index, [self.local_size]),
        }
        if self.views > 1:
            batch["view"] = tf.ensure_shape(view, [self.local_size])
        return batch
