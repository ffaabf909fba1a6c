"""Rotation prediction, RotNet (Gidaris, Singh, Komodakis, ICLR 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import ops

from rfd_tf import losses
from rfd_tf.data import views
from rfd_tf.errors import UserError
from rfd_tf.methods.base import Method
from rfd_tf.methods.heads import linear

#: What evaluators of a rotation head turn images by.
QUARTERS = (0, 90, 180, 270)


class RotationPrediction(Method):
    """Tells by how much an image was rotated, from all its rotations in one batch.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        rotations: degrees counter-clockwise, at least two different multiples of 45: the paper
            compares (0, 90, 180, 270) with (0, 180), with (90, 270) and with all eight. With an
            odd multiple of 45 the views show a smaller, interpolated part of the image; see
            `rfd_tf.data.views.rotate_degrees`.
        shuffle_rotations: make every rotation of an image an example of its own, shuffled over
            the batches of an epoch, instead of all of them in one batch. A batch then holds as
            many views as images, and an epoch as many times more steps as there are rotations.
        seed: of the head.
        **kwargs: see `Method`.

    Batch: `{"image": [batch, size, size, 3] pixels 0-255, "index": [batch] integers}`. Images are
    the augmented originals; the rotations are made here, on the device. Images
    `[batch, rotations, size, size, 3]` give every rotation a crop of its own. With an entry
    `"view": [batch] integers`, each image is rotated by `rotations[view]` only.

    The head is linear; the published network-in-network ends in global average pooling and a
    linear layer, its AlexNet in `fc7` and one, so the feature in front of the head is the same.

    Raises:
        UserError: rotations that are none, or fewer than two.

    >>> import numpy as np
    >>> from rfd_tf import applications
    >>> method = RotationPrediction(applications.build("six_layer", image_size=32))
    >>> sorted(method({"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.arange(2)}))
    ['rotation_accuracy', 'rotation_loss']
    """

    any_image_size = True

    def __init__(
        self,
        backbone: keras.Model,
        *,
        rotations: Sequence[int] = (0, 90, 180, 270),
        shuffle_rotations: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        views.check_degrees(rotations)
        if len(rotations) < 2:
            raise UserError(f"at least two rotations are needed to tell apart; got {rotations}")
        if not isinstance(shuffle_rotations, bool):
            raise UserError(f"shuffle_rotations {shuffle_rotations!r} must be true or false")
        super().__init__(backbone, **kwargs)
        self.rotations = tuple(int(angle) for angle in rotations)
        self.views = 1 if shuffle_rotations else len(self.rotations)
        self.separate_views = len(self.rotations) if shuffle_rotations else 1
        self.crops = (1, self.views) if self.views > 1 else (1,)
        self.declare({"rotation_loss": 1.0}, ["rotation_accuracy"])
        self.rotation_head = linear(
            len(self.rotations), self.feature_dimensions, "rotation_head", seed=seed + 10
        )
        self.built = True

    def call(self, batch, training=False):
        """Computes the loss of a batch; see `Method.call`."""
        images = views.rotate_degrees(self.preprocess(batch["image"]), self.rotations)
        if "view" in batch:
            labels = ops.cast(batch["view"], "int32")
            images = ops.take_along_axis(images, ops.reshape(labels, (-1, 1, 1, 1, 1)), axis=1)
        else:
            labels = ops.tile(ops.arange(len(self.rotations)), (ops.shape(batch["index"])[0],))
        features = self.features(views.flatten_views(images), training=training)
        logits = self.rotation_head(features)
        return {
            "rotation_loss": losses.rotation_cross_entropy(logits, labels),
            "rotation_accuracy": losses.rotation_accuracy(logits, labels),
        }

    def chance_levels(self) -> dict[str, float]:
        count = len(self.rotations)
        return {"rotation_loss": math.log(count), "rotation_accuracy": 1 / count}

    def heads(self) -> dict[str, keras.layers.Dense]:
        """The classifier of rotations, where they are the four quarter turns in order."""
        return {"rotation_head": self.rotation_head} if self.rotations == QUARTERS else {}
