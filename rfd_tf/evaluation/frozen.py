"""One pass over the images with a frozen network, for many evaluators."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from rfd_tf.data.base import fingerprint
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Data, Evaluator, Features, ImageSet, Result, Settings, Subject
from rfd_tf.evaluation.feature_cache import FeatureCache
from rfd_tf.evaluation.features import FeatureExtractor


def check(
    evaluators: Sequence[Evaluator], subject: Subject, data: Data, settings: Settings
) -> None:
    """Raises `UserError` for an endpoint that the network lacks or features that cannot fit."""
    tensors = _tensors(evaluators, subject, subject.network(), settings)
    if not settings.cache_features:
        _check_memory(tensors, evaluators, len(data.train), len(data.test))


def judge(
    evaluators: Sequence[Evaluator], subject: Subject, data: Data, settings: Settings
) -> Iterator[tuple[Evaluator, Result]]:
    """Takes a network's features once and yields every evaluator's results on them.

    Args:
        evaluators: what judges; features are taken for all of them together.
        subject: the network.
        data: labelled images.
        settings: of the evaluation.

    Raises:
        UserError: as `check`.
    """
    model = subject.network()
    tensors = _tensors(evaluators, subject, model, settings)
    if not settings.cache_features:
        _check_memory(tensors, evaluators, len(data.train), len(data.test))
    compact = [n for task in evaluators if task.compact for n in _of(tensors, task)]
    extract = FeatureExtractor(
        keras.Model(model.inputs, tensors), subject.mean, subject.std, compact
    )
    taken: dict[tuple[str, bool], tuple[Features, np.ndarray]] = {}

    def features(which: str, rotated: bool) -> tuple[Features, np.ndarray]:
        if (which, rotated) not in taken:
            images = data.train if which == "train" else data.test
            title = f"{subject.title}, {which}{' rotated' if rotated else ''}"
            progress = title if settings.progress else None
            if settings.cache_features:
                files = {name: _file(name, tensors[name], evaluators) for name in tensors}
                found = _kept_on_disk(extract, files, subject, images, rotated, settings, progress)
            else:
                found = images.features(extract, rotated, progress)
            taken[which, rotated] = found
        return taken[which, rotated]

    for task in evaluators:
        train, labels = features("train", task.train_rotated)
        task.fit(_own(train, task), labels, data.num_classes)
        for images in task.images:
            test, labels = features("test", images == "rotated")
            for result in task.score(_own(test, task), labels):
                yield task, result._replace(images=images)


def _file(name: str, tensor: Any, evaluators: Sequence[Evaluator]) -> str:
    """Names the file of a feature so that tasks that look at the same share it."""
    task = next(task for task in evaluators if name.startswith(f"{task.name}/"))
    kind = task.pooling[0] + ("-half" if task.compact else "")
    return f"{name.removeprefix(f'{task.name}/')}-{kind}-{tensor.shape[-1]}"


def _kept_on_disk(
    extract: FeatureExtractor,
    files: dict[str, str],
    subject: Subject,
    images: ImageSet,
    rotated: bool,
    settings: Settings,
    progress: str | None,
) -> tuple[Features, np.ndarray]:
    """Features from the cache, or else taken and put there; memory-mapped."""
    cache = FeatureCache(
        settings.output / "features",
        {
            "sha256": subject.sha256,
            "network": subject.title,
            "seed": None if subject.is_pretrained and not rotated else settings.seed,
            "images": images.source.fingerprint,
            "rows": fingerprint([images.rows.tobytes()]),
            "image_size": images.image_size,
            "rotated": rotated,
            "keras": keras.__version__,
        },
    )
    kept = cache.get(files.values())
    if kept is not None:
        return {name: kept[file] for name, file in files.items()}, images.labels
    features, labels = images.features(
        extract, rotated, progress, rows=lambda name: cache.rows(files[name], len(images))
    )
    if len(labels) < len(images):  # a file could not be read this time: not to be relied on
        cache.forget(files.values())
    return features, labels


def _tensors(
    evaluators: Sequence[Evaluator], subject: Subject, model: keras.Model, settings: Settings
) -> dict[str, Any]:
    """All evaluators' feature tensors under "task/name", so that one pass gives them all."""
    return {
        f"{task.name}/{name}": tensor
        for task in evaluators
        for name, tensor in subject.feature_tensors(
            model, task.pooling, settings.endpoints, task.embedding, task.pixels
        ).items()
    }


def _of(values: dict[str, Any], task: Evaluator) -> list[str]:
    return [name for name in values if name.startswith(f"{task.name}/")]


def _own(features: Features, task: Evaluator) -> Features:
    return {name.removeprefix(f"{task.name}/"): features[name] for name in _of(features, task)}


def _check_memory(
    tensors: dict[str, Any], evaluators: Sequence[Evaluator], num_train: int, num_test: int
) -> None:
    """Refuses features that cannot fit, where the machine tells how much memory it has."""
    width = sum(
        int(tensors[name].shape[-1]) * (2 if task.compact else 4)
        for task in evaluators
        for name in _of(tensors, task)
    )
    check_fits(
        width * (num_train + 2 * num_test),
        num_train + num_test,
        "--cache_features, fewer --endpoints, a smaller --probe_size or --max_train_images",
    )


def check_fits(needed: int, num_images: int, way_out: str) -> None:
    """Raises `UserError` where features of so many bytes cannot fit into the machine's memory.

    >>> check_fits(1000, 10, "fewer images")
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if needed > 0.8 * memory:
        raise UserError(
            f"the features of {num_images} images take {needed / 2**30:.0f} GiB and this "
            f"machine has {memory / 2**30:.0f} GiB; give {way_out}"
        )
