"""Noise-contrastive estimation of the instance softmax."""

from __future__ import annotations

import math

from keras import ops

EPSILON = 1e-7


def _log_model_and_noise(logits, normalizer, num_images: int):
    negatives = logits.shape[-1] - 1
    log_model = ops.cast(logits, "float32") - ops.log(ops.cast(normalizer, "float32"))
    return log_model, negatives / num_images


def nce_probabilities(logits, normalizer):
    """P(image | embedding) = exp(logit) / Z, `[batch, 1 + negatives]` float32.

    >>> import numpy as np
    >>> np.asarray(nce_probabilities(np.log([[2.0, 1.0]]), normalizer=4.0)).tolist()
    [[0.5, 0.25]]
    """
    return ops.exp(ops.cast(logits, "float32")) / ops.cast(normalizer, "float32")


def nce(logits, normalizer, num_images: int, valid=None, epsilon: float = EPSILON):
    """Noise-contrastive estimation with uniform noise (Wu et al., CVPR 2018, section 3.2).

    With P = exp(logit) / Z, K negatives and noise 1 / N, an entry comes from the data with
    probability h = P / (P + K / N). The loss is -log h of the positive minus the sum of log(1 - h)
    over the negatives, averaged over the batch. Computed in logarithms, which changes nothing but
    the range of temperatures that float32 can hold. The published program adds 1e-7 to each
    denominator; so does this.

    Args:
        logits: `[batch, 1 + negatives]`, similarities / temperature; column 0 is the positive.
        normalizer: scalar Z, the sum of the exponentials over all images.
        num_images: N, rows of the memory bank.
        valid: `[batch, negatives]`, 0 where a negative does not count, or None.
        epsilon: added to each denominator.

    Returns:
        A scalar, float32. Chance level: `nce_chance_level`.

    >>> round(float(nce(ops.zeros((2, 5)), normalizer=100.0, num_images=100)), 3)
    2.502
    """
    log_model, noise = _log_model_and_noise(logits, normalizer, num_images)
    log_denominator = ops.logaddexp(log_model, math.log(noise + epsilon))
    positive = log_model[:, 0] - log_denominator[:, 0]
    negative = math.log(noise) - log_denominator[:, 1:]
    if valid is not None:
        negative = negative * ops.cast(valid, "float32")
    return -ops.mean(positive + ops.sum(negative, axis=-1))


def chance_level(negatives: int, dimensions: int, temperature: float) -> float:
    """The loss expected of unrelated embeddings when Z is right.

    ln K + 1 / (2 * D * T**2) + 1, for a number of negatives far below N.

    >>> round(chance_level(4096, 128, 0.07), 2)
    10.11
    """
    return math.log(negatives) + 1.0 / (2.0 * dimensions * temperature**2) + 1.0
