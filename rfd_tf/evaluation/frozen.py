"""One pass over the images with a frozen network, for many evaluators."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Data, Evaluator, Features, Result, Settings, Subject
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
    """
    model = subject.network()
    tensors = _tensors(evaluators, subject, model, settings)
    compact = [n for task in evaluators if task.compact for n in _of(tensors, task)]
    extract = FeatureExtractor(
        keras.Model(model.inputs, tensors), subject.mean, subject.std, compact
    )
    taken: dict[tuple[str, bool], Any] = {}

    def features(which: str, rotated: bool):
        if (which, rotated) not in taken:
            title = f"{subject.title}, {which}{' rotated' if rotated else ''}"
            images = data.train if which == "train" else data.test
            taken[which, rotated] = images.features(
                extract, rotated, title if settings.progress else None
            )
        return taken[which, rotated]

    for task in evaluators:
        train, labels = features("train", task.train_rotated)
        task.fit(_own(train, task), labels, data.num_classes)
        for images in task.images:
            test, labels = features("test", images == "rotated")
            for result in task.score(_own(test, task), labels):
                yield task, result._replace(images=images)


def _tensors(
    evaluators: Sequence[Evaluator], subject: Subject, model: keras.Model, settings: Settings
) -> dict[str, Any]:
    """All evaluators' feature tensors under "task/name", so that one pass gives them all."""
    return {
        f"{task.name}/{name}": tensor
        for task in evaluators
        for name, tensor in subject.feature_tensors(
            model, task.pooling, settings.endpoints, task.embedding
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
