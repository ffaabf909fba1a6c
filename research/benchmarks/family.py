"""How long the steps of the methods take, beside one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from research.benchmarks.base import Entry, alternate, milliseconds, paired_ratio
from research.benchmarks.steps import MethodStep
from rfd_tf.methods import METHODS

_EXACT = {"instance_loss": "softmax"}

#: What a method is given besides its defaults: what its configuration for CIFAR-10 gives it.
SETTINGS: dict[str, dict[str, Any]] = {
    "distillation": {"teacher": "network_in_network.rfd_cifar10"},
    "instance": _EXACT,
    "jigsaw": {"grid": 2, "permutations": 24, "permutations_per_image": 4, "tile_units": 64},
    "pirl": {**_EXACT, "crops": 2},
    "rfd": {**_EXACT, "crops": 4, "lambda_contrast": 1.0},
    "rfd_jigsaw": {**_EXACT, "crops": 4, "lambda_contrast": 1.0, "lambda_jigsaw": 0.3},
}
BASE = "rotation"
TINY = {
    "image_size": 18,
    "batch_size": 4,
    "num_images": 100,
    "names": ("rfd", "jigsaw"),
}


def family(
    rounds: int = 7,
    backbone: str = "six_layer",
    image_size: int = 32,
    batch_size: int = 128,
    num_images: int = 50_000,
    names: tuple[str, ...] = tuple(METHODS),
    settings: Mapping[str, Mapping[str, Any]] = SETTINGS,
) -> Iterator[Entry]:
    """A step of each method / a step of rotation prediction, same backbone and images.

    Methods see an image in different numbers of views: rotation prediction in four whole ones,
    jigsaw in four small tiles. What happens between epochs (DeepCluster's clustering) is not in a
    step.

    Args:
        rounds: how often each step is timed.
        backbone, image_size, batch_size, num_images: see `MethodStep`.
        names: methods to time.
        settings: further arguments of `MethodStep` by method.
    """
    case = (backbone, image_size, batch_size, num_images)
    base = MethodStep(*case, method=BASE)
    for name in names:
        if name == BASE:
            continue
        step = MethodStep(*case, method=name, **settings.get(name, {}))
        seconds = alternate({"step": step, "base": base}, rounds)
        yield Entry(
            f"family/{name}",
            paired_ratio(seconds["step"], seconds["base"]),
            f"step of {name} / of rotation prediction, {backbone} at {image_size}, "
            f"{batch_size} images",
            details={
                "step_ms": milliseconds(seconds["step"]),
                "rotation_ms": milliseconds(seconds["base"]),
                "policy": step.policy,
                "arguments": dict(settings.get(name, {})),
            },
        )
