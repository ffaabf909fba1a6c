"""Which classes a picture shows: PASCAL VOC's classification, several classes at once."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from rfd_tf import applications
from rfd_tf.applications.rescale import check_rescalable
from rfd_tf.data import voc
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation import multi_label
from rfd_tf.evaluation.average_precision import DEFINITIONS, per_class
from rfd_tf.evaluation.base import (
    BEST_EPOCH,
    LAST_EPOCH,
    Data,
    Result,
    Settings,
    Subject,
    Task,
)
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.finetune import BATCH_NORMALISATION, check_every, check_training, reported
from rfd_tf.evaluation.multi_label import CROP_AREA, MultiLabelTraining, Pictures
from rfd_tf.evaluation.partial import PartialResults
from rfd_tf.evaluation.protocols import pooled_size
from rfd_tf.rules import Including, Rule

PROTOCOLS = ("svm", "fc8", "fc6-8", "all layers")
COSTS = (0.001, 0.01, 0.1, 1.0, 10.0)
_FOLDS = 3
_RESCALED_BY = 32


class VocClassification(Task):
    """Task: mean average precision of telling which classes a picture shows.

    - `svm`: on every frozen endpoint (maps average-pooled to about 9,000 numbers, see
      `rfd_tf.evaluation.protocols.pooled_size`; of length 1), a linear support vector machine for
      each class against the rest; its cost by cross-validation over the train pictures (Goyal et
      al., ICCV 2019; positives weigh double).
    - `fc8`: a linear layer on the frozen network's last feature.
    - `fc6-8`: layers `fc6` and `fc7` and a new linear layer, convolutions frozen; only where the
      network has these layers.
    - `all layers`: the whole network.

    The trained ones see random crops and mirror images, and are evaluated by the mean score of ten
    such crops of each test picture (Krähenbühl et al., ICLR 2016), after the last and the best
    epoch; that crops show 0.3 to 1 of the area is this package's choice. Classes that a picture
    shows only as "difficult" neither train nor count.

    With an output folder, an interrupted call keeps what it had finished when repeated: endpoints
    of `svm`, trainings, and the epochs of the one that was running.

    Args:
        voc_dir: folder in VOC's layout; see `rfd_tf.data.voc.voc_folder`.
        train_split, test_split: image lists in `ImageSets/Main`; both None split the folder by
            name.
        test_dir: folder of the test pictures, if it is another.
        protocols: some of `PROTOCOLS`; by default all that the network has layers for.
        epochs: epochs of the trained heads: fc8, fc6-8 and all layers.
        learning_rate: peak rate of their cosine schedule.
        batch_size: pictures per step of the trained heads.
        weight_decay: coupled weight decay of the trained heads.
        test_crops: number of random crops averaged per test picture.
        evaluate_every: epochs between evaluations of trained heads; the last epoch is always
            evaluated.
        costs: cost parameters of the support vector machines.
        rescale: start the trained heads from weights rescaled by the statistics of 32 train
            pictures (Krähenbühl et al., ICLR 2016: `rfd_tf.applications.rescale_weights`); only for
            networks whose layers form a chain, such as AlexNet.

    Raises:
        UserError: options out of range, or a folder that cannot be read.

    Source of the protocol: Feng et al., CVPR 2019, section 4.3.

    >>> VocClassification("no/such/folder", protocols=["fc7"])
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: unknown protocol of voc_classification 'fc7' (did you mean ...); ...
    """

    name = "voc_classification"
    rules = (
        Rule(("costs",), {"protocols": Including(("svm",))}),
        Rule(
            ("epochs", "learning_rate", "batch_size", "weight_decay", "test_crops",
             "evaluate_every", "rescale"),
            {"protocols": Including(("fc8", "fc6-8", "all layers"))},
        ),
    )  # fmt: skip
    needs_labels = False
    known = PROTOCOLS

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
        evaluate_every: int = 5,
        costs: Sequence[float] = COSTS,
        rescale: bool = False,
    ):
        if not voc_dir:
            raise UserError(f"task {self.name} needs a folder in VOC's layout: --voc_dir")
        check_training(epochs, learning_rate, batch_size, weight_decay)
        if test_crops < 1:
            raise UserError(f"test crops are 1 or more; got {test_crops}")
        check_every(evaluate_every)
        if not costs or not all(math.isfinite(cost) and cost > 0 for cost in costs):
            raise UserError(f"costs are numbers above 0; got {list(costs)}")
        for protocol in protocols or ():
            if protocol not in self.known:
                raise unknown(f"protocol of {self.name}", protocol, self.known)
        self.train_set, self.test_set = voc.train_and_test(
            voc_dir, train_split, test_split, test_dir
        )
        self.protocols = tuple(protocols) if protocols else None
        self.training = MultiLabelTraining(
            epochs, learning_rate, batch_size, weight_decay, test_crops, evaluate_every
        )
        self.costs, self.rescale = tuple(costs), bool(rescale)

    def protocol(self, data: Data | None) -> dict:
        training = self.training
        rescaled = f"by {_RESCALED_BY} train pictures: unit variance of the last layer, relative "
        rescaled = {"rescaled": rescaled + "gradients even"} if self.rescale else {}
        return {
            "train": self.train_set.name,
            "test": self.test_set.name,
            "num_train": len(self.train_set.images),
            "num_test": len(self.test_set.images),
            "classes": list(self.train_set.class_names),
            "protocols": list(self.protocols or self.known),
            "average_precision": DEFINITIONS,
            "difficult": "classes shown only as difficult neither train nor count",
            "svm": {
                "features": "frozen; maps adaptively average-pooled to sides of at most "
                "round(sqrt(9216 / channels)), vectors as they are; of length 1",
                "cost": f"of {list(self.costs)} by {_FOLDS}-fold cross-validated, "
                "non-interpolated average precision",
                "weight of positives": 2,
            },
            "trained": {
                "loss": "sigmoid cross entropy, sum over classes",
                "optimizer": "SGD, Nesterov, momentum 0.9",
                "epochs": training.epochs,
                "learning_rate": f"{training.learning_rate:g}, cosine to 0",
                "batch_size": training.batch_size,
                "weight_decay": training.weight_decay,
                "batch_normalisation": BATCH_NORMALISATION,
                "augmentation": f"random crops of {CROP_AREA[0]:g} to {CROP_AREA[1]:g} of the area "
                "(this package's choice), horizontal flip",
                "scored": f"mean score of {training.test_crops} random crops",
                "reported": reported(training.evaluate_every),
                **rescaled,
            },
        }

    def check(self, subject: Subject, data: Data | None) -> None:
        if self.rescale:
            check_rescalable(applications.pooled_feature_model(subject.network()))
        if self.protocols and "fc6-8" in self.protocols and not _has_fc(subject.network()):
            raise UserError(
                f"backbone {subject.record['backbone']} has no layers fc6 and fc7 for protocol "
                "fc6-8; leave it out"
            )
        sides = [side.presence() for side in (self.train_set, self.test_set)]
        clear_classes = [(clear.any(0) & ~(clear | unclear).all(0)) for clear, unclear in sides]
        if not (clear_classes[0] & clear_classes[1]).any():
            shown = np.flatnonzero(sides[0][0].any(0) | sides[1][0].any(0))
            raise UserError(
                "nothing can be told apart: there is no class that some pictures show and others "
                f"do not, both in '{self.train_set.name}' and in '{self.test_set.name}' (shown: "
                f"{', '.join(self.train_set.class_names[c] for c in shown) or 'none'})"
            )

    def run(self, subject: Subject, data: Data | None, settings: Settings) -> Iterator[Result]:
        train, test = self._sides(settings)
        network = subject.network()
        chosen = self.protocols or [p for p in self.known if p != "fc6-8" or _has_fc(network)]
        identity = {
            **self.protocol(None),
            "protocols": None,
            "pictures": [side.source.fingerprint for side in (train, test)],
            "shown": [
                np.stack([side.positive, side.ignored]).tobytes().hex() for side in (train, test)
            ],
            "sha256": subject.sha256,
            "network": subject.title,
            "seed": settings.seed,
        }
        title = re.sub(r"\W+", "_", f"{self.name} {subject.title}")
        finished = PartialResults(settings.output, title)
        for part, of, arguments in self._parts(chosen, subject, network, settings):
            key = [identity, part]
            if finished.get(key) is None:
                more = (identity,) if of == self._trained else ()
                found = of(part, *arguments, subject, train, test, settings, *more)
                finished.put(key, list(found))
            yield from finished.get(key)
        finished.remove()

    def _sides(self, settings: Settings) -> tuple[Pictures, Pictures]:
        """The pictures to learn from and to evaluate."""
        return Pictures.of(self.train_set), Pictures.of(self.test_set)

    def _parts(
        self, chosen: Sequence[str], subject: Subject, network: keras.Model, settings: Settings
    ) -> Iterator[tuple[str, Callable[..., Iterator[Result]], tuple]]:
        """Yields the parts that resume separately: name, function, first arguments."""
        if "svm" in chosen:
            for name in self._svm_tensors(subject, network, settings):
                yield f"svm, {name}", self._svm, (name,)
        for protocol in chosen:
            if protocol != "svm":
                yield protocol, self._trained, (protocol, None)

    def _svm_tensors(self, subject: Subject, network: keras.Model, settings: Settings) -> dict:
        return subject.feature_tensors(network, ("average", pooled_size), settings.endpoints)

    def _svm(self, part, name, subject, train, test, settings) -> Iterator[Result]:
        # One feature at a time: all of them, 9,000 numbers each, might not fit into memory.
        network = subject.network()
        tensor = self._svm_tensors(subject, network, settings)[name]
        model = keras.Model(network.inputs, {name: tensor})
        extract = FeatureExtractor(model, subject.mean, subject.std)
        progress = f"{subject.title}, {part}" if settings.progress else None
        here, there = (
            _unit(_features(extract, side, subject, settings, progress)[name])
            for side in (train, test)
        )
        scores = np.stack(
            [
                _svm_scores(here, train.positive[:, c], train.ignored[:, c], there, self.costs)
                for c in range(len(self.train_set.class_names))
            ],
            axis=1,
        )
        for metric, values in per_class(scores, test.positive, test.ignored).items():
            yield Result(part, float(np.nanmean(values)), metric=metric, when="")

    def _rescale_by(self, subject: Subject, train: Pictures) -> np.ndarray | None:
        from rfd_tf.data.pipeline import load_images

        if not self.rescale:
            return None
        rows = np.arange(min(_RESCALED_BY, train.source.num_images))
        images = load_images(train.source, subject.image_size, rows)
        if train.turns is not None:
            images = np.stack(
                [np.rot90(image, k) for image, k in zip(images, train.turns, strict=False)]
            )
        return images

    def _trained(
        self, part, protocol, feature, subject, train, test, settings, identity
    ) -> Iterator[Result]:
        images = "upright" if train.turns is None else "rotated"
        evaluated = multi_label.train(
            multi_label.classifier(
                subject,
                protocol,
                len(self.train_set.class_names),
                feature,
                self._rescale_by(subject, train),
            ),
            self.training,
            subject,
            train,
            test,
            settings,
            f"{self.name} {part}",
            identity,
        )
        for metric in evaluated[-1][1]:
            values = [means[metric] for _, means in evaluated]
            yield Result(part, values[-1], images, metric=metric, when=LAST_EPOCH)
            yield Result(part, max(values), images, metric=metric, when=BEST_EPOCH)


def _has_fc(network: keras.Model) -> bool:
    return {"fc6", "fc7"} <= {layer.name for layer in network.layers}


def _features(extract, side: Pictures, subject: Subject, settings: Settings, progress):
    from rfd_tf.data.pipeline import evaluation_dataset

    batches = evaluation_dataset(
        side.source, image_size=subject.image_size, batch_size=settings.batch_size
    ).as_numpy_iterator()
    return extract(batches, progress=progress, num_images=side.source.num_images)


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
