"""Nearest neighbours and the linear probe on plain arrays, as scikit-learn's classifiers are used.

They share the search and the softmax regression of the tasks "knn" and "linear".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from rfd_tf.errors import UserError
from rfd_tf.evaluation.knn import MEMORY, knn_votes
from rfd_tf.evaluation.linear import Probe

__all__ = ["KNNClassifier", "LinearProbe"]


class _FeatureClassifier(ClassifierMixin, BaseEstimator):
    """What both share: checked arrays, and labels of any type."""

    def fit(self, x: Any, y: Any) -> _FeatureClassifier:
        """Trains on features and their labels.

        Args:
            x: features `[N, dim]`, numbers; computed in float32.
            y: labels `[N]` of any type that sorts, such as strings.

        Returns:
            The classifier itself, with `classes_`, the labels in order.

        Raises:
            UserError: arrays of other shapes, none or several rows without labels.
        """
        x = _features(x)
        y = np.asarray(y)
        if y.ndim != 1 or len(y) != len(x) or not len(x):
            raise UserError(
                f"fit takes x [N, dim] and y [N], one label a row; got shapes {x.shape} and "
                f"{y.shape}"
            )
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.n_features_in_ = x.shape[1]
        self._fit(x, labels)
        return self

    def predict(self, x: Any) -> np.ndarray:
        """Returns the label `[N]` of each row of features `[N, dim]`.

        Raises:
            UserError: nothing is fitted yet, or rows of another length.
        """
        best = self.predict_proba(x).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, x: Any) -> np.ndarray:
        """Returns the probability `[N, classes]` of each label, in the order of `classes_`.

        Raises:
            UserError: nothing is fitted yet, or rows of another length.
        """
        x = _features(x)
        if not hasattr(self, "classes_"):
            raise UserError(f"this {type(self).__name__} is not fitted yet; call fit(x, y) first")
        if x.shape[1] != self.n_features_in_:
            raise UserError(
                f"x has shape {x.shape}, and fit saw rows of {self.n_features_in_} numbers"
            )
        return self._probabilities(x)


class KNNClassifier(_FeatureClassifier):
    """Classifies features by a vote of the nearest training rows.

    A neighbour of cosine similarity s votes with weight `exp(s / temperature)` (Wu et al., CVPR
    2018); by Euclidean distance all have the same vote.

    Args:
        k: neighbours, 1 or more; 200, or a tenth of fewer than 2,000 training rows, if None. More
            than there are rows means all.
        temperature: of the vote by cosine, above 0.
        distance: `cosine` or `euclidean`.
        memory: bytes that the search may take beyond the features.

    >>> x, y = np.array([[1.0, 0.1], [0.9, 0.0], [0.0, 1.0]]), ["cat", "cat", "dog"]
    >>> classifier = KNNClassifier(k=1).fit(x, y)
    >>> classifier.predict([[5.0, 1.0], [0.1, 2.0]]).tolist(), classifier.score(x, y)
    (['cat', 'dog'], 1.0)
    """

    def __init__(
        self,
        k: int | None = None,
        temperature: float = 0.07,
        distance: str = "cosine",
        memory: int = MEMORY,
    ):
        self.k, self.temperature, self.distance, self.memory = k, temperature, distance, memory

    def _fit(self, x: np.ndarray, labels: np.ndarray) -> None:
        self._x, self._labels = x, labels
        for _ in self._votes(x[:1]):  # refuses wrong options now
            pass

    def _votes(self, x: np.ndarray):
        return knn_votes(
            self._x, self._labels, x, self.k, self.temperature, len(self.classes_), self.memory,
            self.distance,
        )  # fmt: skip

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        found = np.empty((len(x), len(self.classes_)))
        for start, votes in self._votes(x):
            found[start : start + len(votes)] = votes / votes.sum(axis=1, keepdims=True)
        return found


class LinearProbe(_FeatureClassifier):
    """Classifies features by softmax regression on standardised features.

    Trained by stochastic gradient descent with Nesterov momentum and a cosine schedule; the rate is
    `learning_rate / sqrt(dim)`, so that one setting suits features of any width.

    Args:
        epochs, batch_size: by the number of rows if None.
        learning_rate: before division by the square root of the number of features, above 0.
        momentum: 0 to below 1.
        weight_decay: coupled, on the weights, at least 0.
        seed: of the order of the rows.

    >>> x = np.array([[0.0], [0.1], [0.9], [1.0]])
    >>> LinearProbe(epochs=20).fit(x, ["no", "no", "yes", "yes"]).predict([[0.2], [2.0]]).tolist()
    ['no', 'yes']
    """

    def __init__(
        self,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 0.3,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
    ):
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.momentum, self.weight_decay, self.seed = momentum, weight_decay, seed

    def _fit(self, x: np.ndarray, labels: np.ndarray) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} {value} must be at least 1, or None")
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise UserError(
                "learning_rate is above 0, weight_decay at least 0, momentum from 0 to below 1; "
                f"got {self.learning_rate}, {self.weight_decay} and {self.momentum}"
            )
        self._probe = Probe(**self.get_params()).fit(x, labels, len(self.classes_))

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        return self._probe.probabilities(x)


def _features(x: Any) -> np.ndarray:
    try:
        x = np.asarray(x, np.float32)
    except (TypeError, ValueError):
        raise UserError(f"x of type {type(x).__name__} holds no features [N, dim]") from None
    if x.ndim != 2 or not x.shape[1]:
        raise UserError(f"features are [N, dim]; got shape {x.shape}")
    if not np.isfinite(x).all():
        raise UserError("the features hold NaN or infinite values")
    return x
