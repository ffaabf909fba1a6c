"""Tells upright views from rotated ones: the binary classifiers behind PU weights."""

from __future__ import annotations

import math

import keras
from keras import ops

from rfd_tf.data import views
from rfd_tf.errors import unknown
from rfd_tf.losses.non_negative_pu import check_prior, non_negative_pu
from rfd_tf.methods.base import Method
from rfd_tf.methods.heads import linear

UPRIGHT_LOSSES = ("binary", "non_negative_pu")


class UprightClassifier(Method):
    """One logit a view: does it look upright?

    Every image is seen in its four rotations. The view not rotated is a positive; the other three
    are taken for negatives (`binary`, the sigmoid cross-entropy), or some of them for positives
    that do not say so (`non_negative_pu`). There the unlabelled set is all four views. The risk on
    the rotated ones alone, with a prior of a tenth, is nearly as low for a network that calls every
    view rotated, and training ends there.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        loss: one of `UPRIGHT_LOSSES`.
        positive_prior: for `non_negative_pu`, the share of rotated views that look upright.
        seed: of the head.
        **kwargs: see `Method`.

    Raises:
        UserError: an unknown loss, a prior not between 0 and 1.

    Source: Kiryo et al., "Positive-Unlabeled Learning with Non-Negative Risk Estimator", NeurIPS
    2017; its use here after Feng et al., CVPR 2019, section 3.2.

    >>> import numpy as np
    >>> from rfd_tf import applications
    >>> method = UprightClassifier(applications.build("six_layer", image_size=32))
    >>> method.view_logits(np.zeros((2, 32, 32, 3), "uint8")).shape
    TensorShape([2, 4])
    """

    crops = (1, views.NUM_ROTATIONS)
    views = views.NUM_ROTATIONS

    def __init__(
        self,
        backbone: keras.Model,
        *,
        loss: str = "binary",
        positive_prior: float = 0.1,
        seed: int = 0,
        **kwargs,
    ):
        if loss not in UPRIGHT_LOSSES:
            raise unknown("loss", loss, UPRIGHT_LOSSES)
        check_prior(positive_prior)
        super().__init__(backbone, **kwargs)
        self.loss_kind = loss
        #: Share of all views that look upright: those that are, and some that are rotated.
        self.upright_share = (1 + (views.NUM_ROTATIONS - 1) * positive_prior) / views.NUM_ROTATIONS
        self.declare({"upright_loss": 1.0}, ["upright_accuracy"])
        self.upright_head = linear(1, self.feature_dimensions, "upright_head", seed=seed + 10)
        self.built = True

    def view_logits(self, images, training=False):
        """Logits `[batch, 4]`, float32, of the four rotations of pixels.

        Pixels are `[batch, S, S, 3]`, or `[batch, 4, S, S, 3]` with a crop for every rotation.
        """
        turned = views.flatten_views(views.rotate(self.preprocess(images)))
        logits = self.upright_head(self.features(turned, training=training))
        return ops.reshape(logits, (-1, views.NUM_ROTATIONS))

    def call(self, batch, training=False):
        """Computes the loss of a batch; see `Method.call`."""
        logits = self.view_logits(batch["image"], training=training)
        if self.loss_kind == "binary":
            # -log sigmoid(z) of the upright view, -log sigmoid(-z) of the others.
            signs = ops.concatenate([-logits[:, :1], logits[:, 1:]], axis=1)
            loss = ops.mean(ops.softplus(signs))
        else:
            loss = non_negative_pu(logits[:, 0], logits, self.upright_share)
        right = ops.mean(ops.cast(upright_found(logits), "float32"))
        return {"upright_loss": loss, "upright_accuracy": right}

    def chance_levels(self) -> dict[str, float]:
        share = 1 / views.NUM_ROTATIONS
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        return {
            "upright_loss": entropy if self.loss_kind == "binary" else self.upright_share,
            "upright_accuracy": share,
        }


def upright_found(logits):
    """Whether the upright one of an image's four views has the highest logit, strictly.

    Args:
        logits: `[batch, 4]`, view 0 being the upright one.

    Returns:
        bool `[batch]`.
    """
    return logits[:, 0] > ops.max(logits[:, 1:], axis=1)
