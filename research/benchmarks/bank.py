"""What a large memory bank costs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import tensorflow as tf

from research.benchmarks import measuring
from research.benchmarks.base import Entry, alternate, milliseconds, paired_ratio
from research.benchmarks.steps import MethodStep, random_batch, timed
from rfd_tf.layers import MemoryBank

BAR = 1.05
#: The bank itself, and what is drawn at a time; a copy of the bank would make it 2.
MEMORY_BAR = 1.25
TINY = {
    "sizes": (40, 80),
    "image_size": 16,
    "batch_size": 4,
    "negatives": 8,
    "dimensions": 8,
    "storage_dtypes": ("bfloat16",),
    "memory_rows": 100_000,
}


def bank(
    rounds: int = 25,
    sizes: tuple[int, int] = (10_000, 10_000_000),
    backbone: str = "six_layer",
    image_size: int = 32,
    batch_size: int = 32,
    negatives: int = 4096,
    dimensions: int = 128,
    storage_dtypes: Sequence[str] = ("float32", "bfloat16"),
    memory_rows: int | None = None,
) -> Iterator[Entry]:
    """Training step with a large memory bank / with a small one.

    Then the bank's operations by themselves, and the memory that a bank of that size takes while
    it is made, read and written.

    Args:
        rounds: how often each is timed.
        sizes: rows of the small and of the large bank.
        backbone, image_size, batch_size: see `MethodStep`.
        negatives: negatives of the NCE, shared by the batch.
        dimensions: length of a row.
        storage_dtypes: how the rows are stored.
        memory_rows: rows of the bank whose memory is measured; those of the large bank when None.
    """
    small, large = sizes
    case = (backbone, image_size, batch_size)
    for dtype in storage_dtypes:
        arguments = {
            "num_negatives": negatives,
            "projection_dimensions": dimensions,
            "bank_dtype": dtype,
        }
        steps = {rows: MethodStep(*case, rows, **arguments) for rows in (small, large)}
        seconds = alternate(steps, rounds)
        banks = {rows: step.method.memory_bank for rows, step in steps.items()}
        yield Entry(
            f"bank/step_{dtype}",
            paired_ratio(seconds[large], seconds[small]),
            f"step with a bank of {large:,} rows / of {small:,}, {dtype}, {backbone} at "
            f"{image_size}, {batch_size} images",
            at_most=BAR,
            details={
                "small_ms": milliseconds(seconds[small]),
                "large_ms": milliseconds(seconds[large]),
                "operations_ms": _operations(banks, batch_size, negatives, rounds),
            },
        )
        del steps, banks
        gc.collect()
    rows = memory_rows or large
    for dtype in storage_dtypes:
        arguments = {"rows": rows, "dimensions": dimensions, "storage_dtype": dtype}
        growth = measuring.peak_growth("research.benchmarks.bank:exercise", arguments)
        size = rows * dimensions * tf.as_dtype(dtype).size
        yield Entry(
            f"bank/memory_{dtype}",
            growth / size,
            f"peak memory of making, reading and writing a bank of {rows:,} rows / its size, "
            f"{dtype}",
            at_most=MEMORY_BAR if rows == large else None,
            details={"growth_mib": round(growth / 2**20, 1), "bank_mib": round(size / 2**20, 1)},
        )


def _operations(banks: dict[int, MemoryBank], batch_size: int, negatives: int, rounds: int) -> dict:
    """Milliseconds of each of the bank's operations, by rows."""
    measured = {}
    for rows, layer in banks.items():
        index = random_batch(batch_size, 1, rows)["index"]
        embedding = tf.nn.l2_normalize(tf.random.normal((batch_size, layer.dimensions)), axis=-1)

        def update(index, embedding, layer=layer):
            layer.update(index, embedding)
            return layer.lookup(index[:1])

        def shared(index, layer=layer):
            drawn, valid = layer.negatives(index, negatives, shared=True)
            return layer.lookup(drawn)[:1, :1], valid[:1, :1]

        def per_image(index, layer=layer):
            return layer.lookup(layer.negatives(index, negatives)[0])[:1, :1, :1]

        runs = {
            "lookup": timed(tf.function(layer.lookup), index),
            "update": timed(tf.function(update), index, embedding),
            "shared_negatives": timed(tf.function(shared), index),
            "per_image_negatives": timed(tf.function(per_image), index),
        }
        seconds = alternate(runs, rounds)
        measured[rows] = {name: milliseconds(values) for name, values in seconds.items()}
    return measured


def exercise(rows: int, dimensions: int, storage_dtype: str, steps: int = 5) -> None:
    """Makes a bank and runs some steps on it, for its memory to be measured."""
    layer = MemoryBank(rows, dimensions, storage_dtype=storage_dtype)
    index = random_batch(16, 1, rows)["index"]
    embedding = tf.nn.l2_normalize(tf.random.normal((16, dimensions)), axis=-1)

    @tf.function
    def step():
        drawn, _ = layer.negatives(index, 64, shared=True)
        layer.update(index, embedding + tf.reduce_sum(layer.lookup(drawn)))
        return layer.lookup(index)

    for _ in range(steps):
        step().numpy()
