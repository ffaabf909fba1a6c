"""How far the directions of two sets of embeddings differ."""

from __future__ import annotations

from keras import ops

from rfd_tf.layers.memory_bank import normalize


def cosine_distance(embeddings, targets):
    """Mean over the batch of 1 - cos(embedding, target).

    The targets are constants: no gradient passes to them. With embeddings of length 1 it is half
    the squared Euclidean distance, the loss that BYOL (Grill et al., NeurIPS 2020, eq. 2) puts
    between a prediction and the embedding of another network.

    Args:
        embeddings: `[batch, dimensions]` floating point.
        targets: `[batch, dimensions]` floating point. A target of length 0 has no direction and
            gives a distance of 1.

    Returns:
        A scalar, float32, from 0 (same directions) to 2 (opposite). Chance level, the mean for
        directions that are independent of the targets': 1.

    >>> float(cosine_distance(ops.eye(2), 3 * ops.eye(2)))
    0.0
    >>> float(cosine_distance(ops.eye(2), ops.flip(ops.eye(2), axis=0)))
    1.0
    """
    embeddings = normalize(ops.cast(embeddings, "float32"))
    targets = normalize(ops.cast(ops.stop_gradient(targets), "float32"))
    return 1.0 - ops.mean(ops.sum(embeddings * targets, axis=-1))
