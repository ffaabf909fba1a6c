"""RotNet's semi-supervised protocol: a convolutional classifier trained on few labelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from rfd_tf.applications.endpoints import endpoint_output
from rfd_tf.errors import UserError
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Data, ImageSet, Result, Settings, Subject, Task
from rfd_tf.evaluation.finetune import BATCH_NORMALISATION
from rfd_tf.evaluation.lowshot import check_possible, check_sizes, possible_sizes
from rfd_tf.evaluation.nonlinear import convolutional_head
from rfd_tf.evaluation.partial import PartialResults
from rfd_tf.evaluation.protocols import NONLINEAR, Training
from rfd_tf.layers import limit_momentum

#: What the accuracies of the network trained on the same images alone are called.
SUPERVISED = "supervised"
_PROTOCOL = "rotnet_cifar10_conv"
_SUPERVISED = Training(
    200,
    ((60, 0.1), (120, 0.02), (160, 0.004), (200, 0.0008)),
    128,
    source="Gidaris et al., ICLR 2018, and its program: supervised network-in-network",
)


def first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Returns the places of the first images of every class, int64, increasing.

    Args:
        labels: classes of all images, int64 `[N]`.
        per_class: images of each class; every class has so many.

    >>> first_of_each_class(np.array([1, 0, 1, 1, 0, 0]), 2).tolist()
    [0, 1, 2, 4]
    """
    places = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(places))


class SemiSupervised(Task):
    """Task: accuracy with the first K labelled images of each class, as RotNet's paper reports.

    The convolutional classifier (a third block of the network-in-network, global average pooling,
    a dense layer) is trained on a frozen endpoint. The row "supervised" is the same network (the
    layers up to the endpoint, and the classifier) trained from scratch on the same images. An
    epoch has the same number of steps for every K: few images are seen more often.

    Source: Gidaris, Singh, Komodakis, ICLR 2018, figure 5b, and its program: K = 20, 100, 400,
    1,000, 5,000 of CIFAR-10; `block2`; 100 epochs of the classifier and 200 of the supervised
    network, of 50,000 images each.

    With an output folder, an interrupted call, when repeated, reuses finished trainings, and the
    last epoch of the one that was running.

    Args:
        per_class: numbers of images per class; those larger than the smallest class are skipped.
        endpoint: name of the layer below the classifier; its output must be a map.
        epochs: of the classifier; None for 100. The supervised network has twice as many; both
            schedules are stretched or shortened.
        epoch_images: number of images in an epoch; None for all images of the train set.

    Raises:
        UserError: an option out of range.

    >>> SemiSupervised(epochs=10).protocol(None)["supervised"]["epochs"]
    20
    """

    name = "semi_supervised"

    def __init__(
        self,
        per_class: Sequence[int] = (20, 100, 400, 1000, 5000),
        endpoint: str = "block2",
        epochs: int | None = None,
        epoch_images: int | None = None,
    ):
        self.per_class = check_sizes(per_class)
        if epoch_images is not None and epoch_images < 1:
            raise UserError(f"an epoch counts 1 image or more; got epoch_images {epoch_images}")
        self.endpoint, self.epoch_images = endpoint, epoch_images
        self.training = NONLINEAR[_PROTOCOL].with_epochs(epochs)
        self.supervised = _SUPERVISED.with_epochs(None if epochs is None else 2 * epochs)

    def protocol(self, data: Data | None) -> dict:
        described = {
            "images": "the first of each class",
            "endpoint": self.endpoint,
            "epochs": self.training.epochs,
            "classifier": {"protocol": _PROTOCOL, **self.training.describe()},
            SUPERVISED: {
                "network": "the layers up to the endpoint and the classifier, from scratch",
                "batch_normalisation": BATCH_NORMALISATION,
                **self.supervised.describe(),
            },
        }
        if data is None:
            return described
        possible = possible_sizes(self.per_class, data)
        return {
            **described,
            "per_class": possible,
            "left_out": [n for n in self.per_class if n not in possible],
            "epoch_images": self.epoch_images or len(data.train),
        }

    def check(self, subject: Subject, data: Data) -> None:
        check_possible(self.per_class, data)
        if len(endpoint_output(subject.network(), self.endpoint).shape) != 4:
            raise UserError(
                f"endpoint '{self.endpoint}' gives vectors; the convolutional classifier takes "
                "feature maps: choose another --semi_endpoint"
            )

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        partial = PartialResults(
            settings.output, f"semi_supervised_{subject.title.replace(' ', '_')}"
        )
        # (It does not depend on the weights under evaluation: once is enough.)
        kinds = (self.endpoint, SUPERVISED) if subject.is_pretrained else (self.endpoint,)
        identity = [subject.sha256, data.describe(), self.protocol(data), settings.seed]
        for number in possible_sizes(self.per_class, data):
            images = data.train.some(first_of_each_class(data.train.labels, number))
            for kind in kinds:
                key = [*identity, number, kind]
                if partial.get(key) is None:
                    found = self._train(kind, number, images, subject, data, settings)
                    partial.put(key, [r._replace(images=f"{number} per class") for r in found])
                yield from partial.get(key)
        partial.remove()

    def _train(
        self,
        kind: str,
        number: int,
        images: ImageSet,
        subject: Subject,
        data: Data,
        settings: Settings,
    ) -> Iterator[Result]:
        training, trained = self.training, subject
        if kind == SUPERVISED:
            training, trained = self.supervised, subject.random_twin(settings.seed)
        backbone = trained.network()
        tensors = {self.endpoint: endpoint_output(backbone, self.endpoint)}
        if kind == SUPERVISED:
            limit_momentum(backbone)
            inputs, maps = backbone.input, tensors
        else:
            inputs, maps = supervised.frozen_features(backbone, tensors)
        seeds = iter(range(settings.seed, settings.seed + 100))
        x = ops.cast(maps[self.endpoint], "float32")
        logits = ops.expand_dims(convolutional_head(x, data.num_classes, seeds), 1)
        batch_size = min(training.batch_size, len(images))
        steps = max(1, (self.epoch_images or len(data.train)) // batch_size)
        yield from supervised.train(
            keras.Model(inputs, logits),
            [kind],
            dataclasses.replace(training, steps_per_epoch=steps),
            trained,
            data,
            settings,
            f"semi-supervised, {number} per class, {kind}",
            images=("upright",),
            train_set=images,
        )
