"""Judges one weights file: its features on labelled images, beside a random network's."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

import rfd_tf
from rfd_tf import applications
from rfd_tf.applications.weights import find_weights, sha256
from rfd_tf.data.sources import Source
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Evaluator, Features
from rfd_tf.evaluation.features import FeatureExtractor, feature_tensors
from rfd_tf.evaluation.splits import check_classes, held_out, subset

# Sets whose pixels take no more than this are read once and kept.
_KEEP_BYTES = 1 << 30
_PACKAGES = ("tensorflow", "keras", "numpy")
IMAGES = ("upright", "rotated")


class ImageSet:
    """The rows of a source that are learnt from or judged, at one image size.

    Args:
        source: labelled images.
        rows: increasing indices of the images used.
        image_size: height and width in pixels.
        batch_size: images a step.
    """

    def __init__(self, source: Source, rows: np.ndarray, image_size: int, batch_size: int):
        self.source, self.rows = source, rows
        self._size, self._batch_size = image_size, batch_size
        self._kept: np.ndarray | None = None

    def features(
        self, extract: FeatureExtractor, rotations: np.ndarray | None, progress: str | None
    ) -> tuple[Features, np.ndarray]:
        """Returns features and labels; `rotations` are quarter turns by the source's index."""
        seen: list[np.ndarray] = []
        features = extract(
            self._batches(seen), rotations=rotations, progress=progress, num_images=len(self.rows)
        )
        # A file that can no longer be read is missing from the pass: labels go by what was seen.
        return features, self.source.labels[np.concatenate(seen)]

    def _batches(self, seen: list[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        from rfd_tf.data.pipeline import evaluation_dataset, load_images

        if len(self.rows) * self._size**2 * 3 <= _KEEP_BYTES:
            if self._kept is None:
                self._kept = load_images(self.source, self._size, self.rows)
            for start in range(0, len(self.rows), self._batch_size):
                stop = start + self._batch_size
                seen.append(self.rows[start:stop])
                yield {"image": self._kept[start:stop], "index": seen[-1]}
            return
        for batch in evaluation_dataset(
            self.source, image_size=self._size, batch_size=self._batch_size, indices=self.rows
        ).as_numpy_iterator():
            seen.append(batch["index"])
            yield batch


def evaluate(
    weights: str | os.PathLike,
    tasks: Sequence[Evaluator],
    train: Source,
    test: Source | None = None,
    *,
    endpoints: Sequence[str] | None = None,
    batch_size: int = 256,
    max_train_images: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Runs evaluators on the frozen features of a weights file and of a random network.

    Features are taken in inference mode without augmentation: of the train images upright, of the
    test images upright and with each one turned by a random multiple of 90 degrees. The random
    network has the same architecture and goes the same way through the same code.

    Args:
        weights: run folder, `.weights.h5` file with a record, or shipped name.
        tasks: evaluators, for example `[KNearestNeighbours()]`.
        train: labelled images to learn from.
        test: labelled images to judge; None holds out a fixed fifth of every class of `train`
            (see `held_out`).
        endpoints: names to judge; by default all endpoints of the backbone.
        batch_size: images a step.
        max_train_images: learn from at most so many, chosen by a hash of their index.
        seed: of the random network and of the turns; sets Keras' global seed.
        progress: whether to show progress bars.

    Returns:
        A dict that is ready for JSON: "protocol" {task: settings}, "weights", "sha256",
        "backbone", "data", "results" (a list of {"task", "name", "images": "upright" or
        "rotated", "accuracy", "random_init"}, accuracies from 0 to 1), "versions", "date",
        "minutes".

    Raises:
        UserError: weights, endpoints or images that cannot be judged, before the long work.

    >>> import tempfile
    >>> from rfd_tf import data
    >>> from rfd_tf.evaluation import KNearestNeighbours
    >>> network = applications.build("six_layer", 32)
    >>> record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 32}
    >>> path = os.path.join(tempfile.mkdtemp(), "backbone.weights.h5")
    >>> path = applications.save_backbone(network, path, record)
    >>> report = evaluate(path, [KNearestNeighbours()], data.digits(), data.digits("test"),
    ...                   endpoints=["block6"], max_train_images=200)
    >>> sorted(report["results"][0])
    ['accuracy', 'images', 'name', 'random_init', 'task']
    """
    start = time.monotonic()
    path = find_weights(weights)
    model, record = applications.load_backbone(path)
    num_classes = check_classes(train, test)
    rows = np.arange(train.num_images)
    judged = held_out(train.labels) if test is None else np.zeros(len(rows), bool)
    learnt = rows[~judged]
    if max_train_images is not None:
        learnt = subset(learnt, max_train_images)
    size = record["image_size"]
    train_set = ImageSet(train, learnt, size, batch_size)
    if test is None:
        test_set = ImageSet(train, rows[judged], size, batch_size)
    else:
        test_set = ImageSet(test, np.arange(test.num_images), size, batch_size)
    if not len(test_set.rows):
        raise UserError(f"'{train.name}' has one image a class: none can be held out for testing")
    tensors = _tensors(model, record, tasks, endpoints)
    _check_memory(tensors, tasks, len(learnt), len(test_set.rows))

    turns = np.random.default_rng(seed).integers(0, 4, test_set.source.num_images)
    run = _Pass(tasks, train_set, test_set, turns, record, num_classes, progress)
    trained = run(model, tensors, "")
    del model, tensors
    keras.utils.set_random_seed(seed)
    random = applications.build(record["backbone"], size, **record["arguments"])
    values = run(random, _tensors(random, record, tasks, endpoints), "random init, ")

    return {
        "protocol": {task.name: task.settings(len(learnt)) for task in tasks},
        "weights": str(weights),
        "sha256": sha256(path),
        "backbone": {key: record.get(key) for key in ("backbone", "arguments", "image_size")},
        "epoch": record.get("epoch"),
        "data": {
            "train": train.name,
            "train_fingerprint": train.fingerprint,
            "test": f"{train.name}, held out: the fifth of every class with the lowest index hash"
            if test is None
            else test.name,
            "test_fingerprint": test_set.source.fingerprint,
            "num_train": len(learnt),
            "num_test": len(test_set.rows),
            "num_classes": num_classes,
            "rotated": f"each test image turned by a random multiple of 90 degrees, seed {seed}; "
            "train images upright",
            "random_init": f"same architecture and code path, untrained, seed {seed}",
        },
        "results": [
            {
                "task": task,
                "name": name,
                "images": images,
                "accuracy": accuracy,
                "random_init": values[task, name, images],
            }
            for (task, name, images), accuracy in trained.items()
        ],
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "minutes": round((time.monotonic() - start) / 60, 2),
    }


class _Pass:
    """One network's way through all tasks."""

    def __init__(
        self,
        tasks: Sequence[Evaluator],
        train: ImageSet,
        test: ImageSet,
        turns: np.ndarray,
        record: dict[str, Any],
        num_classes: int,
        progress: bool,
    ):
        self.tasks, self.train, self.test, self.turns = tasks, train, test, turns
        self.mean = record.get("mean") or applications.IMAGENET_MEAN
        self.std = record.get("std") or applications.IMAGENET_STD
        self.num_classes, self.progress = num_classes, progress

    def __call__(
        self, model: keras.Model, tensors: dict[str, Any], title: str
    ) -> dict[tuple[str, str, str], float]:
        """Returns (task, feature name, images) -> accuracy."""
        compact = [n for task in self.tasks if task.compact for n in _of(tensors, task)]
        extract = FeatureExtractor(keras.Model(model.inputs, tensors), self.mean, self.std, compact)

        def features(images: ImageSet, rotations: np.ndarray | None, what: str):
            return images.features(extract, rotations, f"{title}{what}" if self.progress else None)

        train = features(self.train, None, "train")
        tests = {
            "upright": features(self.test, None, "test"),
            "rotated": features(self.test, self.turns, "test rotated"),
        }
        results = {}
        for task in self.tasks:
            task.fit(_own(train[0], task), train[1], self.num_classes)
            for images, (test, labels) in tests.items():
                for name, value in task.score(_own(test, task), labels):
                    results[task.name, name, images] = value
        return results


def _tensors(
    model: keras.Model,
    record: dict[str, Any],
    tasks: Sequence[Evaluator],
    endpoints: Sequence[str] | None,
) -> dict[str, Any]:
    """All tasks' feature tensors under "task/name", so that one pass gives them all."""
    return {
        f"{task.name}/{name}": tensor
        for task in tasks
        for name, tensor in feature_tensors(
            model, record.get("feature"), task.pooling, endpoints
        ).items()
    }


def _of(values: dict[str, Any], task: Evaluator) -> list[str]:
    return [name for name in values if name.startswith(f"{task.name}/")]


def _own(features: Features, task: Evaluator) -> Features:
    return {name.removeprefix(f"{task.name}/"): features[name] for name in _of(features, task)}


def _check_memory(
    tensors: dict[str, Any], tasks: Sequence[Evaluator], num_train: int, num_test: int
) -> None:
    """Refuses features that cannot fit, where the machine tells how much memory it has."""
    width = sum(
        int(tensors[name].shape[-1]) * (2 if task.compact else 4)
        for task in tasks
        for name in _of(tensors, task)
    )
    needed = width * (num_train + 2 * num_test)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if needed > 0.8 * memory:
        raise UserError(
            f"the features of {num_train + num_test} images take {needed / 2**30:.0f} GiB and this "
            f"machine has {memory / 2**30:.0f} GiB; give fewer --endpoints, a smaller "
            "--probe_size or --max_train_images"
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "rfd_tf": rfd_tf.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(report: dict[str, Any]) -> str:
    """Returns a report's results as an aligned text table, in percent."""
    results = report["results"]
    rows = [["task", "feature", *(c for i in IMAGES for c in (i, "random init"))]]
    for task, name in dict.fromkeys((row["task"], row["name"]) for row in results):
        cells = [task, name]
        for images in IMAGES:
            for row in results:
                if (row["task"], row["name"], row["images"]) == (task, name, images):
                    values = row["accuracy"], row["random_init"]
                    cells += [f"{100 * value:.1f}" for value in values]
        rows.append(cells)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(left + right).rstrip())
    return "\n".join(lines)
