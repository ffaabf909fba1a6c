"""Cross-entropy and accuracy of a pretext classification, such as of a jigsaw's ordering."""

from __future__ import annotations

from keras import ops


def classification_loss(logits, labels):
    """Mean softmax cross-entropy.

    Args:
        logits: `[..., classes]` floating point, before the softmax.
        labels: `[...]` integers, 0 to classes - 1.

    Returns:
        A scalar, float32. Chance level: ln(classes).

    >>> round(float(classification_loss(ops.zeros((2, 10)), ops.array([3, 7]))), 4)
    2.3026
    """
    logits = ops.cast(logits, "float32")
    return ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def classification_accuracy(logits, labels):
    """Share of rows `[..., classes]` whose largest logit is at the label `[...]`; a float32 scalar.

    >>> float(classification_accuracy(ops.array([[0.0, 1.0], [2.0, 1.0]]), ops.array([1, 1])))
    0.5
    """
    right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
    return ops.mean(ops.cast(right, "float32"))
