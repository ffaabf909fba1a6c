"""The weighted rotation cross-entropy."""

from __future__ import annotations

from keras import ops


def rotation_cross_entropy(rotation_logits, labels, weights=None):
    """Mean cross-entropy of predicted rotations, each view under its own weight.

    The sum of weight * cross-entropy is divided by the number of views, not by the sum of the
    weights: discounting a view lowers the loss and leaves the other views' gradients alone (Feng
    et al., CVPR 2019, L_c; so in the published program).

    Args:
        rotation_logits: `[views, rotations]` floating point, before the softmax.
        labels: `[views]` integers, 0 to rotations - 1.
        weights: `[views]` floating point, or None for 1 everywhere.

    Returns:
        A scalar, float32. Chance level: ln(rotations), 1.386 for four.

    >>> float(rotation_cross_entropy(ops.zeros((8, 4)), ops.arange(8) % 4))
    1.3862943649291992
    """
    logits = ops.cast(rotation_logits, "float32")
    cross_entropy = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if weights is not None:
        cross_entropy = cross_entropy * ops.cast(weights, "float32")
    return ops.mean(cross_entropy)


def positive_unlabeled_weights(upright_probability, gamma: float = 2.0):
    """Weights that discount rotated views which look upright.

    An upright image is a positive; its rotated copies are unlabelled, and one that looks upright
    by itself (a ball, a flower from above) teaches nothing about rotation. Its weight is
    1 - P(upright)**gamma; the upright view's is 1 (Feng et al., CVPR 2019, section 3.2; gamma 2 in
    the published program).

    Args:
        upright_probability: `[..., rotations]`, 0 to 1; entry 0, the unrotated view's, is ignored.
        gamma: exponent, above 0.

    Returns:
        `[..., rotations]` float32.

    >>> positive_unlabeled_weights(ops.array([[0.9, 0.0, 0.5, 0.9]])).numpy().round(2).tolist()
    [[1.0, 1.0, 0.75, 0.1899999976158142]]
    """
    probability = ops.cast(upright_probability, "float32")
    weights = 1.0 - ops.power(probability, gamma)
    return ops.concatenate([ops.ones_like(weights[..., :1]), weights[..., 1:]], axis=-1)


def rotation_accuracy(rotation_logits, labels):
    """Share of views whose largest logit is at the label; a scalar, 0 to 1, float32.

    >>> import numpy as np
    >>> float(rotation_accuracy(np.eye(4), labels=np.array([0, 1, 2, 0])))
    0.75
    """
    right = ops.argmax(rotation_logits, axis=-1) == ops.cast(labels, "int32")
    return ops.mean(ops.cast(right, "float32"))
