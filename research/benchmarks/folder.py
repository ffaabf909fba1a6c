"""How soon training starts on a folder of very many files, and what that takes of memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from research.benchmarks import measuring
from research.benchmarks.base import Entry

SECONDS_BAR = 30.0
#: Names, paths and sizes of a million files, in Python and in TensorFlow, and the largest of the
#: lists that come between.
MEMORY_BAR = 1.0
TINY = {"files": 2400, "files_a_folder": 300}

_SIZES = ((24, 20), (20, 24), (32, 18))


def folder(
    rounds: int = 1, files: int = 1_000_000, files_a_folder: int = 1000, where: str | None = None
) -> Iterator[Entry]:
    """From naming a folder of a million images to the first batch: seconds, and peak memory.

    The folder is made beforehand, of hard links to a few small JPEG and PNG files, and removed
    afterwards. Its files are in the system's cache then; a disk that has to move for each file, or
    a network, takes its own time on top. The images are looked at by their headers, as in every
    set of more than 200,000.

    Args:
        rounds: how often it is measured; the median counts.
        files: how many files.
        files_a_folder: how many of them lie in one folder.
        where: a folder to make it in; the system's folder for temporary files when None.
    """
    with tempfile.TemporaryDirectory(prefix="rfd_tf_many_", dir=where) as directory:
        make_folder(Path(directory), files, files_a_folder)
        measured = [
            measuring.peak_growth_and_result(
                "research.benchmarks.folder:start", {"directory": directory, "expected": files}
            )
            for _ in range(rounds)
        ]
    full = files == 1_000_000
    what = f"{files:,} files in {-(-files // files_a_folder):,} folders"
    yield Entry(
        "folder/start",
        float(np.median([sum(seconds.values()) for _, seconds in measured])),
        f"seconds from naming a folder to its first batch, {what}",
        unit="s",
        at_most=SECONDS_BAR if full else None,
        details={
            name: round(float(np.median([seconds[name] for _, seconds in measured])), 2)
            for name in measured[0][1]
        },
    )
    yield Entry(
        "folder/memory",
        float(np.median([growth for growth, _ in measured])) / 2**30,
        f"peak memory of that, beyond TensorFlow's own, {what}",
        unit="GiB",
        at_most=MEMORY_BAR if full else None,
        details={"bytes_a_file": round(float(np.median([g for g, _ in measured])) / files)},
    )


def make_folder(root: Path, files: int, files_a_folder: int) -> None:
    """Fills a folder with sub-folders of images; in each, six are files and the others links."""
    rng = np.random.default_rng(0)
    for number in range(-(-files // files_a_folder)):
        below = root / f"class{number:05}"
        below.mkdir()
        count = min(files_a_folder, files - number * files_a_folder)
        # A file system bounds how many names a file may have, hence new ones in each folder.
        originals = []
        for i in range(min(count, 2 * len(_SIZES))):
            height, width = _SIZES[i % len(_SIZES)]
            path = below / f"{i:06}.{'jpg' if i < len(_SIZES) else 'png'}"
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
            originals.append(path)
        for i in range(len(originals), count):
            original = originals[i % len(originals)]
            os.link(original, below / f"{i:06}{original.suffix}")


def start(directory: str, expected: int) -> dict[str, float]:
    """Opens a folder and reads a training batch; seconds of either."""
    from rfd_tf.data import image_folder, training_dataset

    began = time.perf_counter()
    source = image_folder(directory)
    assert len(source) == expected and not source.skipped
    found = time.perf_counter()
    batches = training_dataset(source, image_size=16, batch_size=64, seed=0)
    next(iter(batches))
    return {"find": found - began, "first_batch": time.perf_counter() - found}
