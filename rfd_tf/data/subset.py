"""Folds for cross-validation, and the hash that scatters images over them."""

from __future__ import annotations

import numpy as np

from rfd_tf.errors import UserError


def index_hash(index: np.ndarray) -> np.ndarray:
    """Scrambles indices, the same way everywhere: uint64, SplitMix64's finaliser.

    >>> index_hash(np.arange(2)) % 100
    array([35, 65], dtype=uint64)
    """
    z = np.asarray(index).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def folds(num_images: int, num_folds: int) -> np.ndarray:
    """Deals images out to folds by the hash of their index: no seed or machine changes it.

    Args:
        num_images: images in the set.
        num_folds: folds, at least 2.

    Returns:
        int64 `[num_images]`, 0 to `num_folds - 1`; the folds' sizes differ by one at most.

    Raises:
        UserError: fewer than 2 folds, or more folds than images.

    >>> folds(6, 3).tolist()
    [2, 0, 1, 0, 2, 1]
    """
    if num_folds < 2:
        raise UserError(
            f"{num_folds} folds are too few: each is evaluated by a network trained on the others; "
            "give --folds=2 or more"
        )
    if num_folds > num_images:
        raise UserError(
            f"{num_folds} folds are more than the {num_images} images; give --folds={num_images} "
            "or fewer"
        )
    fold = np.empty(num_images, np.int64)
    order = np.argsort(index_hash(np.arange(num_images)), kind="stable")
    fold[order] = np.arange(num_images) % num_folds
    return fold
