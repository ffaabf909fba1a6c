"""Benchmarks: each measures one promise about speed or memory, against something in this process.

>>> [entry.name for entry in BENCHMARKS["overhead"](rounds=1, **tiny("overhead"))]
['overhead/six_layer']
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from rfd_tf.benchmarks.bank import bank
from rfd_tf.benchmarks.base import Entry, alternate, paired_ratio
from rfd_tf.benchmarks.convolutions import convolutions
from rfd_tf.benchmarks.family import family
from rfd_tf.benchmarks.folder import folder
from rfd_tf.benchmarks.inference import inference
from rfd_tf.benchmarks.memory import memory
from rfd_tf.benchmarks.overhead import overhead
from rfd_tf.benchmarks.pipeline import pipeline
from rfd_tf.benchmarks.precision import precision
from rfd_tf.benchmarks.reference import reference

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
    "reference": reference,
}

__all__ = ["BENCHMARKS", "Entry", "alternate", "paired_ratio", "tiny"]


def tiny(name: str) -> dict[str, Any]:
    """Arguments that make a benchmark small: it runs in seconds, and its figures mean nothing.

    >>> tiny("bank")["sizes"]
    (40, 80)
    """
    return dict(importlib.import_module(f"rfd_tf.benchmarks.{name}").TINY)
