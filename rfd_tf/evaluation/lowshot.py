"""Few labelled images a class: frozen features, or the whole network trained on them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation import rate_sweep, supervised
from rfd_tf.evaluation.base import BEST_EPOCH, LAST_EPOCH, Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.finetune import BATCH_NORMALISATION, HEAD, check_training, classifier
from rfd_tf.evaluation.linear import Probe
from rfd_tf.evaluation.partial import PartialResults
from rfd_tf.evaluation.protocols import Training
from rfd_tf.rules import Including, Rule

MODES = ("frozen", "fine-tuned")
# How often a training is evaluated, so that there is a best epoch.
_EVALUATIONS = 10


def draw(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Draws the same number of images of every class.

    With one seed, the images of a smaller number are among those of a larger one.

    Args:
        labels: classes of all images, int64 `[N]`.
        per_class: images of each class; every class has so many.
        seed: of the draw.

    Returns:
        Increasing places, int64 `[classes * per_class]`.

    >>> draw(np.array([0, 1, 0, 1, 1]), 2, seed=0).tolist()
    [0, 1, 2, 4]
    """
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def check_sizes(per_class: int | Sequence[int]) -> tuple[int, ...]:
    """Returns one number of images per class, or several, in increasing order.

    Raises:
        UserError: no number, or one below 1.

    >>> check_sizes([20, 5, 5])
    (5, 20)
    """
    sizes = sorted({int(number) for number in np.atleast_1d(per_class)})
    if not sizes or sizes[0] < 1:
        raise UserError(f"low-shot sets have 1 image a class or more; got {sizes}")
    return tuple(sizes)


def possible_sizes(per_class: Sequence[int], data: Data) -> list[int]:
    """Returns those numbers of images a class that every class of the train set has.

    Args:
        per_class: increasing numbers.
        data: labelled images.

    Raises:
        UserError: there is none.
    """
    fewest = int(np.unique(data.train.labels, return_counts=True)[1].min())
    possible = [number for number in per_class if number <= fewest]
    if not possible:
        raise UserError(
            f"the smallest class of '{data.train.source.name}' has {fewest} images to learn from, "
            f"fewer than the {per_class[0]} a class asked for; ask for {fewest} or fewer"
        )
    return possible


def check_possible(per_class: Sequence[int], data: Data) -> None:
    """Warns of numbers of images that a class lacks, which are skipped.

    Raises:
        UserError: all of them are.
    """
    possible = possible_sizes(per_class, data)
    skipped = [str(number) for number in per_class if number not in possible]
    if skipped:
        warnings.warn(
            f"{', '.join(skipped)} images per class are skipped: the smallest class of "
            f"'{data.train.source.name}' has fewer to learn from",
            stacklevel=2,
        )


