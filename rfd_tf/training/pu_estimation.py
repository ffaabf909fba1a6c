"""Estimates PU weights: how probable it is that a rotated view looks upright.

The images are divided into folds. For each fold a network learns rotations on the other folds and
is applied to this one, which it has never seen: a network that has memorised an image would
predict its rotation however symmetrical it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from rfd_tf import applications
from rfd_tf.applications.registry import own_arguments
from rfd_tf.applications.weights import origin
from rfd_tf.data import pipeline, pu_weights, views
from rfd_tf.data.base import Source
from rfd_tf.data.pu_weights import replace_file
from rfd_tf.data.subset import folds as deal_out
from rfd_tf.errors import UserError, unknown
from rfd_tf.losses.non_negative_pu import check_prior
from rfd_tf.methods.rotation_feature_decoupling import RotationFeatureDecoupling
from rfd_tf.methods.upright_classifier import UprightClassifier, upright_found
from rfd_tf.paths import absolute
from rfd_tf.training.folder_lock import FolderLock
from rfd_tf.training.pretraining import (
    Augmentation,
    Optimization,
    Pretraining,
    set_batch_norm_momentum,
)

#: How P(looks upright) is estimated, by name.
CLASSIFIERS = {
    "softmax": "rotation network with a 4-way softmax; P is the upright class' probability",
    "binary": "upright against rotated views, sigmoid cross-entropy",
    "non_negative_pu": "upright as positive, rotated as unlabelled, non-negative risk estimator",
}


@dataclasses.dataclass(frozen=True)
class Estimation:
    """How PU weights are estimated.

    Args:
        backbone, backbone_options: as of `rfd_tf.applications.build`; or a Keras model, whose
            architecture is built with new weights.
        image_size: side of the images in pixels; the backbone's own when None.
        mean, std: channel means and standard deviations of the pixels / 255.
        batch_norm_momentum: share that moving statistics keep at a step; the backbone's own when
            None.
        classifier: a name in `CLASSIFIERS`. With `softmax` and `binary` a view that looks like the
            upright one gets 1/2, or 1/4 if all four look alike; `non_negative_pu` pushes such views
            to 1, and its values are better ranked than calibrated.
        num_folds: number of folds; each is predicted by a network trained on the others.
        positive_prior: for `non_negative_pu`, the share of rotated views that look upright.
        optimization, augmentation: of each fold's network.
        policy: Keras dtype policy of the backbone, `float32` or `mixed_bfloat16`.
        seed: seed of weights, order and augmentation; the folds do not depend on it.

    Raises:
        UserError: an unknown classifier, fewer than 2 folds, a prior not between 0 and 1.
    """

    backbone: str | keras.Model
    backbone_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_size: int | None = None
    mean: tuple[float, ...] = applications.IMAGENET_MEAN
    std: tuple[float, ...] = applications.IMAGENET_STD
    batch_norm_momentum: float | None = None
    classifier: str = "softmax"
    num_folds: int = 5
    positive_prior: float = 0.1
    optimization: Optimization = Optimization(epochs=30)
    augmentation: Augmentation = Augmentation()
    policy: str = "float32"
    seed: int = 0

    def __post_init__(self):
        if self.classifier not in CLASSIFIERS:
            raise unknown("classifier", self.classifier, CLASSIFIERS)
        check_prior(self.positive_prior)
        if self.positive_prior != 0.1 and self.classifier != "non_negative_pu":
            raise UserError(
                f"positive_prior={self.positive_prior:g} has no effect with "
                f"classifier='{self.classifier}'; leave it out, or give "
                "classifier='non_negative_pu'"
            )
        if self.num_folds < 2:
            deal_out(2, self.num_folds)
        if isinstance(self.backbone, keras.Model):
            side = int(self.backbone.input_shape[1] or 0)
            if self.image_size not in (None, side):
                raise UserError(
                    f"image_size {self.image_size} is not that of backbone '{self.backbone.name}', "
                    f"which takes images of {side} pixels"
                )
            object.__setattr__(self, "image_size", side)
            object.__setattr__(self, "_started", None)
            return
        if self.image_size is None:
            size = applications.default_image_size(self.backbone)
            object.__setattr__(self, "image_size", size)
        if self.backbone not in applications.BACKBONES:
            raise unknown("backbone", self.backbone, applications.BACKBONES)
        _, weights = own_arguments(self.backbone, self.backbone_options)
        # What the networks start from, while the file is there.
        started = None if weights is None else origin(weights, self.backbone)
        object.__setattr__(self, "_started", started)

    def settings(self) -> dict[str, Any]:
        """All of it in terms of JSON; of weights that the networks start from, their digest too."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if isinstance(self.backbone, keras.Model):
            values["backbone"] = hashlib.sha256(self.backbone.to_json().encode()).hexdigest()
        settings = json.loads(json.dumps(values, default=dataclasses.asdict))
        return {**settings, "started_from": self._started} if self._started else settings


