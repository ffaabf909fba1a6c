"""What the input pipeline costs."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from research.benchmarks.base import Entry, alternate, milliseconds, paired_ratio
from research.benchmarks.photographs import write_photographs
from research.benchmarks.steps import MethodStep
from rfd_tf import data
from rfd_tf.paths import expanded

BAR = 0.9
WAITING_BAR = 0.05
#: Batches read before the clock starts.
WARMUP_BATCHES = 3
TINY = {
    "count": 6,
    "image_size": 64,
    "batch_size": 4,
    "batches": 2,
    "backbone": "six_layer",
    "step_batch_size": 4,
    "steps": 3,
}


def pipeline(
    rounds: int = 5,
    photos_dir: str | os.PathLike | None = None,
    count: int = 96,
    image_size: int = 224,
    batch_size: int = 64,
    batches: int = 16,
    backbone: str = "alexnet",
    step_batch_size: int = 16,
    steps: int = 12,
) -> Iterator[Entry]:
    """Images a second of the training pipeline / of a bare loop that decodes and resizes.

    The bare loop is `tf.data` at its plainest: read, `decode_jpeg`, `resize`, batch, prefetch.
    The pipeline cuts random windows, resizes with antialiasing, flips, and knows each image's
    index; beside it, with four crops of each image. Then the share of training that is spent
    waiting for the next batch.

    Args:
        rounds: how often each is timed.
        photos_dir: a folder of photographs; where None, synthetic ones are made.
        count: synthetic photographs to make.
        image_size: side of the training images, pixels.
        batch_size: images in a batch of the loops.
        batches: batches of one measurement.
        backbone, step_batch_size, steps: network, images and number of the training steps that
            are measured for the share of waiting.
    """
    with _photographs(photos_dir, count) as folder:
        source = data.load(data_dir=str(folder))
        arguments = {"image_size": image_size, "seed": 0, "crop": "resized"}
        size = min(batch_size, source.num_images)
        ours = data.training_dataset(source, batch_size=size, **arguments)
        streams = {
            "pipeline": ours,
            "four_crops": data.training_dataset(source, batch_size=size, crops=4, **arguments),
            "bare": bare_loop(source.paths, image_size, size),
            "bare_antialiased": bare_loop(source.paths, image_size, size, antialias=True),
        }
        seconds = _alternate_streams(streams, rounds, batches)
        rate = {
            f"{name}_images_per_second": round(size * batches / statistics.median(values), 1)
            for name, values in seconds.items()
        }
        setting = f"{image_size} pixels from {source.num_images} photographs"
        yield Entry(
            "pipeline/rate",
            paired_ratio(seconds["bare"], seconds["pipeline"]),
            f"images a second of the pipeline / of a bare decode-and-resize loop, {setting}",
            at_least=BAR,
            details=rate,
        )
        yield Entry(
            "pipeline/rate_antialiased",
            paired_ratio(seconds["bare_antialiased"], seconds["pipeline"]),
            f"the same, where the bare loop resizes with antialiasing, too, {setting}",
            details=rate,
        )
        yield Entry(
            "pipeline/four_crops",
            paired_ratio(seconds["pipeline"], seconds["four_crops"]),
            f"images a second with four crops of each / with one, {setting}",
            details=rate,
        )
        step = MethodStep(backbone, image_size, min(step_batch_size, source.num_images), 1000)
        stream = data.training_dataset(source, batch_size=step.batch["index"].shape[0], **arguments)
        yield _waiting(step, stream, steps, f"{backbone} at {setting}")


def bare_loop(paths, image_size: int, batch_size: int, antialias: bool = False) -> tf.data.Dataset:
    """The plainest endless stream of decoded, resized photographs: `[B, S, S, 3]` float32."""

    def load(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, [image_size, image_size], antialias=antialias)

    files = tf.data.Dataset.from_tensor_slices(tf.constant(paths)).repeat()
    images = files.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _alternate_streams(streams, rounds: int, batches: int) -> dict[str, list[float]]:
    """Seconds for a number of batches of each stream in turn, once it flows."""
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(rounds):
        for name, stream in streams.items():
            # A fresh one each time: one left waiting would go on filling its buffers.
            iterator = iter(stream)
            for _ in range(WARMUP_BATCHES):
                next(iterator)
            start = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            seconds[name].append(time.perf_counter() - start)
            del iterator
    return seconds


def _waiting(step: MethodStep, stream: tf.data.Dataset, steps: int, setting: str) -> Entry:
    iterator = iter(stream)
    waited, worked = [], []
    for number in range(steps + 2):
        start = time.perf_counter()
        batch = next(iterator)
        received = time.perf_counter()
        float(step.function(batch)["loss"])
        if number >= 2:  # the first steps compile and fill the buffers
            waited.append(received - start)
            worked.append(time.perf_counter() - received)
    del iterator
    alone = alternate({"step": step}, max(3, steps // 4))["step"]
    return Entry(
        "pipeline/waiting",
        sum(waited) / (sum(waited) + sum(worked)),
        f"share of training spent waiting for data, {setting}",
        at_most=WAITING_BAR,
        details={
            "wait_ms": milliseconds(waited),
            "step_ms": milliseconds(worked),
            "step_without_pipeline_ms": milliseconds(alone),
            "step_slowed_by": round(statistics.median(worked) / statistics.median(alone), 3),
        },
    )


@contextlib.contextmanager
def _photographs(folder: str | os.PathLike | None, count: int) -> Iterator[Path]:
    if folder is not None:
        yield expanded(folder)
        return
    with tempfile.TemporaryDirectory() as made:
        write_photographs(Path(made), count)
        yield Path(made)
