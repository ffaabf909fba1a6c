"""Linear probes: one softmax layer on each frozen feature, all trained on the same batches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import BEST_EPOCH, LAST_EPOCH, Features, Result
from rfd_tf.evaluation.frozen import Evaluator
from rfd_tf.evaluation.training_state import is_evaluated

_ROWS = 2048  # rows turned to float32 at a time where a whole set is processed


def default_epochs(num_train: int) -> int:
    """Returns the probes' epochs: about 500,000 images seen, but 30 epochs at most and 5 at least.

    >>> default_epochs(1_500), default_epochs(50_000), default_epochs(1_281_167)
    (30, 10, 5)
    """
    return max(5, min(30, round(500_000 / num_train)))


def default_batch_size(num_train: int) -> int:
    """Returns 256, or a twentieth of a small train set, but at least 16.

    >>> default_batch_size(50_000), default_batch_size(1_500), default_batch_size(40)
    (256, 75, 16)
    """
    return max(16, min(256, num_train // 20))


class Probe:
    """Softmax regression on standardised features, trained by stochastic gradient descent.

    Features are standardised by the train set's mean and deviation (batch normalisation without
    scale and shift); weights start at zero; Nesterov momentum; coupled weight decay on the
    weights; the learning rate is `learning_rate / sqrt(dim)`, so that one setting suits features
    of any width, and falls to zero on a cosine.

    Args:
        epochs, batch_size: None takes `default_epochs`, `default_batch_size` of the train set.
        learning_rate: before division by the square root of the number of features.
        momentum, weight_decay: of the optimiser.
        seed: of the order of the images.
        keep_every: for `accuracies`, weights are kept after every so many epochs, and after the
            last; None keeps the last only.

    >>> features, labels = np.array([[0.0], [0.1], [0.9], [1.0]]), np.array([0, 0, 1, 1])
    >>> Probe(epochs=20).fit(features, labels, num_classes=2).predict(features)
    array([0, 0, 1, 1])
    """

    def __init__(
        self,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 0.3,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
        keep_every: int | None = None,
    ):
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.keep_every = keep_every
        self.learning_rate, self.momentum = learning_rate, momentum
        self.weight_decay = weight_decay

    def fit(
        self, features: np.ndarray, labels: np.ndarray, num_classes: int, after_epoch=None
    ) -> Probe:
        """Trains on features `[N, dim]` (float16 or float32) and labels `[N]` from 0.

        Calls `after_epoch()` after each epoch. Returns itself.
        """
        num, dim = features.shape
        epochs = self.epochs or default_epochs(num)
        steps = max(1, num // (self.batch_size or default_batch_size(num)))
        self._mean, self._scale = _statistics(features)
        targets = np.eye(num_classes, dtype=np.float32)[labels]
        # The bias is a last row of the weights, without decay.
        weights = np.zeros((dim + 1, num_classes), np.float32)
        velocity = np.zeros_like(weights)
        rng = np.random.default_rng(self.seed)
        self._epochs = []
        for epoch in range(epochs):
            batches = np.array_split(rng.permutation(num), steps)
            for step, rows in enumerate(batches):
                done = (epoch * steps + step) / (epochs * steps)
                rate = self.learning_rate / np.sqrt(dim) * (1 + np.cos(np.pi * done)) / 2
                rows.sort()  # reads memory in order; the batch's mean gradient is the same
                x = self._standardized(features[rows])
                error = _softmax(x @ weights[:-1] + weights[-1]) - targets[rows]
                error /= len(rows)
                gradient = np.vstack([x.T @ error, error.sum(axis=0)])
                gradient[:-1] += self.weight_decay * weights[:-1]
                velocity *= self.momentum
                velocity += gradient
                weights -= np.float32(rate) * (gradient + self.momentum * velocity)
            if is_evaluated(epoch + 1, epochs, self.keep_every or epochs):
                self._epochs.append(weights.copy())
            if after_epoch:
                after_epoch()
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns the class int64 `[N]` of each row of features, after the last epoch."""
        return self._predictions(features, self._epochs[-1:])[0]

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Returns each class' probability after the last epoch, float32 `[N, num_classes]`."""
        weights = self._epochs[-1]
        found = np.empty((len(features), weights.shape[1]), np.float32)
        for start, x in self._blocks(features):
            found[start : start + len(x)] = _softmax(x @ weights[:-1] + weights[-1])
        return found

    def accuracies(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the accuracy after each epoch kept, 0 to 1, float64 `[epochs]`."""
        return (self._predictions(features, self._epochs) == labels).mean(axis=1)

    def _predictions(self, features: np.ndarray, epochs: list[np.ndarray]) -> np.ndarray:
        predictions = np.empty((len(epochs), len(features)), np.int64)
        for start, x in self._blocks(features):
            for epoch, weights in enumerate(epochs):
                logits = x @ weights[:-1] + weights[-1]
                predictions[epoch, start : start + len(x)] = logits.argmax(axis=1)
        return predictions

    def _blocks(self, features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(features), _ROWS):
            yield start, self._standardized(features[start : start + _ROWS])

    def _standardized(self, rows: np.ndarray) -> np.ndarray:
        x = rows.astype(np.float32)
        x -= self._mean
        x *= self._scale
        return x


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / deviation of each column, float32; a constant column's scale is 0."""
    starts = range(0, len(features), _ROWS)
    total = sum(features[s : s + _ROWS].sum(axis=0, dtype=np.float64) for s in starts)
    mean = (total / len(features)).astype(np.float32)
    if not np.isfinite(mean).all():
        raise UserError("the features hold NaN or infinite values: the network has diverged")
    squares = np.zeros(features.shape[1])
    for s in starts:
        centred = features[s : s + _ROWS].astype(np.float32) - mean
        squares += np.einsum("ij,ij->j", centred, centred)
    deviation = np.sqrt(squares / len(features))
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), deviation.max(initial=0))
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    return mean, scale.astype(np.float32)


