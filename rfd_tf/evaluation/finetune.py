"""Supervised training of the whole network, from the pretrained weights or from scratch."""

from __future__ import annotations

from collections.abc import Iterator

import keras
from keras import ops

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.protocols import Training


def classifier(subject: Subject, num_classes: int, endpoint: str | None = None) -> keras.Model:
    """Returns the whole network with one dense layer on its globally averaged feature.

    Args:
        subject: the network.
        num_classes: outputs.
        endpoint: the layer whose output is the feature; the last endpoint by default.

    Returns:
        A model from normalised images `[B, S, S, 3]` to logits `[B, 1, num_classes]`, all of it
        trainable.

    Raises:
        UserError: an endpoint that the network lacks.
    """
    backbone = applications.pooled_feature_model(subject.network(), endpoint)
    # From zero, so that the first steps do not disturb the backbone by a random classifier.
    dense = keras.layers.Dense(num_classes, kernel_initializer="zeros")
    logits = dense(ops.cast(backbone.output, "float32"))
    return keras.Model(backbone.inputs, ops.expand_dims(logits, 1))


class FineTuning(Task):
    """Task: accuracy of the whole network after supervised training on all labelled images.

    The random twin goes through the same training: that is the network trained from scratch.

    Args:
        epochs: passes over the images.
        learning_rate: highest rate of the cosine schedule.
        batch_size: images a step.
        weight_decay: coupled, on every weight.
        endpoint: layer that the classifier is put on; the last endpoint by default.

    >>> FineTuning(epochs=5).protocol(None)["epochs"]
    5
    """

    name = "finetune"

    def __init__(
        self,
        epochs: int = 30,
        learning_rate: float = 0.01,
        batch_size: int = 128,
        weight_decay: float = 5e-4,
        endpoint: str | None = None,
    ):
        check_training(epochs, learning_rate, batch_size, weight_decay)
        self.endpoint = endpoint
        self.training = Training(
            epochs, float(learning_rate), batch_size, weight_decay=weight_decay
        )

    def protocol(self, data: Data | None) -> dict:
        return {
            "trained": "all layers, and a dense layer on the globally averaged feature",
            "endpoint": self.endpoint or "the last",
            "random_init": "the same network trained from scratch in the same way",
            **self.training.describe(),
        }

    def check(self, subject: Subject, data: Data) -> None:
        applications.pooled_feature_model(subject.network(), self.endpoint)

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        yield from supervised.train(
            classifier(subject, data.num_classes, self.endpoint),
            ["all layers"],
            self.training,
            subject,
            data,
            settings,
            "fine-tuning",
        )


def check_training(
    epochs: int, learning_rate: float, batch_size: int, weight_decay: float = 0.0
) -> None:
    """Raises `UserError` for a schedule that cannot be trained.

    >>> check_training(0, 0.1, 8)
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: epochs are 1 or more; got 0
    """
    if epochs < 1:
        raise UserError(f"epochs are 1 or more; got {epochs}")
    if not learning_rate > 0:
        raise UserError(f"the learning rate is above 0; got {learning_rate}")
    if batch_size < 1:
        raise UserError(f"the batch size is 1 or more; got {batch_size}")
    if weight_decay < 0:
        raise UserError(f"the weight decay is 0 or more; got {weight_decay}")
