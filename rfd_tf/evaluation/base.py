"""What every evaluator is: learns from labelled train features, yields (name, value)."""

from __future__ import annotations

import abc
from collections.abc import Iterator

import numpy as np

Features = dict[str, np.ndarray]


class Evaluator(abc.ABC):
    """Judges frozen features by labels. A new one is a file with this class and a line in TASKS.

    Attributes:
        name: the task's name, as `--task` takes it.
        pooling: how feature maps become vectors before they are cached: `("average" or "max",
            output size)`, to at most that size; vectors are taken as they are.
        compact: whether cached features may be float16.
    """

    name: str
    pooling: tuple[str, int] = ("average", 1)
    compact: bool = False

    @abc.abstractmethod
    def settings(self, num_train: int) -> dict:
        """Returns what a reader needs to repeat the figures, for JSON."""

    @abc.abstractmethod
    def fit(self, train: Features, labels: np.ndarray, num_classes: int) -> None:
        """Learns from features `{name: [num_train, dim]}` and labels int64 `[num_train]`."""

    @abc.abstractmethod
    def score(self, test: Features, labels: np.ndarray) -> Iterator[tuple[str, float]]:
        """Yields (feature name, accuracy from 0 to 1) for test features of the fitted names."""

    def evaluate(
        self,
        train: Features,
        train_labels: np.ndarray,
        test: Features,
        test_labels: np.ndarray,
        num_classes: int,
    ) -> Iterator[tuple[str, float]]:
        """Fits on the train features, then yields (feature name, value) on the test features."""
        self.fit(train, train_labels, num_classes)
        yield from self.score(test, test_labels)
