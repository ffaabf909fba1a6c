"""Which classes a picture shows: PASCAL VOC's classification, several classes at once."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from rfd_tf import applications
from rfd_tf.data import voc
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.average_precision import per_class
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.finetune import check_training
from rfd_tf.training import schedules
from rfd_tf.training.optimizers import SGD

PROTOCOLS = ("svm", "fc8", "fc6-8", "all layers")
COSTS = (0.001, 0.01, 0.1, 1.0, 10.0)
_FOLDS = 3


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """One side of the task: pictures, and what each shows."""

    source: object
    positive: np.ndarray
    ignored: np.ndarray


class VocClassification(Task):
    """Task: mean average precision of telling which classes a picture shows.

    - `svm`: on every frozen endpoint (globally averaged, of length 1), a linear support vector
      machine for each class against the rest; its cost by cross-validation over the train
      pictures (Goyal et al., ICCV 2019; positives weigh double).
    - `fc8`: a linear layer on the frozen network's last feature.
    - `fc6-8`: layers `fc6` and `fc7` and a new linear layer, convolutions frozen; only where the
      network has these layers.
    - `all layers`: the whole network.

    The trained ones see random crops of 0.3 to 1 of the area and mirror images, and are judged by
    the mean score of ten such crops of each test picture (Krähenbühl et al., ICLR 2016). Classes
    that a picture shows only as "difficult" neither train nor count.

    Args:
        voc_dir: folder in VOC's layout; see `rfd_tf.data.voc.voc_folder`.
        train_split, test_split: lists in `ImageSets/Main`; both None split the folder by name.
        test_dir: folder of the test pictures, where it is another.
        protocols: of `PROTOCOLS`; by default all that the network has layers for.
        epochs, learning_rate, batch_size, weight_decay: of the trained ones; cosine schedule.
        test_crops: random crops averaged for each test picture.
        costs: of the support vector machines.

    Raises:
        UserError: options out of range, or a folder that cannot be read.

    Source of the protocol: Feng et al., CVPR 2019, section 4.3.
    """

    name = "voc_classification"
    needs_labels = False

    def __init__(
        self,
        voc_dir: str | os.PathLike | None = None,
        train_split: str | None = None,
        test_split: str | None = None,
        test_dir: str | os.PathLike | None = None,
        protocols: Sequence[str] | None = None,
        epochs: int = 30,
        learning_rate: float = 0.01,
        batch_size: int = 32,
        weight_decay: float = 5e-4,
        test_crops: int = 10,
        costs: Sequence[float] = COSTS,
    ):
        if not voc_dir:
            raise UserError("task voc_classification needs a folder in VOC's layout: --voc_dir")
        check_training(epochs, learning_rate, batch_size, weight_decay)
        if test_crops < 1:
            raise UserError(f"test crops are 1 or more; got {test_crops}")
        if not costs or not all(math.isfinite(cost) and cost > 0 for cost in costs):
            raise UserError(f"costs are numbers above 0; got {list(costs)}")
        for protocol in protocols or ():
            if protocol not in PROTOCOLS:
                raise unknown("protocol of voc_classification", protocol, PROTOCOLS)
        self.train_set, self.test_set = voc.train_and_test(
            voc_dir, train_split, test_split, test_dir
        )
        self.protocols = tuple(protocols) if protocols else None
        self.epochs, self.learning_rate, self.batch_size = epochs, learning_rate, batch_size
        self.weight_decay, self.test_crops, self.costs = weight_decay, test_crops, tuple(costs)

    def protocol(self, data: Data | None) -> dict:
        return {
            "train": f"{self.train_set.name}, {len(self.train_set.images)} pictures",
            "test": f"{self.test_set.name}, {len(self.test_set.images)} pictures",
            "classes": list(self.train_set.class_names),
            "protocols": list(self.protocols or PROTOCOLS),
            "difficult": "classes shown only as difficult neither train nor count",
            "svm": {
                "features": "frozen, globally averaged, of length 1",
                "cost": f"of {list(self.costs)} by {_FOLDS}-fold cross-validated all-point AP",
                "weight of positives": 2,
            },
            "trained": {
                "loss": "sigmoid cross entropy, sum over classes",
                "optimizer": "SGD, Nesterov, momentum 0.9",
                "epochs": self.epochs,
                "learning_rate": f"{self.learning_rate:g}, cosine to 0",
                "batch_size": self.batch_size,
                "weight_decay": self.weight_decay,
                "augmentation": "random crops of 0.3 to 1 of the area, horizontal flip",
                "judged": f"mean score of {self.test_crops} random crops",
            },
        }

    def check(self, subject: Subject, data: Data | None) -> None:
        if self.protocols and "fc6-8" in self.protocols and not _has_fc(subject.network()):
            raise UserError(
                f"backbone {subject.record['backbone']} has no layers fc6 and fc7 for protocol "
                "fc6-8; leave it out"
            )

    def run(self, subject: Subject, data: Data | None, settings: Settings) -> Iterator[Result]:
        train, test = _pictures(self.train_set), _pictures(self.test_set)
        network = subject.network()
        chosen = self.protocols or [p for p in PROTOCOLS if p != "fc6-8" or _has_fc(network)]
        if "svm" in chosen:
            yield from self._svm(subject, network, train, test, settings)
        for protocol in chosen:
            if protocol != "svm":
                yield from self._trained(protocol, subject, train, test, settings)

    def _svm(self, subject, network, train, test, settings) -> Iterator[Result]:
        tensors = subject.feature_tensors(network, endpoints=settings.endpoints)
        extract = FeatureExtractor(keras.Model(network.inputs, tensors), subject.mean, subject.std)
        features = [_features(extract, side, subject, settings) for side in (train, test)]
        for name in tensors:
            here, there = (_unit(side[name]) for side in features)
            scores = np.stack(
                [
                    _svm_scores(here, train.positive[:, c], train.ignored[:, c], there, self.costs)
                    for c in range(len(self.train_set.class_names))
                ],
                axis=1,
            )
            yield from _results(f"svm, {name}", scores, test, "")

    def _trained(self, protocol, subject, train, test, settings) -> Iterator[Result]:
        model = _classifier(subject, protocol, len(self.train_set.class_names))
        rows = train.source.num_images
        batch_size = min(self.batch_size, rows)
        steps = rows // batch_size
        optimizer = SGD(
            schedules.cosine(self.learning_rate, self.epochs * steps),
            coupled_weight_decay=self.weight_decay,
        )
        pixels = keras.Input(model.input_shape[1:], dtype="uint8")
        x = applications.preprocess_input(pixels, mean=subject.mean, std=subject.std)
        trained = keras.Model(pixels, model(x))
        trained.compile(optimizer=optimizer, loss=_loss, jit_compile=False)
        history = trained.fit(
            _stream(train, subject.image_size, batch_size, settings.seed),
            epochs=self.epochs,
            steps_per_epoch=steps,
            verbose=2 if settings.progress else 0,
            shuffle=False,
        )
        if not np.isfinite(history.history["loss"]).all():
            raise UserError(
                f"the training of {protocol} has diverged; choose a lower learning rate"
            )
        yield from _results(
            protocol, self._crop_scores(trained, test, subject.image_size, settings), test
        )

    def _crop_scores(self, model, test, image_size, settings) -> np.ndarray:
        from rfd_tf.data.pipeline import training_dataset

        num = test.source.num_images
        # A stream leaves out what does not fill a batch: take a size that divides.
        size = max(n for n in range(1, 17) if num % n == 0)
        batches = training_dataset(
            test.source,
            image_size=image_size,
            batch_size=size,
            seed=settings.seed,
            crop="resized",
            crop_area=(0.3, 1.0),
            crops=self.test_crops,
        ).take(num // size)
        scores = np.zeros((num, len(self.test_set.class_names)), np.float32)
        for batch in batches.as_numpy_iterator():
            images = batch["image"].reshape(-1, image_size, image_size, 3)
            logits = np.asarray(model.predict_on_batch(images))
            mean = logits.reshape(len(batch["index"]), self.test_crops, -1).mean(axis=1)
            scores[batch["index"]] = mean
        return scores


def _has_fc(network: keras.Model) -> bool:
    return {"fc6", "fc7"} <= {layer.name for layer in network.layers}


def _pictures(side: voc.VocSet) -> _Pictures:
    from rfd_tf.data.folder import read_files

    folder = side.images[0].image.parent
    files = [(image.image.name, image.image.stat().st_size) for image in side.images]
    source = read_files(str(folder), files, 0.0, "auto", 1 << 30, name=side.name)
    return _Pictures(source, *side.presence())


def _features(extract, side: _Pictures, subject: Subject, settings: Settings):
    from rfd_tf.data.pipeline import evaluation_dataset

    batches = evaluation_dataset(
        side.source, image_size=subject.image_size, batch_size=settings.batch_size
    ).as_numpy_iterator()
    return extract(batches)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _svm_scores(features, positive, ignored, test_features, costs) -> np.ndarray:
    """Scores `[N]` of one class by a support vector machine of the best cost."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.svm import LinearSVC

    x, y = features[~ignored], positive[~ignored]
    if not y.any() or y.all():
        return np.zeros(len(test_features), np.float32)

    def machine(cost: float) -> LinearSVC:
        return LinearSVC(C=cost, class_weight={True: 2, False: 1}, max_iter=5000, random_state=0)

    best = costs[0]
    folds = min(_FOLDS, int(y.sum()), int((~y).sum()))
    if len(costs) > 1 and folds > 1:
        split = StratifiedKFold(folds, shuffle=True, random_state=0)
        found = [
            cross_val_score(machine(cost), x, y, cv=split, scoring="average_precision").mean()
            for cost in costs
        ]
        best = costs[int(np.argmax(found))]
    return machine(best).fit(x, y).decision_function(test_features)


