"""Tasks on frozen features, and the one pass over the images that many of them share."""

from __future__ import annotations

import abc
import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from rfd_tf.data.base import fingerprint
from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Data, Features, ImageSet, Result, Settings, Subject, Task
from rfd_tf.evaluation.feature_cache import FeatureCache
from rfd_tf.evaluation.features import FeatureExtractor, Pooling


class Evaluator(Task):
    """A task on frozen features of upright train images.

    Features are taken without augmentation, the network in inference mode; many evaluators share
    one pass over the images.

    Attributes:
        pooling: how feature maps become vectors: `("average" or "max", size)`, to at most that
            size; size may also be a function of the number of channels. Vectors are taken as
            they are.
        compact: whether cached features may be float16.
        embedding: whether the projected embedding is evaluated too, where there is one.
        pixels: whether the images' own pixels are evaluated too, as "pixels".
        train_rotated: whether train images are rotated by their `turns`.
        images: which test images are evaluated, of "upright" and "rotated".

    >>> class LargestNumber(Evaluator):
    ...     name = "largest_number"
    ...     def settings(self, num_train):
    ...         return {"guess": "the place of the feature's largest number"}
    ...     def fit(self, train, labels, num_classes):
    ...         self.num_classes = num_classes
    ...     def score(self, test, labels):
    ...         for feature, values in test.items():
    ...             guess = values.argmax(axis=1) % self.num_classes
    ...             yield Result(feature, float(np.mean(guess == labels)), when="")
    >>> train, labels = {"f": np.eye(3)}, np.arange(3)
    >>> [each.value for each in LargestNumber().evaluate(train, labels, train, labels, 3)]
    [1.0]
    """

    pooling: Pooling = ("average", 1)
    compact: bool = False
    embedding: bool = False
    pixels: bool = False
    train_rotated: bool = False
    images: tuple[str, ...] = ("upright", "rotated")

    @abc.abstractmethod
    def settings(self, num_train: int) -> dict:
        """Returns what is needed to reproduce the scores, for JSON."""

    @abc.abstractmethod
    def fit(self, train: Features, labels: np.ndarray, num_classes: int) -> None:
        """Learns from features `{name: [num_train, dim]}` and labels int64 `[num_train]`."""

    @abc.abstractmethod
    def score(self, test: Features, labels: np.ndarray) -> Iterator[Result]:
        """Yields results for test features of the fitted names; `images` is filled in later."""

    def evaluate(
        self,
        train: Features,
        train_labels: np.ndarray,
        test: Features,
        test_labels: np.ndarray,
        num_classes: int,
    ) -> Iterator[Result]:
        """Fits on the train features, then yields results on the test features."""
        self.fit(train, train_labels, num_classes)
        yield from self.score(test, test_labels)

    def protocol(self, data: Data) -> dict:
        """Returns `settings` for the images to learn from."""
        return self.settings(len(data.train))

    def check(self, subject: Subject, data: Data) -> None:
        """Raises `UserError` where the network lacks an endpoint to evaluate."""
        subject.feature_tensors(subject.network(), self.pooling)

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        """Takes the features of one network, fits and yields results."""
        for _, result in evaluate([self], subject, data, settings):
            yield result


def check(
    evaluators: Sequence[Evaluator], subject: Subject, data: Data, settings: Settings
) -> None:
    """Raises `UserError` for an endpoint that the network lacks or features that cannot fit."""
    tensors = _tensors(evaluators, subject, subject.network(), settings)
    if not settings.cache_features:
        _check_memory(tensors, evaluators, len(data.train), len(data.test))


def evaluate(
    evaluators: Sequence[Evaluator], subject: Subject, data: Data, settings: Settings
) -> Iterator[tuple[Evaluator, Result]]:
    """Takes a network's features once and yields every evaluator's results on them.

    Args:
        evaluators: what evaluates; features are taken for all of them together.
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
    """Refuses features that exceed the machine's memory, where its size is known."""
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