def _one_blas_thread():
    """Keeps BLAS from splitting the probes' thin products, which it does at a loss."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(1, "blas")


class LinearProbes(Evaluator):
    """Evaluator: accuracy of a linear probe on every feature, after the last and the best epoch.

    Maps are max-pooled to at most `probe_size` x `probe_size` (adaptive bins) and flattened, as
    in RotNet's and RFD's protocol (Feng et al., CVPR 2019); vectors are taken as they are.

    Args:
        probe_size: height and width that maps are pooled to; 1 or more.
        epochs: None takes `default_epochs` of the train set.
        seed: of the order of the images.
        progress: whether to show a progress bar.

    >>> features, labels = {"f": np.eye(4)}, np.array([0, 1, 2, 3])
    >>> [(r.feature, r.value)
    ...  for r in LinearProbes().evaluate(features, labels, features, labels, num_classes=4)]
    [('f', 1.0), ('f', 1.0)]
    """

    name = "linear"
    compact = True

    def __init__(
        self,
        probe_size: int = 4,
        epochs: int | None = None,
        seed: int = 0,
        progress: bool = False,
    ):
        if probe_size < 1:
            raise UserError(f"probe_size is 1 or more; got {probe_size}")
        if epochs is not None and epochs < 1:
            raise UserError(f"the probes' epochs are 1 or more; got {epochs}")
        self.pooling = ("max", probe_size)
        self.epochs, self.seed, self.progress = epochs, seed, progress

    def settings(self, num_train: int) -> dict:
        probe = Probe(self.epochs, seed=self.seed)
        return {
            "probe_size": self.pooling[1],
            "features": "maps adaptively max-pooled to at most probe_size x probe_size, vectors as "
            "they are; standardised by the train set",
            "epochs": probe.epochs or default_epochs(num_train),
            "batch_size": default_batch_size(num_train),
            "optimizer": "SGD, Nesterov",
            "momentum": probe.momentum,
            "weight_decay": probe.weight_decay,
            "learning_rate": f"{probe.learning_rate:g} / sqrt(dim), cosine to 0",
            "augmentation": "none",
            "seed": self.seed,
            "reported": "last epoch, and the best of all epochs on the test images",
        }

    def fit(self, train: Features, labels: np.ndarray, num_classes: int) -> None:
        from rfd_tf.progress import tqdm

        epochs = self.epochs or default_epochs(len(labels))
        bar = tqdm(
            total=epochs * len(train),
            desc="linear probes",
            unit="epoch",
            disable=None if self.progress else True,
        )

        def train_one(name: str) -> Probe:
            probe = Probe(epochs, seed=self.seed, keep_every=1)
            return probe.fit(train[name], labels, num_classes, after_epoch=bar.update)

        # Probes do not touch one another, so each runs in a thread; the widest goes first.
        names = sorted(train, key=lambda name: -train[name].shape[1])
        with bar, _one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
            self._probes = dict(zip(names, pool.map(train_one, names), strict=True))

    def score(self, test: Features, labels: np.ndarray) -> Iterator[Result]:
        for name, features in test.items():
            accuracies = self._probes[name].accuracies(features, labels)
            yield Result(name, float(accuracies[-1]), when=LAST_EPOCH)
            yield Result(name, float(accuracies.max()), when=BEST_EPOCH)
