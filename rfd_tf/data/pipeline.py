"""From a source to batches: the training stream and the evaluation pass, in tf.data.

The training stream can be entered at any step: which images a step holds follows from (seed,
epoch), how they are augmented from (seed, step), and nothing from what came before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from rfd_tf.data import record_files
from rfd_tf.data.decode import evaluation_transform, stretch_transform, ten_crop_transform
from rfd_tf.data.recipe import Recipe
from rfd_tf.errors import UserError, unknown

if TYPE_CHECKING:  # sources import this module for their datasets
    from rfd_tf.data.base import Source

# AutoGraph would rewrite the source of every function on the way, for branches on tensors. There
# are none (`tf.cond` stands where one is meant), and it takes seconds.
_as_written = tf.autograph.experimental.do_not_convert

CROPS = ("pad", "resized", "window", "stretch", "none")


def steps_per_epoch(source: Source, batch_size: int, views: int = 1) -> int:
    """Returns how many full batches an epoch has; the images left over sit this epoch out.

    Args:
        source: the images.
        batch_size: images in a batch.
        views: see `training_dataset`.

    Raises:
        UserError: a batch of no image, or of more than the source has.

    >>> from rfd_tf.data import digits
    >>> steps_per_epoch(digits("train"), 128)
    11
    """
    _check_positive("batch_size", batch_size)
    if batch_size > source.num_images:
        raise UserError(
            f"batch_size {batch_size} is more than the {source.num_images} images of "
            f"'{source.name}'; give more images (pretraining needs hundreds at least), or "
            f"--batch_size={source.num_images} or less"
        )
    return source.num_images * views // batch_size


def training_dataset(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    crop: str = "pad",
    crop_area: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    padding: int | None = None,
    horizontal_flip: bool = True,
    color_jitter: float = 0.0,
    hue: float = 0.0,
    grayscale: float = 0.0,
    crops: int = 1,
    shard: tuple[int, int] = (0, 1),
    deterministic: bool = True,
    order: np.ndarray | None = None,
    order_step: int | None = None,
    views: int = 1,
) -> tf.data.Dataset:
    """Returns the endless stream of augmented training batches.

    Element `s` is the batch of step `start_step + s`, bit for bit what a stream begun at step 0
    gives there. Each epoch of `steps_per_epoch` steps visits the images in a fresh permutation,
    each at most once. Labels are never read.

    A file that cannot be read while training does not stop it: another image of the same batch,
    with its index, takes the place; see `FolderSource.failed_while_reading`. A batch of which no
    image can be read does stop it.

    Args:
        source: where the images come from.
        image_size: side S of the images given out, in pixels.
        batch_size: images in a global batch, over all shards.
        seed: of the permutations and augmentations; any integer.
        start_step: the step the stream begins at, 0 or more.
        crop: `"pad"`: the evaluation transform, then black padding and a random S x S window
            (RotNet on CIFAR-10). `"resized"`: a window of random area and aspect, resized to S x S
            (RFD on ImageNet). `"window"`: a square of the evaluation's scale at a random place
            (the probes of RFD and RotNet: resize to 256, random crop of 224). `"stretch"`: all of
            the image, resized to S x S whatever its aspect. `"none"`: the evaluation transform
            only.
        crop_area: for `"resized"`: the smallest and largest fraction of the image's area.
        crop_ratio: for `"resized"`: the smallest and largest width / height.
        padding: for `"pad"`: pixels on each side; `image_size // 8` if None.
        horizontal_flip: whether to mirror each image with probability 1/2.
        color_jitter: strength s of torchvision's ColorJitter(s, s, s); 0 is off.
        hue: largest turn of the colours, as a share of the full circle, at most 0.5; 0 is off.
        grayscale: probability with which an image loses its colour; 0 is off.
        crops: number of independent crops and colour changes of each image of a batch.
        shard: `(i, n)`: give out the i-th of n equal slices of every global batch.
        deterministic: False lets batches come in the order they are ready, where that is faster.
        order: integers `[n]`, the images to give out in place of permutations, the first
            `batch_size` of them at `order_step`, the next at the step after; an image may stand
            in it several times. The stream then ends with the last full batch. A TFDS dataset
            that is not kept in memory gives out each image as often as that, in an order that
            follows from `seed` and `order_step`.
        order_step: the step that `order` begins at, `start_step` or before; `start_step` if None.
        views: how many views of an image are examples of their own: an epoch then visits each
            pair of image and view, in a fresh permutation of all pairs. Images are given out as
            they are; making the view is up to whoever reads its number.

    Returns:
        A `tf.data.Dataset` of `{"image": uint8 [batch_size / n, S, S, 3], "index": int64
        [batch_size / n]}`; with several crops the image is `[batch_size / n, crops, S, S, 3]`,
        with several views there is also `"view"`, int64 `[batch_size / n]`, from 0.

    Raises:
        UserError: an argument is out of its range, or the batch is larger than the source.

    >>> from rfd_tf.data import digits
    >>> batches = training_dataset(digits(), image_size=32, batch_size=64, seed=0)
    >>> next(iter(batches))["image"].shape
    TensorShape([64, 32, 32, 3])
    """
    _check_positive("image_size", image_size)
    _check_positive("views", views)
    steps = steps_per_epoch(source, batch_size, views)
    if start_step < 0:
        raise UserError(f"start_step must be 0 or more, got {start_step}")
    if crop not in CROPS:
        raise unknown("crop", crop, CROPS)
    _check_range("crop_area", crop_area, 1.0)
    _check_range("crop_ratio", crop_ratio, float("inf"))
    padding = image_size // 8 if padding is None else padding
    if padding < 0:
        raise UserError(f"padding must be 0 or more pixels, got {padding}")
    if color_jitter < 0:
        raise UserError(f"color_jitter must be 0 or more, got {color_jitter}")
    if not 0.0 <= hue <= 0.5:
        raise UserError(f"hue is a share of the colour circle from 0 to 0.5, got {hue}")
    _check_positive("crops", crops)
    if not 0.0 <= grayscale <= 1.0:
        raise UserError(f"grayscale is a probability from 0 to 1, got {grayscale}")
    worker, workers = shard
    if not 0 <= worker < workers:
        raise UserError(f"shard must be (i, n) with 0 <= i < n, got {tuple(shard)}")
    if batch_size % workers:
        raise UserError(
            f"batch_size {batch_size} cannot be divided by the {workers} shards; give a multiple "
            f"of {workers}"
        )
    if order is not None and views > 1:
        raise UserError(f"an order of images cannot be combined with {views} views of each")
    order_step = start_step if order_step is None else order_step
    if order is not None:
        order = _checked_order(order, source, batch_size)
        last = order_step + order.shape[0] // batch_size - 1
        if not order_step <= start_step <= last:
            raise UserError(
                f"start_step {start_step} must lie in the order's steps, {order_step} to {last}"
            )
    recipe = Recipe(
        image_size=image_size,
        batch_size=batch_size,
        # Any Python integer becomes one that TensorFlow can hold.
        seed=int(seed) % (1 << 63),
        start_step=start_step,
        steps_per_epoch=steps,
        crop=crop,
        crop_area=tuple(crop_area),
        crop_ratio=tuple(crop_ratio),
        padding=padding,
        horizontal_flip=horizontal_flip,
        color_jitter=color_jitter,
        hue=hue,
        crops=crops,
        grayscale=grayscale,
        shard=(worker, workers),
        deterministic=deterministic,
        order=order,
        order_step=order_step,
        views=views,
    )
    return _with_options(_as_written(source.training_steps)(recipe), deterministic)


def evaluation_dataset(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    indices: np.ndarray | None = None,
    ten_crops: bool = False,
    stretch: bool = False,
) -> tf.data.Dataset:
    """Returns one pass over the images in the order of their index, without augmentation.

    Images that are not `image_size` square are resized, bilinear with antialiasing, until the
    shorter side is `image_size` (from `image_size` 96 on: 256/224 of it), and the centre is cut
    out. An image that cannot be read is missing from the pass: go by `"index"`.

    Args:
        source: where the images come from.
        image_size: side S of the images given out, in pixels.
        batch_size: images in a batch; the last batch holds what is left.
        indices: increasing integers, the images to give; all if None.
        ten_crops: whether to give, of each image resized to 256/224 of `image_size`, the crops at
            the four corners and the centre and their mirror images.
        stretch: whether to resize all of the image to S x S instead, whatever its aspect.

    Returns:
        A `tf.data.Dataset` of `{"image": uint8 [B, S, S, 3], "index": int64 [B]}`; with ten crops
        the images are `[B, 10, S, S, 3]`.

    Raises:
        UserError: `image_size` or `batch_size` is less than 1.

    >>> from rfd_tf.data import digits
    >>> batches = evaluation_dataset(digits("test"), image_size=16, batch_size=100)
    >>> [len(batch["index"]) for batch in batches]
    [100, 100, 97]
    """
    _check_positive("image_size", image_size)
    _check_positive("batch_size", batch_size)
    if indices is not None:
        indices = np.asarray(indices, np.int64)
    transform = ten_crop_transform if ten_crops else evaluation_transform
    if stretch:
        transform = stretch_transform
    read = _as_written(source.evaluation_pass)
    dataset = read(image_size, batch_size, indices, transform)
    return _with_options(dataset, True)


def load_images(
    source: Source, image_size: int, indices: np.ndarray | None = None, stretch: bool = False
) -> np.ndarray:
    """Returns images as `evaluation_dataset` gives them: uint8 `[N, S, S, 3]`.

    For what fits into memory. The array may be the source's own: do not write to it.

    Args:
        source: where the images come from.
        image_size: side S of the images given out, in pixels.
        indices: increasing integers, the images to give; all if None.
        stretch: see `evaluation_dataset`.

    Raises:
        UserError: `image_size` is less than 1, or an image cannot be read.

    >>> from rfd_tf.data import digits
    >>> load_images(digits("test"), 16, indices=[3, 5]).shape
    (2, 16, 16, 3)
    """
    _check_positive("image_size", image_size)
    held = source.images_of_size(image_size)
    if held is not None:
        return held if indices is None else held[indices]
    wanted = np.arange(source.num_images) if indices is None else np.asarray(indices)
    images = np.zeros((len(wanted), image_size, image_size, 3), np.uint8)
    read = 0
    batches = evaluation_dataset(
        source, image_size=image_size, batch_size=256, indices=indices, stretch=stretch
    )
    with record_files.damage_reported():
        for batch in batches.as_numpy_iterator():
            images[np.searchsorted(wanted, batch["index"])] = batch["image"]
            read += len(batch["index"])
    if read < len(wanted):
        failed = source.failed_while_reading()
        named = ", ".join(f"{name} ({reason})" for name, reason in failed[:10])
        raise UserError(
            f"{len(wanted) - read} of {len(wanted)} images of '{source.name}' cannot be read: "
            f"{named}"
        )
    return images


def _checked_order(order: np.ndarray, source: Source, batch_size: int) -> tf.Tensor:
    order = np.asarray(order)
    if order.ndim != 1 or order.dtype.kind not in "iu":
        raise UserError(f"order must be integers [n], not {order.dtype} {list(order.shape)}")
    if len(order) < batch_size:
        raise UserError(f"an order of {len(order)} images is less than a batch of {batch_size}")
    if order.min() < 0 or order.max() >= source.num_images:
        raise UserError(
            f"order must hold indices from 0 to {source.num_images - 1} of '{source.name}', not "
            f"{order.min()} to {order.max()}"
        )
    with tf.device("/CPU:0"):
        return tf.constant(order, tf.int64)


def _with_options(dataset: tf.data.Dataset, deterministic: bool) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = deterministic
    # The shards are made here: tf.distribute must not divide the stream again.
    sharding = tf.data.experimental.AutoShardPolicy.OFF
    options.experimental_distribute.auto_shard_policy = sharding
    # Images, or batches of small ones, are made side by side already: an operation that hands its
    # rows to other threads only waits for them.
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} must be 1 or more, got {value}")


def _check_range(name: str, bounds: tuple[float, float], largest: float) -> None:
    if len(bounds) != 2 or not 0.0 < bounds[0] <= bounds[1] <= largest:
        limit = f" and at most {largest:g}" if largest < float("inf") else ""
        raise UserError(f"{name} must be (smallest, largest), above 0{limit}, got {tuple(bounds)}")