class LowShot(Task):
    """Task: accuracy with few labelled images of each class, mean and spread over draws.

    "frozen" trains a linear probe on every frozen feature, without augmentation; "fine-tuned"
    trains the whole network, for which the random twin is the network trained from scratch on the
    same images. An epoch does not get shorter with the set: all sets are trained for the same
    number of steps. All test images are evaluated. The protocol of RotNet's paper is another task,
    `SemiSupervised`.

    Args:
        per_class: numbers of images per class; those larger than the smallest class are skipped.
        draws: number of random sets of each size.
        modes: "frozen", "fine-tuned" or both.
        steps: optimizer steps of each training.
        learning_rate: peak rate of fine-tuning's cosine schedule; None chooses it for every draw by
            a sweep on held-out labels, see `rfd_tf.evaluation.rate_sweep`.
        batch_size: images per step of fine-tuning.
        probe_size: side that maps are max-pooled to for the frozen probes.

    >>> LowShot(per_class=[5, 20], draws=3).per_class
    (5, 20)
    """

    name = "lowshot"
    rules = (
        Rule(("learning_rate", "batch_size"), {"modes": Including(("fine-tuned",))}),
        Rule(("probe_size",), {"modes": Including(("frozen",))}),
    )

    def __init__(
        self,
        per_class: Sequence[int] = (1, 5, 20, 100, 400, 1000),
        draws: int = 5,
        modes: Sequence[str] = MODES,
        steps: int = 500,
        learning_rate: float | None = None,
        batch_size: int = 128,
        probe_size: int = 4,
    ):
        self.per_class = check_sizes(per_class)
        for mode in modes or [""]:
            if mode not in MODES:
                raise unknown("low-shot mode", mode, MODES)
        if draws < 1 or steps < 1 or probe_size < 1:
            raise UserError(
                f"draws, steps and probe_size are 1 or more; got {draws}, {steps}, {probe_size}"
            )
        self.sweeps = learning_rate is None
        rate = rate_sweep.FALLBACK if learning_rate is None else float(learning_rate)
        check_training(1, rate, batch_size)
        self.draws, self.modes, self.steps = draws, tuple(modes), steps
        self.probe_size = probe_size
        parts = min(_EVALUATIONS, steps)
        self.training = Training(parts, rate, batch_size, steps_per_epoch=max(1, steps // parts))

    def _possible(self, data: Data) -> list[int]:
        return possible_sizes(self.per_class, data)

    def protocol(self, data: Data) -> dict:
        possible = self._possible(data)
        described = {
            "per_class": possible,
            "left_out": [n for n in self.per_class if n not in possible],
            "draws": self.draws,
            "spread": "standard deviation over the draws",
            "modes": list(self.modes),
            "frozen": {
                "features": f"maps max-pooled to at most {self.probe_size} x {self.probe_size}",
                "steps": self.steps,
                "classifier": "softmax regression as of the task linear, protocol cached",
                "reported": f"last epoch, and for each draw the best of about {_EVALUATIONS} on "
                "the test images",
            },
            "fine-tuned": {
                "trained": f"all layers, and {HEAD}",
                "random_init": "the same network trained from scratch on the same images",
                "batch_normalisation": BATCH_NORMALISATION,
                **self.training.describe(),
                **({"learning_rate": rate_sweep.protocol(self.training)} if self.sweeps else {}),
            },
        }
        for mode in MODES:
            if mode not in self.modes:
                del described[mode]
        return described

    def check(self, subject: Subject, data: Data) -> None:
        check_possible(self.per_class, data)
        subject.feature_tensors(subject.network())

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        if "frozen" in self.modes:
            yield from self._frozen(subject, data, settings)
        if "fine-tuned" in self.modes:
            yield from self._fine_tuned(subject, data, settings)

    def _draws(self, number: int, data: Data, settings: Settings) -> list[np.ndarray]:
        return [
            draw(data.train.labels, number, settings.seed * 1000 + at) for at in range(self.draws)
        ]

    def _frozen(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        numbers = self._possible(data)
        sets = {number: self._draws(number, data, settings) for number in numbers}
        wanted = np.unique(np.concatenate(sets[numbers[-1]]))
        backbone = subject.network()
        tensors = subject.feature_tensors(backbone, ("max", self.probe_size), settings.endpoints)
        extract = FeatureExtractor(
            keras.Model(backbone.inputs, tensors), subject.mean, subject.std, compact=tensors
        )
        title = f"{subject.title}, low-shot " if settings.progress else None
        train, labels = data.train.some(wanted).features(
            extract, progress=title and f"{title}train"
        )
        test, test_labels = data.test.features(extract, progress=title and f"{title}test")
        for number in numbers:
            for name in train:
                accuracies = []
                for places in sets[number]:
                    rows = np.searchsorted(wanted, places)
                    batch_size = min(64, len(rows))
                    epochs = max(1, round(self.steps / (len(rows) // batch_size)))
                    every = max(1, epochs // _EVALUATIONS)
                    probe = Probe(epochs, batch_size, seed=settings.seed, keep_every=every)
                    probe.fit(train[name][rows], labels[rows], data.num_classes)
                    accuracies.append(probe.accuracies(test[name], test_labels))
                yield _summary(name, [each[-1] for each in accuracies], number, LAST_EPOCH)
                yield _summary(name, [each.max() for each in accuracies], number, BEST_EPOCH)

    def _fine_tuned(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        partial = PartialResults(settings.output, f"lowshot_{subject.title.replace(' ', '_')}")
        for number in self._possible(data):
            results: list[Result] = []
            choices: list[rate_sweep.Choice] = []
            for at, places in enumerate(self._draws(number, data, settings)):
                key = [subject.sha256, data.identity(), self.protocol(data), number, at]
                title = f"{number} per class, draw {at + 1} of {self.draws}"
                images, seed = data.train.some(places), settings.seed * 1000 + at

                def build() -> keras.Model:
                    return classifier(subject, data.num_classes)

                training = self.training
                if self.sweeps:
                    choices.append(
                        rate_sweep.choose(
                            build,
                            training,
                            subject,
                            data,
                            images,
                            settings,
                            title,
                            partial,
                            seed=seed,
                        )
                    )
                    training = dataclasses.replace(training, learning_rate=choices[-1].rate)
                if partial.get(key) is None:
                    found = supervised.train(
                        build(),
                        ["all layers"],
                        training,
                        subject,
                        data,
                        settings,
                        title,
                        images=("upright",),
                        train_set=images,
                        seed=seed,
                    )
                    partial.put(key, list(found))
                results.extend(partial.get(key))
            for when in dict.fromkeys(result.when for result in results):
                values = [result.value for result in results if result.when == when]
                yield _summary("all layers", values, number, when)
            if choices:
                yield from rate_sweep.results(choices, f"{number} per class")
        partial.remove()


def _summary(feature: str, values: Sequence[float], number: int, when: str) -> Result:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Result(feature, float(np.mean(values)), f"{number} per class", when=when, spread=spread)
