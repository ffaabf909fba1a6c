"""Training steps of RFD against those of the published program, which `checks.check` runs.

Three steps of training amplify rounding. The steps' loss rises, an activation within rounding of
zero falls on one side of its ReLU or the other, and batch normalisation over a dozen views spreads
it. PyTorch against itself, the images changed by one unit in the last place, moves the losses of
the third step by up to 1.2e-2, gradient norms by up to 7e-2 and the bank by up to 5e-3, far beyond
the bars; the first step's forward pass moves by 1e-6. So where a quantity that depends on a
gradient misses its bar, the steps are repeated with weights and images changed in their last
digits, and the quantity may be off by twice as much as that changes it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from research.parity import vector_files
from research.parity.comparison import (
    Comparison,
    compare,
    compare_features,
    relative_difference,
)
from research.parity.vector_files import Vectors, check_indices, need_shape
from rfd_tf import applications
from rfd_tf.applications import torch_import
from rfd_tf.data import views
from rfd_tf.errors import UserError
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.training import fidelity
from rfd_tf.training.optimizers import SGD

LEARNING_RATE = 0.01
# Preprocessing that leaves values as they are: the vectors' images are fed as given.
IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
# Norms below this share of the largest one are compared with that share: the gradient of a bias
# before batch normalisation is zero but for rounding, and has no digits to compare.
SMALLEST_NORM = 1e-4
# Repetitions that measure rounding, and the relative change of weights and images they start from.
# It moves the first step's logits by 3e-5, three times as far as they are from PyTorch's. 2**-22
# would move them by that distance, but in four repetitions it meets too few of the activations
# near zero: it put the third step's losses at 7.5e-3, where this gives 4.5e-2.
REPETITIONS = 4
LAST_DIGITS = 2.0**-19


class _Witness:
    """What a training step computes on its way and does not return."""

    def __init__(self):
        self.logits = self.embedding = None
        self.gradients: list[tuple[Any, Any]] = []


class _WitnessedSGD(SGD):
    def __init__(self, witness: _Witness, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.witness = witness

    def apply_gradients(self, grads_and_vars):
        self.witness.gradients = list(grads_and_vars)
        return super().apply_gradients(self.witness.gradients)


class _WitnessedMethod(RotationFeatureDecoupling):
    def __init__(self, witness: _Witness, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.witness = witness

    def _rotation(self, f1, f2, index):
        self.witness.logits = self.rotation_head(f1)
        return super()._rotation(f1, f2, index)

    def embed(self, f2):
        self.witness.embedding = super().embed(f2)
        return self.witness.embedding


def training_steps(vectors: Vectors, networks: Any, seed: int) -> Iterator[Comparison]:
    """Compares evaluation features, every training step and the final weights.

    Args:
        vectors: `rfd_steps.npz`.
        networks: names and shapes, see `vector_files.read_state_dict`.
        seed: of weights and images.
    """
    need_shape(vectors, "bank_0", None, None)
    for i in range(vectors.steps):
        check_indices(vectors, i, len(vectors["bank_0"]))
        need_shape(vectors, f"losses_{i}", 4)
        need_shape(vectors, f"ids_{i}", len(vectors["ids_0"]))
    method = _method(vectors, networks, seed)
    images = vector_files.normal(
        (len(vectors["ids_0"]), method.image_size, method.image_size, 3),
        seed,
        vector_files.RFD_IMAGES,
    )

    names = {name: name.replace("fc_block", "fc7") for name in vector_files.ALEXNET_NAMES}
    first_views = views.flatten_views(views.rotate(images[:1]))[:2]
    extractor = applications.feature_extractor(method.backbone, names.values())
    outputs = extractor(first_views, training=False)
    for stem, endpoint in names.items():
        yield from compare_features(vectors, f"eval_{stem}", outputs[endpoint])

    scales = _scales(method, vectors)
    start = [variable.numpy() for variable in method.variables]
    runs = [_train(method, vectors, images)]
    rows = [
        compare(vectors, name, value, _bar(name), scales.get(name))
        for name, value in runs[0].items()
    ]
    if all(row.within for row in rows):
        yield from rows
        return
    for repetition in range(REPETITIONS):
        rng = np.random.default_rng(repetition)
        for variable, value in zip(method.variables, start, strict=True):
            variable.assign(_disturbed(value, rng) if variable.trainable else value)
        runs.append(_train(method, vectors, _disturbed(images, rng)))
    for row in rows:
        if follows_a_gradient(row.quantity):
            scale = scales.get(row.quantity)
            scale = np.abs(vectors[row.quantity]).max() if scale is None else scale
            changes = [
                relative_difference(a[row.quantity], b[row.quantity], scale)
                for a, b in itertools.combinations(runs, 2)
            ]
            row = dataclasses.replace(row, rounding=max(changes))
        yield row


def _disturbed(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    signs = rng.integers(0, 2, values.shape, dtype="int8") * np.float32(2) - np.float32(1)
    return values * (1 + np.float32(LAST_DIGITS) * signs)


def follows_a_gradient(name: str) -> bool:
    """Whether a quantity comes after a backward pass; what comes before has no excuse."""
    kind, _, step = name.rpartition("_")
    if kind in ("grad_norms", "final"):
        return True
    # The rows of bank i were written by step i - 1.
    return kind != "z" and int(step) - (kind == "bank") > 0


def _bar(name: str) -> float:
    kind, _, step = name.rpartition("_")
    if kind in ("final", "bank", "z"):
        return 1e-4
    if kind == "grad_norms" or int(step) > 0:
        return 1e-3
    return 1e-5 if kind == "losses" else 1e-4


def _scales(method: RotationFeatureDecoupling, vectors: Vectors) -> dict[str, np.ndarray]:
    """What the entries of lists of numbers are measured by: their own size."""
    scales = {}
    for i in range(vectors.steps):
        scales[f"losses_{i}"] = np.abs(vectors[f"losses_{i}"])
        scales[f"grad_norms_{i}"] = _floored(vectors[f"grad_norms_{i}"])
    scales["final_norm"] = _floored(vectors["final_norm"])
    # A mean may lie anywhere near zero: it is measured by the values' root mean square.
    sizes = [math.prod(variable.shape) for variable in _variables(method, vectors["final_names"])]
    scales["final_mean"] = vectors["final_norm"] / np.sqrt(sizes)
    return scales


def _floored(norms: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(norms), SMALLEST_NORM * np.abs(norms).max(initial=0.0))


def _method(vectors: Vectors, networks: Any, seed: int) -> _WitnessedMethod:
    made = {
        network: vector_files.weights(networks[network], network, seed)
        for network in ("feature", "classifier", "norm")
    }
    backbone = torch_import.network_for(made["feature"], "alexnet")
    fidelity.apply_batch_normalization(backbone)
    rows, dimensions = vectors["bank_0"].shape
    method = _WitnessedMethod(
        _Witness(),
        backbone,
        rows,
        feature_endpoint="fc7",
        pu_weights=np.zeros((rows, views.NUM_ROTATIONS)),
        **{
            **fidelity.method_arguments(),
            "projection_dimensions": dimensions,
            "num_negatives": min(vectors["negatives_0"].shape[1], rows - 1),
        },
        **IDENTITY,
    )
    torch_import.convert_linear(made["classifier"], method.rotation_head)
    torch_import.convert_linear(made["norm"], method.projection)
    method.memory_bank.bank.assign(vectors["bank_0"])
    return method


def _train(method: _WitnessedMethod, vectors: Vectors, images: np.ndarray) -> dict[str, Any]:
    """Trains all steps; returns this package's values by the references' names."""
    method.compile(_WitnessedSGD(method.witness, LEARNING_RATE, **fidelity.optimizer_arguments()))
    # The published program turns its weights of the views on late; the vectors have them on.
    method.begin_epoch(method.pu_start_epoch)
    found = {}
    for i in range(vectors.steps):
        ids = vectors[f"ids_{i}"]
        _set_rotation_weights(method, vectors, ids)
        method.reset_metrics()
        logs = method.train_step(
            {"image": images, "index": ids, "negatives": vectors[f"negatives_{i}"]}
        )
        terms = [*method.loss_weights, "loss"]
        found[f"losses_{i}"] = np.array([float(logs[name]) for name in terms])
        found[f"logits_{i}"] = np.array(method.witness.logits)
        found[f"embedding_{i}"] = np.array(method.witness.embedding)
        found[f"z_{i}"] = float(method.normalizing_constant.constant)
        found[f"grad_norms_{i}"] = _gradient_norms(method, vectors, i)
        found[f"bank_{i + 1}"] = np.array(method.memory_bank.bank)
    values = [np.asarray(v) for v in _variables(method, vectors["final_names"])]
    found["final_mean"] = np.array([value.mean(dtype="float64") for value in values])
    found["final_norm"] = np.array([float32_norm(value) for value in values])
    return found


def _gradient_norms(method: _WitnessedMethod, vectors: Vectors, i: int) -> np.ndarray:
    gradients = {id(variable): gradient for gradient, variable in method.witness.gradients}
    names = vectors[f"grad_norm_names_{i}"]
    norms = []
    for name, variable in zip(names, _variables(method, names), strict=True):
        if id(variable) not in gradients:
            raise UserError(f"'{name}' in grad_norm_names_{i} of {vectors.name} is not trained")
        norms.append(float32_norm(np.asarray(gradients[id(variable)])))
    return np.array(norms)


def float32_norm(values: np.ndarray, lanes: int = 8) -> float:
    """The Euclidean norm as PyTorch's `norm` sums it on a CPU: in float32, by eight partial sums.

    Of a matrix of 38 million small numbers that loses 0.3 %, more than what is compared.
    """
    # The partial sums depend on the layout: PyTorch's is (out, in, height, width).
    order = {2: (1, 0), 4: (3, 2, 0, 1)}.get(values.ndim)
    flat = np.transpose(values.astype("float32", copy=False), order).ravel()
    whole = len(flat) - len(flat) % lanes
    # NumPy adds rows up one after the other.
    sums = np.add.reduce(np.square(flat[:whole].reshape(-1, lanes)), axis=0)
    return float(np.sqrt(sums.sum(dtype="float64") + np.square(flat[whole:]).sum(dtype="float64")))


def _set_rotation_weights(method: RotationFeatureDecoupling, vectors: Vectors, ids: Any) -> None:
    """Makes the method give the batch's views the prescribed weights of the cross-entropy."""
    need_shape(vectors, "pu_weights", len(ids) * views.NUM_ROTATIONS)
    given = np.asarray(vectors["pu_weights"], "float64").reshape(len(ids), -1)
    if given.min() < 0 or given.max() > 1 or np.any(given[:, 0] != 1):
        raise UserError(
            f"pu_weights of {vectors.name} must be 0 to 1, and 1 for each image's upright view"
        )
    probability = np.zeros(method.upright_probability.shape)
    probability[ids] = (1 - given) ** (1 / method.pu_gamma)
    method.upright_probability.assign(probability)


def _variables(method: RotationFeatureDecoupling, names: Iterable[str]) -> list[Any]:
    """Our variables by the published program's names, `<network>.<state dict entry>`."""
    layers = {layer.name: layer for layer in method.backbone.layers}
    heads = {"classifier": method.rotation_head, "norm": method.projection}
    found = []
    for name in map(str, names):
        network, _, entry = name.partition(".")
        layer, weight = None, "kernel" if entry.endswith("weight") else "bias"
        if network == "feature":
            place = torch_import.ENTRY_PLACES["alexnet"](entry)
            if place is not None:
                layer, weight = layers.get(place[0]), place[1]
        else:
            layer = heads.get(network)
        variables = {v.name: v for v in layer.weights} if layer is not None else {}
        if weight not in variables:
            raise UserError(f"rfd_steps.npz names a parameter '{name}' that RFD does not have")
        found.append(variables[weight])
    return found