@dataclasses.dataclass(frozen=True)
class Fold:
    """What one fold's network predicts on the images it was not trained on.

    Attributes:
        indices: int64 `[n]`, the images of the fold that could be read.
        upright_probability: float32 `[n, 4]`.
        right: bool `[n, views]`, whether rotations were predicted correctly: `softmax` names the
            rotation of each of the 4 views, the others find the upright view among the four (1
            column). Chance is 1/4 both ways.
    """

    indices: np.ndarray
    upright_probability: np.ndarray
    right: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.right.mean()) if self.right.size else float("nan")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The folds put together.

    Attributes:
        upright_probability: float32 `[num_images, 4]`; 0 for images that could not be read.
        fold: int64 `[num_images]`, which fold an image was in.
        fold_accuracies: rotation accuracy on each held-out fold, 0 to 1; chance is 1/4.
        accuracy: the same over all images.
        unread: int64, images that could not be read.
    """

    upright_probability: np.ndarray
    fold: np.ndarray
    fold_accuracies: tuple[float, ...]
    accuracy: float
    unread: np.ndarray

    @property
    def num_upright(self) -> int:
        """Rotated views that look upright: P above 1/2."""
        return int((self.upright_probability[:, 1:] > 0.5).sum())


def training_part(source: Source, fold: np.ndarray, number: int) -> Source:
    """The images that fold `number`'s network is trained on: those of all other folds.

    Args:
        source: all images.
        fold: `[num_images]`, which fold an image is in.
        number: the fold that is held out.
    """
    return source.subset(np.flatnonzero(fold != number), f"{source.name} without fold {number}")


def estimate_fold(
    source: Source,
    fold: np.ndarray,
    number: int,
    estimation: Estimation,
    callback: keras.callbacks.Callback | None = None,
) -> Fold:
    """Trains on all folds but one, and evaluates the four rotations of the images in that one.

    The images evaluated are not augmented: see `rfd_tf.data.pipeline.evaluation_dataset`.

    Args:
        source: all images.
        fold: `[num_images]`, which fold an image is in.
        number: the fold that is held out.
        estimation: how.
        callback: hears of the training, or None.

    Raises:
        UserError: as `Pretraining` does, such as a batch larger than the other folds together.
    """
    training = training_part(source, fold, number)
    seed = estimation.seed + number
    normalization = {"mean": estimation.mean, "std": estimation.std}

    def build_backbone() -> keras.Model:
        if isinstance(estimation.backbone, keras.Model):
            backbone = keras.models.clone_model(estimation.backbone)
        else:
            backbone = applications.build(
                estimation.backbone, estimation.image_size, **estimation.backbone_options
            )
        if estimation.batch_norm_momentum is not None:
            set_batch_norm_momentum(backbone, estimation.batch_norm_momentum)
        return backbone

    def build_method(backbone: keras.Model):
        if estimation.classifier == "softmax":
            return RotationFeatureDecoupling(
                backbone,
                num_images=training.num_images,
                lambda_distance=0.0,
                lambda_instance=0.0,
                decoupled=False,
                seed=seed,
                **normalization,
            )
        return UprightClassifier(
            backbone,
            loss=estimation.classifier,
            positive_prior=estimation.positive_prior,
            seed=seed,
            **normalization,
        )

    session = Pretraining(
        build_backbone=build_backbone,
        build_method=build_method,
        source=training,
        image_size=estimation.image_size,
        optimization=estimation.optimization,
        augmentation=estimation.augmentation,
        policy=estimation.policy,
        seed=seed,
    )
    session.train(callbacks=[callback] if callback else ())
    held_out = np.flatnonzero(fold == number)
    batches = pipeline.evaluation_dataset(
        source,
        image_size=estimation.image_size,
        batch_size=estimation.optimization.batch_size,
        indices=held_out,
        stretch=session.stream.stretched,
    )
    return _predict(session.method, batches)


def _predict(method, batches: tf.data.Dataset) -> Fold:
    predict = _predict_rotations if hasattr(method, "rotation_head") else _predict_upright
    step = tf.function(
        lambda images: predict(method, images), reduce_retracing=True, autograph=False
    )
    indices, probability, right = [], [], []
    for batch in batches:
        outputs = step(batch["image"])
        indices.append(batch["index"].numpy())
        probability.append(outputs[0].numpy())
        right.append(outputs[1].numpy())
    if not indices:
        return Fold(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros((0, 1), bool))
    return Fold(np.concatenate(indices), np.concatenate(probability), np.concatenate(right))


def _predict_rotations(method, images):
    turned = views.flatten_views(views.rotate(method.preprocess(images)))
    features, _ = method.split_features(method.features(turned, training=False))
    count = views.NUM_ROTATIONS
    logits = ops.reshape(method.rotation_head(features), (-1, count, count))
    # [image, view, class]: the upright class is 0.
    return ops.softmax(logits)[..., 0], ops.equal(ops.argmax(logits, axis=-1), ops.arange(count))


def _predict_upright(method, images):
    logits = method.view_logits(images)
    return ops.sigmoid(logits), upright_found(logits)[:, None]


def estimate(
    source: Source,
    estimation: Estimation,
    *,
    keep_dir: str | os.PathLike | None = None,
    progress: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> Estimate:
    """Estimates P(looks upright) of every image's rotated views, out of fold.

    Args:
        source: the images. Their labels are not read.
        estimation: how.
        keep_dir: folder where finished folds are kept until the caller removes them
            (`remove_kept`); those found there of the same images and settings are not trained
            again. None keeps nothing.
        progress: whether to show a progress bar on standard error.
        report: called with a line of text for every finished fold.

    Returns:
        An `Estimate`.

    Raises:
        UserError: more folds than images, a batch larger than a fold's complement, a loss that
            became NaN, a `keep_dir` that cannot be written.

    >>> from rfd_tf.data import ArraySource
    >>> pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    >>> quick = Estimation("six_layer", {"filters": [4] * 6}, image_size=16, num_folds=2,
    ...                    optimization=Optimization(epochs=1, batch_size=4))
    >>> estimate(ArraySource(pixels), quick).upright_probability.shape
    (8, 4)
    """
    fold = deal_out(source.num_images, estimation.num_folds)
    kept = None if keep_dir is None else _Kept(keep_dir, source, estimation)
    done: list[Fold | None] = [
        kept.read(number, fold) if kept else None for number in range(estimation.num_folds)
    ]
    with _Bar(estimation, fold, [part is not None for part in done], progress) as bar:
        for number in range(estimation.num_folds):
            part = done[number]
            if part is None:
                bar.number = number
                part = done[number] = estimate_fold(source, fold, number, estimation, bar)
                if kept:
                    kept.write(number, part)
                how = ""
            else:
                how = " (kept from before)"
            bar.report(
                report,
                f"fold {number + 1}/{estimation.num_folds}: rotation accuracy {part.accuracy:.4f} "
                f"on {len(part.indices)} held-out images (chance 0.25){how}",
            )
    probability = np.zeros((source.num_images, views.NUM_ROTATIONS), np.float32)
    unread = np.ones(source.num_images, bool)
    for part in done:
        probability[part.indices] = part.upright_probability
        unread[part.indices] = False
    right = np.concatenate([part.right.mean(axis=1) for part in done if len(part.indices)] or [[]])
    return Estimate(
        upright_probability=probability,
        fold=fold,
        fold_accuracies=tuple(part.accuracy for part in done),
        accuracy=float(right.mean()) if len(right) else float("nan"),
        unread=np.flatnonzero(unread),
    )


def estimate_to(
    output: str | os.PathLike,
    source: Source,
    estimation: Estimation,
    *,
    overwrite: bool = False,
    progress: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> Estimate:
    """Estimates PU weights and writes them; finished folds are kept beside the file until then.

    Args:
        output: `.npz` or `.dat` file, see `rfd_tf.data.pu_weights.write`.
        source, estimation, progress, report: see `estimate`.
        overwrite: whether to replace the file.

    Raises:
        UserError: see `estimate`; the file cannot be written, or another program writes it.
    """
    output = absolute(output)
    keep_dir = output.with_name(output.name + ".folds")
    with FolderLock(output.parent, f".{output.name}.lock", "writes", output):
        found = estimate(source, estimation, keep_dir=keep_dir, progress=progress, report=report)
        pu_weights.write(
            output,
            found.upright_probability,
            source,
            classifier=estimation.classifier,
            settings=estimation.settings(),
            overwrite=overwrite,
        )
        remove_kept(keep_dir)
    report_on(found, source, report)
    report(f"PU weights: {output}")
    return found


def report_on(found: Estimate, source: Source, report: Callable[[str], None]) -> None:
    """Reports the rotation accuracy, and how many rotated views look upright."""
    rotated = 3 * source.num_images
    share = found.num_upright / rotated
    report(
        f"out-of-fold rotation accuracy {found.accuracy:.4f} (chance 0.25); {found.num_upright} "
        f"of {rotated} rotated views ({share:.1%}) have P(looks upright) > 0.5"
    )
    if len(found.unread):
        report(f"{len(found.unread)} images could not be read; their views count in full")


def remove_kept(keep_dir: str | os.PathLike) -> None:
    """Removes the folds that `estimate` kept, and the folder where it holds nothing else."""
    folder = absolute(keep_dir)
    for path in [*folder.glob("fold_*.npz"), *folder.glob(".*.fold_*.npz")]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


class _Kept:
    """Finished folds on disk. What another dataset or other settings left there is ignored."""

    def __init__(self, directory: str | os.PathLike, source: Source, estimation: Estimation):
        self.directory = absolute(directory)
        identity = {"fingerprint": source.fingerprint, **estimation.settings()}
        self.identity = json.dumps(identity, sort_keys=True)

    def _path(self, number: int) -> Path:
        return self.directory / f"fold_{number}.npz"

    def read(self, number: int, fold: np.ndarray) -> Fold | None:
        try:
            with np.load(self._path(number), allow_pickle=False) as file:
                if str(file["identity"]) != self.identity:
                    return None
                part = Fold(file["indices"], file["upright_probability"], file["right"])
        except Exception:  # whatever a broken file raises: the fold is trained again
            return None
        whole = (fold[part.indices] == number).all() and len(part.indices) == len(part.right)
        return part if whole else None

    def write(self, number: int, part: Fold) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make '{self.directory}' for finished folds ({error.strerror})"
            ) from None
        content = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        replace_file(
            self._path(number),
            lambda file: np.savez(file, identity=np.array(self.identity), **content),
        )


class _Bar(keras.callbacks.Callback):
    """One progress bar over the training of all folds."""

    def __init__(self, estimation: Estimation, fold: np.ndarray, done: list[bool], shown: bool):
        super().__init__()
        optimization = estimation.optimization
        sizes = len(fold) - np.bincount(fold, minlength=len(done))
        steps = [optimization.steps_per_epoch or s // optimization.batch_size for s in sizes]
        self.total = optimization.epochs * sum(steps)
        self.initial = optimization.epochs * sum(
            n for n, finished in zip(steps, done, strict=True) if finished
        )
        self.shown, self.number, self.step, self.bar = shown, 0, 0, None

    def __enter__(self) -> _Bar:
        if self.shown:
            from rfd_tf.progress import in_notebook, tqdm

            # A bar that is redrawn ten times a second only fills a log file.
            self.bar = tqdm(
                total=self.total,
                initial=self.initial,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.2 if os.isatty(2) or in_notebook() else 30,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def report(self, report: Callable[[str], None], text: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        report(text)

    def on_train_begin(self, logs=None):
        self.step = 0

    def on_train_batch_end(self, batch, logs=None):
        if self.bar is not None:
            self.bar.update(batch + 1 - self.step)
        self.step = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if self.bar is not None:
            accuracy = next(value for name, value in logs.items() if name.endswith("accuracy"))
            self.bar.set_postfix_str(f"fold {self.number + 1}, training accuracy {accuracy:.3f}")
