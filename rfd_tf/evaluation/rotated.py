"""Classification of randomly rotated images with one label each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import keras
from keras import ops

from rfd_tf import applications
from rfd_tf.evaluation import frozen, supervised
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.finetune import check_training
from rfd_tf.evaluation.linear import LinearProbes
from rfd_tf.evaluation.protocols import Training

FC_LAYERS = "fc6-8"


class _RotatedProbes(LinearProbes):
    name = "rotated"
    train_rotated = True
    images = ("rotated",)


def _has_fc_layers(network: keras.Model) -> bool:
    return {"fc6", "fc7"} <= {layer.name for layer in network.layers}


class RotatedClassification(Task):
    """Task: accuracy on images rotated by random multiples of 90 degrees, trained on such images.

    A linear classifier on every frozen feature, f, f1 and f2 among them ("fc8" of the paper is the
    one on f), each train image rotated once; and, where the network has layers `fc6` and `fc7`,
    these trained together with a new classifier on the frozen convolutions ("fc6-8"), each train
    image rotated anew at every step. Source: Feng et al., CVPR 2019, whose Rotated-PASCAL has
    several classes a picture: `RotatedVocClassification` is that protocol.

    Args:
        probe_size: side that maps are max-pooled to for the linear classifiers.
        probe_epochs: epochs of the linear classifiers; chosen by the number of images if None.
        epochs: epochs of "fc6-8", where the network has it.
        learning_rate: highest rate of its cosine schedule.
        batch_size: images per step of it.
        seed, progress: of the linear classifiers.

    >>> RotatedClassification(epochs=3).protocol(None)["fc6-8"]["epochs"]
    3
    """

    name = "rotated"

    def __init__(
        self,
        probe_size: int = 4,
        probe_epochs: int | None = None,
        epochs: int = 20,
        learning_rate: float = 0.01,
        batch_size: int = 128,
        seed: int = 0,
        progress: bool = False,
    ):
        check_training(epochs, learning_rate, batch_size)
        self._probes = _RotatedProbes(probe_size, probe_epochs, seed, progress)
        self.training = Training(epochs, float(learning_rate), batch_size)

    def protocol(self, data: Data | None) -> dict:
        probes = None if data is None else self._probes.settings(len(data.train))
        return {
            "images": "train and test images rotated by random multiples of 90 degrees",
            "linear": probes,
            FC_LAYERS: {
                "trained": "fc6, fc7 and a dense layer, convolutions frozen; only where the "
                "network has these layers",
                **self.training.describe(),
            },
        }

    def check(self, subject: Subject, data: Data) -> None:
        network = subject.network()
        subject.feature_tensors(network, self._probes.pooling)
        if not _has_fc_layers(network) and self.training != RotatedClassification().training:
            warnings.warn(
                f"task rotated: {subject.record['backbone']} has no layers fc6 and fc7, so epochs, "
                "learning_rate and batch_size have no effect; probe_epochs is of the linear "
                "classifiers",
                stacklevel=1,
            )

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        for _, result in frozen.evaluate([self._probes], subject, data, settings):
            yield result
        backbone = subject.network()
        if not _has_fc_layers(backbone):
            return
        supervised.freeze_before(backbone, "fc6")
        vectors = applications.pooled_feature_model(backbone, "fc7")
        dense = keras.layers.Dense(data.num_classes, kernel_initializer="zeros")
        logits = dense(ops.cast(vectors.output, "float32"))
        yield from supervised.train(
            keras.Model(vectors.inputs, ops.expand_dims(logits, 1)),
            [FC_LAYERS],
            self.training,
            subject,
            data,
            settings,
            f"rotated {FC_LAYERS}",
            images=("rotated",),
            train_rotated=True,
        )
