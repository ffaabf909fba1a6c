"""How each kind of source is read: arrays by gathering, files and records by decoding.

For training a stream is a dataset of steps, for evaluation a dataset of the index in order.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from rfd_tf.data import augment
from rfd_tf.data.decode import (
    KINDS,
    decode,
    decode_windows,
    evaluation_transform,
    kind_of,
    shape_of,
)
from rfd_tf.data.recipe import Batch, Recipe

if TYPE_CHECKING:  # the sources import this module to read themselves
    from rfd_tf.data.base import ArraySource, Source
    from rfd_tf.data.folder import FolderSource
    from rfd_tf.data.photos import PhotoSource
    from rfd_tf.data.shards.source import ShardSource
    from rfd_tf.data.tfds_source import RecordSource

_STEPS_AT_ONCE = 2
Transform = Callable[..., tf.Tensor]  # of images, their size, and an image's EXIF orientation


# Steps -------------------------------------------------------------------------------------------


#: Message of the error that ends a stream when no image of a step can be read.
NOTHING_READ = "no image of a training step can be read"


def _steps(recipe: Recipe) -> tf.data.Dataset:
    steps = tf.data.Dataset.counter(recipe.start_step, dtype=tf.int64)
    return steps if recipe.order is None else steps.take(recipe.ordered_steps)


def _parallel(
    elements: tf.data.Dataset, make: Callable[..., tf.data.Dataset], deterministic: bool
) -> tf.data.Dataset:
    """Chains the small datasets made of each element, reading a few ahead, in order."""
    return elements.interleave(
        make,
        cycle_length=_STEPS_AT_ONCE,
        block_length=1,
        num_parallel_calls=_STEPS_AT_ONCE,
        deterministic=deterministic,
    )


def _calls() -> int:
    # The autotuner learns slowly about datasets that live for one batch only.
    return max(2, os.cpu_count() or 1)


class Failures:
    """Remembers which images could not be read. The list is kept by TensorFlow, outside Python."""

    def __init__(self, source: Source):
        table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=0)
        source.record_failures(lambda: table.export()[0].numpy())
        self._table = table

    def note(self, wanted: tf.Tensor, read: tf.Tensor) -> None:
        """Adds what is in `wanted`, int64 `[n]`, and not in `read`, int64 `[m]`."""

        def insert() -> bool:
            missing = tf.sets.difference(wanted[None], read[None]).values
            self._table.insert(missing, tf.ones_like(missing))
            return True

        tf.cond(tf.shape(read)[0] < tf.shape(wanted)[0], insert, lambda: False)


def _one_step(
    step: tf.Tensor,
    index: tf.Tensor,
    rows: tuple[tf.Tensor, ...],
    load: Callable[..., tf.Tensor],
    finish: Callable[[tf.Tensor, tf.Tensor], Batch],
    failures: Failures,
) -> tf.data.Dataset:
    """Returns a dataset of one batch, its images loaded in parallel.

    Args:
        step: the step's number, for messages.
        index: int64 `[n]`, of the images.
        rows: what `load` takes for each image, each `[n, ...]`.
        load: makes an image `[S, S, 3]` of one row of each of `rows`, or raises.
        finish: makes the batch of images `[n, S, S, 3]` and their index.
        failures: where to note images that raise.
    """
    size = index.shape[0]

    def numbered(slot: tf.Tensor, *row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return slot, load(*row)

    def fill(slots: tf.Tensor, images: tf.Tensor) -> Batch:
        count = tf.shape(slots)[0]

        def repeat() -> tuple[tf.Tensor, tf.Tensor]:
            # An empty place takes an image from the others in turn, with its index.
            places = tf.range(size) % count
            places = tf.tensor_scatter_nd_update(places, slots[:, None], tf.range(count))
            return tf.gather(images, places), tf.gather(tf.gather(index, slots), places)

        failures.note(index, tf.gather(index, slots))
        return finish(*tf.cond(count < size, repeat, lambda: (images, index)))

    loaded = tf.data.Dataset.from_tensor_slices((tf.range(size), *rows))
    loaded = loaded.map(numbered, num_parallel_calls=_calls(), deterministic=True)
    batches = loaded.ignore_errors().batch(size).map(fill)
    spec = batches.element_spec

    def give_up(_: tf.Tensor) -> Batch:
        message = tf.debugging.Assert(False, [NOTHING_READ, step])
        with tf.control_dependencies([message]):
            return tf.nest.map_structure(lambda part: tf.zeros(part.shape, part.dtype), spec)

    # Only asked for where there is no batch. Without it, the stream would go from step to step
    # without end when a disk is gone.
    return batches.concatenate(tf.data.Dataset.range(1).map(give_up)).take(1)


# Arrays ------------------------------------------------------------------------------------------


def _augmented(batch: tf.Tensor, draws: Batch, recipe: Recipe) -> tf.Tensor:
    """Augments images of one size, `[local_size * crops, H, W, 3]`."""
    if "window" not in draws:
        batch = recipe.whole(batch, recipe.image_size)
    else:
        size = (tf.fill([batch.shape[0]], side) for side in batch.shape[1:3])
        windows = recipe.windows(draws["window"], *size)
        batch = augment.crop_and_resize(batch, windows, recipe.image_size)
    return recipe.finish(batch, draws)


def train_on_array(source: ArraySource, recipe: Recipe) -> tf.data.Dataset:
    images = source.tensor

    def make(step: tf.Tensor) -> Batch:
        index, view = recipe.examples(step, source.num_images)
        draws = recipe.draws(step)
        batch = tf.gather(images, recipe.each_crop(index))
        return recipe.batch(_augmented(batch, draws, recipe), index, view)

    return _steps(recipe).map(
        make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=recipe.deterministic
    )


def _in_order(source: Source, indices: np.ndarray | None) -> tf.data.Dataset:
    if indices is None:
        return tf.data.Dataset.range(source.num_images)
    return tf.data.Dataset.from_tensor_slices(indices)


def evaluate_array(
    source: ArraySource,
    image_size: int,
    batch_size: int,
    indices: np.ndarray | None = None,
    transform: Transform = evaluation_transform,
) -> tf.data.Dataset:
    images = source.tensor

    def make(index: tf.Tensor) -> Batch:
        batch = transform(tf.gather(images, index), image_size)
        return {"image": batch, "index": index}

    ordered = _in_order(source, indices).batch(batch_size)
    return ordered.map(make, num_parallel_calls=tf.data.AUTOTUNE)


# Photographs -------------------------------------------------------------------------------------


def _cut(source: PhotoSource, index: tf.data.Dataset) -> tf.data.Dataset:
    """Makes of a dataset of indices one of `(index, crop)`, several crops at a time."""
    make = source.cutter
    pieces = index.batch(make.at_once).map(
        lambda some: (some, make(some)), num_parallel_calls=_calls(), deterministic=True
    )
    return pieces.unbatch()


def train_on_photos(source: PhotoSource, recipe: Recipe) -> tf.data.Dataset:
    _ = source.cutter  # made here, outside the functions that TensorFlow traces

    def make(step: tf.Tensor) -> tf.data.Dataset:
        draws = recipe.draws(step)
        index, view = recipe.examples(step, source.num_images)
        index = tf.data.Dataset.from_tensor_slices(index)

        def finish(index: tf.Tensor, images: tf.Tensor) -> Batch:
            return recipe.batch(_augmented(recipe.each_crop(images), draws, recipe), index, view)

        return _cut(source, index).batch(recipe.local_size, drop_remainder=True).map(finish)

    return _parallel(_steps(recipe), make, recipe.deterministic)


def evaluate_photos(
    source: PhotoSource,
    image_size: int,
    batch_size: int,
    indices: np.ndarray | None = None,
    transform: Transform = evaluation_transform,
) -> tf.data.Dataset:
    def make(index: tf.Tensor, images: tf.Tensor) -> Batch:
        return {"image": transform(images, image_size), "index": index}

    batches = _cut(source, _in_order(source, indices)).batch(batch_size)
    return batches.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


# Files and shards --------------------------------------------------------------------------------


def _by_image(rows: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Gathers what belongs to crops, `[n * crops, k]`, into `[n, crops, k]`; one crop stays."""
    if recipe.crops == 1:
        return rows
    return tf.reshape(rows, [-1, recipe.crops, rows.shape[1]])


