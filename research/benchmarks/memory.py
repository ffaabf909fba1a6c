"""How much memory training takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from research.benchmarks import measuring
from research.benchmarks.base import Entry
from research.benchmarks.steps import MethodStep

CASES = (
    {"backbone": "alexnet", "image_size": 224, "batch_size": 16, "num_images": 1_281_167},
    {"backbone": "network_in_network", "image_size": 32, "batch_size": 128, "num_images": 50_000},
)
TINY = {
    "cases": (
        {
            "backbone": "six_layer",
            "image_size": 16,
            "batch_size": 4,
            "num_images": 100,
            "num_negatives": 16,
        },
    )
}


def memory(rounds: int = 3, cases: Sequence[dict[str, Any]] = CASES) -> Iterator[Entry]:
    """Peak memory of training / sum of parameters, optimizer, bank and activations.

    Measured in a process of its own, see `measuring`: by how much its resident memory grew at its
    peak while the method was built and trained for some steps. Activations are the outputs of all
    layers of the backbone for the four views of each image, in the dtype they are computed in.

    Args:
        rounds: training steps.
        cases: arguments of `MethodStep`.
    """
    for case in cases:
        growth, parts = measuring.peak_growth_and_result(
            "research.benchmarks.memory:train", {"steps": rounds, **case}
        )
        total = sum(parts.values())
        yield Entry(
            f"memory/{case['backbone']}",
            growth / total,
            f"peak memory of training / parameters + optimizer + bank + activations, "
            f"{case['backbone']} at {case['image_size']}, {case['batch_size']} images, bank of "
            f"{case['num_images']:,} rows",
            details={
                "peak_mib": _mib(growth),
                "sum_mib": _mib(total),
                **{f"{name}_mib": _mib(size) for name, size in parts.items()},
            },
        )


def train(steps: int, **case: Any) -> dict[str, int]:
    """Trains some steps, and returns the bytes of what training has to hold."""
    step = MethodStep(**case)
    for _ in range(steps):
        step()
    method = step.method
    return {
        "parameters": _bytes(method.trainable_variables),
        "optimizer": _bytes(method.optimizer.variables),
        "bank": _bytes([method.memory_bank.bank]),
        "activations": activation_bytes(method.feature_model, 4 * case["batch_size"]),
    }


def activation_bytes(model: keras.Model, batch: int) -> int:
    """Bytes of the outputs of all layers of a model for a batch, the input not counted.

    >>> x = keras.Input((4,))
    >>> activation_bytes(keras.Model(x, keras.layers.Dense(3)(x)), batch=2)
    24
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.InputLayer, keras.layers.Flatten)):
            continue
        if isinstance(layer, keras.Model):
            total += activation_bytes(layer, batch)
            continue
        for output in tf.nest.flatten(layer.output):
            size = tf.as_dtype(keras.backend.standardize_dtype(output.dtype)).size
            total += batch * math.prod(output.shape[1:]) * size
    return total


def _bytes(variables: Sequence[Any]) -> int:
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def _mib(size: float) -> float:
    return round(size / 2**20, 1)
