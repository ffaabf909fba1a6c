"""Linear probes as published: trained jointly on augmented images, every map pooled to ~9,000."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import keras
from keras import ops

from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Data, Result, Settings, Subject, Task
from rfd_tf.evaluation.linear import LinearProbes
from rfd_tf.evaluation.protocols import LINEAR, find, pooled_size

CACHED = "cached"


def linear(
    protocol: str = CACHED,
    *,
    probe_size: int | None = None,
    epochs: int | None = None,
    pooling: Literal["max", "average"] | None = None,
    ten_crops: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Task:
    """Makes the task "linear": quick probes on cached features, or those of a published protocol.

    Args:
        protocol: "cached": features are extracted once, without augmentation (`LinearProbes`); or a
            name in `rfd_tf.evaluation.protocols.LINEAR` (`PublishedLinearProbes`): rfd_imagenet,
            rotnet_imagenet, goyal_imagenet, goyal_places205, goyal_inaturalist2018, rotnet_cifar10.
        probe_size: side that maps are pooled to, for "cached"; 4 if None.
        epochs: None for the protocol's own.
        pooling: "max" or "average", for a published protocol; None for its own.
        ten_crops: also evaluate the mean over ten crops, for a published protocol.
        seed, progress: of "cached"; other protocols take the evaluation's.

    Raises:
        UserError: an unknown protocol or pooling, or options that do not go together.

    >>> linear().protocol is not None, linear("rfd_imagenet").name
    (True, 'linear')
    """
    if protocol != CACHED and protocol not in LINEAR:
        raise unknown("linear protocol", protocol, [CACHED, *LINEAR])
    if protocol != CACHED:
        if probe_size is not None:
            raise UserError(
                f"probe_size {probe_size} has no effect in linear protocol '{protocol}', which "
                f"pools maps to about 9,000 numbers; leave it out, or choose '{CACHED}'"
            )
        return PublishedLinearProbes(protocol, epochs, pooling, ten_crops)
    if ten_crops or pooling is not None:
        option = "ten crops" if ten_crops else f"pooling '{pooling}'"
        raise UserError(
            f"{option} goes with a published linear protocol: {', '.join(LINEAR)}; "
            f"'{CACHED}' takes one crop, max-pooled"
        )
    return LinearProbes(4 if probe_size is None else probe_size, epochs, seed, progress)


class PublishedLinearProbes(Task):
    """Task: one linear layer on every frozen feature, all trained together.

    Feature maps are adaptively pooled to about 9,000 numbers (`pooled_size`), vectors are taken as
    they are; batch normalisation without scale and shift; one dense layer with weights from
    N(0, sqrt(2 / classes)). The backbone is in inference mode. Source: Feng et al., CVPR 2019,
    and Gidaris et al., ICLR 2018, and their programs (`MultipleLinearClassifiers`); Goyal et al.,
    ICCV 2019.

    Args:
        protocol: a name in `rfd_tf.evaluation.protocols.LINEAR`.
        epochs: None for the protocol's own; its schedule is stretched or shortened.
        pooling: "max" or "average"; None for the protocol's own.
        ten_crops: also evaluate the mean over ten crops, after the last epoch.

    >>> PublishedLinearProbes("rotnet_imagenet").protocol(None)["epochs"]
    35
    """

    name = "linear"

    def __init__(
        self,
        protocol: str = "rfd_imagenet",
        epochs: int | None = None,
        pooling: str | None = None,
        ten_crops: bool = False,
    ):
        self.training = find("linear protocol", protocol, LINEAR).with_epochs(epochs)
        self.pooling = pooling or self.training.pooling
        if self.pooling not in ("max", "average"):
            raise unknown("pooling", self.pooling, ("max", "average"))
        self.protocol_name, self.ten_crops = protocol, ten_crops

    def protocol(self, data: Data | None) -> dict:
        return {
            "protocol": self.protocol_name,
            "features": f"maps adaptively {self.pooling}-pooled to sides of at most "
            "round(sqrt(9216 / channels)), vectors as they are; backbone in inference mode",
            "head": "batch normalisation without scale and shift, one dense layer; all heads "
            "trained together",
            "test": "one centre crop; the mean softmax of ten crops"
            if self.ten_crops
            else "one centre crop",
            **self.training.describe(),
        }

    def check(self, subject: Subject, data: Data) -> None:
        subject.feature_tensors(subject.network())

    def run(self, subject: Subject, data: Data, settings: Settings) -> Iterator[Result]:
        backbone = subject.network()
        tensors = subject.feature_tensors(backbone, (self.pooling, pooled_size), settings.endpoints)
        x, features = supervised.frozen_features(backbone, tensors)
        heads = []
        for number, feature in enumerate(features.values()):
            dense = keras.layers.Dense(
                data.num_classes,
                kernel_initializer=supervised.fan_out_normal(
                    data.num_classes, settings.seed + number
                ),
            )
            heads.append(dense(supervised.batch_norm(feature, affine=False)))
        yield from supervised.train(
            keras.Model(x, ops.stack(heads, axis=1)),
            list(features),
            self.training,
            subject,
            data,
            settings,
            f"linear {self.protocol_name}",
            ten_crops=self.ten_crops,
        )