def _mirrored(draws: Batch, lying: tf.Tensor | bool = False) -> tf.Tensor:
    """Returns which crops to mirror as they are decoded, for `decode_windows`.

    Each image is mirrored as it is loaded, side by side with others, which is faster than in the
    finished batch; `Recipe.finish` is then called with `mirrored=True`.

    Args:
        draws: of a step, with `"flip"`, bool `[n * crops]`, where any are mirrored.
        lying: bool `[n * crops]`, the crops that lie on their side as stored.

    Returns:
        bool `[n * crops, 2]`: whether upside down, whether left to right, as stored.
    """
    flip = draws.get("flip", tf.zeros(tf.shape(draws["window"])[:1], tf.bool))
    return tf.stack([flip & lying, flip & tf.logical_not(lying)], axis=1)


def _decode_windows(contents, kind, window, mirrored, image_size: int, kinds) -> tf.Tensor:
    """Decodes one window `[4]` of an image, or several `[crops, 4]` of them, stacked."""
    if window.shape.rank == 1:
        return decode_windows(contents, kind, window[None], image_size, kinds, mirrored[None])[0]
    return decode_windows(contents, kind, window, image_size, kinds, mirrored)


def _crops(images: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Lays out as many images as there are crops: `[n * crops, S, S, 3]`."""
    if images.shape.rank == 4:
        return recipe.each_crop(images)
    return tf.reshape(images, [-1, *images.shape[2:]])


class _Encoded(abc.ABC):
    """Encoded images, and what is known of each without decoding it.

    A header is a row of int32: kind, height, width, EXIF orientation, as in `image_files.Header`.

    Attributes:
        possible: the kinds that can occur.
        turned: whether any orientation may be other than 1.
    """

    possible: tuple[int, ...]
    turned: bool

    @abc.abstractmethod
    def examples(self, step: tf.Tensor, recipe: Recipe) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images of a step and the views, see `Recipe.examples`."""

    @abc.abstractmethod
    def look_up(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what `read` takes of each image, string `[n]`, and headers `[n, 4]`."""

    @abc.abstractmethod
    def headers(self, index: tf.Tensor) -> tf.Tensor:
        """Returns the headers of images that were looked up: int32 `[n, 4]`."""

    @abc.abstractmethod
    def read(self, origin: tf.Tensor) -> tf.Tensor:
        """Returns the bytes of an image."""

    def windows(self, headers: tf.Tensor, draws: Batch, recipe: Recipe) -> list[tf.Tensor]:
        """Chooses windows of images as they are seen, in the pixels as they are stored.

        Returns:
            int32 `[n, 4]`, and bool `[n, 2]`, see `_mirrored`; `[n, crops, ...]` where there
            are several crops.
        """
        each = self._windows(recipe.each_crop(headers), draws, recipe)
        return [_by_image(rows, recipe) for rows in each]

    def _windows(
        self, headers: tf.Tensor, draws: Batch, recipe: Recipe
    ) -> tuple[tf.Tensor, tf.Tensor]:
        sizes = headers[:, 1:3]
        if not self.turned:
            windows = recipe.windows(draws["window"], sizes[:, 0], sizes[:, 1])
            return windows, _mirrored(draws)
        # From orientation 5 on height and width change places. The other turns need no thought: a
        # window is as likely as its mirror image.
        lying = headers[:, 3] >= 5
        seen = tf.where(lying[:, None], sizes[:, ::-1], sizes)
        windows = recipe.windows(draws["window"], seen[:, 0], seen[:, 1])
        windows = tf.where(lying[:, None], tf.gather(windows, [1, 0, 3, 2], axis=1), windows)
        return windows, _mirrored(draws, lying)

    def upright(self, images: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Rotates windows of images, square, `[n, S, S, 3]`, to how they are seen."""
        if not self.turned:
            return images
        turns = self.headers(index)[:, 3]
        turned = tf.reduce_any(tf.not_equal(turns, 1))
        return tf.cond(turned, lambda: augment.upright(images, turns), lambda: images)

    def load(
        self,
        image_size: int,
        origin: tf.Tensor,
        header: tf.Tensor,
        window: tf.Tensor | None = None,
        mirrored: tf.Tensor | None = None,
        transform: Transform = evaluation_transform,
    ) -> tf.Tensor:
        """Decodes a window of an image, as stored, or without one transforms all of it, upright."""
        contents, kind = self.read(origin), header[0]
        if window is not None:
            return _decode_windows(contents, kind, window, mirrored, image_size, self.possible)
        orientation = header[3] if self.turned else None
        return transform(decode(contents, kind, self.possible), image_size, orientation)


class _Files(_Encoded):
    """The files of a folder."""

    def __init__(self, source: FolderSource):
        self.possible = tuple(sorted({int(kind) for kind in source.kinds}))
        self.turned = source.orientations is not None
        turned = source.orientations if self.turned else np.ones_like(source.kinds)
        with tf.device("/CPU:0"):
            self._paths = tf.constant(source.paths)
            self._headers = tf.constant(np.column_stack([source.kinds, source.sizes, turned]))
        self._count = source.num_images

    def examples(self, step: tf.Tensor, recipe: Recipe) -> tuple[tf.Tensor, tf.Tensor]:
        return recipe.examples(step, self._count)

    def look_up(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(self._paths, index), self.headers(index)

    def headers(self, index: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._headers, index)

    def read(self, origin: tf.Tensor) -> tf.Tensor:
        return tf.io.read_file(origin)


class _Shards(_Encoded):
    """Images inside larger files, read by Python for a whole batch at a time."""

    def __init__(self, source: ShardSource):
        self._source = source
        self.possible, self.turned = source.occurring()

    def examples(self, step: tf.Tensor, recipe: Recipe) -> tuple[tf.Tensor, tf.Tensor]:
        order = self._source.order
        if order is None or recipe.order is not None:
            return recipe.examples(step, self._source.num_images)

        def numbers(epoch: np.ndarray, positions: np.ndarray) -> np.ndarray:
            return order.numbers(recipe.seed, int(epoch), positions, recipe.views)

        found = tf.numpy_function(numbers, recipe.positions(step), tf.int64, stateful=False)
        return recipe.split(tf.ensure_shape(found, [recipe.local_size]))

    def look_up(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        contents, headers = tf.numpy_function(
            self._source.fetch, [index], (tf.string, tf.int32), stateful=False
        )
        count = index.shape[0]
        return tf.ensure_shape(contents, [count]), tf.ensure_shape(headers, [count, 4])

    def headers(self, index: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(self._source.headers_of, [index], tf.int32, stateful=False)
        return tf.ensure_shape(found, [index.shape[0], 4])

    def read(self, origin: tf.Tensor) -> tf.Tensor:
        return origin


def train_on_files(source: FolderSource, recipe: Recipe) -> tf.data.Dataset:
    return _train_on(source, _Files(source), recipe)


def train_on_shards(source: ShardSource, recipe: Recipe) -> tf.data.Dataset:
    if source.order is not None and recipe.order is not None:
        # As an epoch comes to them: a block is unpacked once for all of its images.
        order = source.order.sorted(recipe.seed, recipe.order_step, recipe.order.numpy())
        with tf.device("/CPU:0"):
            recipe = dataclasses.replace(recipe, order=tf.constant(order))
    return _train_on(source, _Shards(source), recipe)


def _train_on(source: Source, encoded: _Encoded, recipe: Recipe) -> tf.data.Dataset:
    with tf.device("/CPU:0"):
        failures = Failures(source)

    def make(step: tf.Tensor) -> tf.data.Dataset:
        index, view = encoded.examples(step, recipe)
        draws = recipe.draws(step)
        rows = origin, headers = encoded.look_up(index)
        if "window" in draws:
            rows = (origin, headers, *encoded.windows(headers, draws, recipe))

        def finish(images: tf.Tensor, index: tf.Tensor) -> Batch:
            images = _crops(images, recipe)
            if "window" in draws:
                images = encoded.upright(images, recipe.each_crop(index))
            images = recipe.finish(images, draws, mirrored="window" in draws)
            return recipe.batch(images, index, view)

        load = functools.partial(encoded.load, recipe.image_size, transform=recipe.whole)
        return _one_step(step, index, rows, load, finish, failures)

    return _parallel(_steps(recipe), make, recipe.deterministic)


def evaluate_files(
    source: FolderSource,
    image_size: int,
    batch_size: int,
    indices: np.ndarray | None = None,
    transform: Transform = evaluation_transform,
) -> tf.data.Dataset:
    return _evaluate(source, _Files(source), image_size, batch_size, indices, transform)


def evaluate_shards(
    source: ShardSource,
    image_size: int,
    batch_size: int,
    indices: np.ndarray | None = None,
    transform: Transform = evaluation_transform,
) -> tf.data.Dataset:
    return _evaluate(source, _Shards(source), image_size, batch_size, indices, transform)


def _evaluate(
    source: Source,
    encoded: _Encoded,
    image_size: int,
    batch_size: int,
    indices: np.ndarray | None,
    transform: Transform,
) -> tf.data.Dataset:
    with tf.device("/CPU:0"):
        failures = Failures(source)

    def make(index: tf.Tensor) -> tf.data.Dataset:
        def finish(read: tf.Tensor, images: tf.Tensor) -> Batch:
            failures.note(index, read)
            return {"image": images, "index": read}

        def load(one: tf.Tensor, *row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return one, encoded.load(image_size, *row, transform=transform)

        images = tf.data.Dataset.from_tensor_slices((index, *encoded.look_up(index)))
        images = images.map(load, num_parallel_calls=_calls(), deterministic=True)
        return images.ignore_errors().batch(batch_size).map(finish)

    return _parallel(_in_order(source, indices).batch(batch_size), make, True)


# Records -----------------------------------------------------------------------------------------


def _load_record(
    source: RecordSource,
    recipe: Recipe,
    contents: tf.Tensor,
    draws: tf.Tensor | None = None,
    mirrored: tf.Tensor | None = None,
) -> tf.Tensor:
    kind = kind_of(contents, source.transparent)
    if draws is None:
        return recipe.whole(decode(contents, kind, KINDS), recipe.image_size)
    height, width = tf.unstack(shape_of(contents, kind, KINDS))
    window = recipe.windows(draws, height, width)
    return _decode_windows(contents, kind, window, mirrored, recipe.image_size, KINDS)


def train_on_records(source: RecordSource, recipe: Recipe) -> tf.data.Dataset:
    per_epoch = recipe.steps_per_epoch
    first_epoch, done = divmod(recipe.start_step, per_epoch)
    failures = Failures(source)
    times = None
    if recipe.order is not None:
        times = tf.math.bincount(tf.cast(recipe.order, tf.int32), minlength=source.num_images)

    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        seed = tf.stack([tf.constant(recipe.seed, tf.int64), epoch])
        records = source.records(seed, times, recipe.views)
        batches = records.batch(recipe.batch_size, drop_remainder=True)
        # Steps before the one to begin at are read past, not decoded.
        if times is not None:
            steps = tf.data.Dataset.counter(recipe.order_step, dtype=tf.int64)
            return tf.data.Dataset.zip(steps, batches).skip(recipe.start_step - recipe.order_step)
        steps = tf.data.Dataset.range(epoch * per_epoch, (epoch + 1) * per_epoch)
        skipped = tf.where(tf.equal(epoch, first_epoch), tf.constant(done, tf.int64), 0)
        return tf.data.Dataset.zip(steps, batches).skip(skipped)

    def make(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tf.data.Dataset:
        numbers, contents = (recipe.local(part) for part in batch)
        index, view = recipe.split(numbers)
        draws = recipe.draws(step)
        rows = (contents,)
        if "window" in draws:
            mirrored = _mirrored(draws)
            rows = (contents, _by_image(draws["window"], recipe), _by_image(mirrored, recipe))

        def finish(images: tf.Tensor, index: tf.Tensor) -> Batch:
            images = recipe.finish(_crops(images, recipe), draws, mirrored="window" in draws)
            return recipe.batch(images, index, view)

        load = functools.partial(_load_record, source, recipe)
        return _one_step(step, index, rows, load, finish, failures)

    epochs = tf.data.Dataset.counter(first_epoch, dtype=tf.int64)
    if recipe.order is not None:
        epochs = tf.data.Dataset.from_tensors(tf.constant(recipe.order_step, tf.int64))
    return _parallel(epochs.flat_map(epoch_of), make, recipe.deterministic)


def evaluate_records(
    source: RecordSource,
    image_size: int,
    batch_size: int,
    indices: np.ndarray | None = None,
    transform: Transform = evaluation_transform,
) -> tf.data.Dataset:
    def load(index: tf.Tensor, contents: tf.Tensor) -> Batch:
        image = decode(contents, kind_of(contents, source.transparent), KINDS)
        return {"image": transform(image, image_size), "index": index}

    def make(index: tf.Tensor, contents: tf.Tensor) -> tf.data.Dataset:
        # What cannot be decoded is left out; a damaged record file raises.
        images = tf.data.Dataset.from_tensor_slices((index, contents))
        images = images.map(load, num_parallel_calls=_calls(), deterministic=True)
        return images.ignore_errors().batch(batch_size)

    records = source.records()
    if indices is not None:
        wanted = np.zeros(source.num_images, bool)
        wanted[indices] = True
        wanted = tf.constant(wanted)
        records = records.filter(lambda index, _: tf.gather(wanted, index))
    return _parallel(records.batch(batch_size), make, True)
