"""What the benchmarks share: entries, and timing of things against each other."""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """One figure of a benchmark.

    Args:
        name: short and stable, `benchmark/what`.
        value: the figure.
        meaning: what the figure is, in one line.
        unit: of the value; a quotient of two times has none.
        at_most, at_least: the bar it has to keep, or both None where it is only reported.
        details: further figures and settings, by name; JSON-able.

    >>> Entry("overhead/alexnet", 1.04, "RFD step / bare step", at_most=1.1).holds
    True
    """

    name: str
    value: float
    meaning: str
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def bar(self) -> float | None:
        """The number the value is held against, None where it is only reported."""
        return self.at_least if self.at_most is None else self.at_most

    @property
    def holds(self) -> bool | None:
        """Whether the value keeps its bar, None where there is none."""
        if self.at_most is not None:
            return bool(self.value <= self.at_most)
        if self.at_least is not None:
            return bool(self.value >= self.at_least)
        return None

    def as_json(self) -> dict[str, Any]:
        """The entry as plain values: `name`, `value`, `bar`, `holds`, and what explains them."""
        sense = None if self.bar is None else "at most" if self.at_most is not None else "at least"
        return {
            "name": self.name,
            "value": float(self.value) if math.isfinite(self.value) else None,
            "bar": self.bar,
            "holds": self.holds,
            "unit": self.unit,
            "bar_is": sense,
            "meaning": self.meaning,
            "details": dict(self.details),
        }


def alternate(
    runs: Mapping[str, Callable[[], object]], rounds: int = 7, warmup: int = 2
) -> dict[str, list[float]]:
    """Times several things in turn (A, B, A, B, ...), so that all meet the same machine.

    Args:
        runs: what to time, by name; each returns when its work is done.
        rounds: how often each is timed, at least 1.
        warmup: untimed rounds before.

    Returns:
        Seconds of each round, by name.

    >>> seconds = alternate({"a": lambda: None, "b": lambda: None}, rounds=3)
    >>> len(seconds["a"]), len(seconds["b"])
    (3, 3)
    """
    for _ in range(warmup):
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the quotients of neighbouring measurements.

    Pairs are measured one after the other, so that a machine that slows down slows both.

    >>> paired_ratio([2.0, 4.0, 90.0], [1.0, 2.0, 3.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def milliseconds(seconds: Sequence[float]) -> float:
    """The median in milliseconds, to two digits behind the point.

    >>> milliseconds([0.5, 0.1, 0.2])
    200.0
    """
    return round(1000 * statistics.median(seconds), 2)
