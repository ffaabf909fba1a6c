"""Rotated-PASCAL: classes of randomly rotated pictures, several at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import keras

from rfd_tf.evaluation.base import Data, Result, Settings, Subject
from rfd_tf.evaluation.multi_label import Pictures
from rfd_tf.evaluation.voc_classification import VocClassification


class RotatedVocClassification(VocClassification):
    """Task: mean average precision on rotated pictures, trained on rotated pictures.

    Every train and test picture is rotated by a random multiple of 90 degrees, drawn once by the
    evaluation's seed. Each protocol is run on the whole feature f and on its halves f1 and f2
    alone; a network whose feature is not split has "pooled", its last feature, instead.

    - `fc8`: a linear layer on the frozen feature.
    - `fc6-8`: layers `fc6` and `fc7` and a new linear layer, convolutions frozen; only where the
      network has these layers. The linear layer stands on f, f1 or f2 where the feature is `fc7`
      (as published), otherwise on `fc7`.

    Training, random crops, averages over ten crops, "difficult" objects and resuming are those of
    `VocClassification`. Source: Feng et al., CVPR 2019 (Rotated-PASCAL VOC 2007).

    Args:
        voc_dir, train_split, test_split, test_dir: see `VocClassification`.
        protocols: "fc8", "fc6-8" or both; by default all that the network has layers for.
        epochs, learning_rate, batch_size, weight_decay: of SGD with a cosine schedule.
        test_crops: random crops averaged for each test picture.
        evaluate_every: epochs between two evaluations; the last epoch is always evaluated.
        rescale: see `VocClassification`.

    Raises:
        UserError: options out of range, or a folder that cannot be read.

    >>> RotatedVocClassification("no/such/folder", protocols=["svm"])
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: unknown protocol of rotated_voc 'svm'; options: fc8, fc6-8
    """

    name = "rotated_voc"
    known = ("fc8", "fc6-8")

    def __init__(
        self,
        voc_dir: str | os.PathLike | None = None,
        train_split: str | None = None,
        test_split: str | None = None,
        test_dir: str | os.PathLike | None = None,
        protocols: Sequence[str] | None = None,
        epochs: int = 30,
        learning_rate: float = 0.01,
        batch_size: int = 32,
        weight_decay: float = 5e-4,
        test_crops: int = 10,
        evaluate_every: int = 5,
        rescale: bool = False,
    ):
        super().__init__(
            voc_dir,
            train_split,
            test_split,
            test_dir,
            protocols,
            epochs,
            learning_rate,
            batch_size,
            weight_decay,
            test_crops,
            evaluate_every,
            rescale=rescale,
        )

    def protocol(self, data: Data | None) -> dict:
        described = super().protocol(data)
        del described["svm"]
        rotated = "train and test pictures by random multiples of 90 degrees, drawn once"
        return {**described, "rotated": rotated}

    def _sides(self, settings: Settings) -> tuple[Pictures, Pictures]:
        train, test = super()._sides(settings)
        return train.turned([settings.seed, 0]), test.turned([settings.seed, 1])

    def _parts(
        self, chosen: Sequence[str], subject: Subject, network: keras.Model, settings: Settings
    ) -> Iterator[tuple[str, Callable[..., Iterator[Result]], tuple]]:
        feature = subject.record.get("feature") or {}
        halves = ("f", "f1", "f2") if feature.get("split") else ()
        for protocol in chosen:
            if protocol == "fc8":
                names = halves or ("pooled",)
            else:
                names = halves if feature.get("endpoint") == "fc7" else ()
            for name in names or ("fc7",):
                stands_on = name if name in halves else None
                yield f"{protocol}, {name}", self._trained, (protocol, stands_on)
