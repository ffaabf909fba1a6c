"""Training of a classifier for pictures that show several classes at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf import applications
from rfd_tf.applications.rescale import rescale_weights
from rfd_tf.data import voc
from rfd_tf.data.sources import Source
from rfd_tf.data.views import NUM_ROTATIONS, rotate_each
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.average_precision import per_class
from rfd_tf.evaluation.base import Settings, Subject
from rfd_tf.evaluation.training_state import TrainingState, fit, is_evaluated
from rfd_tf.layers import limit_momentum
from rfd_tf.training import schedules
from rfd_tf.training.optimizers import SGD

# Smallest and largest share of a picture's area that a random crop shows; this package's choice.
CROP_AREA = (0.3, 1.0)
_MOST_PICTURES = 16  # of a batch when evaluating, each in several crops


@dataclasses.dataclass(frozen=True)
class Pictures:
    """One side of the task: pictures, and what each shows.

    Attributes:
        source: the pictures.
        positive: bool `[N, C]`, a class is shown.
        ignored: bool `[N, C]`, a picture does not count for a class.
        turns: int `[N]`, 0 to 3: the quarter turns counter-clockwise that each picture is always
            rotated by; None where all are upright.
    """

    source: Source
    positive: np.ndarray
    ignored: np.ndarray
    turns: np.ndarray | None = None

    @classmethod
    def of(cls, side: voc.VocSet) -> Pictures:
        """Takes the pictures of a folder in VOC's layout.

        Raises:
            UserError: a picture that cannot be read.
        """
        from rfd_tf.data.folder import read_files

        folder = side.images[0].image.parent
        files = [(image.image.name, image.image.stat().st_size) for image in side.images]
        source = read_files(str(folder), files, 0.0, "auto", 1 << 30, name=side.name)
        return cls(source, *side.presence())

    def turned(self, seed: Any) -> Pictures:
        """Returns the same pictures, each rotated by a random multiple of 90 degrees.

        Args:
            seed: of `numpy.random.default_rng`.
        """
        turns = np.random.default_rng(seed).integers(0, NUM_ROTATIONS, len(self.positive))
        return dataclasses.replace(self, turns=turns)


@dataclasses.dataclass(frozen=True)
class MultiLabelTraining:
    """How a classifier is trained and evaluated.

    Attributes:
        epochs, learning_rate, batch_size, weight_decay: of SGD with Nesterov momentum 0.9, the
            rate falling to 0 on a cosine.
        test_crops: random crops of each test picture whose scores are averaged.
        evaluate_every: epochs between two evaluations; the last epoch is always evaluated.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    weight_decay: float
    test_crops: int
    evaluate_every: int


def classifier(
    subject: Subject,
    protocol: str,
    num_classes: int,
    feature: str | None = None,
    rescale_by: np.ndarray | None = None,
) -> keras.Model:
    """Returns the network with a new linear layer, trainable as the protocol says.

    Args:
        subject: the network; for "fc6-8" it has layers `fc6` and `fc7`.
        protocol: "fc8" (the linear layer only), "fc6-8" (with `fc6` and `fc7`) or "all layers".
        num_classes: C.
        feature: what the linear layer stands on: a name of `Subject.feature_tensors`, such as
            "f1". By default the last endpoint, globally averaged; `fc7` of "fc6-8".
        rescale_by: uint8 `[N, S, S, 3]`, images by which the network's weights are rescaled
            (`rescale_weights`) before anything is trained; None leaves them.

    Returns:
        A model from normalised images `[B, S, S, 3]` to float32 logits `[B, C]`; moving
        statistics have a momentum of at most 0.9.
    """
    backbone = limit_momentum(subject.network())
    endpoint = "fc7" if protocol == "fc6-8" else None
    dense = keras.layers.Dense(num_classes, kernel_initializer="zeros")
    if rescale_by is not None:
        images = applications.preprocess_input(rescale_by, mean=subject.mean, std=subject.std)
        rescale_weights(applications.pooled_feature_model(backbone), images)
    if protocol == "fc6-8":
        supervised.freeze_before(backbone, "fc6")
    if feature is None:
        model = applications.pooled_feature_model(backbone, endpoint)
    else:
        tensors = subject.feature_tensors(backbone, endpoints=())
        model = keras.Model(backbone.input, tensors[feature])
    if protocol == "fc8":
        x, features = supervised.frozen_features(model, {"feature": model.output})
        return keras.Model(x, dense(ops.cast(features["feature"], "float32")))
    return keras.Model(model.input, dense(ops.cast(model.output, "float32")))


