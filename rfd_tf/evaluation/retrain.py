"""Freezes the first layers and trains the rest of the network from random initialisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from rfd_tf import applications
from rfd_tf.applications.endpoints import cut
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.finetune import BATCH_NORMALISATION, check_training
from rfd_tf.evaluation.partial import PartialResults
from rfd_tf.evaluation.protocols import Training
from rfd_tf.layers import limit_momentum


class RetrainedLayers(Task):
    """Task: accuracy with the layers up to an endpoint frozen and the later ones newly trained.

    For each endpoint, the layers that it is computed from keep their weights and compute in
    inference mode; the others start from random weights, the same for the pretrained network and
    its random twin, and are trained together with a new classifier. The column of the random twin
    is the published baseline: random layers frozen.

    Source: Noroozi and Favaro, ECCV 2016, and Donahue et al., ICLR 2017 ("conv1" to "conv5" of
    AlexNet on ImageNet); their schedule is Caffe's, here it is a cosine.

    With an output folder, an interrupted call, when repeated, reuses finished endpoints and the
    last epoch of the one that was running.

    Args:
        epochs: passes over the images, for each endpoint.
        learning_rate: highest rate of the cosine schedule.
        batch_size: images per step.
        weight_decay: coupled, on every trained weight.

    Raises:
        UserError: an option out of range.

    >>> RetrainedLayers(epochs=5).protocol(None)["epochs"]
    5
    """

    name = "retrain"

    def __init__(
        self,
        epochs: int = 30,
        learning_rate: float = 0.01,
        batch_size: int = 128,
        weight_decay: float = 5e-4,
    ):
        check_training(epochs, learning_rate, batch_size, weight_decay)
        self.training = Training(
            epochs, float(learning_rate), batch_size, weight_decay=weight_decay
        )

    def protocol(self, data: Data | None) -> dict:
        return {
            "frozen": "the layers that the endpoint is computed from, in inference mode",
            "trained": "all other layers from random initialisation, the same for both networks, "
            "and a dense layer on the globally averaged last feature",
            "batch_normalisation": BATCH_NORMALISATION,
            **self.training.describe(),
        }

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        partial = PartialResults(settings.output, f"retrain_{subject.title.replace(' ', '_')}")
        for endpoint in settings.endpoints or applications.endpoints(subject.network()):
            key = [subject.sha256, data.describe(), self.protocol(data), settings.seed, endpoint]
            if partial.get(key) is None:
                found = supervised.train(
                    retrained(subject, endpoint, data.num_classes, settings.seed),
                    [endpoint],
                    self.training,
                    subject,
                    data,
                    settings,
                    f"layers after {endpoint}",
                )
                partial.put(key, list(found))
            yield from partial.get(key)
        partial.remove()


def retrained(subject: Subject, endpoint: str, num_classes: int, seed: int) -> keras.Model:
    """Returns a classifier whose layers up to an endpoint are the network's own, and frozen.

    Args:
        subject: the network.
        endpoint: name of the last frozen layer.
        num_classes: outputs.
        seed: of all other layers' random weights, which do not depend on the subject's.

    Returns:
        A model from normalised images `[B, S, S, 3]` to logits `[B, 1, num_classes]`.

    Raises:
        UserError: an endpoint that the network lacks.
    """
    own = subject.network()
    # (Other weights than the random twin's, which are of this seed.)
    keras.utils.set_random_seed(seed + 1)
    network = subject.untrained()
    limit_momentum(network)
    first, rest = cut(network, endpoint)
    frozen = {layer.name for layer in first.layers}
    for mine, layer in zip(own.layers, network.layers, strict=True):
        if layer.name in frozen and layer.weights:
            layer.set_weights(mine.get_weights())
    first.trainable = False
    inputs = keras.Input(network.input_shape[1:])
    x: Any = first(inputs, training=False)
    x = x if rest is None else rest(x)
    if len(x.shape) == 4:
        x = ops.mean(ops.cast(x, "float32"), axis=(1, 2))
    # From zero, so that the classifier does not favour any class at first.
    dense = keras.layers.Dense(num_classes, kernel_initializer="zeros")
    return keras.Model(inputs, ops.expand_dims(dense(ops.cast(x, "float32")), 1))
