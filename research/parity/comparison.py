"""How far a number is from its reference, and how far it may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from research.parity.vector_files import Vectors, need_shape
from rfd_tf.errors import UserError

FEATURES_BAR = 1e-4
# How many times its own rounding's effect a quantity may be off, and how far at most.
ROUNDING_FACTOR = 2.0
ROUNDING_LIMIT = 0.3
HEADER = (
    f"{'file':<22} {'quantity':<20} {'absolute':>9} {'relative':>9} {'bar':>7} {'rounding':>9}  "
    "verdict"
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far one quantity is from the reference.

    Attributes:
        file, quantity: where the reference stands.
        absolute: largest absolute difference.
        relative: largest relative difference, see `compare`.
        bar: largest relative difference allowed, 0 for equality.
        rounding: how much the quantity changes, relatively, when what it is computed from changes
            in the last digits of float32; 0 where this was not needed or does not count.
    """

    file: str
    quantity: str
    absolute: float
    relative: float
    bar: float
    rounding: float = 0.0

    @property
    def allowed(self) -> float:
        """The bar, or what rounding alone does where that is more."""
        return max(self.bar, min(ROUNDING_FACTOR * self.rounding, ROUNDING_LIMIT))

    @property
    def within(self) -> bool:
        return self.relative <= self.allowed

    @property
    def verdict(self) -> str:
        if not self.within:
            return "OUT"
        return "ok" if self.relative <= self.bar else "ok, rounding"

    def line(self) -> str:
        """One line of the table under `HEADER`."""
        return (
            f"{self.file:<22} {self.quantity:<20} {self.absolute:>9.1e} {self.relative:>9.1e} "
            f"{'exact' if self.bar == 0 else f'{self.bar:.0e}':>7} "
            f"{f'{self.rounding:.1e}' if self.rounding else '-':>9}  {self.verdict}"
        )


def compare(vectors: Vectors, name: str, found: Any, bar: float, scale: Any = None) -> Comparison:
    """Compares an array with the reference of that name.

    Args:
        vectors: the file.
        name: the reference's name.
        found: this package's value, of the reference's shape.
        bar: largest relative difference allowed.
        scale: what each entry's difference is divided by, positive numbers of the reference's
            shape; the reference's largest magnitude when None.

    Raises:
        UserError: the reference has another shape.
    """
    wanted = np.asarray(vectors[name], "float64")
    found = np.asarray(found, "float64")
    if found.size == wanted.size and max(found.ndim, wanted.ndim) <= 1:
        # A number may be stored as an array of one.
        found = found.reshape(wanted.shape)
    if found.shape != wanted.shape:
        raise UserError(
            f"array '{name}' of {vectors.name} has shape {wanted.shape}; "
            f"what it is compared with has {found.shape}"
        )
    absolute = float(np.abs(found - wanted).max(initial=0.0))
    scale = np.abs(wanted).max(initial=0.0) if scale is None else scale
    relative = relative_difference(found, wanted, scale)
    return Comparison(vectors.name, name, absolute, relative, bar)


def relative_difference(a: Any, b: Any, scale: Any) -> float:
    """The largest of |a - b| / scale over all entries; NaN if any entry is."""
    difference = np.abs(np.asarray(a, "float64") - np.asarray(b, "float64"))
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = np.where(difference == 0, 0.0, difference / np.asarray(scale, "float64"))
    return float(quotients.max(initial=0.0))


def compare_features(vectors: Vectors, stem: str, value: Any) -> Iterator[Comparison]:
    """Compares a map's mean per image and the first values of each image, flattened."""
    flat = np.asarray(value).reshape(len(value), -1)
    yield compare(vectors, f"{stem}_mean", flat.mean(axis=1, dtype="float64"), FEATURES_BAR)
    need_shape(vectors, f"{stem}_head", len(flat), None)
    head = flat[:, : vectors[f"{stem}_head"].shape[1]]
    yield compare(vectors, f"{stem}_head", head, FEATURES_BAR)
