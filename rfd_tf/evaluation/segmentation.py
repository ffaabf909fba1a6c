"""Semantic segmentation: a fully convolutional network on the pretrained trunk."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf import applications
from rfd_tf.data import image_files
from rfd_tf.data.voc import IGNORED, VocImage, VocSet, train_and_test, upright_mask
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import BEST_EPOCH, LAST_EPOCH, Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.files import folder, write_json
from rfd_tf.evaluation.finetune import BATCH_NORMALISATION, check_training
from rfd_tf.evaluation.training_state import TrainingState, fit
from rfd_tf.layers import limit_momentum
from rfd_tf.paths import absolute
from rfd_tf.training import schedules
from rfd_tf.training.optimizers import SGD

BACKGROUND = "background"
METRIC = "mean IoU"
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
_MOST_SKIPS = 2
# Pillow decodes and resizes outside Python's lock.
_READERS = 2


def segmentation_network(
    subject: Subject, num_classes: int, image_size: int, skips: int = 0
) -> keras.Model:
    """Returns the trunk with the head of a fully convolutional network.

    A 1x1 convolution gives scores on the last endpoint that is a map. Each skip enlarges the
    scores to the last endpoint of the next larger size and adds that endpoint's own scores. The
    result is enlarged to the image. Every enlargement is bilinear and not trained; score layers
    start from zero. With a stride of 32 in the last map, 0, 1 and 2 skips make FCN-32s, FCN-16s
    and FCN-8s. Source: Long, Shelhamer, Darrell, "Fully convolutional networks for semantic
    segmentation", CVPR 2015, section 4.2 (which trains the enlargements inside the head; fc6 and
    fc7 are no part of the network here).

    Args:
        subject: the network.
        num_classes: background included.
        image_size: side of the images in pixels; need not be that of pretraining.
        skips: number of skip connections from earlier endpoints, 0 to 2.

    Returns:
        A model from normalised images `[B, S, S, 3]` to float32 scores `[B, S, S, num_classes]`,
        all of it trainable.

    Raises:
        UserError: an image too small for the network, more skips than it has larger maps, or no
            endpoint that is a map.

    >>> import tempfile
    >>> network = applications.build("six_layer", 32)
    >>> record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 32}
    >>> path = os.path.join(tempfile.mkdtemp(), "backbone.weights.h5")
    >>> subject = Subject.pretrained(applications.save_backbone(network, path, record))
    >>> segmentation_network(subject, 21, 48, skips=1).output_shape
    (None, 48, 48, 21)
    """
    evaluated = subject.network()
    network = subject.untrained(image_size)
    names = scored_endpoints(network, skips)
    # Layers after the last map (dense ones, which would fix the image's size) are left behind.
    trunk = limit_momentum(applications.feature_extractor(network, names))
    trunk.set_weights(applications.feature_extractor(evaluated, names).get_weights())

    scores = None
    for name in names:
        layer = keras.layers.Conv2D(
            num_classes, 1, kernel_initializer="zeros", dtype="float32", name=f"{name}_score"
        )
        own = layer(ops.cast(trunk.output[name], "float32"))
        if scores is None:
            scores = own
        else:
            scores = own + ops.image.resize(scores, own.shape[1:3], interpolation="bilinear")
    scores = ops.image.resize(scores, (image_size, image_size), interpolation="bilinear")
    return keras.Model(trunk.inputs[0], scores)


def scored_endpoints(network: keras.Model, skips: int) -> list[str]:
    """Returns the names of the endpoints that are scored, the last map first.

    Args:
        network: functional, its image size known.
        skips: how many earlier ones: the last endpoint of each larger size, going backwards.

    Raises:
        UserError: no endpoint is a map, or there are not so many larger ones.

    >>> scored_endpoints(applications.build("six_layer", 48), 1)
    ['block6', 'block3']
    """
    sides = {}
    for name in applications.endpoints(network):
        shape = network.get_layer(name).output.shape
        if len(shape) == 4:
            sides[name] = shape[1]
    if not sides:
        raise UserError(f"no endpoint of '{network.name}' is a map, so nothing can be segmented")
    names: list[str] = []
    for name in reversed(sides):
        if not names or sides[name] > sides[names[-1]]:
            names.append(name)
    if skips >= len(names):
        raise UserError(
            f"'{network.name}' has {len(names) - 1} endpoints larger than its last map, too few "
            f"for {skips} skips; choose fewer"
        )
    return names[: skips + 1]


def pixel_cross_entropy(masks, scores):
    """Mean cross entropy of the pixels that are not ignored.

    Args:
        masks: integers `[B, H, W]`, 0 to C - 1, or 255 for a pixel that does not count.
        scores: float `[B, H, W, C]`, logits.

    Returns:
        A scalar; 0 where every pixel is ignored.

    >>> scores = np.zeros((1, 1, 2, 4), "float32")
    >>> round(float(pixel_cross_entropy(np.array([[[3, 255]]]), scores)), 4)  # log 4
    1.3863
    """
    masks = ops.cast(masks, "int32")
    counted = ops.not_equal(masks, IGNORED)
    losses = ops.sparse_categorical_crossentropy(
        ops.where(counted, masks, 0), scores, from_logits=True
    )
    counted = ops.cast(counted, losses.dtype)
    return ops.sum(losses * counted) / ops.maximum(ops.sum(counted), 1)


def count_pixels(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts which class's pixels were taken for which: int64 `[C, C]`, rows the true classes.

    Args:
        truth: integers of any shape, 0 to C - 1, or 255 for a pixel that does not count.
        predicted: of the same shape, 0 to C - 1.
        num_classes: C, background included.

    >>> count_pixels(np.array([0, 1, 1, 255]), np.array([0, 0, 1, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    counted = truth != IGNORED
    pairs = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    counts = np.bincount(pairs, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes)


def intersection_over_union(counts: np.ndarray) -> np.ndarray:
    """Returns each class's intersection over union: float64 `[C]`, 0 to 1.

    NaN for a class that neither occurs nor is predicted: the mean leaves it out. Pixels are
    pooled over all images, as PASCAL VOC and Long et al. (CVPR 2015, section 5) do.

    Args:
        counts: integers `[C, C]`, rows the true classes; see `count_pixels`.

    >>> intersection_over_union(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).round(2)
    array([0.75, 0.67,  nan])
    """
    right = np.diag(counts).astype(np.float64)
    union = counts.sum(axis=0) + counts.sum(axis=1) - right
    return np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)


def read_mask(image: VocImage, num_classes: int) -> np.ndarray:
    """Reads a mask's indices, the palette left aside: uint8 `[H, W]`, upright as its image.

    Args:
        image: with a mask.
        num_classes: background included.

    Raises:
        UserError: the mask is missing, cannot be read, is neither a palette nor a grey picture,
            has another size than its image, or holds an index that is neither 255 nor below
            `num_classes`.
    """
    from PIL import Image

    path = image.mask
    if path is None or not path.is_file():
        raise UserError(f"no mask '{path}' of '{image.image}'")
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            mask = np.asarray(picture)
    except Exception as error:  # Pillow raises many types on broken files
        reason = image_files.reason_of(error)
        raise UserError(f"the mask '{path}' cannot be read: {reason}") from None
    if mode not in ("P", "L"):
        raise UserError(
            f"the mask '{path}' has colours of mode {mode}; a mask is a palette PNG whose index "
            "is the class"
        )
    mask = upright_mask(mask, image)
    highest = int(mask[mask != IGNORED].max(initial=0))
    if highest >= num_classes:
        raise UserError(
            f"the mask '{path}' holds index {highest}; there are {num_classes - 1} classes, so "
            f"indices are 0 (background) to {num_classes - 1}, and {IGNORED} (ignored)"
        )
    return mask


class Segmentation(Task):
    """Task: mean intersection over union of a fully convolutional network, all of it trained.

    The head is that of `segmentation_network`. Stochastic gradient descent with momentum 0.9,
    weight decay 5e-4 and half a cosine as schedule; pixel-wise cross entropy without pixels of
    index 255; horizontal flips. Images (bilinearly) and masks (nearest pixel) are resized to
    squares for training; scores are evaluated at the image's own size, to which they are resized.
    Background counts as a class. The random twin goes through the same training.

    Long et al. train images of their own size at a fixed rate, with a doubled rate for biases and
    trained enlargements, from a classifier with fc6 and fc7: the scores do not compare with theirs.

    In the output folder: segmentation_NETWORK.json with each class's intersection over union,
    the pixel accuracy and the counts of all classes after the last epoch.

    Args:
        voc_dir: folder in VOC's layout with `SegmentationClass/`; see `rfd_tf.data.voc`.
        train_split, test_split: image lists in `ImageSets/Segmentation`; both empty or None split
            the folder by name.
        image_size: side of the squares, pixels.
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: peak learning rate.
        skips: number of skip connections from earlier endpoints, 0 to 2.

    Raises:
        UserError: no folder, options out of range; and see `check`.

    >>> Segmentation("VOCdevkit/VOC2012").protocol(None)["skips"]
    1
    """

    name = "segmentation"
    needs_labels = False

    def __init__(
        self,
        voc_dir: str | os.PathLike | None = None,
        train_split: str | None = "train",
        test_split: str | None = "val",
        image_size: int = 256,
        epochs: int = 50,
        batch_size: int = 16,
        learning_rate: float = 0.01,
        skips: int = 1,
    ):
        if not voc_dir:
            raise UserError("task segmentation needs a folder in VOC's layout: --voc_dir")
        check_training(epochs, learning_rate, batch_size)
        if image_size < 1:
            raise UserError(f"the image size is 1 or more; got {image_size}")
        if not 0 <= skips <= _MOST_SKIPS:
            raise UserError(f"skips are 0 to {_MOST_SKIPS}; got {skips}")
        self.voc_dir = absolute(voc_dir)
        self.train_split, self.test_split = train_split or None, test_split or None
        self.image_size, self.epochs, self.batch_size = image_size, epochs, batch_size
        self.learning_rate, self.skips = float(learning_rate), skips
        self._fingerprint: str | None = None

    @functools.cached_property
    def _sets(self) -> tuple[VocSet, VocSet]:
        return train_and_test(self.voc_dir, self.train_split, self.test_split, masks=True)

    @property
    def _class_names(self) -> tuple[str, ...]:
        return (BACKGROUND, *self._sets[0].class_names)

    def protocol(self, data: Data | None) -> dict:
        described: dict[str, Any] = {
            "trained": "all layers, and 1x1 score layers on the endpoints, enlarged bilinearly",
            "skips": self.skips,
            "voc_dir": str(self.voc_dir),
            "train_split": self.train_split or "by name",
            "test_split": self.test_split or "by name",
            "loss": f"pixel-wise cross entropy, index {IGNORED} ignored",
            "image_size": self.image_size,
            "augmentation": "horizontal flips",
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "schedule": "half a cosine",
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "batch_normalisation": BATCH_NORMALISATION,
            "reported": "last epoch, and the best of all epochs on the test images",
            "scored": "scores resized bilinearly to each image's own size; background is a class; "
            "classes that neither occur nor are predicted are left out of the mean",
            "random_init": "the same network trained from scratch in the same way",
        }
        if self._fingerprint is not None:
            train, test = self._sets
            described["num_train"], described["num_test"] = len(train.images), len(test.images)
            described["classes"] = list(self._class_names)
            described["data"] = self._fingerprint
        return described

    def check(self, subject: Subject, data: Data | None) -> None:
        """Reads every mask, and raises `UserError` where the task cannot be done.

        Raises:
            UserError: a mask or an image that is missing, unreadable or unlike the other (see
                `read_mask`), masks to learn from that show one class only, a network without the
                skips, an image too small for it. The message names the file.
        """
        segmentation_network(subject, len(self._class_names), self.image_size, self.skips)
        content, shown = hashlib.sha256(), set()
        for voc_set in self._sets:
            for image in voc_set.images:
                mask = read_mask(image, len(self._class_names))
                content.update(image.name.encode())
                content.update(mask.tobytes())
                if voc_set is self._sets[0]:
                    shown.update(np.unique(mask).tolist())
        shown.discard(IGNORED)
        if len(shown) < 2:
            what = " ".join(self._class_names[number] for number in shown) or "ignored pixels"
            folder_of_masks = self._sets[0].images[0].mask.parent
            raise UserError(
                f"the masks to learn from in '{folder_of_masks}' show {what} only; there are two "
                "classes at least, background counted"
            )
        self._fingerprint = content.hexdigest()[:16]

    def run(self, subject: Subject, data: Data | None, settings: Settings) -> Iterator[Result]:
        if self._fingerprint is None:
            self.check(subject, data)
        train, test = self._sets
        num_classes = len(self._class_names)
        model = segmentation_network(subject, num_classes, self.image_size, self.skips)
        pixels = keras.Input((self.image_size, self.image_size, 3), dtype="uint8")
        inputs = applications.preprocess_input(pixels, mean=subject.mean, std=subject.std)
        model = keras.Model(pixels, model(inputs))
        batch_size = min(self.batch_size, len(train.images))
        steps = len(train.images) // batch_size
        optimizer = SGD(
            schedules.cosine(self.learning_rate, self.epochs * steps), MOMENTUM, False, WEIGHT_DECAY
        )
        model.compile(optimizer=optimizer, loss=pixel_cross_entropy, jit_compile=False)
        identity = [self.protocol(None), subject.sha256, subject.title, settings.seed]
        state = TrainingState(settings.output, f"{self.name} {subject.title}", identity)
        faults: list[UserError] = []

        def stream(done: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            try:
                for epoch in range(done, self.epochs):
                    seed = (settings.seed, epoch)
                    yield from training_batches(
                        train.images, self.image_size, batch_size, num_classes, seed
                    )
            except UserError as error:
                faults.append(error)  # TensorFlow makes another of it
                raise

        def after_epoch(epoch: int, history: dict) -> None:
            counts = self._evaluate(model, test.images, num_classes)
            history.setdefault("counts", []).append(counts.tolist())

        try:
            found = fit(
                model,
                stream,
                self.name,
                state,
                after_epoch,
                epochs=self.epochs,
                steps=steps,
                progress=f"{subject.title}, {self.name}" if settings.progress else None,
            )
        except Exception:
            if faults:
                raise faults[0] from None
            raise
        history = [np.array(counts, np.int64) for counts in found["counts"]]
        if settings.output is not None:
            self._write(settings.output, subject, history[-1])
        means = [float(np.nanmean(intersection_over_union(counts))) for counts in history]
        yield Result("all layers", means[-1], metric=METRIC, when=LAST_EPOCH)
        yield Result("all layers", max(means), metric=METRIC, when=BEST_EPOCH)
        state.remove()

    def _evaluate(
        self, model: keras.Model, images: Sequence[VocImage], num_classes: int
    ) -> np.ndarray:
        """Counts of all classes over the test pixels, each image at its own size."""
        counts = np.zeros((num_classes, num_classes), np.int64)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            pixels = np.stack([resized_image(image, self.image_size) for image in batch])
            for image, scores in zip(batch, model.predict_on_batch(pixels), strict=True):
                truth = read_mask(image, num_classes)
                counts += count_pixels(truth, predicted_mask(scores, truth.shape), num_classes)
        if not counts.sum():
            raise UserError(f"every pixel of the test masks in '{self.voc_dir}' is ignored")
        return counts

    def _write(self, output: Path, subject: Subject, counts: np.ndarray) -> None:
        ious = intersection_over_union(counts).tolist()
        report = {
            "mean_iou": float(np.nanmean(ious)),
            "pixel_accuracy": float(np.trace(counts) / counts.sum()),
            # JSON knows no NaN.
            "iou": {
                name: None if np.isnan(iou) else iou
                for name, iou in zip(self._class_names, ious, strict=True)
            },
            "counts": counts.tolist(),
        }
        title = subject.title.replace(" ", "_")
        write_json(folder(output) / f"{self.name}_{title}.json", report)


def predicted_mask(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the class of each pixel: int64 `size`, of scores `[S, S, C]` resized bilinearly.

    >>> scores = np.zeros((2, 2, 2), "float32")
    >>> scores[:, 1, 1] = 1
    >>> scores[:, 0, 0] = 1
    >>> predicted_mask(scores, (1, 4))
    array([[0, 0, 1, 1]])
    """
    scores = ops.image.resize(scores, size, interpolation="bilinear")
    return ops.convert_to_numpy(ops.argmax(scores, axis=-1)).astype(np.int64)


