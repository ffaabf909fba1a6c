"""What fused layers and bfloat16 save."""

from __future__ import annotations

from collections.abc import Iterator

from research.benchmarks.base import Entry, alternate, milliseconds, paired_ratio
from research.benchmarks.steps import MethodStep
from rfd_tf.training.strategy import bfloat16_is_faster

BAR = 0.30
TINY = {"backbone": "six_layer", "image_size": 16, "batch_size": 4, "num_images": 100}


def precision(
    rounds: int = 7,
    backbone: str = "network_in_network",
    image_size: int = 32,
    batch_size: int = 128,
    num_images: int = 50_000,
) -> Iterator[Entry]:
    """RFD step in the default precision / the same step with Keras' own layers in float32.

    Also this package's layers in float32, which tells the two causes apart. The bar is one for
    processors with bfloat16 in hardware; without, the figure is only reported.

    Args:
        rounds: how often each step is timed.
        backbone, image_size, batch_size, num_images: see `MethodStep`.
    """
    case = (backbone, image_size, batch_size, num_images)
    steps = {
        "default": MethodStep(*case),
        "stock": MethodStep(*case, policy="float32", stock=True),
        "float32": MethodStep(*case, policy="float32"),
    }
    seconds = alternate(steps, rounds)
    setting = f"{backbone} at {image_size}, {batch_size} images"
    details = {f"{name}_ms": milliseconds(values) for name, values in seconds.items()}
    yield Entry(
        "precision/default",
        paired_ratio(seconds["default"], seconds["stock"]),
        f"RFD step in the default precision ({steps['default'].policy}) / with stock Keras layers "
        f"in float32, {setting}",
        at_most=BAR if bfloat16_is_faster() else None,
        details={**details, "policy": steps["default"].policy},
    )
    yield Entry(
        "precision/float32",
        paired_ratio(seconds["float32"], seconds["stock"]),
        f"RFD step in float32 / with stock Keras layers in float32, {setting}",
        details=details,
    )
