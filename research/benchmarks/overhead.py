"""What RFD costs beyond training its backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from research.benchmarks.base import Entry, alternate, milliseconds, paired_ratio
from research.benchmarks.steps import BareStep, MethodStep

#: The published setting, and RotNet's network on small images.
CASES = (
    {
        "backbone": "alexnet",
        "image_size": 224,
        "batch_size": 16,
        "num_images": 1_281_167,
        "num_negatives": 4096,
    },
    {
        "backbone": "network_in_network",
        "image_size": 32,
        "batch_size": 128,
        "num_images": 50_000,
        "num_negatives": 4096,
    },
)
BAR = 1.10
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


def overhead(rounds: int = 7, cases: Sequence[dict[str, Any]] = CASES) -> Iterator[Entry]:
    """RFD step / forward pass, backward pass and update of the same backbone on the same views.

    The bare step has the same layers, precision and optimizer, the mean of the feature as its
    loss, and views that were rotated and normalised beforehand. Both in the default precision.

    Args:
        rounds: how often each step is timed.
        cases: arguments of `MethodStep`.
    """
    for case in cases:
        step = MethodStep(**case)
        seconds = alternate({"rfd": step, "bare": BareStep.beside(step)}, rounds)
        yield Entry(
            f"overhead/{case['backbone']}",
            paired_ratio(seconds["rfd"], seconds["bare"]),
            f"RFD step / bare training step, {case['backbone']} at {case['image_size']}, "
            f"{case['batch_size']} images, bank of {case['num_images']:,} rows",
            at_most=BAR,
            details={
                "rfd_ms": milliseconds(seconds["rfd"]),
                "bare_ms": milliseconds(seconds["bare"]),
                "policy": step.policy,
                **case,
            },
        )
