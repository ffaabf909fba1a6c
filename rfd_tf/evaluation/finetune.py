"""Supervised training of the whole network, from the pretrained weights or from scratch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import keras
from keras import ops

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation import files, rate_sweep, supervised
from rfd_tf.evaluation.base import RANDOM, START, Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.partial import PartialResults
from rfd_tf.evaluation.protocols import Training
from rfd_tf.layers import limit_momentum
from rfd_tf.paths import expanded

#: A protocol's sentence on batch normalisation where layers of the backbone are trained.
BATCH_NORMALISATION = (
    "trained layers follow the batches; moving statistics with a momentum of at most 0.9, also "
    "where the network's own is higher"
)
#: A protocol's words for what a fine-tuned network ends in.
HEAD = "a dense layer on the globally averaged feature, which batch normalisation standardises"


def classifier(subject: Subject, num_classes: int, endpoint: str | None = None) -> keras.Model:
    """Returns the whole network with one dense layer on its globally averaged feature.

    The feature is standardised by batch normalisation without scale and shift, so that one range of
    learning rates suits features of any size.

    Args:
        subject: the network.
        num_classes: outputs.
        endpoint: the layer whose output is the feature; the last endpoint by default.

    Returns:
        A model from normalised images `[B, S, S, 3]` to logits `[B, 1, num_classes]`, all of it
        trainable; moving statistics have a momentum of at most 0.9.

    Raises:
        UserError: an endpoint that the network lacks.
    """
    backbone = applications.pooled_feature_model(limit_momentum(subject.network()), endpoint)
    feature = supervised.batch_norm(ops.cast(backbone.output, "float32"), affine=False)
    # From zero, so that the first steps do not disturb the backbone by a random classifier.
    logits = keras.layers.Dense(num_classes, kernel_initializer="zeros")(feature)
    return keras.Model(backbone.inputs, ops.expand_dims(logits, 1))


class FineTuning(Task):
    """Task: accuracy of the whole network after supervised training on all labelled images.

    The random twin goes through the same training: that is the network trained from scratch.

    Args:
        epochs: passes over the images.
        learning_rate: peak rate of the cosine schedule; None chooses it by a sweep on held-out
            training labels, see `rfd_tf.evaluation.rate_sweep`.
        batch_size: images per step.
        weight_decay: coupled weight decay of every weight.
        endpoint: layer below the classifier; the last endpoint by default.
        save_dir: folder for the trained networks without the classifier: `fine_tuned.weights.h5`
            and, trained from scratch, `from_scratch.weights.h5`, a supervised reference. None
            writes nothing.

    Raises:
        UserError: an option out of range, or a folder that cannot be made.

    >>> FineTuning(epochs=5).protocol(None)["epochs"]
    5
    """

    name = "finetune"

    def __init__(
        self,
        epochs: int = 30,
        learning_rate: float | None = None,
        batch_size: int = 128,
        weight_decay: float = 5e-4,
        endpoint: str | None = None,
        save_dir: str | os.PathLike | None = None,
    ):
        self.sweeps = learning_rate is None
        rate = rate_sweep.FALLBACK if learning_rate is None else float(learning_rate)
        check_training(epochs, rate, batch_size, weight_decay)
        self.endpoint = endpoint
        self.save_dir = None if save_dir is None else files.folder(expanded(save_dir))
        self.training = Training(epochs, rate, batch_size, weight_decay=weight_decay)

    def protocol(self, data: Data | None) -> dict:
        return {
            "trained": f"all layers, and {HEAD}",
            "endpoint": self.endpoint or "the last",
            "batch_normalisation": BATCH_NORMALISATION,
            "random_init": "the same network trained from scratch in the same way",
            **({} if self.save_dir is None else {"saved_in": str(self.save_dir)}),
            **self.training.describe(),
            **({"learning_rate": rate_sweep.protocol(self.training)} if self.sweeps else {}),
        }

    def check(self, subject: Subject, data: Data) -> None:
        applications.pooled_feature_model(subject.network(), self.endpoint)

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        def build() -> keras.Model:
            return classifier(subject, data.num_classes, self.endpoint)

        training, sweep, title = self.training, [], "fine-tuning"
        partial = PartialResults(settings.output, f"{title}_{subject.title}".replace(" ", "_"))
        if self.sweeps:
            choice = rate_sweep.choose(
                build, training, subject, data, data.train, settings, title, partial
            )
            training = dataclasses.replace(training, learning_rate=choice.rate)
            sweep = rate_sweep.results([choice], "upright")
        model = build()
        results = list(
            supervised.train(model, ["all layers"], training, subject, data, settings, title)
        )
        if self.save_dir is not None:
            self._save(model, subject)
        partial.remove()
        yield from [*results, *sweep]

    def _save(self, model: keras.Model, subject: Subject) -> None:
        backbone = subject.network()
        trained = {layer.name: layer for layer in model.layers}
        for layer in backbone.layers:
            if layer.name in trained and layer.weights:
                layer.set_weights(trained[layer.name].get_weights())
        endpoint = self.endpoint or applications.endpoints(backbone)[-1]
        record = {
            **subject.record,
            "method": "supervised",
            "epoch": self.training.epochs,
            "feature": {"endpoint": endpoint, "pooling": "avg"},
        }
        name = {RANDOM: "from_scratch", START: "fine_tuned_starting_weights"}.get(
            subject.title, "fine_tuned"
        )
        applications.save_backbone(backbone, self.save_dir / f"{name}.weights.h5", record)
        subject.copy_architecture(self.save_dir)


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


def check_every(evaluate_every: int) -> None:
    """Raises `UserError` for an interval of evaluations that there cannot be.

    >>> check_every(0)
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: evaluate_every is 1 or more; got 0
    """
    if evaluate_every < 1:
        raise UserError(f"evaluate_every is 1 or more; got {evaluate_every}")


def reported(evaluate_every: int) -> str:
    """Returns what a protocol says of the epochs that are reported.

    >>> reported(5)
    'last epoch, and for each score the best of epochs 5, 10, ... and the last on the test images'
    """
    if evaluate_every == 1:
        return "last epoch, and for each score the best of all epochs on the test images"
    return (
        f"last epoch, and for each score the best of epochs {evaluate_every}, "
        f"{2 * evaluate_every}, ... and the last on the test images"
    )
