"""Benchmarks: each measures one promise about speed or memory, against something in this process.

>>> [entry.name for entry in BENCHMARKS["overhead"](rounds=1, **tiny("overhead"))]
['overhead/six_layer']
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from research.benchmarks.bank import bank
from research.benchmarks.base import Entry, alternate, paired_ratio
from research.benchmarks.convolutions import convolutions
from research.benchmarks.family import family
from research.benchmarks.folder import folder
from research.benchmarks.inference import inference
from research.benchmarks.memory import memory
from research.benchmarks.overhead import overhead
from research.benchmarks.peers import peers
from research.benchmarks.pipeline import pipeline
from research.benchmarks.precision import precision
from research.benchmarks.reference import reference
from research.benchmarks.time_to_score import time_to_score

#: Every benchmark by name. Each takes `rounds`, how often to time, and sizes, and yields entries.
BENCHMARKS: dict[str, Callable[..., Iterator[Entry]]] = {
    "overhead": overhead,
    "family": family,
    "precision": precision,
    "bank": bank,
    "pipeline": pipeline,
    "folder": folder,
    "convolutions": convolutions,
    "inference": inference,
    "memory": memory,
    "peers": peers,
    "time_to_score": time_to_score,
    "reference": reference,
}

__all__ = ["BENCHMARKS", "Entry", "alternate", "paired_ratio", "tiny"]


def tiny(name: str) -> dict[str, Any]:
    """Arguments that make a benchmark small: it runs in seconds, and its figures mean nothing.

    >>> tiny("bank")["sizes"]
    (40, 80)
    """
    return dict(importlib.import_module(f"research.benchmarks.{name}").TINY)
