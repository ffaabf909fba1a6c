"""Losses of a discriminator and of the generator and encoder that it is trained against."""

from __future__ import annotations

from keras import ops


def adversarial_loss(real_logits, generated_logits, swapped: bool = False):
    """Binary cross-entropy of telling real from generated, half of it from each.

        1/2 (mean softplus(-real) + mean softplus(generated))

    is the discriminator's loss. Its opponents minimise the same with the labels swapped, which
    does not vanish where the discriminator is sure of itself (Goodfellow et al., NeurIPS 2014,
    section 3; for encoders and generators Donahue, Krähenbühl, Darrell, ICLR 2017, section 3.4,
    and their published program, which has the half).

    Args:
        real_logits: of real examples, any shape, floating point; above 0 for "real".
        generated_logits: of generated ones, likewise.
        swapped: whether real examples are to be called generated, and the other way round.

    Returns:
        A scalar, float32. Chance level: ln 2.

    >>> zeros = ops.zeros((4, 1))
    >>> round(float(adversarial_loss(zeros, zeros)), 4)
    0.6931
    """
    sign = -1.0 if swapped else 1.0
    real, generated = (ops.cast(each, "float32") for each in (real_logits, generated_logits))
    losses = (ops.mean(ops.softplus(-sign * real)), ops.mean(ops.softplus(sign * generated)))
    return 0.5 * (losses[0] + losses[1])


def discrimination_accuracy(real_logits, generated_logits):
    """Share of examples classified correctly, the mean of that of real and of generated ones.

    Args:
        real_logits: of real examples, any shape; "real" where above 0.
        generated_logits: of generated ones, likewise.

    Returns:
        A scalar from 0 to 1, float32. Chance level: 1/2.

    >>> float(discrimination_accuracy(ops.array([1.0, -1.0]), ops.array([-1.0, -2.0])))
    0.75
    """
    real = ops.mean(ops.cast(real_logits > 0, "float32"))
    return 0.5 * (real + ops.mean(ops.cast(generated_logits <= 0, "float32")))
