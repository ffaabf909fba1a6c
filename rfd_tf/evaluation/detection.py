"""Finding and naming objects: RetinaNet on the backbone."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from rfd_tf import extras
from rfd_tf.data import voc
from rfd_tf.errors import UserError
from rfd_tf.evaluation import detection_data as pictures
from rfd_tf.evaluation import detection_metrics as metrics
from rfd_tf.evaluation.average_precision import INTERPOLATED
from rfd_tf.evaluation.base import (
    BEST_EPOCH,
    LAST_EPOCH,
    Data,
    Result,
    Settings,
    Subject,
    Task,
)
from rfd_tf.evaluation.files import folder, write_json
from rfd_tf.evaluation.finetune import (
    BATCH_NORMALISATION,
    check_every,
    check_training,
    reported,
)
from rfd_tf.evaluation.pyramid import STRIDES, feature_pyramid
from rfd_tf.evaluation.training_state import TrainingState, fit, is_evaluated
from rfd_tf.training import schedules

_BOXES = "xyxy"
_LOWEST_SCORE = 0.01
_OVERLAP = 0.5
_CLIP_NORM = 10.0
_COARSEST = max(STRIDES.values())


def retinanet(
    subject: Subject, num_classes: int, image_size: int, max_boxes: int = 100, seed: int = 0
) -> tuple[keras.Model, dict[str, str]]:
    """Returns keras-cv's RetinaNet on the network, all of it trainable.

    Args:
        subject: the network.
        num_classes: classes of objects, the background apart.
        image_size: side S of the images in pixels, a multiple of 32.
        max_boxes: detections of a picture at most.
        seed: of everything that is new; Keras' global seed is set to it.

    Returns:
        The model, pixels 0 to 255 `[B, S, S, 3]` to logits and box offsets of the anchors, with
        boxes as left, top, right, bottom; and a description of the pyramid's input layers.

    Raises:
        UserError: see `rfd_tf.evaluation.pyramid.feature_pyramid`.

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, as keras-cv builds it.
    """
    keras_cv = extras.load("keras_cv", "detection")
    backbone, origins = feature_pyramid(subject, image_size, seed)
    model = keras_cv.models.RetinaNet(
        backbone=backbone,
        num_classes=num_classes,
        bounding_box_format=_BOXES,
        prediction_decoder=keras_cv.layers.NonMaxSuppression(
            bounding_box_format=_BOXES,
            from_logits=True,
            iou_threshold=_OVERLAP,
            confidence_threshold=_LOWEST_SCORE,
            max_detections=max_boxes,
        ),
    )
    return model, origins


class Detection(Task):
    """Task: mean average precision of a RetinaNet that starts from the pretrained backbone.

    All layers are trained. The random twin is trained in the same way: that is the detector
    trained from scratch. Results: the mean average precision of VOC, 11-point (VOC2007) and
    all-point interpolated (VOC2010 and later), at an intersection over union of 0.5 with difficult
    objects not counted, and COCO's average precisions, after the last and the best epoch. With an
    output folder, the average precision of every class after the last epoch and the scores of
    the evaluated epochs are written to `detection_pretrained.json` and
    `detection_random_init.json`.

    Args:
        voc_dir: folder in VOC's layout; see `rfd_tf.data.voc.voc_folder`.
        train_split, test_split: image lists in `ImageSets/Main`; both None split the folder by
            name.
        test_dir: folder of the test pictures, if it is another.
        image_size: side of the resized pictures in pixels, a multiple of 32, at least 64.
        epochs: passes over the pictures.
        batch_size: pictures per step, at most all.
        learning_rate: peak learning rate of Adam's cosine schedule.
        max_boxes: largest number of objects per picture for training (the largest ones) and of
            detections that are evaluated (the highest scores).
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.

    Raises:
        UserError: options out of range, or a folder that cannot be read.

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.

    >>> Detection("no/such/folder", image_size=100)
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: the detector's image size is a multiple of 32, 64 or more; got 100
    """

    name = "detection"
    needs_labels = False

    def __init__(
        self,
        voc_dir: str | os.PathLike | None = None,
        train_split: str | None = None,
        test_split: str | None = None,
        test_dir: str | os.PathLike | None = None,
        image_size: int = 256,
        epochs: int = 30,
        batch_size: int = 8,
        learning_rate: float = 1e-4,
        max_boxes: int = 100,
        evaluate_every: int = 5,
    ):
        if not voc_dir:
            raise UserError("task detection needs a folder in VOC's layout: --voc_dir")
        for package in ("keras_cv", "pycocotools"):
            extras.load(package, "task detection")
        check_training(epochs, learning_rate, batch_size)
        if image_size < 2 * _COARSEST or image_size % _COARSEST:
            raise UserError(
                f"the detector's image size is a multiple of {_COARSEST}, {2 * _COARSEST} or more; "
                f"got {image_size}"
            )
        if not 1 <= max_boxes <= 1000:
            raise UserError(f"max boxes are 1 to 1000; got {max_boxes}")
        check_every(evaluate_every)
        self.train_set, self.test_set = voc.train_and_test(
            voc_dir, train_split, test_split, test_dir
        )
        self.image_size, self.max_boxes = image_size, max_boxes
        self.evaluate_every = evaluate_every
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self._pictures: dict[str, tuple[list[voc.VocImage], np.ndarray]] | None = None
        self._origins: dict[str, str] = {}

    def protocol(self, data: Data | None) -> dict:
        return {
            "train": self.train_set.name,
            "test": self.test_set.name,
            "num_train": len(self.train_set.images),
            "num_test": len(self.test_set.images),
            "classes": list(self.train_set.class_names),
            "detector": "RetinaNet of keras-cv, focal and smooth L1 losses, all layers trained",
            "batch_normalisation": BATCH_NORMALISATION,
            "published": "papers on self-supervision report Fast or Faster R-CNN on VOC2007; this "
            "is another detector, so that scores compare with one another and not with theirs",
            "pyramid": self._origins or "see the backbone's endpoints",
            "anchors": "sides of 32 to 813 pixels, ratios of 1 to 2, 1 to 1 and 2 to 1",
            "pictures": f"resized to {self.image_size} x {self.image_size} pixels, aspect not "
            "kept; half of those to learn from mirrored",
            "optimizer": f"Adam, gradients clipped to a global norm of {_CLIP_NORM:g}",
            "learning_rate": f"{self.learning_rate:g}, cosine to 0",
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "difficult": "objects are neither trained on nor background: places on them have no "
            "part in the loss; pictures that show no others are not trained on; in VOC's metric "
            "they count neither for nor against, COCO gets them as crowds",
            "average_precision": {f"mean AP ({m})": what for m, what in INTERPOLATED.items()},
            "detections": f"the surest {self.max_boxes} of a picture with scores above "
            f"{_LOWEST_SCORE:g}, one class a box, after non-maximum suppression over all classes "
            f"at {_OVERLAP:g}",
            "max_boxes": self.max_boxes,
            "reported": reported(self.evaluate_every),
            "random_init": "the same detector trained from scratch in the same way",
        }

    def check(self, subject: Subject, data: Data | None) -> None:
        pictures.trainable(self.train_set.images)
        if all(image.difficult.all() for image in self.test_set.images):
            raise UserError(f"'{self.test_set.name}' shows no object that is not difficult")
        self._origins = feature_pyramid(subject, self.image_size).origins
        self._read()

    def run(self, subject: Subject, data: Data | None, settings: Settings) -> Iterator[Result]:
        model, self._origins = retinanet(
            subject, len(self.train_set.class_names), self.image_size, self.max_boxes, settings.seed
        )
        evaluated = self._train(model, subject, settings)
        last = evaluated[-1]
        if settings.output is not None:
            name = re.sub(r"\W+", "_", subject.title)
            epochs = [{"epoch": each["epoch"], **each["values"]} for each in evaluated]
            write_json(
                folder(settings.output) / f"detection_{name}.json",
                {**last["values"], "classes": last["classes"], "epochs": epochs},
            )
        for metric, value in last["values"].items():
            best = max(each["values"][metric] for each in evaluated)
            yield Result("all layers", value, metric=metric, when=LAST_EPOCH)
            yield Result("all layers", best, metric=metric, when=BEST_EPOCH)

    def _evaluate(self, detect: Callable) -> dict[str, Any]:
        """Returns metric -> value, and metric -> class -> value, of the detector as it is."""
        found = self._detections(detect)
        images, classes = self._read()["test"][0], self.train_set.class_names
        truth = [metrics.Objects(image.boxes, image.labels, image.difficult) for image in images]
        by_class = {
            f"mean AP ({method})": metrics.voc_average_precisions(
                truth, found, len(classes), method, _OVERLAP
            )
            for method in INTERPOLATED
        }
        values = {metric: float(np.nanmean(each)) for metric, each in by_class.items()}
        sizes = [(image.width, image.height) for image in images]
        values |= metrics.coco_average_precisions(truth, found, sizes, len(classes))
        return {"values": values, "classes": _tables(by_class, classes)}

    def _read(self) -> dict[str, tuple[list[voc.VocImage], np.ndarray]]:
        """Returns the upright train and test pictures and how to decode them, each read once."""
        if self._pictures is None:
            trained_on = pictures.trainable(self.train_set.images)
            sides = {"train": trained_on, "test": self.test_set.images}
            self._pictures = {
                side: ([voc.upright(image) for image in some], pictures.check_pictures(some))
                for side, some in sides.items()
            }
        return self._pictures

    def _train(
        self, model: keras.Model, subject: Subject, settings: Settings
    ) -> list[dict[str, Any]]:
        """Trains the detector; returns the results of `_evaluate`, and "epoch", each time."""
        images, kinds = self._read()["train"]
        batch_size = min(self.batch_size, len(images))
        steps = len(images) // batch_size
        optimizer = keras.optimizers.Adam(
            schedules.cosine(self.learning_rate, self.epochs * steps), global_clipnorm=_CLIP_NORM
        )
        model.compile(
            classification_loss="focal",
            box_loss="smoothl1",
            optimizer=optimizer,
            jit_compile=False,
        )
        _build_loss(model, self.image_size)
        identity = {
            "protocol": {**self.protocol(None), "pyramid": self._origins},
            "pictures": [image.name for image in images],
            "boxes": [image.boxes.tolist() for image in images],
            "sha256": subject.sha256,
            "seed": settings.seed,
        }
        state = TrainingState(settings.output, f"detection {subject.title}", identity)
        detect = _detecting(model)

        def after_epoch(epoch: int, history: dict) -> None:
            if is_evaluated(epoch, self.epochs, self.evaluate_every):
                history.setdefault("evaluations", []).append(
                    {"epoch": epoch, **self._evaluate(detect)}
                )

        def stream(done: int):
            return pictures.training_batches(
                images,
                kinds,
                self.image_size,
                batch_size,
                self.max_boxes,
                range(done, self.epochs),
                settings.seed,
            ).repeat()

        with warnings.catch_warnings():
            # keras-cv hands its model a tensor where the model names its input.
            warnings.filterwarnings("ignore", message="The structure of `inputs`")
            history = fit(
                model,
                stream,
                "the detector",
                state,
                after_epoch,
                epochs=self.epochs,
                steps=steps,
                progress=f"{subject.title}, {self.name}" if settings.progress else None,
            )
        state.remove()
        return history["evaluations"]

    def _detections(self, detect: Callable) -> list[metrics.Detections]:
        """Returns the detections in each test picture, in that picture's own pixels."""
        images, kinds = self._read()["test"]
        found: list[metrics.Detections] = []
        for batch in pictures.evaluation_batches(images, kinds, self.image_size, self.batch_size):
            batch = {name: np.asarray(value) for name, value in detect(batch).items()}
            for row in range(len(batch["boxes"])):
                valid = batch["classes"][row] >= 0
                image = images[len(found)]
                boxes = np.clip(batch["boxes"][row][valid], 0, self.image_size)
                found.append(
                    metrics.Detections(
                        boxes / pictures.scale_to(image, self.image_size),
                        batch["classes"][row][valid].astype(np.int64),
                        batch["confidence"][row][valid],
                    )
                )
        return found


def _build_loss(model: keras.Model, side: int) -> None:
    """Creates the metrics of both losses before the first step, which is then traced only once."""
    pixels, box = keras.ops.zeros((1, side, side, 3)), [0.0, 0.0, side, side]
    shown = {"boxes": keras.ops.array([[box]]), "classes": keras.ops.zeros((1, 1))}
    found = model({"images": pixels}, training=False)
    model.compute_loss(pixels, shown, found, sample_weight=None)


def _detecting(model: keras.Model) -> Callable:
    """The compiled function from pixels `[B, S, S, 3]` to keras-cv's dict of detections."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def detect(pixels):
        return model.decode_predictions(model({"images": pixels}, training=False), pixels)

    return detect


def _tables(by_class: dict[str, np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
    """Metric -> class -> value; None for classes without an object that counts."""
    return {
        metric: {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(classes, values, strict=True)
        }
        for metric, values in by_class.items()
    }
