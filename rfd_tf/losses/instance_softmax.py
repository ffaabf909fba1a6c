"""The exact instance softmax over the whole memory bank."""

from __future__ import annotations

from keras import ops


def instance_softmax(embedding, bank_rows, index, temperature: float):
    """Cross-entropy of recognising each image among all images (Wu et al., CVPR 2018, eq. 2).

    Exact, hence without negatives or a normalising constant; its cost grows with the number of
    images, so it suits sets up to some 100,000.

    Args:
        embedding: `[batch, dimensions]`, of length 1.
        bank_rows: `[num_images, dimensions]`, the memory bank; no gradient passes to it.
        index: `[batch]` integers, the rows of the images themselves.
        temperature: divides the similarities, above 0.

    Returns:
        A scalar, float32. Chance level: ln(num_images).

    >>> rows = ops.eye(4)
    >>> round(float(instance_softmax(rows[:2], rows, ops.array([0, 1]), 0.5)), 3)
    0.341
    """
    embedding = ops.cast(embedding, "float32")
    rows = ops.stop_gradient(ops.cast(bank_rows, "float32"))
    logits = ops.matmul(embedding, ops.transpose(rows)) / temperature
    positive = ops.sum(embedding * ops.take(rows, index, axis=0), axis=-1) / temperature
    return ops.mean(ops.logsumexp(logits, axis=-1) - positive)
