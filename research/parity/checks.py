"""Compares this package with outputs of the published PyTorch programs of RFD and RotNet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from research.parity import steps, vector_files
from research.parity.comparison import Comparison, compare, compare_features
from research.parity.vector_files import Vectors, check_indices, need_shape
from rfd_tf import applications, losses
from rfd_tf.applications import torch_import
from rfd_tf.data import views
from rfd_tf.errors import UserError, unknown
from rfd_tf.layers import adaptive_max_pool
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.training import fidelity


def check(directory: str | os.PathLike, only: Iterable[str] = ()) -> Iterator[Comparison]:
    """Compares everything in a folder of reference vectors, in float32.

    The pieces compared are those that training runs: the rotations, adaptive pooling, the memory
    bank with constant and NCE, imported AlexNet and network-in-network, and three steps of
    `RotationFeatureDecoupling.train_step` with the settings of `fidelity.FIDELITY`.

    Args:
        directory: the folder, see `vector_files.read`.
        only: names of `.npz` files, to compare with a part.

    Yields:
        A `Comparison` a quantity, in the order of the files.

    Raises:
        UserError: a folder that is incomplete, damaged, or holds what does not belong there.
    """
    only = tuple(only)
    for name in only:
        if name not in CHECKS:
            raise unknown("vectors file", name, CHECKS)
    files = vector_files.read(directory)
    networks = vector_files.read_state_dict(directory)
    seed = _seed(files["rfd_steps.npz"])
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        for name, function in CHECKS.items():
            if not only or name in only:
                yield from function(files[name], networks, seed)
    finally:
        keras.config.set_dtype_policy(policy)


def _seed(vectors: Vectors) -> int:
    values = vectors["image_seed"]
    if values.ndim != 1 or not values.size or values.dtype.kind not in "iu" or values[0] < 0:
        raise UserError(f"image_seed of {vectors.name} does not begin with a seed")
    return int(values[0])


# -- one function a file --------------------------------------------------------------------


def _rotations(vectors: Vectors, networks: Any, seed: int) -> Iterator[Comparison]:
    yield compare(vectors, "views", views.rotate(vectors["images"]), 0.0)


def _pooling(vectors: Vectors, networks: Any, seed: int) -> Iterator[Comparison]:
    for stem in vectors.stems("_in"):
        need_shape(vectors, f"{stem}_in", None, None, None, None)
        need_shape(vectors, f"{stem}_out", None, None, None, None)
        size = vectors[f"{stem}_out"].shape[1:3]
        yield compare(vectors, f"{stem}_out", adaptive_max_pool(vectors[f"{stem}_in"], size), 0.0)


def _nce(vectors: Vectors, networks: Any, seed: int) -> Iterator[Comparison]:
    import tensorflow as tf

    need_shape(vectors, "bank_0", None, None)
    rows, dimensions = vectors["bank_0"].shape
    # Any backbone: the embeddings are given.
    method = RotationFeatureDecoupling(
        applications.build("six_layer", 32),
        rows,
        **{
            **fidelity.method_arguments(pu_weights=False),
            "projection_dimensions": dimensions,
            "num_negatives": 1,
            "temperature": float(vectors["temperature"]),
            "bank_momentum": float(vectors["momentum"]),
        },
    )
    method.memory_bank.bank.assign(vectors["bank_0"])
    for i in range(vectors.steps):
        check_indices(vectors, i, rows)
        need_shape(vectors, f"features_{i}", len(vectors[f"ids_{i}"]), dimensions)
        features = tf.constant(vectors[f"features_{i}"])
        ids, negatives = (tf.constant(vectors[f"{name}_{i}"]) for name in ("ids", "negatives"))
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits, _ = method.instance_logits(features, ids, negatives)
            constant = method.normalizing_constant(logits, training=True)
            loss = losses.nce(logits, constant, rows)
        method.memory_bank.update(ids, features)
        found = {
            f"probabilities_{i}": losses.nce_probabilities(logits, constant),
            f"loss_{i}": loss,
            f"grad_features_{i}": tape.gradient(loss, features),
            f"z_{i}": method.normalizing_constant.constant,
            f"bank_{i + 1}": method.memory_bank.bank,
        }
        for name, value in found.items():
            yield compare(vectors, name, value, 1e-5)


def _network_in_network(vectors: Vectors, networks: Any, seed: int) -> Iterator[Comparison]:
    entries = vector_files.weights(networks["nin"], "nin", seed)
    model = torch_import.network_for(entries, "network_in_network")
    names = {stem: stem.replace("conv", "block") for stem in vectors.stems("_head")}
    names.update({stem: "predictions" for stem in names if stem == "classifier"})
    images = vector_files.normal((2, 32, 32, 3), seed, vector_files.NIN_IMAGES)
    outputs = applications.feature_extractor(model, names.values())(images, training=False)
    for stem, endpoint in names.items():
        value = np.asarray(outputs[endpoint])
        yield compare(vectors, f"{stem}_shape", value.shape, 0.0)
        yield from compare_features(vectors, stem, value)


CHECKS = {
    "rotations.npz": _rotations,
    "adaptive_max_pool.npz": _pooling,
    "nce.npz": _nce,
    "nin.npz": _network_in_network,
    "rfd_steps.npz": steps.training_steps,
}
