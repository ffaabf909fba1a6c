"""Supervised training of classifiers on a backbone, frozen or not, evaluated after every epoch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf import applications
from rfd_tf.data.views import rotate_each
from rfd_tf.evaluation.base import (
    BEST_EPOCH,
    LAST_EPOCH,
    Data,
    ImageSet,
    Result,
    Settings,
    Subject,
)
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.protocols import Training
from rfd_tf.evaluation.training_state import TrainingState, fit
from rfd_tf.layers import BatchNormalization
from rfd_tf.training import schedules
from rfd_tf.training.optimizers import SGD


def fan_out_normal(fan_out: int, seed: int):
    """The published heads' initializer: N(0, sqrt(2 / fan_out))."""
    return keras.initializers.RandomNormal(stddev=float(np.sqrt(2 / fan_out)), seed=seed)


def batch_norm(x, affine: bool = True):
    """Batch normalisation as of PyTorch's defaults."""
    return BatchNormalization(
        momentum=0.9, epsilon=1e-5, center=affine, scale=affine, unbiased_moving_variance=True
    )(x)


def frozen_features(backbone: keras.Model, tensors: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns an input of normalised images and what a frozen backbone gives for it.

    The backbone computes in inference mode, also while heads on it are trained.

    Args:
        backbone: functional model; it is made untrainable.
        tensors: of the backbone, by name.

    Returns:
        (Keras input `[None, S, S, 3]`, tensors by name).
    """
    trunk = keras.Model(backbone.inputs, tensors)
    trunk.trainable = False
    x = keras.Input(backbone.input_shape[1:])
    return x, trunk(x, training=False)


def freeze_before(model: keras.Model, prefix: str) -> None:
    """Makes all layers before the first whose name starts with `prefix` untrainable.

    Frozen batch normalisation computes in inference mode.

    >>> network = applications.build("six_layer", 32)
    >>> freeze_before(network, "block6")
    >>> [w.name for w in network.trainable_weights]
    ['kernel', 'gamma', 'beta']
    """
    for layer in model.layers:
        if layer.name.startswith(prefix):
            return
        layer.trainable = False


class Trials:
    """A network that is trained several times, each time from the same start at another rate.

    It is compiled once: compiling takes longer than a short training.

    Args:
        model: as of `train`, which takes this in its place. Between trainings everything but the
            highest rate of the cosine schedule must stay.
    """

    def __init__(self, model: keras.Model):
        self._model, self._compiled, self._start = model, None, []

    def compiled(self, training: Training, *arguments: Any) -> _Compiled:
        """Returns the network with the values that it had at first, and the training's rate."""
        if self._compiled is None:
            self._compiled = _Compiled(self._model, training, *arguments)
            self._start = [ops.convert_to_numpy(each) for each in self._compiled.variables]
        else:
            for variable, value in zip(self._compiled.variables, self._start, strict=True):
                variable.assign(value)
            self._compiled.rate.assign(training.learning_rate)
        return self._compiled


class _Compiled:
    """A network with its optimizer, and what evaluates it."""

    def __init__(
        self,
        model: keras.Model,
        training: Training,
        steps: int,
        subject: Subject,
        test: ImageSet,
        images: Sequence[str],
    ):
        self.model, schedule = model, training.learning_rate
        if isinstance(schedule, float):
            self.rate = keras.Variable(schedule, trainable=False, dtype="float32")
            schedule = schedules.cosine(self.rate, training.epochs * steps)
        else:
            schedule = schedules.from_lookup_table(schedule, steps)
        optimizer = SGD(schedule, training.momentum, training.nesterov, training.weight_decay)
        self.network = _with_pixels(model, subject)
        self.network.compile(optimizer=optimizer, loss=_joint_cross_entropy, jit_compile=False)
        optimizer.build(self.network.trainable_variables)
        self.variables = [*self.network.variables, *optimizer.variables]
        self.scores = _Score(model, subject, test, images)


def train(
    model: keras.Model | Trials,
    names: Sequence[str],
    training: Training,
    subject: Subject,
    data: Data,
    settings: Settings,
    title: str,
    *,
    images: Sequence[str] = ("upright", "rotated"),
    train_rotated: bool = False,
    ten_crops: bool = False,
    train_set: ImageSet | None = None,
    seed: int | None = None,
) -> Iterator[Result]:
    """Trains classifiers together and yields their accuracies after the last and the best epoch.

    The loss is the sum of the cross entropies, so classifiers that share no trainable weight
    do not touch one another. An interrupted call resumes, when repeated with the same
    output folder, after the last epoch whose state was kept.

    Args:
        model: normalised images `[B, S, S, 3]` to logits `[B, len(names), classes]`. Its trainable
            variables are trained. Trials of one model at several rates share a `Trials` of it.
        names: what to call the classifiers.
        training: schedule, optimizer and augmentation.
        subject: the network, for its normalisation and its identity.
        data: images to learn from and to evaluate.
        settings: of the evaluation.
        title: of the progress bar.
        images: which test images to evaluate after each epoch, of "upright" and "rotated".
        train_rotated: whether each training image is rotated by a random multiple of 90 degrees,
            anew each time it is seen.
        ten_crops: whether to evaluate the mean of the softmax over ten crops too, after the last
            epoch.
        train_set: images to learn from instead of `data.train`.
        seed: of order, augmentation and turns; the settings' by default.

    Raises:
        UserError: the loss is no longer finite.
    """
    train_set = data.train if train_set is None else train_set
    seed = settings.seed if seed is None else seed
    batch_size = min(training.batch_size, len(train_set))
    steps = training.steps_per_epoch or len(train_set) // batch_size
    make = model.compiled if isinstance(model, Trials) else functools.partial(_Compiled, model)
    compiled = make(training, steps, subject, data.test, images)
    identity = {
        "training": training.describe(),
        "names": list(names),
        "sha256": subject.sha256,
        "network": subject.title,
        "data": data.identity(),
        "rows": [len(train_set), int(train_set.rows.sum()), train_set.source.fingerprint],
        "images": list(images),
        "train_rotated": train_rotated,
        "seed": seed,
    }
    state = TrainingState(settings.output, f"{title} {subject.title}", identity)

    def after_epoch(epoch: int, history: dict) -> None:
        for kind, accuracies in compiled.scores().items():
            history.setdefault(kind, []).append(accuracies)

    def stream(done: int):
        return _stream(train_set, training, batch_size, seed, done * steps, train_rotated)

    history = fit(
        compiled.network,
        stream,
        title,
        state,
        after_epoch,
        epochs=training.epochs,
        steps=steps,
        # Weights that do not change (the frozen trunk's) need not be kept.
        changing=_changing(compiled.network),
        progress=f"{subject.title}, {title}" if settings.progress else None,
    )
    for kind in images:
        for column, name in enumerate(names):
            accuracies = [row[column] for row in history[kind]]
            yield Result(name, accuracies[-1], kind, when=LAST_EPOCH)
            yield Result(name, max(accuracies), kind, when=BEST_EPOCH)
    if ten_crops:
        accuracies = _ten_crop_accuracies(compiled.model, subject, data.test, settings, title)
        for name, accuracy in zip(names, accuracies, strict=True):
            yield Result(name, float(accuracy), "10 crops", when=LAST_EPOCH)
    state.remove()


def _with_pixels(model: keras.Model, subject: Subject) -> keras.Model:
    pixels = keras.Input(model.input_shape[1:], dtype="uint8")
    x = applications.preprocess_input(pixels, mean=subject.mean, std=subject.std)
    return keras.Model(pixels, model(x))


def _changing(model: keras.Model) -> list[Any]:
    """Trainable variables, and the moving statistics of layers that have any."""
    changing = {id(variable) for variable in model.trainable_variables}

    def visit(layer: Any) -> None:
        for inner in getattr(layer, "layers", []):
            visit(inner)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            changing.update(id(variable) for variable in layer.weights)

    visit(model)
    return [variable for variable in model.weights if id(variable) in changing]


def _joint_cross_entropy(labels, logits):
    """Sum over classifiers of the cross entropy of `[B, H, C]` logits with labels `[B]`."""
    classifiers = logits.shape[1]
    labels = ops.repeat(ops.reshape(ops.cast(labels, "int32"), (-1, 1)), classifiers, axis=1)
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.sum(losses, axis=1)


def _stream(
    images: ImageSet,
    training: Training,
    batch_size: int,
    seed: int,
    start_step: int,
    rotated: bool,
):
    """The endless stream of (pixels, labels) from a step on."""
    import tensorflow as tf

    from rfd_tf.data.pipeline import training_dataset

    batches = training_dataset(
        images.part,
        image_size=images.image_size,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        crop=training.crop_of(images.image_size),
        horizontal_flip=training.horizontal_flip,
    )
    with tf.device("/CPU:0"):
        labels = tf.constant(images.part.labels)

    def labelled(step, batch):
        pixels = batch["image"]
        if rotated:
            key = tf.stack([tf.constant(seed % (1 << 31), tf.int64), step])
            turns = tf.random.stateless_uniform([batch_size], key, 0, 4, tf.int32)
            pixels = rotate_each(pixels, turns)
        return pixels, tf.gather(labels, batch["index"])

    return batches.enumerate(start_step).map(labelled).prefetch(2)


class _Score:
    """Accuracy of every classifier on the test images."""

    def __init__(self, model: keras.Model, subject: Subject, test: ImageSet, images: Sequence[str]):
        classes = ops.argmax(model.output, axis=-1)
        self._extract = FeatureExtractor(
            keras.Model(model.inputs, {"class": classes}), subject.mean, subject.std
        )
        self._test, self._images = test, images

    def __call__(self) -> dict[str, list[float]]:
        accuracies = {}
        for kind in self._images:
            found, labels = self._test.features(self._extract, kind == "rotated")
            right = found["class"].astype(np.int64) == labels[:, None]
            accuracies[kind] = [float(share) for share in right.mean(axis=0)]
        return accuracies


def _ten_crop_accuracies(
    model: keras.Model, subject: Subject, test: ImageSet, settings: Settings, title: str
) -> np.ndarray:
    """Accuracy `[H]` of the mean of the softmax over ten crops of each image."""
    from rfd_tf.data.pipeline import evaluation_dataset
    from rfd_tf.progress import tqdm

    extract = FeatureExtractor(
        keras.Model(model.inputs, ops.softmax(model.output)), subject.mean, subject.std
    )
    batches = evaluation_dataset(
        test.source,
        image_size=test.image_size,
        batch_size=max(1, test.batch_size // 10),
        indices=test.rows,
        ten_crops=True,
    )
    right, seen = np.zeros(model.output_shape[1]), 0
    with tqdm(
        total=len(test),
        desc=f"{subject.title}, {title}, 10 crops",
        unit="img",
        disable=None if settings.progress else True,
    ) as bar:
        for batch in batches.as_numpy_iterator():
            images, index = batch["image"], batch["index"]
            flat = extract(images.reshape(-1, *images.shape[2:]), len(images) * 10)["features"]
            mean = flat.reshape(len(images), 10, *flat.shape[1:]).mean(axis=1)
            right += (mean.argmax(axis=-1) == test.source.labels[index][:, None]).sum(axis=0)
            seen += len(images)
            bar.update(len(images))
    return right / seen
