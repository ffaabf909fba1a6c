"""Chooses the learning rate of a fine-tuning on a held-out part of its training labels."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Data, ImageSet, Result, Settings, Subject
from rfd_tf.evaluation.partial import PartialResults
from rfd_tf.evaluation.protocols import Training
from rfd_tf.evaluation.splits import held_out
from rfd_tf.evaluation.training_state import Diverged, TrainingState

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
#: The rate where every class has one label, so that none can be held out.
FALLBACK = 0.03


@dataclasses.dataclass(frozen=True)
class Choice:
    """The outcome of a sweep.

    Attributes:
        rate: the one to train with.
        accuracies: held-out accuracy after the last epoch of each rate; empty without a sweep.

    >>> Choice.best({0.01: 0.5, 0.03: 0.7, 0.1: 0.7, 0.3: 0.7}).rate
    0.1
    """

    rate: float
    accuracies: dict[float, float]

    @classmethod
    def best(cls, accuracies: dict[float, float]) -> Choice:
        """Chooses the rate of the highest accuracy: of equal ones the middle, the higher of two."""
        highest = max(accuracies.values())
        equal = sorted(rate for rate, value in accuracies.items() if value == highest)
        return cls(equal[len(equal) // 2], accuracies)


def short(training: Training) -> Training:
    """Returns the training that a rate is tried in: the same in a third of the epochs.

    >>> short(Training(30, 0.1, 128)).epochs
    10
    """
    return training.with_epochs(max(1, training.epochs // 3))


def protocol(training: Training) -> dict[str, Any]:
    """Returns what a protocol says of the sweep, in place of a learning rate."""
    return {
        "chosen": "by the accuracy on held-out training labels after the last epoch; of equal "
        "accuracies the middle rate",
        "rates": list(RATES),
        "epochs_of_each": short(training).epochs,
        "held_out": "a fifth of every class of the training images, at least one of two; the test "
        "images have no part in it",
        "without_held_out": f"{FALLBACK:g} where every class has one label",
        "random_init": "has a sweep of its own",
        "cost": "about 1.3 times the training with the chosen rate, which sees all labels",
    }


def choose(
    build: Callable[[], keras.Model],
    training: Training,
    subject: Subject,
    data: Data,
    images: ImageSet,
    settings: Settings,
    title: str,
    partial: PartialResults,
    *,
    seed: int | None = None,
) -> Choice:
    """Tries every rate on four fifths of the images and evaluates it on the rest.

    Args:
        build: returns the network to train, freshly initialised. It is compiled once for all rates.
        training: the training that the rate is for.
        subject: the network, for its normalisation and its identity.
        data: whose classes the images have; its test images are not used.
        images: all that the training will learn from.
        settings: of the evaluation.
        title: of the progress bars, and of the states of interrupted trials.
        partial: where finished trials are kept.
        seed: of order and augmentation; the settings' if None.

    Returns:
        The rate, and the accuracy of each; a rate whose loss does not stay finite has 0.
    """
    held = held_out(images.labels)
    if not held.any():
        return Choice(FALLBACK, {})
    trial = copy.copy(data)
    trial.train = images.some(np.flatnonzero(~held))
    trial.test = images.some(np.flatnonzero(held))
    accuracies, trials = {}, None
    for rate in RATES:
        tried = dataclasses.replace(short(training), learning_rate=rate)
        named = f"{title}, rate {rate:g}"
        key = [subject.sha256, subject.title, data.identity(), tried.describe(), named]
        key += [settings.seed if seed is None else seed, int(images.rows.sum())]
        if partial.get(key) is None:
            trials = trials or supervised.Trials(build())
            try:
                found = list(
                    supervised.train(
                        trials,
                        ["all layers"],
                        tried,
                        subject,
                        trial,
                        settings,
                        named,
                        images=("upright",),
                        seed=seed,
                    )
                )
            except Diverged:
                TrainingState(settings.output, f"{named} {subject.title}", None).remove()
                found = [Result("all layers", 0.0)]
            partial.put(key, found[:1])
        accuracies[rate] = partial.get(key)[0].value
    return Choice.best(accuracies)


def results(choices: Sequence[Choice], images: str) -> list[Result]:
    """Returns the rates tried, their held-out accuracies and the rate chosen, as results.

    Args:
        choices: of one sweep, or of several draws, over which mean and deviation are taken.
        images: what the results call the training images.

    >>> results([Choice(0.1, {0.1: 0.5})], "upright")[0][:2]
    ('held out, rate 0.1', 0.5)
    """
    found = [
        _summary(f"held out, rate {rate:g}", [each.accuracies[rate] for each in choices], images)
        for rate in choices[0].accuracies
    ]
    chosen = _summary("chosen rate", [each.rate for each in choices], images)
    return [*found, chosen._replace(metric="learning rate", when="")]


def _summary(name: str, values: Sequence[float], images: str) -> Result:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Result(name, float(np.mean(values)), images, spread=spread)
