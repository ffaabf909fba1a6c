"""Checks of what a user gives a method as options."""

from __future__ import annotations

import math
import numbers

from rfd_tf.errors import UserError


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """Returns a whole number within bounds, or raises `UserError`.

    >>> whole("permutations", 100, least=2)
    100
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UserError(f"{name} {value!r} must be a whole number")
    if value < least or (most is not None and value > most):
        raise UserError(f"{name} {value} must be {_range(least, most)}")
    return int(value)


def number(name: str, value: object, least: float, most: float | None = None) -> float:
    """Returns a finite number within bounds, or raises `UserError`.

    >>> number("dropout", 0.5, least=0, most=1)
    0.5
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UserError(f"{name} {value!r} must be a number")
    if value < least or (most is not None and value > most):
        raise UserError(f"{name} {value} must be {_range(least, most)}")
    return float(value)


def interval(name: str, value: object, least: float) -> tuple[float, float]:
    """Returns two rising numbers, the first at least `least`, or raises `UserError`.

    >>> interval("scale", [0.8, 1.2], least=0.1)
    (0.8, 1.2)
    """
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise UserError(f"{name} {value!r} must be two numbers such as [0.8,1.2]")
    low, high = (number(name, each, least) for each in value)
    if low > high:
        raise UserError(f"{name} [{low:g},{high:g}] must rise")
    return low, high


def _range(least, most) -> str:
    return f"at least {least}" if most is None else f"from {least} to {most}"
