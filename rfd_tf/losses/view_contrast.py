"""Contrast of the views of a batch: those of one image attract, those of others repel."""

from __future__ import annotations

from keras import ops


def view_contrast(embeddings, temperature: float, everyone=None, start=0):
    """Cross-entropy of telling an image's other views among all views of the batch.

    For view a of an image with views P(a) beside it, and all other views A(a) of the batch,
    the mean over p in P(a) of -log(exp(a.p / T) / sum over b in A(a) of exp(a.b / T)), averaged
    over all views: NT-Xent (Chen et al., SimCLR, ICML 2020) for any number of views, which is
    L_out of Khosla et al. (NeurIPS 2020, eq. 2) with each image a class of its own. Gradients
    pass to every view. Unlike a memory bank, nothing it compares with is older than the step.

    Args:
        embeddings: `[batch, views, dimensions]`, of length 1, at least two views.
        temperature: T, above 0.
        everyone: `[global batch, views, dimensions]`, those of all replicas, where there are
            several; `embeddings` are its part from `start` on.
        start: place of the first of `embeddings` in `everyone`.

    Returns:
        A scalar, float32. Chance level: ln(global batch * views - 1).

    >>> apart = ops.reshape(ops.repeat(ops.eye(4), 2, axis=0), (4, 2, 4))
    >>> round(float(view_contrast(apart, 0.1)), 3)
    0.0
    """
    embeddings = ops.cast(embeddings, "float32")
    everyone = embeddings if everyone is None else ops.cast(everyone, "float32")
    views, dimensions = embeddings.shape[1], embeddings.shape[2]
    anchors = ops.reshape(embeddings, (-1, dimensions))
    others = ops.reshape(everyone, (-1, dimensions))
    logits = ops.matmul(anchors, ops.transpose(others)) / temperature
    place = start * views + ops.arange(ops.shape(anchors)[0])
    column = ops.arange(ops.shape(others)[0])
    itself = ops.expand_dims(place, 1) == ops.expand_dims(column, 0)
    image = ops.expand_dims(place // views, 1) == ops.expand_dims(column // views, 0)
    positive = ops.cast(ops.logical_and(image, ops.logical_not(itself)), "float32")
    # A view is neither its own positive nor its own negative.
    everything = ops.logsumexp(ops.where(itself, -1e9, logits), axis=1)
    return ops.mean(everything - ops.sum(logits * positive, axis=1) / (views - 1))
