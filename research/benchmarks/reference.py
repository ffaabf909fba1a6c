"""The training step against another program's, measured by that program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from research.benchmarks.base import Entry, alternate, milliseconds
from research.benchmarks.steps import MethodStep
from rfd_tf.errors import UserError, unknown

#: How many times faster than a reference in that precision the step should be.
BARS = {"float32": 3.0, "bfloat16": 1.8}
TINY = {
    "backbone": "six_layer",
    "image_size": 16,
    "batch_size": 4,
    "num_images": 100,
    "reference_ms": {"float32": 1600.0, "bfloat16": 840.0},
}


def reference(
    rounds: int = 7,
    reference_ms: Mapping[str, float] | None = None,
    backbone: str = "alexnet",
    image_size: int = 224,
    batch_size: int = 16,
    num_images: int = 1_281_167,
) -> Iterator[Entry]:
    """Time of a step of another program / time of ours in the default precision.

    Args:
        rounds: how often the step is timed.
        reference_ms: milliseconds of the other program's step on the same machine, at the same
            sizes, by its precision (`float32`, `bfloat16`).
        backbone, image_size, batch_size, num_images: see `MethodStep`; by default the sizes of the
            published program.

    Raises:
        UserError: no time, a time that is not above 0, or an unknown precision.
    """
    if not reference_ms:
        raise UserError("benchmark 'reference' needs the other program's time: --reference_step_ms")
    for name, value in reference_ms.items():
        if name not in BARS:
            raise unknown("precision", name, BARS)
        if not value > 0:
            raise UserError(f"reference step of {value} ms must be above 0")
    step = MethodStep(backbone, image_size, batch_size, num_images)
    ours = milliseconds(alternate({"ours": step}, rounds)["ours"])
    for name, value in reference_ms.items():
        yield Entry(
            f"reference/{name}",
            value / ours,
            f"step of another program in {name} / RFD step in {step.policy}, {backbone} at "
            f"{image_size}, {batch_size} images",
            unit="times",
            at_least=BARS[name],
            details={"reference_ms": value, "ours_ms": ours},
        )
