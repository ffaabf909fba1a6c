"""The non-negative risk estimator of positive-unlabelled learning."""

from __future__ import annotations

from keras import ops

from rfd_tf.errors import UserError


def non_negative_pu(positive_logits, unlabeled_logits, prior: float, beta=0.0, gamma=1.0):
    """Risk of a binary classifier that was shown positives and unlabelled examples only.

    With the sigmoid loss l(z) = 1 / (1 + exp(z)), a share `prior` of the unlabelled being positive
    without saying so, and means over the positives p and the unlabelled u,

        R+ = prior * mean_p l(z),   R- = mean_u l(-z) - prior * mean_p l(-z),   risk = R+ + R-.

    R- estimates the risk on true negatives, which cannot be below 0. Where it falls below -beta
    the classifier over-fits; the value is then R+ - beta, and the gradient that of -gamma * R-,
    which leads back (Kiryo et al., NeurIPS 2017, algorithm 1 and the published program).

    The sigmoid loss ranks and separates; its sigmoid(z) is no calibrated probability.

    Args:
        positive_logits: `[...]` floating point, logits z of examples known to be positive.
        unlabeled_logits: `[...]` floating point, logits of unlabelled examples.
        prior: share of positives among the unlabelled, above 0 and below 1.
        beta: tolerance, at least 0.
        gamma: share of the correcting gradient, 0 to 1.

    Returns:
        A scalar, float32. Calling everything negative gives `prior`.

    Raises:
        UserError: a prior, beta or gamma outside its range.

    >>> round(float(non_negative_pu(ops.zeros((4,)), ops.zeros((12,)), prior=0.1)), 6)
    0.5
    """
    check_prior(prior)
    if beta < 0 or not 0 <= gamma <= 1:
        raise UserError(f"beta {beta} must be at least 0 and gamma {gamma} between 0 and 1")
    positive = ops.cast(positive_logits, "float32")
    unlabeled = ops.cast(unlabeled_logits, "float32")
    positive_risk = prior * ops.mean(ops.sigmoid(-positive))
    negative_risk = ops.mean(ops.sigmoid(unlabeled)) - prior * ops.mean(ops.sigmoid(positive))
    fits = negative_risk >= -beta
    value = ops.where(fits, positive_risk + negative_risk, positive_risk - beta)
    trained = ops.where(fits, positive_risk + negative_risk, -gamma * negative_risk)
    # The value of one, the gradient of the other.
    return trained + ops.stop_gradient(value - trained)


def check_prior(prior: float) -> None:
    """Raises a `UserError` unless the prior is above 0 and below 1."""
    if not 0 < prior < 1:
        raise UserError(
            f"positive prior {prior} must be above 0 and below 1: the share of rotated views "
            "that look upright"
        )
