"""What every task of an evaluation is: judges one network at a time, yields named results."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rfd_tf.evaluation.features import Features, Pooling
from rfd_tf.evaluation.image_set import Data, ImageSet
from rfd_tf.evaluation.subject import PRETRAINED, RANDOM, Subject

__all__ = [
    "BEST_EPOCH",
    "LAST_EPOCH",
    "PRETRAINED",
    "RANDOM",
    "Data",
    "Evaluator",
    "Features",
    "ImageSet",
    "Result",
    "Settings",
    "Subject",
    "Task",
]

LAST_EPOCH, BEST_EPOCH = "last epoch", "best epoch"


class Result(NamedTuple):
    """One figure of one network.

    Attributes:
        feature: what was judged: an endpoint, "f", "f1", "f2", or a head such as "fc6-8".
        value: in the metric's unit; accuracies and precisions from 0 to 1.
        images: "upright", "rotated" or another short qualifier, such as "20 per class".
        metric: "accuracy", "mean AP (11-point)", "precision@10", "distance", ...
        when: "last epoch", or "best epoch" (the best of all epochs by the test images
            themselves, as some papers report); "" where nothing is trained.
        spread: standard deviation over draws, where there are several.

    >>> Result("block2", 0.81).metric
    'accuracy'
    """

    feature: str
    value: float
    images: str = "upright"
    metric: str = "accuracy"
    when: str = LAST_EPOCH
    spread: float | None = None


@dataclasses.dataclass
class Settings:
    """What all tasks of an evaluation share.

    Attributes:
        seed: of everything that is drawn.
        batch_size: images a step while features are taken.
        progress: whether to show progress bars.
        endpoints: names of the endpoints to judge; None for all of the backbone's.
        output: folder for figures, caches and what an interrupted task takes up again; None to
            write nothing.
        cache_features: whether frozen features are kept on disk, in `output`.

    >>> Settings(seed=3).batch_size
    256
    """

    seed: int = 0
    batch_size: int = 256
    progress: bool = False
    endpoints: Sequence[str] | None = None
    output: Path | None = None
    cache_features: bool = False


class Task(abc.ABC):
    """A protocol. A new one is a file with such a class and a line in `TASKS`.

    Options are keyword arguments of the constructor, which checks them (`UserError`).

    Attributes:
        name: as `--task` takes it.
        needs_labels: False where the task brings its own data or needs none; it is then run
            without labelled sets.
        labels_optional: True where images to learn from and to judge are enough; their labels
            may then be None, of one class, or differ.
        compares_random: whether the random twin is judged too.

    >>> class Parameters(Task):
    ...     name = "parameters"
    ...     needs_labels = False
    ...     def protocol(self, data):
    ...         return {"counted": "weights of the network"}
    ...     def run(self, subject, data, settings):
    ...         yield Result("f", subject.network().count_params(), metric="parameters", when="")
    >>> next(Parameters().run(Subject.pretrained("six_layer.rfd_cifar10"), None, Settings())).value
    105328
    """

    name: str
    needs_labels: bool = True
    labels_optional: bool = False
    compares_random: bool = True

    @abc.abstractmethod
    def protocol(self, data: Data | None) -> dict:
        """Returns what a reader needs to repeat the figures, ready for JSON."""

    def check(self, subject: Subject, data: Data | None) -> None:
        """Raises `UserError` before any long work where the task cannot be done."""
        del subject, data

    @abc.abstractmethod
    def run(self, subject: Subject, data: Data | None, settings: Settings) -> Iterator[Result]:
        """Judges one network. Results of two networks go together by all but value and spread."""


class Evaluator(Task):
    """A task on frozen features of upright train images.

    Features are taken without augmentation, the network in inference mode; many evaluators share
    one pass over the images.

    Attributes:
        pooling: how feature maps become vectors: `("average" or "max", size)`, to at most that
            size; size may also be a function of the number of channels. Vectors are taken as
            they are.
        compact: whether cached features may be float16.
        embedding: whether the projected embedding is judged too, where there is one.
        pixels: whether the images' own pixels are judged too, as "pixels".
        train_rotated: whether train images are turned by their `turns`.
        images: which test images are judged, of "upright" and "rotated".

    >>> class LargestNumber(Evaluator):
    ...     name = "largest_number"
    ...     def settings(self, num_train):
    ...         return {"guess": "the place of the feature's largest number"}
    ...     def fit(self, train, labels, num_classes):
    ...         self.num_classes = num_classes
    ...     def score(self, test, labels):
    ...         for feature, values in test.items():
    ...             guess = values.argmax(axis=1) % self.num_classes
    ...             yield Result(feature, float(np.mean(guess == labels)), when="")
    >>> train, labels = {"f": np.eye(3)}, np.arange(3)
    >>> [each.value for each in LargestNumber().evaluate(train, labels, train, labels, 3)]
    [1.0]
    """

    pooling: Pooling = ("average", 1)
    compact: bool = False
    embedding: bool = False
    pixels: bool = False
    train_rotated: bool = False
    images: tuple[str, ...] = ("upright", "rotated")

    @abc.abstractmethod
    def settings(self, num_train: int) -> dict:
        """Returns what a reader needs to repeat the figures, for JSON."""

    @abc.abstractmethod
    def fit(self, train: Features, labels: np.ndarray, num_classes: int) -> None:
        """Learns from features `{name: [num_train, dim]}` and labels int64 `[num_train]`."""

    @abc.abstractmethod
    def score(self, test: Features, labels: np.ndarray) -> Iterator[Result]:
        """Yields results for test features of the fitted names; `images` is filled in later."""

    def evaluate(
        self,
        train: Features,
        train_labels: np.ndarray,
        test: Features,
        test_labels: np.ndarray,
        num_classes: int,
    ) -> Iterator[Result]:
        """Fits on the train features, then yields results on the test features."""
        self.fit(train, train_labels, num_classes)
        yield from self.score(test, test_labels)

    def protocol(self, data: Data) -> dict:
        """Returns `settings` for the images to learn from."""
        return self.settings(len(data.train))

    def check(self, subject: Subject, data: Data) -> None:
        """Raises `UserError` where the network lacks an endpoint to judge."""
        subject.feature_tensors(subject.network(), self.pooling)

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        """Takes the features of one network, fits and yields results."""
        from rfd_tf.evaluation.frozen import judge

        for _, result in judge([self], subject, data, settings):
            yield result