def resized_image(image: VocImage, size: int) -> np.ndarray:
    """Reads an image and resizes it bilinearly to a square: uint8 `[size, size, 3]`.

    Raises:
        UserError: it cannot be read.
    """
    from PIL import Image

    try:
        pixels = image_files.read_rgb(str(image.image))
    except Exception as error:  # Pillow raises many types on broken files
        reason = image_files.reason_of(error)
        raise UserError(f"the image '{image.image}' cannot be read: {reason}") from None
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def training_batches(
    images: Sequence[VocImage],
    size: int,
    batch_size: int,
    num_classes: int,
    seed: Sequence[int],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields one epoch's full batches in random order, each image flipped or not with its mask.

    Args:
        images: with masks.
        size: side of the squares that images and masks are resized to.
        batch_size: images a batch; what is left over at the end is dropped.
        num_classes: background included.
        seed: of order and flips.

    Yields:
        (uint8 `[B, size, size, 3]`, uint8 `[B, size, size]`).

    Raises:
        UserError: an image or a mask that cannot be read.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    flips = rng.random(len(images)) < 0.5

    def read(place: int) -> tuple[np.ndarray, np.ndarray]:
        image = images[order[place]]
        pixels, mask = resized_image(image, size), _resized_mask(image, size, num_classes)
        return (pixels[:, ::-1], mask[:, ::-1]) if flips[place] else (pixels, mask)

    starts = range(0, len(images) - batch_size + 1, batch_size)
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:

        def submit(start: int) -> list[concurrent.futures.Future]:
            return [readers.submit(read, place) for place in range(start, start + batch_size)]

        # One batch is read while another trains.
        ahead = submit(starts[0]) if starts else []
        for start in starts:
            pairs = [future.result() for future in ahead]
            ahead = submit(start + batch_size) if start != starts[-1] else []
            yield np.stack([pixels for pixels, _ in pairs]), np.stack([mask for _, mask in pairs])


def _resized_mask(image: VocImage, size: int, num_classes: int) -> np.ndarray:
    from PIL import Image

    mask = Image.fromarray(read_mask(image, num_classes))
    return np.asarray(mask.resize((size, size), Image.Resampling.NEAREST))