def train(
    model: keras.Model,
    training: MultiLabelTraining,
    subject: Subject,
    train_pictures: Pictures,
    test_pictures: Pictures,
    settings: Settings,
    title: str,
    identity: Any,
) -> list[tuple[int, dict[str, float]]]:
    """Trains a classifier and evaluates it again and again.

    An interrupted call resumes, when repeated with the same output folder, after the last
    epoch whose state was kept.

    Args:
        model: of `classifier`.
        training: schedule, and when to evaluate.
        subject: the network.
        train_pictures, test_pictures: to learn from and to evaluate.
        settings: of the evaluation.
        title: what is trained, for messages and the state's file.
        identity: JSON-ready; a state of another identity is ignored.

    Returns:
        (epoch from 1, metric -> mean over the classes), for each epoch that was evaluated; the last
        epoch is the last entry.

    Raises:
        UserError: the loss is no longer finite.
    """
    rows = train_pictures.source.num_images
    batch_size = min(training.batch_size, rows)
    steps = rows // batch_size
    optimizer = SGD(
        schedules.cosine(training.learning_rate, training.epochs * steps),
        coupled_weight_decay=training.weight_decay,
    )
    pixels = keras.Input(model.input_shape[1:], dtype="uint8")
    x = applications.preprocess_input(pixels, mean=subject.mean, std=subject.std)
    trained = keras.Model(pixels, model(x))
    trained.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    state = TrainingState(settings.output, f"{title} {subject.title}", identity)

    def after_epoch(epoch: int, history: dict) -> None:
        if is_evaluated(epoch, training.epochs, training.evaluate_every):
            scores = crop_scores(trained, test_pictures, training.test_crops, settings.seed)
            each = per_class(scores, test_pictures.positive, test_pictures.ignored)
            means = {metric: float(np.nanmean(values)) for metric, values in each.items()}
            history.setdefault("evaluations", []).append([epoch, means])

    def stream(done: int):
        side = model.input_shape[1]
        return _stream(train_pictures, side, batch_size, settings.seed, done * steps)

    history = fit(
        trained,
        stream,
        title,
        state,
        after_epoch,
        epochs=training.epochs,
        steps=steps,
        progress=f"{subject.title}, {title}" if settings.progress else None,
    )
    state.remove()
    return [(epoch, means) for epoch, means in history["evaluations"]]


def loss(targets, logits):
    """Sum of the sigmoid cross entropies of the classes that count.

    Args:
        targets: float `[B, C]`: 1 shown, 0 not shown, -1 does not count.
        logits: float `[B, C]`.

    Returns:
        `[B]`.

    >>> round(float(loss(np.array([[1.0, -1.0]]), np.zeros((1, 2)))[0]), 4)  # log 2
    0.6931
    """
    logits, targets = ops.cast(logits, "float32"), ops.cast(targets, "float32")
    counted = ops.cast(targets >= 0, "float32")
    losses = ops.binary_crossentropy(targets, logits, from_logits=True)
    return ops.sum(counted * losses, axis=-1)


def crop_scores(model: keras.Model, pictures: Pictures, crops: int, seed: int) -> np.ndarray:
    """Returns the mean logits over random crops of each picture, float32 `[N, C]`.

    Args:
        model: uint8 pixels `[B, S, S, 3]` to logits `[B, C]`.
        pictures: N of them.
        crops: of each picture.
        seed: of the crops.
    """
    from rfd_tf.data.pipeline import training_dataset

    num, side = pictures.source.num_images, model.input_shape[1]
    # A stream leaves out what does not fill a batch: take a size that divides.
    size = max(n for n in range(1, _MOST_PICTURES + 1) if num % n == 0)
    batches = training_dataset(
        pictures.source,
        image_size=side,
        batch_size=size,
        seed=seed,
        crop="resized",
        crop_area=CROP_AREA,
        crops=crops,
    ).take(num // size)
    scores = np.zeros(pictures.positive.shape, np.float32)
    for batch in batches.as_numpy_iterator():
        images = batch["image"].reshape(-1, side, side, 3)
        if pictures.turns is not None:
            turns = np.repeat(pictures.turns[batch["index"]], crops)
            images = ops.convert_to_numpy(rotate_each(images, turns))
        logits = model.predict_on_batch(images)
        scores[batch["index"]] = np.asarray(logits).reshape(size, crops, -1).mean(axis=1)
    return scores


def _stream(pictures: Pictures, image_size: int, batch_size: int, seed: int, start_step: int):
    """The endless stream of (pixels, targets) from a step on."""
    import tensorflow as tf

    from rfd_tf.data.pipeline import training_dataset

    batches = training_dataset(
        pictures.source,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        crop="resized",
        crop_area=CROP_AREA,
    )
    targets = np.where(pictures.ignored, -1.0, pictures.positive).astype(np.float32)
    with tf.device("/CPU:0"):
        targets = tf.constant(targets)
        turns = None if pictures.turns is None else tf.constant(pictures.turns, tf.int32)

    def labelled(batch):
        images = batch["image"]
        if turns is not None:
            images = rotate_each(images, tf.gather(turns, batch["index"]))
        return images, tf.gather(targets, batch["index"])

    return batches.map(labelled)
