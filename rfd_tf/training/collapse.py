"""Notices features that no longer tell images apart."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import ops

#: Below it the features of different images are nearly one: see `spread`.
MIN_SPREAD = 0.01
#: Below it the memory bank varies in hardly more than one direction: see `effective_rank`.
MIN_EFFECTIVE_RANK = 1.1
#: Rows of the memory bank that are looked at, at most.
BANK_ROWS = 4096
_AT_ONCE = 64


def spread(features: np.ndarray) -> float:
    """How far features lie apart, whatever their length.

    Each row is brought to length 1; the result is the root mean square distance of the rows from
    their mean: 0 where all point the same way, 1 where they point evenly in all directions.

    Args:
        features: `[images, dimensions]`, any floating-point type.

    >>> spread(np.array([[1.0, 0.0], [-3.0, 0.0]])), spread(np.ones((5, 3)))
    (1.0, 0.0)
    """
    rows = _directions(features)
    return float(np.sqrt(np.mean(np.sum(np.square(rows - rows.mean(0)), 1))))


def effective_rank(rows: np.ndarray) -> float:
    """In how many directions rows vary: exp of the entropy of their covariance's eigenvalues.

    The eigenvalues are divided by their sum (Roy and Vetterli, EUSIPCO 2007, with the spectrum of
    the covariance in place of that of the matrix); rows are brought to length 1 first.

    Args:
        rows: `[images, dimensions]`, any floating-point type.

    Returns:
        From 1, all on a line, to `dimensions`; 0 where all rows are the same.

    >>> round(effective_rank(np.eye(4)), 6)
    3.0
    """
    rows = _directions(rows)
    centred = rows - rows.mean(0)
    values = np.linalg.eigvalsh(centred.T @ centred / len(rows)).clip(0)
    if values.sum() < 1e-12:
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _directions(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


class CollapseCheck(keras.callbacks.Callback):
    """Adds `feature_spread` and `bank_effective_rank` to an epoch's logs; warns of a collapse.

    Features collapse when all images get nearly the same one: `spread` of the feature under
    `MIN_SPREAD`, or `effective_rank` of the memory bank's rows under `MIN_EFFECTIVE_RANK`, or the
    bank's spread under `MIN_SPREAD`. The warning comes once, and again after a recovery.

    Args:
        images: uint8 `[n, size, size, 3]`, not augmented; their features are taken each epoch.
    """

    def __init__(self, images: np.ndarray):
        super().__init__()
        self.images = images
        self.warned: set[str] = set()

    def on_epoch_end(self, epoch, logs=None):
        method = self.model
        features = [
            ops.convert_to_numpy(
                method.features(method.preprocess(self.images[start : start + _AT_ONCE]))
            )
            for start in range(0, len(self.images), _AT_ONCE)
        ]
        logs["feature_spread"] = spread(np.concatenate(features))
        self._judge("the features' spread", logs["feature_spread"], MIN_SPREAD, epoch)
        bank = method.memory_bank
        if bank is None:
            return
        count = min(BANK_ROWS, bank.num_images)
        index = np.linspace(0, bank.num_images - 1, count).astype("int64")
        rows = ops.convert_to_numpy(bank.lookup(index))
        logs["bank_effective_rank"] = effective_rank(rows)
        self._judge("the memory bank's spread", spread(rows), MIN_SPREAD, epoch)
        if min(count - 1, bank.dimensions) > 1:  # else it can be no more than 1
            self._judge(
                "the memory bank's effective rank",
                logs["bank_effective_rank"],
                MIN_EFFECTIVE_RANK,
                epoch,
            )

    def _judge(self, what: str, value: float, least: float, epoch: int) -> None:
        if value >= least:
            self.warned.discard(what)
        elif what not in self.warned:
            self.warned.add(what)
            warnings.warn(
                f"{what} is {value:.3g} after epoch {epoch + 1}, below {least:g}: the network "
                "gives nearly all images the same feature (it has collapsed); lower "
                "--learning_rate, or look at the images",
                stacklevel=1,
            )
