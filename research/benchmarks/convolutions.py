"""How much of a training step is convolution, and what the rest is."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from research.benchmarks.base import Entry, alternate, milliseconds, paired_ratio
from research.benchmarks.profiling import is_convolution, operation_times
from research.benchmarks.steps import MethodStep

CASES = (
    {"backbone": "six_layer", "image_size": 32, "batch_size": 128, "num_images": 50_000},
    {"backbone": "network_in_network", "image_size": 32, "batch_size": 64, "num_images": 50_000},
    {"backbone": "alexnet", "image_size": 224, "batch_size": 16, "num_images": 1_281_167},
    {"backbone": "resnet18", "image_size": 224, "batch_size": 8, "num_images": 1_281_167},
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
LARGEST = 5


def convolutions(rounds: int = 5, cases: Sequence[dict[str, Any]] = CASES) -> Iterator[Entry]:
    """Rate of convolution in a training step / rate of the same convolutions by themselves.

    The rate in a step is the convolutions' multiplications and additions, forward and both
    backward, divided by the time of the whole step; so the quotient is the share of the step that
    it would take if it were nothing but convolutions at their full speed. The details name the
    five operations other than convolutions that take most time.

    Args:
        rounds: how often each is timed.
        cases: arguments of `MethodStep`.
    """
    for case in cases:
        step = MethodStep(**case)
        alone = Convolutions(step.method.feature_model, 4 * case["batch_size"])
        seconds = alternate({"step": step, "convolutions": alone}, rounds, warmup=1)
        flops = alone.operations
        times = operation_times(step) or {}
        whole = sum(times.values()) or math.nan
        others = {name: ms for name, ms in times.items() if not is_convolution(name)}
        yield Entry(
            f"convolutions/{case['backbone']}",
            paired_ratio(seconds["convolutions"], seconds["step"]),
            f"rate of convolution in a step / of the convolutions alone, {case['backbone']} at "
            f"{case['image_size']}, {case['batch_size']} images, {step.policy}",
            details={
                "step_ms": milliseconds(seconds["step"]),
                "convolutions_alone_ms": milliseconds(seconds["convolutions"]),
                "gflops_in_step": round(flops / statistics.median(seconds["step"]) / 1e9, 1),
                "gflops_alone": round(flops / statistics.median(seconds["convolutions"]) / 1e9, 1),
                "share_of_profile": {
                    "convolutions": _percent(1 - sum(others.values()) / whole),
                    **{name: _percent(others[name] / whole) for name in list(others)[:LARGEST]},
                },
            },
        )
        del step, alone
        gc.collect()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


class Convolutions:
    """The convolutions of a model by themselves: forward, and both gradients, on random numbers.

    Args:
        model: a functional model.
        batch: images a call.

    Attributes:
        operations: multiplications and additions of one call, counted apart.

    Calling it runs them all, one after the other.

    >>> x = keras.Input((8, 8, 3))
    >>> alone = Convolutions(keras.Model(x, keras.layers.Conv2D(4, 3)(x)), batch=2)
    >>> alone.operations == 2 * (2 * 6 * 6) * (3 * 3 * 3) * 4 * 2
    True
    >>> alone()
    """

    def __init__(self, model: keras.Model, batch: int):
        layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        self.operations = 0
        self._runs = []
        for position, layer in enumerate(layers):
            # Nobody asks for the gradient of the images.
            run, operations = _one_convolution(layer, batch, input_gradient=position > 0)
            self._runs.append(run)
            self.operations += operations

    def __call__(self) -> None:
        for run in self._runs:
            run().numpy()


def _one_convolution(layer: keras.layers.Conv2D, batch: int, input_gradient: bool):
    dtype = layer.compute_dtype
    kernel = tf.cast(layer.kernel, dtype)
    in_shape, out_shape = (batch, *layer.input.shape[1:]), (batch, *layer.output.shape[1:])
    images = tf.cast(tf.random.uniform(in_shape), dtype)
    gradient = tf.cast(tf.random.uniform(out_shape), dtype)
    settings = {
        "strides": [1, *layer.strides, 1],
        "padding": layer.padding.upper(),
        "dilations": [1, *layer.dilation_rate, 1],
    }

    @tf.function
    def run(images, kernel, gradient):
        outputs = [
            tf.raw_ops.Conv2D(input=images, filter=kernel, **settings),
            tf.raw_ops.Conv2DBackpropFilter(
                input=images, filter_sizes=kernel.shape, out_backprop=gradient, **settings
            ),
        ]
        if input_gradient:
            outputs.append(
                tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=in_shape, filter=kernel, out_backprop=gradient, **settings
                )
            )
        return tf.add_n([output[0, 0, 0, 0] for output in outputs])

    once = 2 * math.prod(out_shape) * math.prod(kernel.shape[:3])
    return lambda: run(images, kernel, gradient), once * (3 if input_gradient else 2)
