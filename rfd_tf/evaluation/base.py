"""What every task of an evaluation is: evaluates one network at a time, yields named results."""

from __future__ import annotations

import abc
import dataclasses
import inspect
import numbers
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from rfd_tf.errors import UserError
from rfd_tf.evaluation.features import Features
from rfd_tf.evaluation.image_set import Data, ImageSet
from rfd_tf.evaluation.subject import PRETRAINED, RANDOM, START, Subject
from rfd_tf.rules import Rule, refuse_moot

__all__ = [
    "BEST_EPOCH",
    "LAST_EPOCH",
    "PRETRAINED",
    "RANDOM",
    "START",
    "Data",
    "Features",
    "ImageSet",
    "Result",
    "Settings",
    "Subject",
    "Task",
]

LAST_EPOCH, BEST_EPOCH = "last epoch", "best epoch"


class Result(NamedTuple):
    """One score of one network.

    Attributes:
        feature: what was evaluated: an endpoint, "f", "f1", "f2", or a head such as "fc6-8".
        value: in the metric's unit; accuracies and precisions from 0 to 1.
        images: "upright", "rotated" or another short qualifier, such as "20 per class".
        metric: "accuracy", "mean AP (11-point)", "precision@10", "distance", ...
        when: "last epoch", or "best epoch" (the best of all epochs by the test images
            themselves, as some papers report); "" where nothing is trained.
        spread: standard deviation over draws, where there are several.

    >>> Result("block2", 0.81).metric
    'accuracy'
    """

    feature: str
    value: float
    images: str = "upright"
    metric: str = "accuracy"
    when: str = LAST_EPOCH
    spread: float | None = None


@dataclasses.dataclass
class Settings:
    """What all tasks of an evaluation share.

    Attributes:
        seed: of everything that is drawn.
        batch_size: images per step while features are taken.
        progress: whether to show progress bars.
        endpoints: names of the endpoints to evaluate; None for all of the backbone's.
        output: folder for figures, caches and the state an interrupted task resumes from; None to
            write nothing.
        cache_features: whether frozen features are kept on disk, in `output`.

    Raises:
        UserError: a negative `seed`, or a `batch_size` below 1.

    >>> Settings(seed=3).batch_size
    256
    """

    seed: int = 0
    batch_size: int = 256
    progress: bool = False
    endpoints: Sequence[str] | None = None
    output: Path | None = None
    cache_features: bool = False

    def __post_init__(self):
        for name, least in (("seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < least:
                raise UserError(f"{name}={value!r} must be a whole number from {least}")


class Task(abc.ABC):
    """A protocol. A new one is a file with such a class and a line in `TASKS`.

    Options are keyword arguments of the constructor, which checks them (`UserError`).

    Attributes:
        name: as `--task` takes it.
        needs_labels: False where the task brings its own data or needs none; it is then run
            without labelled sets.
        labels_optional: True where images to learn from and to evaluate are enough; their labels
            may then be None, of one class, or differ.
        compares_random: whether the random twin is evaluated too, and the weights that the training
            started from.
        needs_head: name of a layer in `heads.npz` that the task takes unless its options say
            otherwise; None where it takes none.
        rules: when options have an effect beside the others; one that is given without is refused.

    >>> class Parameters(Task):
    ...     name = "parameters"
    ...     needs_labels = False
    ...     def protocol(self, data):
    ...         return {"counted": "weights of the network"}
    ...     def run(self, subject, data, settings):
    ...         yield Result("f", subject.network().count_params(), metric="parameters", when="")
    >>> next(Parameters().run(Subject.pretrained("six_layer.rfd_cifar10"), None, Settings())).value
    105328
    """

    name: str
    needs_labels: bool = True
    labels_optional: bool = False
    needs_head: str | None = None
    compares_random: bool = True
    rules: ClassVar[tuple[Rule, ...]] = ()

    def __new__(cls, *args, **kwargs):
        bound = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs)
        refuse_moot(cls.rules, cls.defaults(), bound.arguments)
        return super().__new__(cls)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Returns the defaults of the options, by name."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {each.name: each.default for each in parameters if each.default is not each.empty}

    @abc.abstractmethod
    def protocol(self, data: Data | None) -> dict:
        """Returns what is needed to reproduce the scores, ready for JSON."""

    def check(self, subject: Subject, data: Data | None) -> None:
        """Raises `UserError` before any long work where the task cannot be done."""
        del subject, data

    @abc.abstractmethod
    def run(self, subject: Subject, data: Data | None, settings: Settings) -> Iterator[Result]:
        """Evaluates one network. Results of two networks match by all but value and spread."""