def _results(
    feature: str, scores: np.ndarray, test: _Pictures, when: str = "last epoch"
) -> Iterator[Result]:
    for metric, values in per_class(scores, test.positive, test.ignored).items():
        yield Result(feature, float(np.nanmean(values)), metric=metric, when=when)


def _classifier(subject: Subject, protocol: str, classes: int) -> keras.Model:
    """Normalised images to logits `[B, C]`, trainable as the protocol says."""
    backbone = subject.network()
    endpoint = "fc7" if protocol == "fc6-8" else None
    dense = keras.layers.Dense(classes, kernel_initializer="zeros")
    if protocol == "fc8":
        model = applications.pooled_feature_model(backbone, endpoint)
        x, features = supervised.frozen_features(model, {"feature": model.output})
        return keras.Model(x, dense(ops.cast(features["feature"], "float32")))
    if protocol == "fc6-8":
        supervised.freeze_before(backbone, "fc6")
    model = applications.pooled_feature_model(backbone, endpoint)
    return keras.Model(model.inputs, dense(ops.cast(model.output, "float32")))


def _loss(targets, logits):
    """Sum of the sigmoid cross entropies of the classes that count; a target of -1 does not."""
    counted = ops.cast(targets >= 0, "float32")
    losses = ops.softplus(logits) - logits * ops.cast(targets, "float32")
    return ops.sum(counted * losses, axis=-1)


def _stream(side: _Pictures, image_size: int, batch_size: int, seed: int):
    import tensorflow as tf

    from rfd_tf.data.pipeline import training_dataset

    batches = training_dataset(
        side.source,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        crop="resized",
        crop_area=(0.3, 1.0),
    )
    with tf.device("/CPU:0"):
        targets = tf.constant(np.where(side.ignored, -1.0, side.positive).astype(np.float32))
    return batches.map(lambda batch: (batch["image"], tf.gather(targets, batch["index"])))
