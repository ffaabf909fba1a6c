"""Noise-contrastive estimation as a ratio, without a normalising constant."""

from __future__ import annotations

from keras import ops

EPSILON = 1e-7


def nce_ratio(logits, valid=None):
    """Tells the positive from the negatives by its share of their exponentials.

    With h_j = exp(logit_j) / (sum of the exponentials of the positive and all negatives), the
    loss is -log h of the positive minus the sum of log(1 - h) over the negatives, averaged over
    the batch (Misra and van der Maaten, PIRL, CVPR 2020, eq. 3 and 4). The paper writes the
    denominator out for the positive only; here the negatives share it, so that each h is a
    probability. The published program (VISSL) uses the form with a constant instead; see `nce`.

    Args:
        logits: `[batch, 1 + negatives]`, similarities / temperature; column 0 is the positive.
        valid: `[batch, negatives]`, 0 where a negative does not count, or None.

    Returns:
        A scalar, float32. Chance level: about `nce_chance_level`, that of the other form.

    >>> round(float(nce_ratio(ops.zeros((2, 2)))), 4)
    1.3863
    """
    logits = ops.cast(logits, "float32")
    if valid is not None:
        valid = ops.cast(valid, "float32")
        counts = ops.concatenate([ops.ones_like(valid[:, :1]), valid], axis=1)
        logits = ops.where(counts > 0, logits, -1e9)
    log_share = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
    # A hair below 1, where the logarithm is finite; exact for the small shares of most negatives.
    negative = ops.log1p(-(1.0 - EPSILON) * ops.exp(log_share[:, 1:]))
    return -ops.mean(log_share[:, 0] + ops.sum(negative, axis=-1))
